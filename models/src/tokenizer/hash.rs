//! Hash maps for vocabularies: a short multiply-and-fold hash, several times faster than the
//! standard one on the short keys of a tokenizer, and seeded per process so that no file can be
//! crafted whose pieces all collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// A map keyed by bytes or ids.
pub(super) type Map<K, V> = HashMap<K, V, Seed>;

/// The process-wide seed of every [`Map`].
#[derive(Clone, Copy)]
pub(super) struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        Self(*SEED.get_or_init(|| RandomState::new().hash_one(0u8)))
    }
}

impl BuildHasher for Seed {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold { state: self.0, seed: self.0 | 1 }
    }
}

/// The running state of one hash.
pub(super) struct Fold {
    state: u64,
    seed: u64,
}

/// An odd constant with well-spread bits: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().expect("chunks are 8 bytes")));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    fn write_u64(&mut self, x: u64) {
        // The 128-bit product mixes every input bit into both halves; folding keeps both.
        let product = u128::from(self.state ^ x ^ SPREAD) * u128::from(self.seed ^ SPREAD);
        self.state = (product as u64) ^ ((product >> 64) as u64) ^ self.seed.rotate_left(23);
    }

    fn write_usize(&mut self, x: usize) {
        self.write_u64(x as u64);
    }

    fn write_u32(&mut self, x: u32) {
        self.write_u64(u64::from(x));
    }

    fn write_u8(&mut self, x: u8) {
        self.write_u64(u64::from(x));
    }

    fn finish(&self) -> u64 {
        self.state ^ (self.state >> 32)
    }
}
