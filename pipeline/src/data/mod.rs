//! Data: from files of text, conversations and preferences to batches of tokens.
//!
//! `files` and `detect` say what there is, `records` and `sample` read it, `encode` and `chat` make
//! tokens, `build` does that on all threads and keeps them, `pack` and `dataset` cut rows, and
//! `sampler` says which row comes next.

mod batch;
mod build;
mod chat;
mod config;
mod dataset;
mod detect;
mod encode;
mod files;
pub mod internevo;
pub mod pack;
mod records;
mod report;
mod sample;
mod sampler;
mod text;
mod tokens;

pub use batch::{Batch, IGNORE};
pub use build::Progress;
pub use config::{DataConfig, Format, Kind, OnError, Pack, SourceConfig, Split, ValidConfig};
pub use dataset::Dataset;
pub(crate) use files::matches;
pub use records::{Item, Layout, MAX_RECORD, PIECE, Record, Records};
pub use report::{DataReport, Found, SourceReport};
pub use sampler::{Order, Sampler, permute};
pub use text::each_text;
