//! The gradient of causal attention in blocks of 64 queries by 64 keys, each five small products: the
//! T x T matrix never exists, probabilities are recomputed from the saved log of the softmax's
//! denominator (Dao et al. 2022, arXiv 2205.14135, algorithm 4).
//!
//! Sums are chains over keys (dq) or over queries (dk, dv), ascending, so it does not matter for a bit
//! whether one job computes all three for a sequence, or several the blocks of each.

use crate::cpu::attention::BLOCK;
use crate::cpu::math::exp;
use crate::cpu::operands::{Pack, Right};
use crate::cpu::panel::LANES;
use crate::cpu::pool::SharedMut;
use crate::cpu::simd::{Isa, Strip, versions};
use std::ops::Range;

/// What all jobs read: q, y, dy `[T, H, D]`, k, v `[T, G, D]`, log sums `[T, H]`.
pub(crate) struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub log_sums: &'a [f32],
    pub y: &'a [f32],
    pub dy: &'a [f32],
    /// H, G, D
    pub sizes: [usize; 3],
    pub scale: f32,
}

/// What one job adds up: gradients of one key head and its query heads in one sequence.
pub(crate) struct Work {
    /// The sequence's tokens.
    pub tokens: Range<usize>,
    pub group: usize,
    /// Blocks of queries and of keys.
    pub queries: Range<usize>,
    pub keys: Range<usize>,
    /// Whether dq is wanted, and whether dk and dv are.
    pub wanted: [bool; 2],
}

/// A small left operand: where it begins, from row to row, from k to k.
struct Rows<'a>(&'a [f32], usize, usize);

/// Where a product's sums lie: from which element on, from row to row.
struct Place<'a, 'b>(&'b SharedMut<'a, f32>, usize, usize);

/// Adds `left [rows, k] · panels [k, width]` to the sums, which start at zero if `fresh`.
///
/// # Safety
/// Nobody else uses these sums meanwhile.
unsafe fn product(
    left: Rows,
    panels: &[f32],
    [rows, k, width]: [usize; 3],
    Place(y, at, y_row): Place,
    fresh: bool,
) {
    let isa = Isa::detect();
    let step = isa.strip_panels().0 * LANES;
    for first in (0..width).step_by(step) {
        let width = step.min(width - first);
        let strip = Strip {
            left: left.0,
            tile: isa.tile_rows() * left.1,
            row: left.1,
            step: left.2,
            panels: &panels[first * k..][..width.next_multiple_of(LANES) * k],
            stride: k * LANES,
            k,
            rows,
            width,
            fresh,
            dots: false,
            next: None,
        };
        // SAFETY: the caller's promise.
        unsafe { isa.strip(&strip, y, at + first, y_row) };
    }
}

versions! {
    /// Turns scores `[rows][64]` into probabilities p = exp(scale·s − log_sum), and dp, the gradients of
    /// these, into those of the scores, p·(dp − δ)·scale; both are 0 for keys that a row does not see.
    fn scores(p: &mut [f32], dp: &mut [f32], rows: &[[f32; 2]], sees: &[usize], scale: f32) {
        let (p, dp) = (p.as_chunks_mut::<BLOCK>().0, dp.as_chunks_mut::<BLOCK>().0);
        for (((p, dp), &[log_sum, delta]), &sees) in p.iter_mut().zip(dp).zip(rows).zip(sees) {
            for (i, (p, dp)) in p.iter_mut().zip(dp).enumerate() {
                let e = exp(*p * scale - log_sum);
                let ds = e * (*dp - delta) * scale;
                *p = if i < sees { e } else { 0.0 };
                *dp = if i < sees { ds } else { 0.0 };
            }
        }
    }
}

versions! {
    /// a · b, in 16 lanes that are added in order.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.0.iter().zip(b.0) {
            for i in 0..LANES {
                lanes[i] += a[i] * b[i];
            }
        }
        for (i, (a, b)) in a.1.iter().zip(b.1).enumerate() {
            lanes[i] += a * b;
        }
        lanes.into_iter().sum()
    }
}

