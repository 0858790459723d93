//! One training step: the gradients of all micro-batches, their norm, clipping, and the update. It
//! knows nothing of files, so that every kind of training, and every test, runs the same step.

use super::{Forward, Objective};
use crate::data::Batch;
use puyu_nn::{Optimizer, Schedule, clip_factor};
use puyu_tensor::{Error, Result, no_grad};

/// A model, what is made small, and how.
pub struct Learner {
    /// The model's forward pass.
    pub forward: Forward,
    /// What is made small.
    pub objective: Box<dyn Objective>,
    /// The trained parameters and their state.
    pub optimizer: Optimizer,
    /// The learning rate of every step.
    pub schedule: Schedule,
    /// The largest norm of a gradient; 0 does not clip.
    pub clip: f64,
}

/// What a step did.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The mean loss over the step's weight.
    pub loss: f64,
    /// The gradient's L2 norm before clipping.
    pub grad_norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Targets or pairs that the mean is over.
    pub weight: f64,
    /// Other means that the objective shows.
    pub metrics: Vec<(&'static str, f64)>,
    /// Loss and gradients were finite, and the parameters moved.
    pub applied: bool,
}

impl Learner {
    /// Learns from `batches`, whose gradients add up to those of one large batch. If the loss or a
    /// gradient is not finite, nothing changes and the answer says so.
    ///
    /// # Errors
    /// If an id is not one of the model's, a parameter takes no part in the loss, or the device
    /// failed.
    pub fn step(&mut self, step: u64, batches: &[Batch]) -> Result<Learned> {
        self.check(batches)?;
        let weight: f64 = batches.iter().map(|b| self.objective.weight(b)).sum();
        let mut learned = self.gather(step, batches, weight)?;
        learned.weight = weight;
        learned.rate = self.schedule.rate(step);
        if learned.loss.is_finite() {
            learned.grad_norm = self.optimizer.grad_norm()? / weight;
        }
        learned.applied = learned.loss.is_finite() && learned.grad_norm.is_finite();
        if learned.applied {
            let clip = match self.clip {
                0.0 => 1.0,
                most => clip_factor(learned.grad_norm, most),
            };
            self.optimizer.apply(learned.rate, clip / weight)?;
        }
        Ok(learned)
    }

    /// The gradients of all batches, summed, up to the first loss that is not finite. What is dropped follows from
    /// the step and a batch's place in it.
    fn gather(&mut self, step: u64, batches: &[Batch], weight: f64) -> Result<Learned> {
        let mut learned = Learned { grad_norm: f64::NAN, ..Learned::default() };
        if weight == 0.0 {
            return Err(Error::invalid(
                "no token of this step's batch counts; every conversation may be cut before its answer",
            ));
        }
        for (i, batch) in batches.iter().enumerate() {
            let noise = Some([step as u32, i as u32]);
            let forward = Forward { noise, ..self.forward.clone() };
            let outcome = self.objective.loss(&forward, batch)?;
            learned.loss += f64::from(outcome.loss.item()?) / weight;
            add(&mut learned.metrics, &outcome.metrics, weight);
            learned.tokens += batch.tokens();
            if !learned.loss.is_finite() {
                break;
            }
            self.optimizer.gather(outcome.loss, i == 0)?;
        }
        Ok(learned)
    }

    /// The mean loss of `batches` and how many targets or pairs it is over.
    ///
    /// # Errors
    /// If an id is not one of the model's, nothing counts, or the device failed.
    pub fn evaluate(&self, batches: &[Batch]) -> Result<(f64, f64)> {
        self.check(batches)?;
        let (mut sum, mut weight) = (0.0, 0.0);
        for batch in batches {
            let outcome = no_grad(|| self.objective.loss(&self.forward, batch))?;
            sum += f64::from(outcome.loss.item()?);
            weight += self.objective.weight(batch);
        }
        match weight {
            0.0 => Err(Error::invalid("no token of the validation data counts")),
            weight => Ok((sum / weight, weight)),
        }
    }

    /// Ids come from files: each must have a row in the embedding.
    fn check(&self, batches: &[Batch]) -> Result<()> {
        let vocab = self.forward.model.config().vocab_size;
        let ids = batches.iter().flat_map(|b| b.ids.iter().copied().chain(targets(b)));
        match ids.filter(|id| *id as usize >= vocab).max() {
            None => Ok(()),
            Some(id) => Err(Error::invalid(format!(
                "the data hold token id {id}, but the model's vocabulary is {vocab}: the data were \
                 made with another tokenizer"
            ))),
        }
    }
}

/// The targets that count.
fn targets(batch: &Batch) -> impl Iterator<Item = u32> {
    batch.targets.iter().copied().filter(|t| *t != crate::data::IGNORE)
}

/// Adds sums over a batch to means over the step.
fn add(means: &mut Vec<(&'static str, f64)>, sums: &[(&'static str, f64)], weight: f64) {
    for &(name, sum) in sums {
        match means.iter_mut().find(|(n, _)| *n == name) {
            Some((_, mean)) => *mean += sum / weight,
            None => means.push((name, sum / weight)),
        }
    }
}
