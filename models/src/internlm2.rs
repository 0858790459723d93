//! InternLM2 and InternLM2.5, and their reward models.
//!
//! What differs from Llama: the names, and one fused `wqkv` whose rows are grouped by key head (the
//! query heads that share it, the key head, the value head).
//!
//! Letters in shapes: T tokens, H hidden size, N query heads, G key heads, D head dim, V vocabulary.

use crate::{Config, Head, Model};
use puyu_nn::{Attend, Ctx, Embedding, Keys, Linear, RmsNorm, Vars, project};
use puyu_tensor::Tensor;
use puyu_tensor::ops::Factor;

/// The model.
pub struct InternLm2 {
    config: Config,
    tok_embeddings: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// `output`, or a reward model's `v_head`; absent when tied.
    output: Option<Linear>,
}

struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    ffn_norm: RmsNorm,
    feed_forward: FeedForward,
}

struct Attention {
    wqkv: Qkv,
    wo: Linear,
    attend: Attend,
    queries_per_group: usize,
}

/// The q, k, v projection: fused as InternLM2 stores it, or split as GGUF does (whose mixed formats
/// often give v a larger type).
enum Qkv {
    Fused(Linear),
    Split(Box<[Linear; 3]>),
}

struct FeedForward {
    w1: Linear,
    w2: Linear,
    w3: Linear,
}

impl InternLm2 {
    /// Builds the model at the root of the names.
    pub fn new(config: Config, vars: &Vars) -> Self {
        let c = &config;
        let model = vars.at("model");
        let output = match (c.reward, c.tied) {
            (true, _) => Some(vars.at("v_head").linear(c.hidden_size, 1, false)),
            (false, false) => Some(vars.at("output").linear(c.hidden_size, c.vocab_size, false)),
            (false, true) => None,
        };
        Self {
            tok_embeddings: model.at("tok_embeddings").embedding(c.vocab_size, c.hidden_size),
            layers: (0..c.layers).map(|i| Block::new(c, &model.at("layers").at(i))).collect(),
            norm: model.at("norm").rms_norm(c.hidden_size, c.eps),
            output,
            config,
        }
    }
}

impl Model for InternLm2 {
    fn config(&self) -> &Config {
        &self.config
    }
    fn embed(&self, ids: &Tensor) -> Tensor {
        self.tok_embeddings.forward(ids)
    }
    fn block(&self, i: usize, x: &Tensor, ctx: &mut Ctx) -> Tensor {
        self.layers[i].forward(i, x, ctx)
    }
    fn norm(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }
    fn output(&self) -> Head<'_> {
        self.output.as_ref().map_or(Head::Tied(&self.tok_embeddings), Head::Own)
    }
}

impl Block {
    fn new(c: &Config, vars: &Vars) -> Self {
        Self {
            attention_norm: vars.at("attention_norm").rms_norm(c.hidden_size, c.eps),
            attention: Attention::new(c, &vars.at("attention")),
            ffn_norm: vars.at("ffn_norm").rms_norm(c.hidden_size, c.eps),
            feed_forward: FeedForward::new(c, &vars.at("feed_forward")),
        }
    }

    fn forward(&self, i: usize, x: &Tensor, ctx: &mut Ctx) -> Tensor {
        let x = self.attention.forward(i, x, &self.attention_norm, ctx);
        self.feed_forward.forward(&x, &self.ffn_norm, ctx)
    }
}

impl Attention {
    fn new(c: &Config, vars: &Vars) -> Self {
        let linear = |name, out| vars.at(name).linear(c.hidden_size, out, c.qkv_bias);
        let wqkv = match vars.has("wq.weight") {
            true => Qkv::Split(Box::new([
                linear("wq", c.q_size()),
                linear("wk", c.kv_size()),
                linear("wv", c.kv_size()),
            ])),
            false => Qkv::Fused(linear("wqkv", c.q_size() + 2 * c.kv_size())),
        };
        Self {
            wqkv,
            wo: vars.at("wo").linear(c.q_size(), c.hidden_size, c.output_bias),
            attend: c.attend(Keys::Rotated),
            queries_per_group: c.heads / c.kv_heads,
        }
    }

    /// x + attention(norm(x))
    fn forward(&self, i: usize, x: &Tensor, norm: &RmsNorm, ctx: &mut Ctx) -> Tensor {
        let (t, d, r) = (x.dim(0), self.attend.head_dim, self.queries_per_group);
        let [q, k, v] = match &self.wqkv {
            Qkv::Fused(wqkv) => {
                let [qkv] = project(norm.of(x), [wqkv], ctx);
                let groups = qkv.dim(-1) / ((r + 2) * d);
                let qkv = qkv.reshape([t, groups, r + 2, d]); // [T, G, N/G + 2, D]
                qkv.split([r, 1, 1], 2).map(|y| y.reshape([t, groups * y.dim(2), d])) // [T, N, D]
            }
            Qkv::Split(apart) => {
                let [wq, wk, wv] = &**apart;
                project(norm.of(x), [wq, wk, wv], ctx).map(|y| y.reshape([t, y.dim(-1) / d, d]))
            }
        };
        let y = self.attend.forward(i, &q, &k, &v, ctx); // [T, N·D]
        self.wo.forward_onto(x, &y, ctx)
    }
}

impl FeedForward {
    fn new(c: &Config, vars: &Vars) -> Self {
        let (h, f) = (c.hidden_size, c.intermediate_size);
        Self {
            w1: vars.at("w1").linear(h, f, false),
            w2: vars.at("w2").linear(f, h, false),
            w3: vars.at("w3").linear(h, f, false),
        }
    }

    /// x + w2(silu(w1(norm(x))) · w3(norm(x)))
    fn forward(&self, x: &Tensor, norm: &RmsNorm, ctx: &Ctx) -> Tensor {
        let [gate, up] = project(norm.of(x), [&self.w1, &self.w3], ctx);
        self.w2.forward_onto(x, Factor::Gated { gate, up }, ctx)
    }
}
