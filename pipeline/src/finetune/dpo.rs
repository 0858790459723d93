//! Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290, equation 7), with the losses
//! that XTuner names: sigmoid, hinge (Zhao et al. 2023, SLiC, arXiv 2305.10425) and ipo (Azar et al.
//! 2023, arXiv 2310.12036, equation 17).

use super::pairs::{self, Slope, minus_log_sigmoid, of_pairs};
use crate::data::Batch;
use crate::train::{Forward, Objective, Outcome};
use puyu_tensor::{Result, no_grad};
use serde::{Deserialize, Serialize};

/// The loss of a pair from h = (ln π(c) − ln π_ref(c)) − (ln π(r) − ln π_ref(r)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// −ln σ(β·h)
    #[default]
    Sigmoid,
    /// max(0, 1 − β·h)
    Hinge,
    /// (h − 1/2β)²
    Ipo,
}

impl DpoLoss {
    /// The loss at `h` and its slope.
    fn at(self, beta: f64, h: f64) -> (f64, f64) {
        match self {
            Self::Sigmoid => {
                let (loss, slope) = minus_log_sigmoid(beta * h);
                (loss, beta * slope)
            }
            Self::Hinge if beta * h < 1.0 => (1.0 - beta * h, -beta),
            Self::Hinge => (0.0, 0.0),
            Self::Ipo => {
                let off = h - 0.5 / beta;
                (off * off, 2.0 * off)
            }
        }
    }
}

/// The model that answers are compared with.
pub enum Reference {
    /// A frozen copy of the model.
    Frozen(Forward),
    /// The model itself without its adapters.
    WithoutAdapters,
}

/// The objective.
pub struct Dpo {
    /// β, how strongly the model is held to the reference.
    pub beta: f64,
    /// The loss of a pair.
    pub loss: DpoLoss,
    /// What answers are compared with.
    pub reference: Reference,
}

impl Objective for Dpo {
    fn weight(&self, batch: &Batch) -> f64 {
        batch.lengths.len() as f64 / 2.0
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Outcome> {
        pairs::check(batch)?;
        let numbers = pairs::log_probabilities(forward, batch, true);
        let (model, adapters) = match &self.reference {
            Reference::Frozen(frozen) => (frozen, true),
            Reference::WithoutAdapters => (forward, false),
        };
        let reference = no_grad(|| pairs::log_probabilities(model, batch, adapters));
        let (values, reference) = (numbers.to_vec::<f32>()?, reference.to_vec::<f32>()?);
        let mut slopes = Vec::new();
        let [mut margin, mut right, mut chosen, mut rejected] = [0.0; 4];
        for (now, before) in of_pairs(&values).zip(of_pairs(&reference)) {
            let rewards = [0, 1].map(|i| self.beta * (now[i] - before[i]));
            let (loss, slope) = self.loss.at(self.beta, (rewards[0] - rewards[1]) / self.beta);
            slopes.push(Slope { loss, chosen: slope, rejected: -slope });
            margin += rewards[0] - rewards[1];
            right += f64::from(u8::from(rewards[0] > rewards[1]));
            chosen += rewards[0];
            rejected += rewards[1];
        }
        let metrics = vec![
            ("reward_margin", margin),
            ("reward_accuracy", right),
            ("chosen_reward", chosen),
            ("rejected_reward", rejected),
        ];
        pairs::outcome(&numbers, &slopes, metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_derivatives_of_the_losses() {
        for loss in [DpoLoss::Sigmoid, DpoLoss::Hinge, DpoLoss::Ipo] {
            for h in [-2000.0, -30.0, -1.0, 0.0, 0.5, 9.0, 40.0, 2000.0] {
                let (value, slope) = loss.at(0.1, h);
                let [up, down] = [1e-4, -1e-4].map(|e| loss.at(0.1, h + e).0);
                let numeric = (up - down) / 2e-4;
                assert!(
                    value.is_finite() && (slope - numeric).abs() <= 1e-5 * numeric.abs().max(1.0)
                );
            }
        }
        assert_eq!(DpoLoss::Sigmoid.at(0.1, 0.0), (2f64.ln(), -0.05));
    }
}
