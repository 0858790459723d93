//! What training makes small. A step's loss is the sum of its micro-batches' losses over the sum of
//! their weights, so accumulating gradients over micro-batches equals one large batch.

use super::Forward;
use crate::data::Batch;
use puyu_tensor::{Result, Tensor};

/// A loss over batches.
pub trait Objective: Send + Sync {
    /// The weight of `batch` in a step's mean: its counted tokens, or its pairs. Known from the data
    /// alone, before anything is computed.
    fn weight(&self, batch: &Batch) -> f64;

    /// The summed loss of `batch`.
    ///
    /// # Errors
    /// If the device failed, or the batch is not what the objective takes.
    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Outcome>;
}

/// A summed loss and what else is worth showing.
pub struct Outcome {
    /// The sum, a scalar that a gradient flows from.
    pub loss: Tensor,
    /// Other sums, shown divided by the weight: names and values.
    pub metrics: Vec<(&'static str, f64)>,
}

/// Cross-entropy of the next token: pretraining and supervised fine-tuning.
#[derive(Clone, Copy, Debug, Default)]
pub struct NextToken;

impl Objective for NextToken {
    fn weight(&self, batch: &Batch) -> f64 {
        batch.counted() as f64
    }
    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Outcome> {
        let x = forward.hidden(batch);
        let head = forward.model.output().weight().get();
        let bf16 = forward.ctx(batch).learns_in_bf16(&head);
        let (loss, _) = x.linear_cross_entropy(&head, &batch.targets(), bf16);
        Ok(Outcome { loss, metrics: Vec::new() })
    }
}
