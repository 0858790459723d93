//! Linear, normalization and embedding.

use crate::{Compute, Ctx, Param};
use puyu_tensor::{DType, Tensor};

/// `y = x · weightᵀ + bias`, with a weight of any dtype.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Option<Param>,
}

impl Linear {
    /// x `[.., in]` -> `[.., out]`
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let [y] = project(x, [self], ctx);
        y
    }
}

/// The outputs of layers that share an input, which is rounded at most once.
pub fn project<const N: usize>(x: &Tensor, layers: [&Linear; N], ctx: &Ctx) -> [Tensor; N] {
    let mut rounded = None;
    layers.map(|layer| {
        let w = layer.weight.get();
        let fast =
            ctx.compute == Compute::Fast && w.dtype().has_integer_codes() && !x.requires_grad();
        let x = match fast {
            true => rounded.get_or_insert_with(|| x.round_rows(DType::I8Row)),
            false => x,
        };
        let y = x.matmul_transposed(&w);
        layer.bias.as_ref().map_or(y.clone(), |b| &y + &b.get())
    })
}

/// Root mean square normalization.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[H]`
    pub weight: Param,
    /// ε under the root.
    pub eps: f32,
}

impl RmsNorm {
    /// x `[.., H]` -> `[.., H]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.rms_norm(&self.weight.get(), self.eps)
    }
}

/// A vector for each token id.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[V, H]`
    pub weight: Param,
}

impl Embedding {
    /// ids `[T]` -> `[T, H]`
    ///
    /// # Panics
    /// If an id is not below V.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        self.weight.get().embedding(ids)
    }
}
