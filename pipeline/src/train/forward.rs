//! The loop over a model's blocks as training runs it: some blocks keep only their input and are run
//! again in the backward pass.

use crate::data::Batch;
use puyu_autograd::checkpoint;
use puyu_models::Model;
use puyu_nn::{Compute, Ctx};
use puyu_tensor::Tensor;
use std::sync::Arc;

/// A model in training.
#[derive(Clone)]
pub struct Forward {
    /// The model; its parameters are what is trained.
    pub model: Arc<dyn Model>,
    /// The first so many blocks are checkpointed: less memory for one more forward pass of each.
    pub checkpointed: usize,
    /// Exact, or fast: in bf16.
    pub compute: Compute,
    /// The seed of what is dropped at random; without, nothing is.
    pub noise: Option<[u32; 2]>,
}

impl Forward {
    /// `model` with exact products, and activations of all blocks kept.
    pub fn new(model: impl Into<Arc<dyn Model>>) -> Self {
        Self { model: model.into(), checkpointed: 0, compute: Compute::Exact, noise: None }
    }

    /// The context of a step over `batch`.
    pub fn ctx(&self, batch: &Batch) -> Ctx<'static> {
        Ctx { compute: self.compute, noise: self.noise(), ..batch.ctx() }
    }

    fn noise(&self) -> Option<Tensor> {
        self.noise.map(|seed| Tensor::new(&seed, [2]))
    }

    /// The normalized hidden states of all tokens, `[T, H]`.
    pub fn hidden(&self, batch: &Batch) -> Tensor {
        self.hidden_with(batch, true)
    }

    /// As [`Forward::hidden`]; without `adapters`, of the model that was adapted, which is what DPO
    /// compares with.
    pub fn hidden_with(&self, batch: &Batch, adapters: bool) -> Tensor {
        let mut x = self.model.embed(&batch.ids());
        let mut ctx = Ctx { adapters, ..self.ctx(batch) };
        for i in 0..self.model.config().layers {
            x = if i < self.checkpointed {
                self.again(i, &x, batch, adapters)
            } else {
                self.model.block(i, &x, &mut ctx)
            };
        }
        self.model.norm(&x)
    }

    /// Block `i` without keeping its activations.
    fn again(&self, i: usize, x: &Tensor, batch: &Batch, adapters: bool) -> Tensor {
        let (model, lengths) = (self.model.clone(), batch.lengths.clone());
        let (compute, noise) = (self.compute, self.noise());
        let block = move |x: &[Tensor]| {
            let noise = noise.clone();
            let mut ctx = Ctx { adapters, compute, noise, ..Ctx::packed(&lengths) };
            vec![model.block(i, &x[0], &mut ctx)]
        };
        checkpoint(block, &[x]).swap_remove(0)
    }
}
