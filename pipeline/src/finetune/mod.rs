//! Fine-tuning: which parameters move (`config`, `setup`), and objectives over pairs of answers, beside
//! the next-token loss of `train`.
//!
//! The loss of a pair is a function of one or two numbers that the model gives (log-probabilities,
//! scores). Its value and slopes are computed in f64; the graph holds the numbers only.

mod config;
mod dpo;
mod orpo;
mod pairs;
mod reward;
mod score_head;
mod setup;

pub use config::{FinetuneConfig, LoraConfig, Method, MethodConfig};
pub use dpo::{Dpo, DpoLoss, Reference};
pub use orpo::Orpo;
pub use reward::{Ranking, Reward};
pub use setup::{FirstAdapter, prepare};
