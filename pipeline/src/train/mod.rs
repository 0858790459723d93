//! Training: the step loop, what it makes small, and what it leaves behind.
//!
//! `learner` is one step, `trainer` the loop around it with data, checkpoints and guards; `setup` makes
//! both from a `config`.

pub mod checkpoint;
pub mod config;
mod forward;
mod guard;
mod init;
mod learner;
pub mod monitor;
mod objective;
mod sample;
mod setup;
mod trainer;
mod vocabulary;

pub use config::TrainConfig;
pub use forward::Forward;
pub use guard::{Guard, first_bad};
pub use init::{FirstWeights, first_deviation, key, normal, uniform};
pub use learner::{Learned, Learner};
pub use monitor::{About, Monitor, StepRecord};
pub use objective::{NextToken, Objective, Outcome};
pub use setup::{Prepared, Recipe, Start, assemble, full_model, prepare, start};
pub(crate) use setup::{built, fits};
pub use trainer::{Ended, Export, Parts, Trainer};
pub use vocabulary::Vocabulary;
