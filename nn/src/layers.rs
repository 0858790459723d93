//! Linear, normalization and embedding.

use crate::{Compute, Ctx, Lora, Param};
use puyu_tensor::cpu::simd::Isa;
use puyu_tensor::ops::Factor;
use puyu_tensor::{DType, Tensor};

/// `y = x · weightᵀ + bias`, with a weight of any dtype, and what an adapter adds.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Option<Param>,
    /// The adapter, if this layer has one.
    pub lora: Option<Lora>,
}

impl Linear {
    /// x `[.., in]` -> `[.., out]` of F32
    pub fn forward(&self, x: &Tensor, ctx: &Ctx) -> Tensor {
        let [y] = apply(&x.into(), [self], Out::Sums, ctx);
        y
    }

    /// to `[.., out]` and [`Linear::forward`] of x `[.., in]`: a block's residual connection.
    pub fn forward_onto(&self, to: &Tensor, x: impl Into<Factor>, ctx: &Ctx) -> Tensor {
        let [y] = apply(&x.into(), [self], Out::Onto(to), ctx);
        y
    }
}

/// The outputs of layers that share an input, which is rounded once if their weights want the same of it;
/// adapters take it as it is. They are what a block goes on with: in bf16 training BF16, if all of the layers take
/// part.
pub fn project<const N: usize>(
    x: impl Into<Factor>,
    layers: [&Linear; N],
    ctx: &Ctx,
) -> [Tensor; N] {
    apply(&x.into(), layers, Out::Block, ctx)
}

/// What becomes of products.
#[derive(Clone, Copy)]
enum Out<'a> {
    /// They are F32.
    Sums,
    /// They may be BF16.
    Block,
    /// They are added to this.
    Onto(&'a Tensor),
}

/// The outputs of layers that share an input.
fn apply<const N: usize>(x: &Factor, layers: [&Linear; N], out: Out, ctx: &Ctx) -> [Tensor; N] {
    let to = if let Out::Onto(to) = out { Some(to) } else { None };
    let weights = layers.map(|layer| layer.weight.get());
    let (first, second) = x.parts();
    let parts = [Some(first), second, to].into_iter().flatten();
    let learns = parts.chain(&weights).any(Tensor::requires_grad) || first.dtype() == DType::BF16;
    let lora = |layer: &Linear| layer.lora.clone().filter(|_| ctx.adapters);
    // What a layer adds comes between its product and the sum.
    let adds = |layer: &Linear| layer.bias.is_some() || lora(layer).is_some();
    let round = |w: &Tensor| rounding(w, ctx).filter(|_| !learns);
    let same = round(&weights[0]);
    let together = !learns && weights.iter().all(|w| round(w) == same);
    if together && !layers.iter().any(|layer| adds(layer)) {
        return x.project(weights.each_ref(), same, to);
    }
    let x = x.value();
    let halves = matches!(out, Out::Block) && weights.iter().all(|w| ctx.learns_in_bf16(w));
    let products = if together {
        Factor::from(&x).project(weights.each_ref(), same, None)
    } else {
        std::array::from_fn(|i| match (&weights[i], round(&weights[i])) {
            (w, None) if ctx.learns_in_bf16(w) => {
                let rounded = halves && !adds(layers[i]);
                x.matmul_transposed_bf16(w, if rounded { DType::BF16 } else { DType::F32 })
            }
            (w, None) => x.matmul_transposed(w),
            (w, round) => {
                let [y] = Factor::from(&x).project([w], round, None);
                y
            }
        })
    };
    let mut layers = layers.into_iter();
    products.map(|mut y| {
        let layer = layers.next().expect("one product for each layer");
        if let Some(bias) = &layer.bias {
            y = &y + &bias.get();
        }
        if let Some(lora) = lora(layer) {
            y = &y + &lora.forward(&x, ctx);
        }
        match to {
            Some(to) => to + &y,
            None if halves => y.to_dtype(DType::BF16),
            None => y,
        }
    })
}

/// What the input of `weight` is rounded to, if anything.
fn rounding(weight: &Tensor, ctx: &Ctx) -> Option<DType> {
    match (ctx.compute, weight.dtype()) {
        (Compute::Auto | Compute::Fast, dtype) if dtype.has_integer_codes() => Some(DType::I8Row),
        (Compute::Fast, DType::BF16) if Isa::detect().dots() => Some(DType::BF16),
        _ => None,
    }
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
        self.of(x).value()
    }

    /// The same, to be computed on the way into products.
    pub fn of(&self, x: &Tensor) -> Factor {
        Factor::Normed { x: x.clone(), weight: self.weight.get(), eps: self.eps }
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
