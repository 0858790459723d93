//! InternLM3: Llama's blocks and names. The head dimension is a field of its own (heads · D need not be
//! H), `qkv_bias` and `bias` are separate switches, and `bias` also covers the feed-forward layer; all
//! of that is the config's business (`config.rs`), so nothing is left to write here.

use crate::{Config, Llama};
use puyu_nn::{Keys, Vars};

/// Builds the model at the root of the names.
pub fn new(config: Config, vars: &Vars) -> Llama {
    Llama::new(config, vars, Keys::Rotated)
}
