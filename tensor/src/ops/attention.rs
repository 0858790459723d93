//! Causal grouped-query attention over packed sequences: tokens attend to earlier tokens of their own
//! sequence only, softmax(q·kᵀ·scale)·v (Vaswani et al. 2017, arXiv 1706.03762; Ainslie et al. 2023,
//! arXiv 2305.13245). Query head h uses key head h / (H / G).

use super::attention_grad::AttentionGrad;
use crate::cpu::attention::{BLOCK, Queries, attend};
use crate::cpu::floats::{self, Floats};
use crate::cpu::panel::LANES;
use crate::cpu::pool::{SharedMut, par};
use crate::cpu::simd::Isa;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::{DType, Spec, Tensor, View, ViewMut, apply, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "attention",
    cases: |[t, g, d, s]| {
        let case = |dtype, t: usize, repeat: usize, ends: Vec<u32>| {
            let kv = || Arg::of([t, g, d], dtype);
            let x = [Arg::of([t, g * repeat, d], dtype), kv(), kv(), Arg::exact(ends)];
            Case::new(Attention { scale: 0.4 }, x)
        };
        let t = t + 2;
        vec![
            case(DType::F32, t, 1, vec![0, t as u32]),
            case(DType::F32, t + s, 3, vec![0, t as u32, (t + s) as u32]),
            case(DType::F32, 70, 2, vec![0, 1, 70]),
            case(DType::BF16, t + s, 3, vec![0, t as u32, (t + s) as u32]),
        ]
    },
    bad: || {
        let x = |heads| {
            [Arg::f32([4, heads, 8]), Arg::f32([4, 2, 8]), Arg::f32([4, 2, 8]), Arg::exact([0, 4])]
        };
        vec![Case::new(Attention { scale: 1.0 }, x(3))]
    },
};

/// q [T, H, D], k, v [T, G, D], cumulative lengths [S + 1] (0, ..., T) -> y [T, H, D], which like q, k and v is F32 or
/// BF16; saves the log of the softmax's denominator [T, H], and y.
#[derive(Debug)]
pub struct Attention {
    pub(super) scale: f32,
}

/// Checks q, k, v and the cumulative lengths against each other.
pub(super) fn check(name: &str, x: &[Spec]) {
    let (q, k, v, ends) = (&x[0], &x[1], &x[2], &x[3]);
    let fits = q.rank() == 3
        && k.rank() == 3
        && k.shape == v.shape
        && q.shape[0] == k.shape[0]
        && q.shape[2] == k.shape[2]
        && q.shape[1].is_multiple_of(k.shape[1].max(1))
        && DType::ACTIVATIONS.contains(&q.dtype)
        && [k, v].iter().all(|s| s.dtype == q.dtype)
        && ends.dtype == DType::U32
        && ends.rank() == 1
        && ends.numel() >= 2;
    assert!(fits, "{name}: q {q}, k {k}, v {v}, cumulative lengths {ends}");
}

/// The sequences of cumulative lengths: (first token, end).
///
/// # Panics
/// If they do not rise from 0 to `t`.
pub(super) fn sequences(ends: &[u32], t: usize) -> Vec<(usize, usize)> {
    let rises = ends.windows(2).all(|w| w[0] <= w[1]);
    let fits = rises && ends[0] == 0 && ends[ends.len() - 1] as usize == t;
    assert!(fits, "attention: cumulative lengths {ends:?} for {t} tokens");
    ends.windows(2).map(|w| (w[0] as usize, w[1] as usize)).collect()
}

/// Query tokens that one job handles.
const TILE: usize = 64;

