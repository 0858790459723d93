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
const SPAN: usize = 512;

/// One query row: its values, and how many keys it sees (at least one).
pub(crate) struct Query<'a> {
    /// `[D]`
    pub q: &'a [f32],
    /// Keys 0 to `sees - 1` are visible.
    pub sees: usize,
}

/// The softmax so far of query rows: maximum, sum of exponentials, and weighted values.
struct States {
    max: Vec<f32>,
    sum: Vec<f32>,
    /// `[row][width]`
    out: Vec<f32>,
    width: usize,
}

impl States {
    fn new(rows: usize, width: usize) -> Self {
        let max = vec![f32::NEG_INFINITY; rows];
        Self { max, sum: vec![0.0; rows], out: vec![0.0; rows * width], width }
    }

    fn out(&mut self, row: usize) -> &mut [f32] {
        &mut self.out[row * self.width..(row + 1) * self.width]
    }

    /// Rescales a row to a new maximum that is at least the old one.
    fn raise(&mut self, row: usize, max: f32) {
        if self.max[row] != max {
            let scale = exp(self.max[row] - max);
            self.max[row] = max;
            self.sum[row] *= scale;
            self.out(row).iter_mut().for_each(|o| *o *= scale);
        }
    }

    /// Adds the state of a later span to a row, and empties that one.
    fn merge(&mut self, row: usize, later: &mut Self) {
        let max = self.max[row].max(later.max[row]);
        self.raise(row, max);
        later.raise(row, max);
        self.sum[row] += later.sum[row];
        for (o, l) in self.out(row).iter_mut().zip(later.out(row)) {
            *o += *l;
            *l = 0.0;
        }
        (later.max[row], later.sum[row]) = (f32::NEG_INFINITY, 0.0);
    }
}

versions! {
    /// Turns the first `keys` scores of a block into exp(score - m) and the others into 0, m being
    /// the larger of `max` and all scores; returns m and the sum, added up in 16 lanes.
    fn exponentials(scores: &mut [f32; BLOCK], keys: usize, max: f32) -> (f32, f32) {
        let mut most = [max; LANES];
        for (i, s) in scores.iter_mut().enumerate() {
            *s = if i < keys { *s } else { f32::NEG_INFINITY };
        }
        for s in scores.chunks_exact(LANES) {
            for (m, &s) in most.iter_mut().zip(s) {
                *m = if s > *m { s } else { *m };
            }
        }
        let max = most.into_iter().fold(max, f32::max);
        let mut sums = [0.0; LANES];
        for (c, s) in scores.chunks_exact_mut(LANES).enumerate() {
            for (i, (sum, s)) in sums.iter_mut().zip(s).enumerate() {
                let e = exp(*s - max);
                *s = if c * LANES + i < keys { e } else { 0.0 };
                *sum += *s;
            }
        }
        (max, sums.into_iter().sum())
    }
}

/// Adds `a [rows][K] · panels`, K rows of `b` that are `b_step` apart, to `y`; columns and rows of `y`
/// are whole panels and tiles.
fn multiply_add(a: &[f32], a_row: usize, b: &[f32], [k, b_step]: [usize; 2], y: &mut [f32]) {
    let isa = Isa::detect();
    let y_row = b_step;
    for column in (0..y_row).step_by(LANES) {
        let bytes = bytemuck::cast_slice(&b[column..]);
        let panel = Panel { dtype: DType::F32, bytes, k, step: b_step };
        let mut sums = [[0.0; LANES]; TILE];
        let rows = y.len() / y_row;
        for (sums, y) in sums.iter_mut().zip(y.chunks_exact(y_row)) {
            sums.copy_from_slice(&y[column..column + LANES]);
        }
        isa.tile(a, [a_row, 1], panel, &mut sums[..rows]);
        for (sums, y) in sums.iter().zip(y.chunks_exact_mut(y_row)) {
            y[column..column + LANES].copy_from_slice(sums);
        }
    }
}

thread_local! {
    /// A thread's room for a block of keys and one of values.
    static BLOCKS: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Attention of `queries` over blocks given by `block(index, k, v)`, which fills `k [D][64]` and
/// `v [64][D]`. `y(row, out, logsumexp)` receives each row's result.
pub(crate) fn attend(
    queries: &[Query],
    scale: f32,
    mut block: impl FnMut(usize, &mut [f32], &mut [f32]),
    mut y: impl FnMut(usize, &[f32], f32),
) {
    let Some(d) = queries.first().map(|q| q.q.len()) else { return };
    let keys = queries.iter().map(|q| q.sees).max().unwrap_or(0);
    let width = d.next_multiple_of(LANES);
    // Every block fills them; what is in them before does not matter.
    let [mut k, mut v] = BLOCKS.take();
    k.resize(d * BLOCK, 0.0);
    v.resize(d * BLOCK, 0.0);
    let mut padded = vec![0.0; if width == d { 0 } else { width * BLOCK }];
    let q: Vec<f32> = queries.iter().flat_map(|q| q.q.iter().map(|v| v * scale)).collect();
    let mut whole = States::new(queries.len(), width);
    let mut span = States::new(queries.len(), width);
    for start in (0..keys).step_by(BLOCK) {
        block(start / BLOCK, &mut k, &mut v);
        for (to, from) in padded.chunks_exact_mut(width).zip(v.chunks_exact(d)) {
            to[..d].copy_from_slice(from);
        }
        let v = if width == d { &v } else { &padded };
        for first in (0..queries.len()).step_by(TILE) {
            let rows = first..(first + TILE).min(queries.len());
            add_block(&queries[rows.clone()], rows, start, [&q[first * d..], &k, v], &mut span);
        }
        if (start + BLOCK).is_multiple_of(SPAN) || start + BLOCK >= keys {
            for row in (0..queries.len()).filter(|&row| queries[row].sees > start / SPAN * SPAN) {
                whole.merge(row, &mut span);
            }
        }
    }
    for row in 0..queries.len() {
        let (max, sum) = (whole.max[row], whole.sum[row]);
        let out = &mut whole.out(row)[..d];
        out.iter_mut().for_each(|o| *o *= 1.0 / sum);
        y(row, out, max + sum.ln());
    }
    BLOCKS.set([k, v]);
}

/// Adds the block of keys from `start` on to at most [`TILE`] rows of `span`: `q` from the first of
/// them on, `k [D][64]`, `v [64][width]`.
fn add_block(
    queries: &[Query],
    rows: Range<usize>,
    start: usize,
    [q, k, v]: [&[f32]; 3],
    span: &mut States,
) {
    let sees = |q: &Query| q.sees.saturating_sub(start).min(BLOCK);
    let most = queries.iter().map(sees).max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let d = k.len() / BLOCK;
    let mut scores = [[0.0; BLOCK]; TILE];
    let scores = &mut scores[..rows.len()];
    multiply_add(q, d, k, [d, BLOCK], scores.as_flattened_mut());
    for ((row, scores), query) in rows.clone().zip(&mut *scores).zip(queries) {
        if query.sees > start {
            let (max, sum) = exponentials(scores, sees(query), span.max[row]);
            span.raise(row, max);
            span.sum[row] += sum;
        } else {
            *scores = [0.0; BLOCK];
        }
    }
    let width = span.width;
    let out = &mut span.out[rows.start * width..rows.end * width];
    multiply_add(scores.as_flattened(), BLOCK, v, [most, width], out);
}
