//! Parameters and their names, the layers that models are made of, the KV cache and optimizers.
#![forbid(unsafe_code)]

mod attention;
mod cache;
mod ctx;
mod layers;
mod lora;
mod muon;
mod optim;
mod param;
mod schedule;
mod vars;

pub use attention::{Attend, Keys};
pub use cache::{CacheStep, KvCache, Sequence};
pub use ctx::{Compute, Ctx, Observer};
pub use layers::{Embedding, Linear, RmsNorm, project};
pub use lora::{Adapter, Lora, lora_delta};
pub use optim::{Optimizer, OptimizerOptions, clip_factor, grad_norm};
pub use param::Param;
pub use schedule::{Curve, Schedule};
pub use vars::{Vars, Weights};
