//! What watches over a run: losses that are not finite, losses that jump, and, when a run must stop,
//! which tensor went bad first.

use super::Learner;
use crate::data::Batch;
use puyu_autograd::backward_into;
use puyu_nn::{Ctx, Param};
use puyu_tensor::{DType, Result, Tensor, no_grad};
use serde::{Deserialize, Serialize};

/// A loss this many times the running mean is a spike (InternEvo's `loss_spike_limit`) ...
const SPIKE: f64 = 1.5;
/// ... if it is also this many deviations above it: low losses of small batches scatter.
const DEVIATIONS: f64 = 5.0;
/// The running mean's share of a new loss.
const NEW: f64 = 0.05;
/// Losses before the mean says anything.
const SETTLED: u64 = 10;

/// What is remembered of the losses; part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// Steps that were skipped since the run began.
    pub skipped: u64,
    /// Steps that were skipped one after another until now.
    pub in_a_row: u64,
    /// Running mean of the losses.
    mean: f64,
    /// Running mean of the squared distances from it.
    #[serde(default)]
    variance: f64,
    /// Losses in it.
    seen: u64,
}

impl Guard {
    /// Takes note of a loss that was learnt from; says so if it is a spike.
    pub fn good(&mut self, loss: f64) -> Option<String> {
        self.in_a_row = 0;
        let above = loss - self.mean;
        let rare = above > DEVIATIONS * self.variance.sqrt();
        let spike = self.seen >= SETTLED && loss > SPIKE * self.mean && rare;
        let text = format!("loss spike: {loss:.4}, after a running mean of {:.4}", self.mean);
        match self.seen {
            0 => self.mean = loss,
            _ => {
                self.mean += NEW * above;
                self.variance += NEW * (above * above - self.variance);
            }
        }
        self.seen += 1;
        spike.then_some(text)
    }

    /// Takes note of a step that was skipped.
    pub fn bad(&mut self) {
        self.skipped += 1;
        self.in_a_row += 1;
    }
}

/// The first tensor that is not finite when `learner` runs on `batches`: a weight, then a value of the
/// forward pass, then a gradient in the order of the backward pass.
///
/// # Errors
/// If the device failed.
pub fn first_bad(learner: &Learner, batches: &[Batch]) -> Result<String> {
    for param in learner.optimizer.params() {
        if !is_finite(&param.get())? {
            return Ok(format!("the weight {}", param.name()));
        }
    }
    for batch in batches {
        if let Some(name) = no_grad(|| first_activation(learner, batch))? {
            return Ok(format!("the activation {name}"));
        }
        let loss = learner.objective.loss(&learner.forward, batch)?.loss;
        if !loss.item()?.is_finite() {
            return Ok("the loss itself, every activation before the head being finite".into());
        }
        if let Some(name) = first_gradient(learner, &loss)? {
            return Ok(format!("the gradient of {name}"));
        }
    }
    Ok("nothing when it was looked for again; the gradient's norm may be too large for f32".into())
}

/// The first value of the forward pass that is not finite.
fn first_activation(learner: &Learner, batch: &Batch) -> Result<Option<String>> {
    let (mut found, mut failed) = (None, None);
    let mut observe = |name: &str, x: &Tensor| match is_finite(x) {
        Ok(false) if found.is_none() => found = Some(name.to_owned()),
        Ok(_) => (),
        Err(e) => failed = Some(e),
    };
    let mut ctx = Ctx::packed(&batch.lengths);
    ctx.observer = Some(&mut observe);
    learner.forward.model.hidden(&batch.ids(), &mut ctx);
    drop(ctx);
    failed.map_or(Ok(found), Err)
}

/// The first parameter whose gradient is not finite, from the loss backwards.
fn first_gradient(learner: &Learner, loss: &Tensor) -> Result<Option<String>> {
    let params: Vec<&Param> = learner.optimizer.params().collect();
    let (mut found, mut failed) = (None, None);
    backward_into(loss, &mut |id, dx| match is_finite(&dx.whole()) {
        Ok(false) if found.is_none() => {
            let param = params.iter().find(|p| p.get().id() == id);
            found = param.map(|p| p.name().to_owned());
        }
        Ok(_) => (),
        Err(e) => failed = Some(e),
    })?;
    failed.map_or(Ok(found), Err)
}

fn is_finite(x: &Tensor) -> Result<bool> {
    let values = x.detach().to_dtype(DType::F32).contiguous().to_vec::<f32>()?;
    Ok(values.iter().all(|v| v.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_a_spike_and_a_slow_rise_is_none() {
        let mut guard = Guard::default();
        assert!((0..20).all(|_| guard.good(2.0).is_none()));
        assert!(guard.good(2.9).is_none());
        assert!(guard.good(3.2).unwrap().contains("3.2"));
        let mut guard = Guard::default();
        assert!((0..200).all(|i| guard.good(1.0 + 0.01 * f64::from(i)).is_none()));
        // Low losses that scatter: half of them are 1.55 times the mean.
        let mut guard = Guard::default();
        assert!((0..200).all(|i| guard.good([0.2, 0.7][i % 2]).is_none()));
    }

    #[test]
    fn skipped_steps_are_counted_in_all_and_in_a_row() {
        let mut guard = Guard::default();
        guard.bad();
        guard.bad();
        assert_eq!((guard.skipped, guard.in_a_row), (2, 2));
        guard.good(1.0);
        guard.bad();
        assert_eq!((guard.skipped, guard.in_a_row), (3, 1));
    }
}
