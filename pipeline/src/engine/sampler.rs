//! From logits to a token.
//!
//! The chain is llama.cpp's: logit bias, penalties, top-k, top-p, min-p, temperature. Randomness is a
//! function of (seed, position), so an answer can be repeated, resumed and batched to the same tokens.

use std::collections::HashMap;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens up to this cumulative probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of tokens that occurred (multiplies negative ones); 1 is off (Keskar
    /// et al. 2019, arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Subtracted once for each occurrence.
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties see.
    pub repeat_last_n: usize,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random choices.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// Chooses tokens one after another.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler with these settings.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, candidates: Vec::new() }
    }

    /// The next token after `history`, given its `logits [V]`.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> u32 {
        let s = &self.sampling;
        for &(id, bias) in &s.logit_bias {
            if let Some(l) = logits.get_mut(id as usize) {
                *l += bias;
            }
        }
        penalize(s, logits, history);
        if s.temperature <= 0.0 {
            return argmax(logits);
        }
        let c = &mut self.candidates;
        c.clear();
        c.extend(logits.iter().enumerate().map(|(i, &l)| (i as u32, l)));
        // Descending by logit, ties to the lower id: a total order, so that a run can be repeated.
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if s.top_k > 0 && s.top_k < c.len() {
            c.select_nth_unstable_by(s.top_k - 1, order);
            c.truncate(s.top_k);
        }
        c.sort_unstable_by(order);
        let top = c[0].1;
        let total: f64 = c.iter().map(|(_, l)| f64::from(l - top).exp()).sum();
        if s.top_p < 1.0 {
            let mut sum = 0.0;
            let mut whole = |&(_, l): &(u32, f32)| {
                sum += f64::from(l - top).exp() / total;
                sum < f64::from(s.top_p)
            };
            let keep = c.iter().take_while(|&x| whole(x)).count() + 1;
            c.truncate(keep);
        }
        let floor = s.min_p.max(0.0).ln();
        c.retain(|&(_, l)| l - top >= floor);
        let weight = |l: f32| f64::from((l - top) / s.temperature).exp();
        let total: f64 = c.iter().map(|&(_, l)| weight(l)).sum();
        let mut left = uniform(s.seed, history.len() as u64) * total;
        for &(id, l) in c.iter() {
            left -= weight(l);
            if left < 0.0 {
                return id;
            }
        }
        c[c.len() - 1].0
    }
}

fn penalize(s: &Sampling, logits: &mut [f32], history: &[u32]) {
    let off =
        s.repetition_penalty == 1.0 && s.presence_penalty == 0.0 && s.frequency_penalty == 0.0;
    if off {
        return;
    }
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for &id in history.iter().rev().take(s.repeat_last_n) {
        *counts.entry(id).or_default() += 1;
    }
    for (id, n) in counts {
        let Some(l) = logits.get_mut(id as usize) else { continue };
        *l = if *l > 0.0 { *l / s.repetition_penalty } else { *l * s.repetition_penalty };
        *l -= s.presence_penalty + n as f32 * s.frequency_penalty;
    }
}

/// The first of the largest logits.
pub(super) fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &l) in logits.iter().enumerate() {
        if l > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// A number in [0, 1) from a seed and a counter (SplitMix64, Steele et al. 2014).
fn uniform(seed: u64, counter: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(counter);
    for _ in 0..2 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Sampling)) -> Sampler {
        let mut s =
            Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..Sampling::default() };
        change(&mut s);
        Sampler::new(s)
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut s = with(|s| s.temperature = 0.0);
        assert_eq!(s.sample(&mut [1.0, 3.0, 3.0, 2.0], &[]), 1);
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [2.0f32, 1.0, 0.0, -1.0]; // probabilities 0.64, 0.24, 0.09, 0.03
        let seen = |mut s: Sampler| {
            let mut ids: Vec<u32> =
                (0..400).map(|i| s.sample(&mut logits.clone(), &vec![9; i])).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(seen(with(|_| ())), [0, 1, 2, 3]);
        assert_eq!(seen(with(|s| s.top_k = 2)), [0, 1]);
        assert_eq!(seen(with(|s| s.top_p = 0.7)), [0, 1]);
        assert_eq!(seen(with(|s| s.min_p = 0.2)), [0, 1]);
        assert_eq!(
            seen(with(|s| s.logit_bias = vec![(0, -100.0), (3, f32::NEG_INFINITY)])),
            [1, 2]
        );
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut s = with(|s| s.seed = 7);
        let n = 20_000;
        let ones =
            (0..n).filter(|&i| s.sample(&mut [0.0, 1.0], &vec![0; i % 4096 + i / 4096]) == 1);
        let share = ones.count() as f64 / n as f64;
        assert!((share - 0.731).abs() < 0.02, "{share}");
    }

    #[test]
    fn penalties_move_what_occurred() {
        let mut s = with(|s| {
            s.temperature = 0.0;
            s.repetition_penalty = 2.0;
        });
        assert_eq!(s.sample(&mut [3.0, 2.0], &[0]), 1);
        let mut s = with(|s| {
            s.temperature = 0.0;
            s.frequency_penalty = 0.6;
        });
        assert_eq!(s.sample(&mut [3.0, 2.0], &[0]), 0);
        assert_eq!(s.sample(&mut [3.0, 2.0], &[0, 0]), 1);
    }

    #[test]
    fn the_same_seed_and_position_give_the_same_token() {
        let draw = |seed| {
            let mut s = with(|s| s.seed = seed);
            (0..50).map(|i| s.sample(&mut [0.0; 16], &vec![1; i])).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
