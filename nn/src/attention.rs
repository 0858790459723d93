//! The part of attention that all models share: rotate, write the cache, attend.

use crate::Ctx;
use puyu_tensor::ops::Rope;
use puyu_tensor::{DType, Tensor};

/// What the KV cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Rotated keys.
    Rotated,
    /// Keys before rotation, turned by each query's base when read (InternLM-1).
    Raw,
}

/// The constants of a model's attention.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// D
    pub head_dim: usize,
    /// Rotary embedding.
    pub rope: Rope,
    /// What is cached.
    pub keys: Keys,
}

impl Attend {
    /// Causal attention of layer `layer`: q `[T, H, D]`, k, v `[T, G, D]`, all before rotation, gives
    /// `[T, H·D]`. Without a cache it is of their dtype, F32 or BF16.
    pub fn forward(
        &self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        ctx: &mut Ctx,
    ) -> Tensor {
        let [t, h, d] = [0, 1, 2].map(|i| q.dim(i));
        let scale = 1.0 / (d as f32).sqrt();
        let angles = ctx.angles(self.rope, d);
        let y = match &mut ctx.cache {
            None => q.rope(&angles).attention(&k.rope(&angles), v, &ctx.cumulative, scale),
            Some(cache) => {
                let (turned, key_rope) = match self.keys {
                    Keys::Rotated => (Some(&angles), None),
                    Keys::Raw => (None, Some(self.rope)),
                };
                let [q, k, v] = [q, k, v].map(|x| x.to_dtype(DType::F32));
                cache.write(layer, &k, &v, turned);
                let step = [&ctx.cumulative, &ctx.rope_lengths, &angles];
                cache.attend(layer, &q, step, scale, key_rope)
            }
        };
        y.reshape([t, h * d])
    }
}
