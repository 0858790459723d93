//! InternLM (1), 7B and 20B: Llama's blocks and names with biases on q, k, v and o where the config
//! says so (7B yes, 20B no; the feed-forward layer never has any).
//!
//! What differs is the KV cache: it holds keys before rotation, and every step turns all of them by
//! the base of that step's length (dynamic NTK is on by default, with factor 1).

use crate::{Config, Llama};
use puyu_nn::{Keys, Vars};

/// Builds the model at the root of the names.
pub fn new(config: Config, vars: &Vars) -> Llama {
    Llama::new(config, vars, Keys::Raw)
}
