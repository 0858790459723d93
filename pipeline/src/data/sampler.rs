//! Which row comes next. The state is a few counters: an epoch's order is a permutation that is
//! computed index by index, so nothing is stored, any position can be resumed, and a rank can take
//! every n-th row by drawing and passing over the others.

use super::Dataset;
use puyu_tensor::{Error, Result};
use serde::{Deserialize, Serialize};

/// In which order a source's rows come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A new permutation every epoch, from the seed.
    #[default]
    Shuffled,
    /// As they lie.
    Sequential,
}

/// The order of all rows, and how far it was followed. Written into a checkpoint as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    order: Order,
    seed: u64,
    sources: Vec<Source>,
}

/// One source: what it has, and how much was drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    rows: u64,
    weight: f64,
    drawn: u64,
}

impl Sampler {
    /// Begins at the first row of `dataset`.
    pub fn new(dataset: &Dataset, order: Order, seed: u64) -> Self {
        let source = |(rows, weight)| Source { rows, weight, drawn: 0 };
        Self { order, seed, sources: dataset.shares().map(source).collect() }
    }

    /// Whether this state belongs to `dataset`, so that a run may go on with it.
    ///
    /// # Errors
    /// If the sources have other rows than when the state was written.
    pub fn check(&self, dataset: &Dataset) -> Result<()> {
        let now: Vec<u64> = dataset.shares().map(|(rows, _)| rows).collect();
        let then: Vec<u64> = self.sources.iter().map(|s| s.rows).collect();
        if now == then {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the data has changed since the checkpoint: rows by source were {then:?} and are {now:?}; \
             resume with the same data, tokenizer and [data] settings, or begin a new run"
        )))
    }

    /// The next row of `dataset`, an index for [`Dataset::row`].
    ///
    /// # Panics
    /// If the state belongs to another dataset; [`Sampler::check`] says so without one.
    pub fn next(&mut self, dataset: &Dataset) -> usize {
        let number = self.neediest();
        let source = &mut self.sources[number];
        let (epoch, place) = (source.drawn / source.rows, source.drawn % source.rows);
        source.drawn += 1;
        let row = match self.order {
            Order::Sequential => place,
            Order::Shuffled => {
                let key = mix(mix(self.seed ^ mix(number as u64)) ^ epoch);
                permute(key, place, source.rows)
            }
        };
        dataset.first_row(number) + row as usize
    }

    /// The source that is furthest behind its share; the first of equals.
    fn neediest(&self) -> usize {
        let total: f64 = self.sources.iter().map(|s| s.weight).sum();
        let next = (self.position() + 1) as f64;
        let deficit = |s: &Source| s.weight / total * next - s.drawn as f64;
        let mut best = 0;
        for (i, source) in self.sources.iter().enumerate() {
            if deficit(source) > deficit(&self.sources[best]) {
                best = i;
            }
        }
        best
    }

    /// Rows drawn since the beginning.
    pub fn position(&self) -> u64 {
        self.sources.iter().map(|s| s.drawn).sum()
    }

    /// Epochs since the beginning: rows drawn over rows there are.
    pub fn epoch(&self) -> f64 {
        let rows: u64 = self.sources.iter().map(|s| s.rows).sum();
        self.position() as f64 / rows as f64
    }
}

/// A bijection of 64-bit words whose output bits depend on all input bits (the finalizer of
/// SplitMix64: Steele, Lea, Flood, 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Rounds of the network; four make a pseudo-random permutation (Luby, Rackoff, 1988), and more cost
/// nothing beside a step.
const ROUNDS: u64 = 8;

/// Where `index` goes in the permutation of `0..count` that `key` names: a Feistel network over the
/// next power of four, walked until it lands below `count` (Black, Rogaway, 2002).
///
/// # Panics
/// If `index` is not below `count`.
pub fn permute(key: u64, index: u64, count: u64) -> u64 {
    assert!(index < count, "index {index} of {count}");
    let bits = (64 - (count - 1).leading_zeros()).div_ceil(2);
    let low = (1u64 << bits) - 1;
    let mut x = index;
    loop {
        let (mut left, mut right) = (x >> bits, x & low);
        for round in 0..ROUNDS {
            let next = left ^ (mix(mix(key ^ round) ^ right) & low);
            (left, right) = (right, next);
        }
        x = left << bits | right;
        if x < count {
            return x;
        }
    }
}
