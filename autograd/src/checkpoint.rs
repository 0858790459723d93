//! Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): a block keeps only its inputs and is
//! run again in the backward pass.

use puyu_tensor::{Op, Outs, Spec, Tensor, no_grad, with_origin};
use std::fmt;
use std::sync::Arc;

type Block = dyn Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync;

/// A block of ops as one op; its composition is the block itself.
struct Checkpoint(Box<Block>);

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checkpoint")
    }
}

impl Op for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        unreachable!("checkpoint on {x:?} takes the specs of its block's outputs")
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some((self.0)(x))
    }
}

/// Runs `block` on `x` without keeping its activations; the backward pass runs it again. Trainable
/// tensors that `block` captures get their gradients like its inputs.
pub fn checkpoint(
    block: impl Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync + 'static,
    x: &[&Tensor],
) -> Vec<Tensor> {
    let x: Vec<Tensor> = x.iter().map(|&t| t.clone()).collect();
    let y = no_grad(|| block(&x));
    with_origin(Arc::new(Checkpoint(Box::new(block))), x, y, Vec::new())
}
