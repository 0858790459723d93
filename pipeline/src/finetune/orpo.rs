//! Odds ratio preference optimization (Hong et al. 2024, arXiv 2403.07691, equations 4 to 6): the loss
//! of the chosen answer plus λ times −ln σ of the log of the odds ratio. There is no reference model.
//!
//! With l the mean log-probability of an answer's tokens: loss = −l(c) + λ·(−ln σ(f)),
//! f = o(c) − o(r), o = l − ln(1 − eˡ).

use super::pairs::{self, Slope, minus_log_sigmoid, of_pairs};
use crate::data::{Batch, IGNORE};
use crate::train::{Forward, Objective, Outcome};
use puyu_tensor::{Result, Tensor};

/// The objective.
#[derive(Clone, Copy, Debug)]
pub struct Orpo {
    /// λ, the weight of the odds ratio.
    pub lambda: f64,
}

impl Orpo {
    /// The loss of a pair of mean log-probabilities.
    fn at(self, [chosen, rejected]: [f64; 2]) -> (Slope, f64) {
        // An answer that is certain has infinite odds; it is taken as nearly certain.
        let certain = |l: f64| l.min(-1e-9);
        let odds = |l: f64| certain(l) - (-certain(l).exp_m1()).ln();
        let slope = |l: f64| -1.0 / certain(l).exp_m1();
        let ratio = odds(chosen) - odds(rejected);
        let (loss, down) = minus_log_sigmoid(ratio);
        let pair = Slope {
            loss: -chosen + self.lambda * loss,
            chosen: -1.0 + self.lambda * down * slope(chosen),
            rejected: -self.lambda * down * slope(rejected),
        };
        (pair, ratio)
    }
}

impl Objective for Orpo {
    fn weight(&self, batch: &Batch) -> f64 {
        batch.lengths.len() as f64 / 2.0
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Outcome> {
        pairs::check(batch)?;
        let means = &pairs::log_probabilities(forward, batch, true) * &shares(batch);
        let (mut slopes, mut sums) = (Vec::new(), [0.0; 3]);
        for pair in of_pairs(&means.to_vec::<f32>()?) {
            let (slope, ratio) = self.at(pair);
            slopes.push(slope);
            sums[0] -= pair[0];
            sums[1] += ratio;
            sums[2] += f64::from(u8::from(ratio > 0.0));
        }
        let names = ["chosen_loss", "log_odds_ratio", "odds_accuracy"];
        pairs::outcome(&means, &slopes, names.into_iter().zip(sums).collect())
    }
}

/// One over the number of counted targets of each sequence, `[S]`.
fn shares(batch: &Batch) -> Tensor {
    let mut rest = &batch.targets[..];
    let share = |n: &usize| {
        let (own, later) = rest.split_at(*n);
        rest = later;
        1.0 / own.iter().filter(|t| **t != IGNORE).count() as f32
    };
    let shares: Vec<f32> = batch.lengths.iter().map(share).collect();
    Tensor::new(&shares, [shares.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_derivatives_of_the_loss() {
        let orpo = Orpo { lambda: 0.2 };
        for (c, r) in [(-0.1, -3.0), (-2.0, -0.5), (-8.0, -8.0), (-1e-3, -30.0)] {
            let (pair, _) = orpo.at([c, r]);
            let e = 1e-6;
            let chosen = (orpo.at([c + e, r]).0.loss - orpo.at([c - e, r]).0.loss) / (2.0 * e);
            let rejected = (orpo.at([c, r + e]).0.loss - orpo.at([c, r - e]).0.loss) / (2.0 * e);
            assert!(
                (pair.chosen - chosen).abs() <= 1e-4 * chosen.abs().max(1.0),
                "{pair:?} {chosen}"
            );
            assert!((pair.rejected - rejected).abs() <= 1e-4 * rejected.abs().max(1.0));
        }
    }
}
