//! Low-rank adapters (Hu et al. 2021, "LoRA", arXiv 2106.09685): beside a frozen weight W lies a product
//! of two thin matrices, y = x·Wᵀ + scale·(x·Aᵀ)·Bᵀ. Which layers have one is a rule on their paths, so
//! no layer type and no model file knows of it.

use crate::{Ctx, Param, Weights};
use puyu_tensor::Tensor;
use puyu_tensor::ops::Dropout;

/// What a linear layer adds to its product.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, in]`
    pub a: Param,
    /// `[out, r]`
    pub b: Param,
    /// The factor of B·A, α/r in the paper.
    pub scale: f32,
    /// What x loses on its way here in a step that draws it ([`Ctx::noise`]).
    pub dropout: Option<Dropout>,
}

impl Lora {
    /// `scale·(x·Aᵀ)·Bᵀ`: x `[.., in]` -> `[.., out]`
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let x = match (&ctx.noise, self.dropout) {
            (Some(seed), Some(Dropout { p, salt })) => &x.dropout(p, salt, seed),
            _ => x,
        };
        let low = &x.matmul_transposed(&self.a.get()) * &Tensor::scalar(self.scale);
        low.matmul_transposed(&self.b.get())
    }
}

/// `scale·B·A`, what an adapter adds to the weight: a `[r, in]`, b `[out, r]` -> `[out, in]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn lora_delta(a: &Tensor, b: &Tensor, scale: f32) -> Tensor {
    &b.matmul(a) * &Tensor::scalar(scale)
}

/// Which linear layers are adapted, and the values: for a layer at `path` they are called
/// `<path>.lora_A.weight` and `<path>.lora_B.weight`, as in PEFT's files.
pub trait Adapter: Weights {
    /// The rank and the scale of the layer at `path`; `None` if it is left alone.
    fn rank(&self, path: &str) -> Option<(usize, f32)>;

    /// What the layer at `path` drops of its input before A, if anything.
    fn dropout(&self, _path: &str) -> Option<Dropout> {
        None
    }

    /// Whether the parameter `name` is the adapter's as a whole: it comes from there, as it is stored. What a new
    /// adapter has not is the model's own value in F32, where training begins.
    fn replaces(&self, _name: &str) -> bool {
        false
    }
}