/// Key `i` of a block, `key(i)`, as column i of `out [D][64]`; zeros for keys that do not exist.
fn transpose_block<'a>(key: impl Fn(usize) -> Option<&'a [f32]>, out: &mut [f32]) {
    let d = out.len() / BLOCK;
    let (isa, zeros) = (Isa::detect(), vec![0.0; d]);
    let mut panel = vec![0.0; d * LANES];
    for first in (0..BLOCK).step_by(LANES) {
        isa.transpose(&std::array::from_fn(|i| key(first + i).unwrap_or(&zeros)), &mut panel);
        for (to, from) in out.chunks_exact_mut(BLOCK).zip(panel.chunks_exact(LANES)) {
            to[first..first + LANES].copy_from_slice(from);
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("attention", x);
        let y = Spec::new(x[0].shape, x[0].dtype);
        Outs { outputs: vec![y], saved: vec![Spec::f32([x[0].shape[0], x[0].shape[1]])] }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [t, h, d] = *x[0].spec.shape else { unreachable!("infer checked the rank") };
        let groups = x[1].spec.shape[1];
        let repeat = h / groups;
        let [q, k, v] = [0, 1, 2].map(|i| Floats::of(&x[i]));
        let mut jobs = Vec::new();
        for (start, end) in sequences(x[3].data(), t) {
            for tile in (start..end).step_by(TILE) {
                jobs.extend((0..groups).map(|g| (start, tile..(tile + TILE).min(end), g)));
            }
        }
        let (y, saved) = y.split_at_mut(1);
        let sums = saved.first_mut().map(|s| SharedMut::new(s.data::<f32>()));
        floats::fill([&mut y[0]], |[out]| {
            let out = SharedMut::new(out);
            par(jobs.len(), |job| {
                let (start, tokens, g) = jobs[job].clone();
                let rows: Vec<_> = tokens
                    .clone()
                    .flat_map(|t| (g * repeat..(g + 1) * repeat).map(move |head| (t, head)))
                    .collect();
                let mut scaled = vec![0.0; rows.len() * d];
                for (&(t, head), to) in rows.iter().zip(scaled.chunks_exact_mut(d.max(1))) {
                    let from = &q[(t * h + head) * d..];
                    to.iter_mut().zip(from).for_each(|(to, v)| *to = v * self.scale);
                }
                let sees = rows.iter().map(|(t, _)| t + 1 - start).collect();
                let queries = Queries { q: scaled, d, sees };
                let block = |b: usize, kb: &mut [f32], vb: &mut [f32]| {
                    let first = start + b * BLOCK;
                    let rows = first..(first + BLOCK).min(tokens.end);
                    let row = |t: usize| (t * groups + g) * d..(t * groups + g + 1) * d;
                    for (t, to) in rows.clone().zip(vb.chunks_exact_mut(d)) {
                        to.copy_from_slice(&v[row(t)]);
                    }
                    transpose_block(|i| rows.clone().nth(i).map(|t| &k[row(t)]), kb);
                };
                attend(&queries, &block, |row, o, log_sum| {
                    let (t, head) = rows[row];
                    let at = t * h + head;
                    // SAFETY: each job writes the rows of its own tokens and heads.
                    unsafe { out.slice(at * d..(at + 1) * d) }.copy_from_slice(o);
                    if let Some(sums) = &sums {
                        // SAFETY: as above.
                        let sum = unsafe { sums.slice(at..at + 1) };
                        sum[0] = log_sum;
                    }
                });
            });
        });
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        let [t, h, d] = *x[0].spec.shape else { return Work::default() };
        let triangle = |(start, end): (usize, usize)| (end - start) * (end - start + 1) / 2;
        let pairs: usize = sequences(x[3].data(), t).into_iter().map(triangle).sum();
        let all = x.iter().map(|v| &v.spec).chain(y);
        Work { bytes: all.map(Spec::bytes).sum(), operations: 4 * pairs * h * d, operands: None }
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let dtype = x[0].dtype();
        let [q, k, v] = [0, 1, 2].map(|i| x[i].to_dtype(DType::F32));
        let (t, h, d, groups) = (q.dim(0), q.dim(1), q.dim(2), k.dim(1));
        let spread = |kv: &Tensor| {
            let kv = kv.reshape([t, groups, 1, d]).broadcast_to([t, groups, h / groups, d]);
            kv.reshape([t, h, d]).transpose(0, 1) // [H, T, D]
        };
        let scores = q.transpose(0, 1).matmul(&spread(&k).t()).affine(self.scale, 0.0);
        let mut mask = vec![-1e30f32; t * t];
        for (start, end) in sequences(x[3].data(), t) {
            for i in start..end {
                mask[i * t + start..=i * t + i].fill(0.0);
            }
        }
        let scores = &scores + &Tensor::new(&mask, [t, t]); // [H, T, T]
        let p = (&scores - &scores.max(-1)).exp();
        let p = &p / &p.sum(-1);
        Some(vec![p.matmul(&spread(&v)).transpose(0, 1).contiguous().to_dtype(dtype)])
    }
    fn saves(&self) -> &'static [usize] {
        &[0]
    }
    fn grad(&self, x: &[Tensor], saved: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None; 4]) };
        let op = AttentionGrad { scale: self.scale };
        let dx = apply(op, &[&x[0], &x[1], &x[2], &x[3], &saved[0], &saved[1], dy]);
        Grad::Inputs(dx.into_iter().map(Some).chain([None]).collect())
    }
}

impl Tensor {
    /// Causal attention of queries `self [T, H, D]` over `k`, `v` `[T, G, D]`, all F32 or all BF16, H a multiple of G,
    /// within the sequences of the cumulative lengths `[S + 1]`.
    ///
    /// # Panics
    /// If the shapes or dtypes do not fit or the lengths do not rise from 0 to T.
    #[track_caller]
    #[must_use]
    pub fn attention(&self, k: &Self, v: &Self, cumulative: &Self, scale: f32) -> Self {
        apply1(Attention { scale }, &[self, k, v, cumulative])
    }
}
