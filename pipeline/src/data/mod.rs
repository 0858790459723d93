//! Data: from files of text, conversations and preferences to batches of tokens.

mod batch;

pub use batch::{Batch, IGNORE};
