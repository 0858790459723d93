//! Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290, equation 7), with the losses that XTuner
//! names: sigmoid, robust (Chowdhury et al. 2024, arXiv 2403.00409), hinge (Zhao et al. 2023, SLiC, arXiv 2305.10425),
//! ipo (Azar et al. 2023, arXiv 2310.12036, equation 17), sppo_hard (Wu et al. 2024, arXiv 2405.00675) and nca_pair
//! (Chen et al. 2024, arXiv 2402.05369).

use super::pairs::{self, Slope, minus_log_sigmoid, of_pairs};
use crate::data::Batch;
use crate::train::{Forward, Objective, Outcome};
use puyu_tensor::{Result, no_grad};
use serde::{Deserialize, Serialize};

/// The loss of a pair from c = ln π(chosen) − ln π_ref(chosen), r likewise of the rejected answer, and h = c − r; ε is
/// the share of pairs that are taken to be the wrong way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// −(1 − ε)·ln σ(β·h) − ε·ln σ(−β·h)
    #[default]
    Sigmoid,
    /// (−(1 − ε)·ln σ(β·h) + ε·ln σ(−β·h)) / (1 − 2ε)
    Robust,
    /// max(0, 1 − β·h)
    Hinge,
    /// (h − 1/2β)²
    Ipo,
    /// (c − 1/2β)² + (r + 1/2β)²
    SppoHard,
    /// −ln σ(β·c) − ½·ln σ(−β·c) − ½·ln σ(−β·r)
    NcaPair,
}

impl DpoLoss {
    /// The loss at c = `chosen`, r = `rejected` and its slopes.
    fn at(self, beta: f64, smoothing: f64, [chosen, rejected]: [f64; 2]) -> Slope {
        let h = chosen - rejected;
        let by_h = |(loss, slope): (f64, f64)| Slope { loss, chosen: slope, rejected: -slope };
        // a·(−ln σ(β·x)) and b·(−ln σ(−β·x)), and the slope of both.
        let logistic = |x: f64, a: f64, b: f64| {
            let [up, down] = [beta * x, -beta * x].map(minus_log_sigmoid);
            (a * up.0 + b * down.0, beta * (a * up.1 - b * down.1))
        };
        let square = |x: f64| (x * x, 2.0 * x);
        match self {
            Self::Sigmoid => by_h(logistic(h, 1.0 - smoothing, smoothing)),
            Self::Robust => {
                let whole = 1.0 - 2.0 * smoothing;
                by_h(logistic(h, (1.0 - smoothing) / whole, -smoothing / whole))
            }
            Self::Hinge if beta * h < 1.0 => by_h((1.0 - beta * h, -beta)),
            Self::Hinge => Slope::default(),
            Self::Ipo => by_h(square(h - 0.5 / beta)),
            Self::SppoHard => {
                let (up, down) = (square(chosen - 0.5 / beta), square(rejected + 0.5 / beta));
                Slope { loss: up.0 + down.0, chosen: up.1, rejected: down.1 }
            }
            Self::NcaPair => {
                let (up, down) = (logistic(chosen, 1.0, 0.5), logistic(rejected, 0.0, 0.5));
                Slope { loss: up.0 + down.0, chosen: up.1, rejected: down.1 }
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
    /// ε, the share of pairs that are taken to be the wrong way round; below ½.
    pub label_smoothing: f64,
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
            let gains = [0, 1].map(|i| now[i] - before[i]);
            let rewards = gains.map(|gain| self.beta * gain);
            slopes.push(self.loss.at(self.beta, self.label_smoothing, gains));
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
        use DpoLoss::{Hinge, Ipo, NcaPair, Robust, Sigmoid, SppoHard};
        for loss in [Sigmoid, Robust, Hinge, Ipo, SppoHard, NcaPair] {
            for c in [-2000.0, -30.0, -1.0, 0.0, 0.5, 9.0, 40.0, 2000.0] {
                let at = |c: f64, r: f64| loss.at(0.1, 0.2, [c, r]);
                let Slope { loss: value, chosen, rejected } = at(c, 0.25);
                let numeric = |f: &dyn Fn(f64) -> f64| (f(1e-4) - f(-1e-4)) / 2e-4;
                let [up, down] =
                    [numeric(&|e| at(c + e, 0.25).loss), numeric(&|e| at(c, 0.25 + e).loss)];
                for (slope, numeric) in [(chosen, up), (rejected, down)] {
                    let near = (slope - numeric).abs() <= 1e-5 * numeric.abs().max(1.0);
                    assert!(value.is_finite() && near, "{loss:?} at {c}: {slope}, {numeric}");
                }
            }
        }
        let start = Slope { loss: 2f64.ln(), chosen: -0.05, rejected: 0.05 };
        assert_eq!(Sigmoid.at(0.1, 0.0, [0.0, 0.0]), start);
    }

    /// The formulas at c = 3, r = −2, β = 0.1, ε = 0.2, as they stand in the papers.
    #[test]
    fn losses_are_their_formulas() {
        let s = |x: f64| (1.0 + (-x).exp()).ln(); // −ln σ(x)
        for (loss, wanted) in [
            (DpoLoss::Sigmoid, 0.8 * s(0.5) + 0.2 * s(-0.5)),
            (DpoLoss::Robust, (0.8 * s(0.5) - 0.2 * s(-0.5)) / 0.6),
            (DpoLoss::Hinge, 0.5),
            (DpoLoss::Ipo, 0.0),
            (DpoLoss::SppoHard, 4.0 + 9.0),
            (DpoLoss::NcaPair, s(0.3) + 0.5 * s(-0.3) + 0.5 * s(0.2)),
        ] {
            let loss = loss.at(0.1, 0.2, [3.0, -2.0]).loss;
            assert!((loss - wanted).abs() < 1e-12, "{loss} {wanted}");
        }
    }
}
