//! What belongs to a step, not to a model: positions, lengths, cache, compute mode, observers.

use crate::CacheStep;
use puyu_tensor::ops::Rope;
use puyu_tensor::{DType, Tensor};
use std::fmt::Display;

/// What activations are when weights are multiplied with them; they are rounded once per producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// F32, whatever the weights are.
    #[default]
    Exact,
    /// Int8 for weights of block formats, F32 for others.
    Auto,
    /// Int8 for weights of block formats, BF16 for weights of BF16 where the CPU multiplies such, and for weights of
    /// F32 that learn, which are rounded with them.
    Fast,
}

/// What [`Ctx::observer`] calls: a name and the value it has.
pub type Observer<'a> = dyn FnMut(&str, &Tensor) + 'a;

/// The step's context; every layer takes it.
pub struct Ctx<'a> {
    /// The position of each token in its sequence, `[T]`.
    pub positions: Tensor,
    /// The length each token's rope base is derived from, `[T]`.
    pub rope_lengths: Tensor,
    /// The angles of rotary embeddings, once a layer asked for them ([`Ctx::angles`]).
    pub angles: Option<(Rope, Tensor)>,
    /// Cumulative lengths of the sequences' new tokens, `[S + 1]`.
    pub cumulative: Tensor,
    /// The KV cache, when this step continues sequences.
    pub cache: Option<CacheStep<'a>>,
    /// Rows whose logits are wanted, `[R]`; all when `None`.
    pub logit_rows: Option<Tensor>,
    /// How weights are multiplied.
    pub compute: Compute,
    /// Whether layers add their adapters; without, the model is the one that was adapted.
    pub adapters: bool,
    /// The seed `[2]` of what this step drops at random; without, nothing is dropped.
    pub noise: Option<Tensor>,
    /// Sees named intermediate values: `embed`, `layer.{i}`, `final_norm`.
    pub observer: Option<&'a mut Observer<'a>>,
}

impl<'a> Ctx<'a> {
    /// A step without cache over whole sequences of these lengths, packed one after another.
    pub fn packed(lengths: &[usize]) -> Self {
        let total: usize = lengths.iter().sum();
        let (mut positions, mut whole) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut ends = vec![0u32];
        for &n in lengths {
            positions.extend(0..n as u32);
            whole.extend(std::iter::repeat_n(n as u32, n));
            ends.push(positions.len() as u32);
        }
        Self {
            positions: Tensor::new(&positions, [total]),
            rope_lengths: Tensor::new(&whole, [total]),
            angles: None,
            cumulative: Tensor::new(&ends, [ends.len()]),
            cache: None,
            logit_rows: None,
            compute: Compute::Exact,
            adapters: true,
            noise: None,
            observer: None,
        }
    }

    /// The angles `[T, D]` by which this step's tokens are turned; computed once for all layers.
    pub fn angles(&mut self, rope: Rope, d: usize) -> Tensor {
        match &self.angles {
            Some((same, angles)) if *same == rope && angles.dim(1) == d => angles.clone(),
            _ => {
                let angles = rope.angles(d, &self.positions, &self.rope_lengths);
                self.angles = Some((rope, angles.clone()));
                angles
            }
        }
    }

    /// Whether the product with `weight` rounds both, forward and backward: bf16 training.
    pub fn learns_in_bf16(&self, weight: &Tensor) -> bool {
        let learns = weight.requires_grad() && weight.dtype() == DType::F32;
        learns && self.compute == Compute::Fast
    }

    /// Shows `value` to the observer.
    pub fn observe(&mut self, name: impl Display, value: &Tensor) {
        if let Some(observer) = &mut self.observer {
            observer(&name.to_string(), value);
        }
    }
}
