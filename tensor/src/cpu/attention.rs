//! Causal attention of a few query rows over keys and values in blocks of 64 tokens.
//!
//! Keys lie transposed within a block, `[D][64]`, so that scores are vectors over keys and each score
//! is one chain over D; values lie `[64][D]`, and each output is one chain over keys. Softmax runs
//! block by block within spans of 512 keys, and spans are merged in ascending order: so a query gives
//! the same bits in prefill, in decode, alone or in a batch (Dao et al. 2022, arXiv 2205.14135).

use crate::DType;
use crate::cpu::math::exp;
use crate::cpu::panel::LANES;
use crate::cpu::simd::{Isa, Panel, TILE, versions};
use std::cell::Cell;
use std::ops::Range;

/// Tokens of a block.
pub const BLOCK: usize = 64;

/// Keys of a span: what a decode over a long context may give to different threads.
pub(crate) const SPAN: usize = 512;

/// Query rows.
pub(crate) struct Queries {
    /// `[rows][D]`, times the scale.
    pub q: Vec<f32>,
    /// D
    pub d: usize,
    /// Row i sees keys 0 to `sees[i] - 1`, at least one.
    pub sees: Vec<usize>,
}

/// The softmax so far of query rows.
pub(crate) struct States {
    rows: usize,
    width: usize,
    /// The maxima of all rows, their sums of exponentials, and weighted values `[row][width]`.
    numbers: Vec<f32>,
}

impl States {
    fn new(rows: usize, width: usize) -> Self {
        let mut numbers = vec![0.0; rows * (2 + width)];
        numbers[..rows].fill(f32::NEG_INFINITY);
        Self { rows, width, numbers }
    }

    fn max(&self, row: usize) -> f32 {
        self.numbers[row]
    }

    fn sum(&mut self, row: usize) -> &mut f32 {
        &mut self.numbers[self.rows + row]
    }

    fn out(&mut self, rows: Range<usize>) -> &mut [f32] {
        let all = &mut self.numbers[2 * self.rows..];
        &mut all[rows.start * self.width..rows.end * self.width]
    }

    /// Rescales a row to a new maximum that is at least the old one.
    fn raise(&mut self, row: usize, max: f32) {
        if self.max(row) != max {
            let scale = exp(self.max(row) - max);
            self.numbers[row] = max;
            *self.sum(row) *= scale;
            self.out(row..row + 1).iter_mut().for_each(|o| *o *= scale);
        }
    }

    /// Adds the state of a later span to a row.
    fn merge(&mut self, row: usize, later: &mut Self) {
        let max = self.max(row).max(later.max(row));
        self.raise(row, max);
        later.raise(row, max);
        *self.sum(row) += *later.sum(row);
        let (out, later) = (self.out(row..row + 1), later.out(row..row + 1));
        out.iter_mut().zip(later).for_each(|(o, l)| *o += *l);
    }
}

versions! {
    /// Turns the first `keys` scores of a block into exp(score - m) and the others into 0, m being
    /// the larger of `max` and all scores; returns m and the sum, added up in 16 lanes.
    fn exponentials(scores: &mut [f32; BLOCK], keys: usize, max: f32) -> (f32, f32) {
        scores[keys..].fill(f32::NEG_INFINITY);
        let mut most = [max; LANES];
        for s in scores.as_chunks::<LANES>().0 {
            for (m, &s) in most.iter_mut().zip(s) {
                *m = if s > *m { s } else { *m };
            }
        }
        let max = halved(most, |a, b| if b > a { b } else { a });
        scores.iter_mut().for_each(|s| *s = exp(*s - max));
        scores[keys..].fill(0.0);
        let mut sums = [0.0; LANES];
        for s in scores.as_chunks::<LANES>().0 {
            sums.iter_mut().zip(s).for_each(|(sum, s)| *sum += s);
        }
        (max, halved(sums, |a, b| a + b))
    }
}

/// All lanes in one by `f`, each half with the other, so that few steps wait for each other.
#[inline(always)]
fn halved(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = f(lanes[i], lanes[i + n]);
        }
    }
    lanes[0]
}

/// A matrix of floats in memory: rows of `step` elements, a multiple of 16.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    dtype: DType,
    bytes: &'a [u8],
    step: usize,
    /// Bytes from it to the one that comes next.
    next: isize,
}

impl<'a> Matrix<'a> {
    fn floats(data: &'a [f32], step: usize) -> Self {
        Self { dtype: DType::F32, bytes: bytemuck::cast_slice(data), step, next: 0 }
    }
}

/// Adds `a [rows][K] · b`, K rows of `b`, to `y`, whose rows are as long as those of `b`, at most a tile.
fn multiply_add(a: &[f32], a_row: usize, b: Matrix, k: usize, y: &mut [f32]) {
    let Matrix { dtype, bytes, step, next: ahead } = b;
    let panel = Panel { dtype, bytes, k, step, dots: false, ahead };
    let panels = [b.step / LANES, b.dtype.bytes(LANES)];
    Isa::detect().rows(a, [a_row, 1], panel, panels, y.as_chunks_mut().0);
}

/// Where keys and values come from, in blocks of 64 tokens.
pub(crate) trait Blocks {
    /// Fills `k [D][64]` and `v [64][D]` with block `index`.
    fn fill(&self, index: usize, k: &mut [f32], v: &mut [f32]);

