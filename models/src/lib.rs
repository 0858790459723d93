//! The models, one file per architecture, each for inference and for training; checkpoint formats,
//! tokenizers and chat templates.
#![forbid(unsafe_code)]

pub mod chat_template;
mod config;
pub mod format;
pub mod internlm;
mod internlm2;
pub mod internlm3;
mod llama;
mod model;
pub mod reward;
pub mod tokenizer;

pub use config::Config;
pub use internlm2::InternLm2;
pub use llama::Llama;
pub use model::{Head, Loaded, Model, Stored, build, build_adapted, load};
