//! Causal attention of a few query rows over keys and values in blocks of 64 tokens.
//!
//! Keys lie transposed within a block, `[D][64]`, so that scores are vectors over keys and each score
//! is one chain over D; values lie `[64][D]`, and each output is one chain over keys. Softmax runs
//! block by block within spans of 512 keys, and spans are merged in ascending order: so a query gives
//! the same bits in prefill, in decode, alone or in a batch (Dao et al. 2022, arXiv 2205.14135).

use crate::cpu::math::exp;

/// Tokens of a block.
pub const BLOCK: usize = 64;

/// Keys of a span: what a decode over a long context may give to different threads.
const SPAN: usize = 512;

/// The softmax so far of one query row: maximum, sum of exponentials, and weighted values.
#[derive(Clone)]
struct State {
    max: f32,
    sum: f32,
    out: Vec<f32>,
}

impl State {
    fn new(d: usize) -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0, out: vec![0.0; d] }
    }

    /// Rescales to a new maximum that is at least the old one.
    #[inline(always)]
    fn raise(&mut self, max: f32) {
        let scale = if self.max == max { 1.0 } else { exp(self.max - max) };
        self.max = max;
        self.sum *= scale;
        self.out.iter_mut().for_each(|o| *o *= scale);
    }

    /// Adds `keys` keys of a block: `k [D][64]`, `v [64][D]`, both f32.
    #[inline(always)]
    fn add_block(&mut self, q: &[f32], scale: f32, k: &[f32], v: &[f32], keys: usize) {
        let d = q.len();
        let mut scores = [0.0f32; BLOCK];
        for (&q, k) in q.iter().zip(k.chunks_exact(BLOCK)) {
            for (s, &k) in scores.iter_mut().zip(k) {
                *s += q * k;
            }
        }
        let mut max = self.max;
        for s in &mut scores[..keys] {
            *s *= scale;
            max = max.max(*s);
        }
        self.raise(max);
        for (i, s) in scores.iter_mut().enumerate() {
            *s = if i < keys { exp(*s - max) } else { 0.0 };
        }
        for (&p, v) in scores[..keys].iter().zip(v.chunks_exact(d)) {
            self.sum += p;
            for (o, &v) in self.out.iter_mut().zip(v) {
                *o += p * v;
            }
        }
    }

    /// Adds the state of a later span.
    #[inline(always)]
    fn merge(&mut self, mut later: Self) {
        let max = self.max.max(later.max);
        self.raise(max);
        later.raise(max);
        self.sum += later.sum;
        for (o, l) in self.out.iter_mut().zip(&later.out) {
            *o += l;
        }
    }
}

/// One query row: its values, and how many keys it sees (at least one).
pub(crate) struct Query<'a> {
    /// `[D]`
    pub q: &'a [f32],
    /// Keys 0 to `sees - 1` are visible.
    pub sees: usize,
}

/// Attention of `queries` over blocks given by `block(index, k, v)`, which fills `k [D][64]` and
/// `v [64][D]`. `y(row, out, logsumexp)` receives each row's result.
#[inline(always)]
pub(crate) fn attend(
    queries: &[Query],
    scale: f32,
    mut block: impl FnMut(usize, &mut [f32], &mut [f32]),
    mut y: impl FnMut(usize, &[f32], f32),
) {
    let Some(d) = queries.first().map(|q| q.q.len()) else { return };
    let keys = queries.iter().map(|q| q.sees).max().unwrap_or(0);
    let (mut k, mut v) = (vec![0.0; d * BLOCK], vec![0.0; d * BLOCK]);
    let mut whole: Vec<State> = queries.iter().map(|_| State::new(d)).collect();
    let mut span = whole.clone();
    for start in (0..keys).step_by(BLOCK) {
        block(start / BLOCK, &mut k, &mut v);
        for (state, query) in span.iter_mut().zip(queries).filter(|(_, q)| q.sees > start) {
            state.add_block(query.q, scale, &k, &v, BLOCK.min(query.sees - start));
        }
        if (start + BLOCK).is_multiple_of(SPAN) || start + BLOCK >= keys {
            for (whole, span) in whole.iter_mut().zip(&mut span).filter(|(_, s)| s.sum > 0.0) {
                let finished = std::mem::replace(span, State::new(d));
                if whole.sum > 0.0 { whole.merge(finished) } else { *whole = finished }
            }
        }
    }
    for (i, state) in whole.iter_mut().enumerate() {
        let inverse = 1.0 / state.sum;
        state.out.iter_mut().for_each(|o| *o *= inverse);
        y(i, &state.out, state.max + state.sum.ln());
    }
}
