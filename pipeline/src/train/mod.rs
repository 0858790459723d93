//! Training: the step loop, what it makes small, and what it leaves behind.

mod forward;
mod learner;
pub mod monitor;
mod objective;

pub use forward::Forward;
pub use learner::{Learned, Learner};
pub use monitor::{About, Monitor, StepRecord};
pub use objective::{NextToken, Objective, Outcome};
