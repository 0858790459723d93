//! The ids of pieces, and those of words met before, kept from text to text: most words of a text are old ones.
//!
//! A word has one line of the processor's cache, which it shares with one other word; of those that want
//! it, the last two stay. Each encoding takes a table off a shelf and puts it back, so threads never wait
//! for each other.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::hash::{Map, Seed};

/// Bytes and ids of a word that is kept; longer ones are encoded each time.
const BYTES: usize = 15;
const IDS: usize = 3;
/// Lines of a table: two megabytes.
const LINES: usize = 1 << 15;

/// A word, zeros after it and its length in the last byte; then its ids, and how many.
type Kept = [u128; 2];

/// Two words, the one used last first.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([Kept; 2]);

/// One encoding's table.
pub(super) struct Table {
    lines: Box<[Line]>,
    seed: Seed,
}

impl Table {
    fn new() -> Self {
        Self { lines: vec![Line([[0; 2]; 2]); LINES].into(), seed: Seed::default() }
    }

    /// Appends the ids of the word `range` of `text`, as they were kept or as `encode` gives them. It
    /// says whether they are the same wherever the word stands.
    pub fn append(
        &mut self,
        text: &[u8],
        range: Range<usize>,
        out: &mut Vec<u32>,
        encode: impl FnOnce(Range<usize>, &mut Vec<u32>) -> bool,
    ) {
        let Some(word) = key(text, range.clone()) else {
            encode(range, out);
            return;
        };
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(word as u64);
        hasher.write_u64((word >> 64) as u64);
        let Line(kept) = &mut self.lines[hasher.finish() as usize % LINES];
        let start = out.len();
        if kept[0][0] != word {
            kept.swap(0, 1);
        }
        if kept[0][0] == word {
            let ids: [u32; IDS + 1] = std::array::from_fn(|i| (kept[0][1] >> (32 * i)) as u32);
            // All of them are written and the rest taken back: no loop over a few ids.
            out.extend_from_slice(&ids);
            out.truncate(start + ids[IDS] as usize);
            return;
        }
        let everywhere = encode(range, out);
        let found = &out[start..];
        if everywhere && found.len() <= IDS {
            let mut ids = (found.len() as u128) << (32 * IDS);
            for (i, id) in found.iter().enumerate() {
                ids |= u128::from(*id) << (32 * i);
            }
            kept[0] = [word, ids];
        }
    }
}

/// The word as it is kept; none if it is empty or too long.
fn key(text: &[u8], range: Range<usize>) -> Option<u128> {
    let length = range.len();
    if length == 0 || length > BYTES {
        return None;
    }
    let bytes = match text[range.start..].first_chunk::<16>() {
        Some(bytes) => *bytes,
        None => {
            let mut copy = [0; 16];
            copy[..length].copy_from_slice(&text[range]);
            copy
        }
    };
    let word = u128::from_le_bytes(bytes) & ((1 << (8 * length)) - 1);
    Some(word | (length as u128) << 120)
}

/// The ids of pieces by their bytes, most of which are compared as one number.
#[derive(Default)]
pub(super) struct Index {
    short: Map<u128, u32>,
    long: Map<Box<[u8]>, u32>,
}

impl Index {
    /// Adds a piece, unless there is one of these bytes.
    pub fn insert(&mut self, piece: &[u8], id: u32) {
        match key(piece, 0..piece.len()) {
            Some(key) => self.short.entry(key).or_insert(id),
            None => self.long.entry(piece.into()).or_insert(id),
        };
    }

    /// The id of the piece `range` of `text`.
    pub fn get(&self, text: &[u8], range: Range<usize>) -> Option<u32> {
        let id = match key(text, range.clone()) {
            Some(key) => self.short.get(&key),
            None => self.long.get(&text[range]),
        };
        id.copied()
    }
}

/// Tables that nobody uses at the moment.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Vec<Table>>);

impl Shelf {
    /// Calls `run` with a table from the shelf, or a new one.
    pub fn with<T>(&self, run: impl FnOnce(&mut Table) -> T) -> T {
        let shelf = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = shelf().pop().unwrap_or_else(Table::new);
        let result = run(&mut table);
        shelf().push(table);
        result
    }
}