    /// The same as it lies in memory, if that is F32 or F16.
    fn in_place(&self, _: usize) -> Option<(DType, [&[u8]; 2])> {
        None
    }
}

impl<F: Fn(usize, &mut [f32], &mut [f32])> Blocks for F {
    fn fill(&self, index: usize, k: &mut [f32], v: &mut [f32]) {
        self(index, k, v);
    }
}

thread_local! {
    /// A thread's room for a block of keys and one of values.
    static BLOCKS: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Attention of `queries`. `y(row, out, logsumexp)` receives each row's result.
pub(crate) fn attend(queries: &Queries, blocks: &impl Blocks, y: impl FnMut(usize, &[f32], f32)) {
    let keys = queries.sees.iter().max().copied().unwrap_or(0);
    let all = (0..keys.div_ceil(SPAN)).map(|index| span(queries, index, blocks));
    finish(queries.d, |row| queries.sees[row], all, y);
}

/// The states of `queries` over span `index` alone.
pub(crate) fn span(queries: &Queries, index: usize, blocks: &impl Blocks) -> States {
    let (d, rows) = (queries.d, queries.sees.len());
    let keys = queries.sees.iter().max().copied().unwrap_or(0).min((index + 1) * SPAN);
    let width = d.next_multiple_of(LANES);
    let mut states = States::new(rows, width);
    // Every block fills them; what is in them before does not matter.
    let [mut k, mut v] = BLOCKS.take();
    k.resize(d * BLOCK, 0.0);
    v.resize(d * BLOCK, 0.0);
    let mut padded = vec![0.0; if width == d { 0 } else { width * BLOCK }];
    for start in (index * SPAN..keys).step_by(BLOCK) {
        // A tile reads a block once, so that decoding it first would be more work.
        let once = rows <= TILE && width == d;
        let found = |start: usize| if once { blocks.in_place(start / BLOCK) } else { None };
        let [k, v] =
            match found(start) {
                Some((dtype, [k, v])) => {
                    // While a matrix is read, memory is asked for the one after it.
                    let later = (start + BLOCK < keys).then(|| found(start + BLOCK)).flatten();
                    let from = |a: &[u8], b: &[u8]| {
                        b.as_ptr().addr().wrapping_sub(a.as_ptr().addr()) as isize
                    };
                    let after_v = later.map_or(0, |(_, [k, _])| from(v, k));
                    [(k, BLOCK, from(k, v)), (v, width, after_v)]
                        .map(|(bytes, step, next)| Matrix { dtype, bytes, step, next })
                }
                None => {
                    blocks.fill(start / BLOCK, &mut k, &mut v);
                    for (to, from) in padded.chunks_exact_mut(width).zip(v.chunks_exact(d)) {
                        to[..d].copy_from_slice(from);
                    }
                    let v = if width == d { &v } else { &padded };
                    [Matrix::floats(&k, BLOCK), Matrix::floats(v, width)]
                }
            };
        for first in (0..rows).step_by(TILE) {
            add_block(queries, first..(first + TILE).min(rows), start, [k, v], &mut states);
        }
    }
    BLOCKS.set([k, v]);
    states
}

/// Merges the states of all spans of rows of `d` numbers, in ascending order, and gives `y(row, out, logsumexp)` for
/// each row; row i sees `sees(i)` keys.
pub(crate) fn finish(
    d: usize,
    sees: impl Fn(usize) -> usize,
    mut spans: impl Iterator<Item = States>,
    mut y: impl FnMut(usize, &[f32], f32),
) {
    // Every row sees a key of the first span.
    let Some(mut whole) = spans.next() else { return };
    let rows = whole.rows;
    for (index, mut span) in spans.enumerate() {
        for row in (0..rows).filter(|&row| sees(row) > (index + 1) * SPAN) {
            whole.merge(row, &mut span);
        }
    }
    for row in 0..rows {
        let (max, sum) = (whole.max(row), *whole.sum(row));
        let out = &mut whole.out(row..row + 1)[..d];
        out.iter_mut().for_each(|o| *o *= 1.0 / sum);
        y(row, out, max + sum.ln());
    }
}

/// Adds the block of keys from `start` on to `rows` of `span`, at most [`TILE`]: `k [D][64]`, `v [64][width]`.
fn add_block(
    queries: &Queries,
    rows: Range<usize>,
    start: usize,
    [k, v]: [Matrix; 2],
    span: &mut States,
) {
    let (d, all) = (queries.d, &queries.sees[rows.clone()]);
    let sees = |sees: &usize| sees.saturating_sub(start).min(BLOCK);
    let most = all.iter().map(sees).max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let mut scores = [[0.0; BLOCK]; TILE];
    let scores = &mut scores[..rows.len()];
    multiply_add(&queries.q[rows.start * d..], d, k, d, scores.as_flattened_mut());
    for ((row, scores), seen) in rows.clone().zip(&mut *scores).zip(all) {
        if *seen > start {
            let (max, sum) = exponentials(scores, sees(seen), span.max(row));
            span.raise(row, max);
            *span.sum(row) += sum;
        } else {
            *scores = [0.0; BLOCK];
        }
    }
    multiply_add(scores.as_flattened(), BLOCK, v, most, span.out(rows));
}
