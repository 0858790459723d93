//! The one merge loop of both kinds of BPE: join the neighbouring pair of lowest rank, leftmost
//! first, until no pair can be joined.
//!
//! Short words, nearly all of them, scan a small array; long ones use a heap over linked symbols, so
//! a megabyte without a space costs O(n log n).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A stretch `start..end` of the text's bytes and the piece it is, or [`NO_PIECE`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub id: u32,
    pub start: usize,
    pub end: usize,
}

/// The id of a symbol that is no piece of the vocabulary, and the rank of a pair that never joins.
pub(super) const NO_PIECE: u32 = u32::MAX;

/// Up to this many symbols, scanning an array beats a heap.
const SHORT: usize = 40;

/// Merges `symbols` in place. `join` gives rank and id of the piece two neighbours make.
pub(super) fn merge(
    symbols: &mut Vec<Symbol>,
    mut join: impl FnMut(&Symbol, &Symbol) -> Option<(u32, u32)>,
) {
    if symbols.len() <= SHORT {
        merge_short(symbols, &mut join);
    } else {
        merge_long(symbols, &mut join);
    }
}

fn merge_short(
    symbols: &mut Vec<Symbol>,
    join: &mut impl FnMut(&Symbol, &Symbol) -> Option<(u32, u32)>,
) {
    let mut pairs = [(NO_PIECE, NO_PIECE); SHORT];
    for (pair, two) in pairs.iter_mut().zip(symbols.windows(2)) {
        *pair = join(&two[0], &two[1]).unwrap_or((NO_PIECE, NO_PIECE));
    }
    while symbols.len() > 1 {
        let count = symbols.len() - 1;
        let mut best = 0;
        for i in 1..count {
            if pairs[i].0 < pairs[best].0 {
                best = i;
            }
        }
        let (rank, id) = pairs[best];
        if rank == NO_PIECE {
            return;
        }
        symbols[best] = Symbol { id, start: symbols[best].start, end: symbols[best + 1].end };
        symbols.remove(best + 1);
        pairs.copy_within(best + 1..count, best);
        let mut renew = |i: usize| {
            pairs[i] = join(&symbols[i], &symbols[i + 1]).unwrap_or((NO_PIECE, NO_PIECE));
        };
        if best > 0 {
            renew(best - 1);
        }
        if best + 1 < symbols.len() {
            renew(best);
        }
    }
}

/// A pair waiting in the heap: ordered by rank, then by place; `right_end` tells a stale one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    right_end: u32,
    id: u32,
}

/// # Panics
/// On a word of 4 GiB or more, whose symbols alone would fill 96 GiB.
fn merge_long(
    symbols: &mut Vec<Symbol>,
    join: &mut impl FnMut(&Symbol, &Symbol) -> Option<(u32, u32)>,
) {
    const NONE: u32 = u32::MAX;
    let bytes = symbols.last().map_or(0, |last| last.end);
    assert!(bytes < NONE as usize, "a word of {bytes} bytes is too long to merge");
    let count = symbols.len() as u32;
    let mut next: Vec<u32> = (1..=count).map(|i| if i < count { i } else { NONE }).collect();
    let mut before: Vec<u32> = (0..count).map(|i| i.wrapping_sub(1)).collect();
    let mut candidate = |symbols: &[Symbol], left: u32, right: u32| {
        let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
        let (rank, id) = join(l, r)?;
        Some(Reverse(Candidate { rank, left, right, right_end: r.end as u32, id }))
    };
    let first: Vec<_> = (1..count).filter_map(|i| candidate(symbols, i - 1, i)).collect();
    let mut heap = BinaryHeap::from(first);
    while let Some(Reverse(Candidate { left, right, right_end, id, .. })) = heap.pop() {
        // A pair is stale when either side has since been joined with another neighbour; a symbol
        // that was taken up by its left one has an empty stretch.
        let (l, r) = (symbols[left as usize], symbols[right as usize]);
        if l.start == l.end || next[left as usize] != right || r.end != right_end as usize {
            continue;
        }
        symbols[left as usize] = Symbol { id, start: l.start, end: r.end };
        symbols[right as usize].end = r.start;
        let after = next[right as usize];
        next[left as usize] = after;
        if after != NONE {
            before[after as usize] = left;
            heap.extend(candidate(symbols, left, after));
        }
        let previous = before[left as usize];
        if previous != NONE {
            heap.extend(candidate(symbols, previous, left));
        }
    }
    symbols.retain(|symbol| symbol.start < symbol.end);
}
