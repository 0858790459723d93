//! A model ready to generate: weights, tokenizer, template, cache, sampler.

mod batch;
mod generate;
mod generation_config;
mod model;
mod sampler;
mod session;
mod stop;

pub use batch::{Crowd, greedy};
pub use generate::{Finish, Generated, Limits, generate};
pub use generation_config::GenerationConfig;
pub use model::{Engine, LoadOptions};
pub use sampler::{Sampler, Sampling};
pub use session::Session;
pub use stop::StopText;
