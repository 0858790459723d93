//! Reward models: the head's score at each answer's last token, trained so that the chosen one is
//! higher (Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155, equation 1), or with InternLM2's
//! focal ranking loss and penalty on large scores (Cai et al. 2024, arXiv 2403.17297, section 4.3).

use super::pairs::{self, Slope, minus_log_sigmoid, of_pairs};
use crate::data::{Batch, IGNORE};
use crate::train::{Forward, Objective, Outcome};
use puyu_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

/// The loss of a pair from h = s(c) − s(r), P = σ(h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// −ln P
    Logistic,
    /// −(1 − 2·max(0, P − ½))²·ln P: pairs that are ordered well count less.
    #[default]
    Focal,
}

impl Ranking {
    /// The loss at `h` and its slope.
    fn at(self, h: f64) -> (f64, f64) {
        let (loss, slope) = minus_log_sigmoid(h);
        let p = 1.0 + slope; // σ(h), for the slope is σ(h) − 1
        match self {
            Self::Focal if h > 0.0 => {
                let left = 2.0 - 2.0 * p;
                let weight = left * left;
                (weight * loss, weight * slope - 4.0 * left * p * (1.0 - p) * loss)
            }
            _ => (loss, slope),
        }
    }
}

/// The objective.
#[derive(Clone, Copy, Debug)]
pub struct Reward {
    /// The loss of a pair.
    pub ranking: Ranking,
    /// The weight of the penalty −½·(ln(5 + s) + ln(5 − s)) on each score, which keeps scores in −5 to
    /// 5; 0 is none.
    pub penalty: f64,
}

/// Where the penalty's barrier stands, and from where on it goes on straight.
const BARRIER: f64 = 5.0;
const STRAIGHT: f64 = 4.95;

/// The penalty of a score and its slope.
fn penalty(s: f64) -> (f64, f64) {
    let x = s.clamp(-STRAIGHT, STRAIGHT);
    let value = -0.5 * ((BARRIER + x).ln() + (BARRIER - x).ln());
    let slope = 0.5 * (1.0 / (BARRIER - x) - 1.0 / (BARRIER + x));
    (value + slope * (s - x), slope)
}

impl Objective for Reward {
    fn weight(&self, batch: &Batch) -> f64 {
        batch.lengths.len() as f64 / 2.0
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Outcome> {
        pairs::check(batch)?;
        let scores = scores(forward, batch)?;
        let (mut slopes, mut sums) = (Vec::new(), [0.0; 4]);
        for [chosen, rejected] in of_pairs(&scores.to_vec::<f32>()?) {
            let (loss, slope) = self.ranking.at(chosen - rejected);
            let [(more, up), (also, down)] = [chosen, rejected].map(penalty);
            slopes.push(Slope {
                loss: loss + self.penalty * (more + also),
                chosen: slope + self.penalty * up,
                rejected: -slope + self.penalty * down,
            });
            sums[0] += f64::from(u8::from(chosen > rejected));
            sums[1] += chosen - rejected;
            sums[2] += chosen;
            sums[3] += rejected;
        }
        let names = ["reward_accuracy", "reward_margin", "chosen_score", "rejected_score"];
        pairs::outcome(&scores, &slopes, names.into_iter().zip(sums).collect())
    }
}

/// The score of each sequence, `[S]`: the head's output at its last token, which is the reward token of models
/// that have one.
fn scores(forward: &Forward, batch: &Batch) -> Result<Tensor> {
    let head = forward.model.output().weight().get();
    if head.dim(0) != 1 {
        return Err(Error::invalid(format!(
            "the model's head gives {} logits, not one score",
            head.dim(0)
        )));
    }
    let config = forward.model.config();
    if let Some(token) = config.reward_token.filter(|t| *t as usize >= config.vocab_size) {
        return Err(Error::invalid(format!(
            "reward_token_id is {token}, but the model has {} tokens",
            config.vocab_size
        )));
    }
    let batch = &closed(batch, config.reward_token);
    let ends = batch.lengths.iter().scan(0u32, |end, n| {
        *end += *n as u32;
        Some(*end - 1)
    });
    let ends: Vec<u32> = ends.collect();
    let x = forward.hidden(batch).gather(&Tensor::new(&ends, [ends.len()]));
    Ok(x.matmul_transposed(&head).reshape([ends.len()]))
}

/// The batch with `token` at the end of every sequence that does not end with it.
fn closed(batch: &Batch, token: Option<u32>) -> Batch {
    let mut all = Batch::default();
    let (mut ids, mut targets) = (&batch.ids[..], &batch.targets[..]);
    for &n in &batch.lengths {
        let (sequence, rest) = ids.split_at(n);
        let (aims, later) = targets.split_at(n);
        (ids, targets) = (rest, later);
        let last = token.filter(|t| sequence.last() != Some(t));
        let ignored = last.map(|_| IGNORE);
        let with = |all: &[u32], more: Option<u32>| -> Vec<u32> {
            all.iter().copied().chain(more).collect()
        };
        all.push(&with(sequence, last), &with(aims, ignored));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_end_with_the_reward_token() {
        let mut batch = Batch::default();
        batch.push(&[1, 2], &[2, IGNORE]);
        batch.push(&[3, 9], &[9, IGNORE]);
        assert_eq!(closed(&batch, None), batch);
        let closed = closed(&batch, Some(9));
        assert_eq!(closed.ids, [1, 2, 9, 3, 9]);
        assert_eq!(closed.targets, [2, IGNORE, IGNORE, 9, IGNORE]);
        assert_eq!(closed.lengths, [3, 2]);
    }

    #[test]
    fn slopes_are_the_derivatives_of_the_losses() {
        let near = |slope: f64, f: &dyn Fn(f64) -> f64, x: f64| {
            let numeric = (f(x + 1e-6) - f(x - 1e-6)) / 2e-6;
            assert!((slope - numeric).abs() <= 1e-4 * numeric.abs().max(1.0), "{slope} {numeric}");
        };
        for h in [-40.0, -2.0, -0.1, 0.1, 2.0, 40.0] {
            for ranking in [Ranking::Logistic, Ranking::Focal] {
                near(ranking.at(h).1, &|h| ranking.at(h).0, h);
            }
        }
        for s in [-9.0, -4.0, 0.0, 1.0, 4.9, 7.0] {
            near(penalty(s).1, &|s| penalty(s).0, s);
        }
    }
}
