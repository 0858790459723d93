//! Training: the step loop, what it makes small, and what it leaves behind.

mod forward;
mod objective;

pub use forward::Forward;
pub use objective::{NextToken, Objective, Outcome};
