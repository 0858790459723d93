//! A model counted without its weights: parameters, and the FLOPs of a trained token.

use puyu_models::Config;

/// How a model's parameters divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// In the matrices of all blocks.
    pub blocks: u64,
    /// In the embedding.
    pub embedding: u64,
    /// In the head; 0 if it is the embedding.
    pub head: u64,
    /// In norms and biases.
    pub vectors: u64,
}

impl Parameters {
    /// Of the model of `c`.
    pub fn of(c: &Config) -> Self {
        let [h, q, kv, layers] = [c.hidden_size, c.q_size(), c.kv_size(), c.layers];
        let block: usize = matrices(c).iter().map(|(out, input)| out * input).sum();
        let bias = |has: bool, n: usize| if has { n } else { 0 };
        let biases = bias(c.qkv_bias, q + 2 * kv)
            + bias(c.output_bias, h)
            + bias(c.mlp_bias, 2 * c.intermediate_size + h);
        let head = match (c.reward, c.tied) {
            (true, _) => h,
            (false, true) => 0,
            (false, false) => c.vocab_size * h,
        };
        Self {
            blocks: (layers * block) as u64,
            embedding: (c.vocab_size * h) as u64,
            head: head as u64,
            vectors: (layers * (2 * h + biases) + h) as u64,
        }
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.blocks + self.embedding + self.head + self.vectors
    }
}

/// (out, in) of each linear layer of a block; q, k and v are one.
pub(super) fn matrices(c: &Config) -> [(usize, usize); 5] {
    let [h, f, q] = [c.hidden_size, c.intermediate_size, c.q_size()];
    [(q + 2 * c.kv_size(), h), (h, q), (f, h), (f, h), (h, f)]
}

/// FLOPs of one token in one forward pass with a text of `length` tokens around it, as (linear layers
/// and head, attention): 2 for each weight that multiplies, and 4·N·D for each of the (length + 1)/2
/// keys that a token sees on average (scores and their sum; Chowdhery et al. 2022, arXiv 2204.02311,
/// appendix B, which counts all `length` keys).
pub fn forward_flops(c: &Config, length: usize) -> (f64, f64) {
    let p = Parameters::of(c);
    let head = if c.reward { c.hidden_size } else { c.vocab_size * c.hidden_size };
    let linear = 2.0 * (p.blocks as f64 + head as f64);
    let keys = (length as f64 + 1.0) / 2.0;
    (linear, 4.0 * (c.layers * c.q_size()) as f64 * keys)
}

/// Model FLOPs of training every weight on one token: 3 forward passes, one forward and two backward
/// (6N, Kaplan et al. 2020, arXiv 2001.08361, section 2.1). What checkpointing computes again is not
/// counted: it is time spent, not work done.
pub fn train_flops(c: &Config, length: usize) -> f64 {
    let (linear, attention) = forward_flops(c, length);
    3.0 * (linear + attention)
}