/// Adds the gradients of `work` to dq `[T, H, D]`, dk and dv `[T, G, D]`, which start as zeros.
///
/// # Safety
/// Nobody else uses the rows that `work` names of the wanted gradients meanwhile.
pub(crate) unsafe fn add(x: &Inputs, work: &Work, [dq, dk, dv]: [&SharedMut<f32>; 3]) {
    let [heads, groups, d] = x.sizes;
    let isa = Isa::detect();
    let (q_row, k_row) = (heads * d, groups * d);
    let repeat = heads / groups;
    let tokens = |b: usize| {
        let start = work.tokens.start + b * BLOCK;
        start..(start + BLOCK).min(work.tokens.end)
    };
    // δ = dy·y of the wanted queries, [token][head of the group].
    let first = tokens(work.queries.start).start;
    let last = tokens(work.queries.end.max(1) - 1).end;
    let rows = (first..last).flat_map(|t| (0..repeat).map(move |h| (t, work.group * repeat + h)));
    let deltas: Vec<f32> = rows
        .map(|(t, head)| {
            let row = t * q_row + head * d..t * q_row + (head + 1) * d;
            dot(&x.dy[row.clone()], &x.y[row])
        })
        .collect();
    let right = |data, row| Right { data, k_step: row, n_step: 1 };
    let across = |data, row| Right { data, k_step: 1, n_step: row };
    let (mut kt, mut vt, mut kp) = (Vec::new(), Vec::new(), Vec::new());
    let (mut qp, mut yp) = (Vec::new(), Vec::new());
    let (mut p, mut dp) = (vec![0.0; BLOCK * BLOCK], vec![0.0; BLOCK * BLOCK]);
    for j in work.keys.clone() {
        let keys = tokens(j);
        let at = keys.start * k_row + work.group * d;
        let (k, v, n) = (&x.k[at..], &x.v[at..], keys.len());
        across(k, k_row).pack(isa, 0..d, 0..n, &mut kt);
        across(v, k_row).pack(isa, 0..d, 0..n, &mut vt);
        right(k, k_row).pack(isa, 0..n, 0..d, &mut kp);
        for i in work.queries.start.max(j)..work.queries.end {
            let ts = tokens(i);
            let m = ts.len();
            let sees: Vec<usize> =
                ts.clone().map(|t| (t + 1).saturating_sub(keys.start).min(n)).collect();
            for head in 0..repeat {
                let at = ts.start * q_row + (work.group * repeat + head) * d;
                let (q, dy) = (&x.q[at..], &x.dy[at..]);
                let of_row = |t: usize| {
                    let log_sum = x.log_sums[t * heads + work.group * repeat + head];
                    [log_sum, deltas[(t - first) * repeat + head]]
                };
                let of_rows: Vec<[f32; 2]> = ts.clone().map(of_row).collect();
                {
                    let (s, ds) = (SharedMut::new(&mut p), SharedMut::new(&mut dp));
                    // SAFETY: both are this job's own.
                    unsafe {
                        product(Rows(q, q_row, 1), &kt, [m, d, n], Place(&s, 0, BLOCK), true);
                        product(Rows(dy, q_row, 1), &vt, [m, d, n], Place(&ds, 0, BLOCK), true);
                    }
                }
                scores(&mut p, &mut dp, &of_rows, &sees, x.scale);
                if work.wanted[0] {
                    // SAFETY: the caller's promise: these rows of this head are the job's own.
                    unsafe {
                        product(Rows(&dp, BLOCK, 1), &kp, [m, n, d], Place(dq, at, q_row), false);
                    }
                }
                if work.wanted[1] {
                    right(q, q_row).pack(isa, 0..m, 0..d, &mut qp);
                    right(dy, q_row).pack(isa, 0..m, 0..d, &mut yp);
                    let at = keys.start * k_row + work.group * d;
                    // SAFETY: the caller's promise: these rows of this key head are the job's own.
                    unsafe {
                        product(Rows(&p, 1, BLOCK), &yp, [n, m, d], Place(dv, at, k_row), false);
                        product(Rows(&dp, 1, BLOCK), &qp, [n, m, d], Place(dk, at, k_row), false);
                    }
                }
            }
        }
    }
}
