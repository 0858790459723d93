//! Llama, and everything published in its shape (SmolLM2 and others).
//!
//! Letters in shapes: T tokens, H hidden size, N query heads, G key heads, D head dim, V vocabulary.

use crate::{Config, Head, Model};
use puyu_nn::{Attend, Ctx, Embedding, Keys, Linear, RmsNorm, Vars, project};
use puyu_tensor::Tensor;
use puyu_tensor::ops::Factor;

/// The model.
pub struct Llama {
    config: Config,
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// Absent when tied.
    lm_head: Option<Linear>,
}

struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attend: Attend,
}

struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Llama {
    /// Builds the model at the root of the names; `keys` is what its KV cache holds.
    pub fn new(config: Config, vars: &Vars, keys: Keys) -> Self {
        let c = &config;
        let model = vars.at("model");
        let head = || vars.at("lm_head").linear(c.hidden_size, c.vocab_size, false);
        Self {
            embed_tokens: model.at("embed_tokens").embedding(c.vocab_size, c.hidden_size),
            layers: (0..c.layers).map(|i| Block::new(c, &model.at("layers").at(i), keys)).collect(),
            norm: model.at("norm").rms_norm(c.hidden_size, c.eps),
            lm_head: (!c.tied).then(head),
            config,
        }
    }
}

impl Model for Llama {
    fn config(&self) -> &Config {
        &self.config
    }
    fn embed(&self, ids: &Tensor) -> Tensor {
        self.embed_tokens.forward(ids)
    }
    fn block(&self, i: usize, x: &Tensor, ctx: &mut Ctx) -> Tensor {
        self.layers[i].forward(i, x, ctx)
    }
    fn norm(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }
    fn output(&self) -> Head<'_> {
        self.lm_head.as_ref().map_or(Head::Tied(&self.embed_tokens), Head::Own)
    }
}

impl Block {
    fn new(c: &Config, vars: &Vars, keys: Keys) -> Self {
        let norm = |name| vars.at(name).rms_norm(c.hidden_size, c.eps);
        Self {
            input_layernorm: norm("input_layernorm"),
            self_attn: Attention::new(c, &vars.at("self_attn"), keys),
            post_attention_layernorm: norm("post_attention_layernorm"),
            mlp: Mlp::new(c, &vars.at("mlp")),
        }
    }

    fn forward(&self, i: usize, x: &Tensor, ctx: &mut Ctx) -> Tensor {
        let x = self.self_attn.forward(i, x, &self.input_layernorm, ctx);
        self.mlp.forward(&x, &self.post_attention_layernorm, ctx)
    }
}

impl Attention {
    fn new(c: &Config, vars: &Vars, keys: Keys) -> Self {
        let linear = |name, out| vars.at(name).linear(c.hidden_size, out, c.qkv_bias);
        Self {
            q_proj: linear("q_proj", c.q_size()),
            k_proj: linear("k_proj", c.kv_size()),
            v_proj: linear("v_proj", c.kv_size()),
            o_proj: vars.at("o_proj").linear(c.q_size(), c.hidden_size, c.output_bias),
            attend: c.attend(keys),
        }
    }

    /// x + attention(norm(x))
    fn forward(&self, i: usize, x: &Tensor, norm: &RmsNorm, ctx: &mut Ctx) -> Tensor {
        let (t, d) = (x.dim(0), self.attend.head_dim);
        let heads = |y: Tensor| y.reshape([t, y.dim(-1) / d, d]); // [T, N or G, D]
        let qkv = project(norm.of(x), [&self.q_proj, &self.k_proj, &self.v_proj], ctx);
        let [q, k, v] = qkv.map(heads);
        let y = self.attend.forward(i, &q, &k, &v, ctx); // [T, N·D]
        self.o_proj.forward_onto(x, &y, ctx)
    }
}

impl Mlp {
    fn new(c: &Config, vars: &Vars) -> Self {
        let (h, f) = (c.hidden_size, c.intermediate_size);
        Self {
            gate_proj: vars.at("gate_proj").linear(h, f, c.mlp_bias),
            up_proj: vars.at("up_proj").linear(h, f, c.mlp_bias),
            down_proj: vars.at("down_proj").linear(f, h, c.mlp_bias),
        }
    }

    /// x + down(silu(gate(norm(x))) · up(norm(x)))
    fn forward(&self, x: &Tensor, norm: &RmsNorm, ctx: &Ctx) -> Tensor {
        let [gate, up] = project(norm.of(x), [&self.gate_proj, &self.up_proj], ctx);
        self.down_proj.forward_onto(x, Factor::Gated { gate, up }, ctx)
    }
}
