//! Randomness by counters, and the split of facts. Record i of a stream draws from (seed, stream, i)
//! alone, so it is the same whatever thread writes it. Which split a fact belongs to depends on the
//! fact only, not on the seed: a test set of one seed is unseen to a model trained on another.

/// The finalizer of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014): a bijection that looks random.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 2^64 divided by the golden ratio, splitmix64's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of random numbers that (seed, stream, index) alone determines.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of record `index` of `stream`.
    pub fn new(seed: u64, stream: u64, index: u64) -> Self {
        Self(key(&[seed, stream, index]))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "there is no number below 0");
        (((self.bits() >> 32) * n as u64) >> 32) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below((high - low + 1) as usize) as u32
    }

    /// True `percent` times in 100.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `all`.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// `k` different numbers below `n`, in random order.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn distinct(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "{k} different numbers below {n}");
        let mut found = Vec::with_capacity(k);
        while found.len() < k {
            let x = self.below(n);
            if !found.contains(&x) {
                found.push(x);
            }
        }
        found
    }

    /// Puts `all` in random order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }
}

/// A hash of `parts` and their order.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(STEP, |h, x| mix(h.wrapping_add(STEP) ^ mix(x.wrapping_add(STEP))))
}

/// What a fact, an operand or a wording may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training texts of every kind.
    Train,
    /// `answer_validation.jsonl` only.
    Validation,
    /// `answer_test.jsonl` and `choice_test.jsonl` only.
    Test,
}

impl Split {
    /// The split of a fact by its hash: 12 % test, 6 % validation.
    pub fn of(key: u64) -> Self {
        match mix(key ^ 0x7075_7975) % 100 {
            0..12 => Split::Test,
            12..18 => Split::Validation,
            _ => Split::Train,
        }
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_draw_apart_and_alike() {
        let draw = |seed, stream, i| Rng::new(seed, stream, i).bits();
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        assert_ne!(draw(1, 2, 3), draw(1, 3, 2));
        assert_ne!(draw(1, 2, 3), draw(2, 2, 3));
    }

    #[test]
    fn every_split_has_its_share() {
        let count = |s| (0..10_000).filter(|i| Split::of(key(&[*i])) == s).count();
        assert!((1100..1300).contains(&count(Split::Test)), "{}", count(Split::Test));
        assert!((500..700).contains(&count(Split::Validation)));
    }
}
