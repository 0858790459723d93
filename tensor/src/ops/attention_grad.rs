//! The gradient of `attention`. Many sequences and heads are a job each; few long ones are cut into
//! blocks, where probabilities are computed once for dq and once more for dk and dv: the same bits.

use super::attention::{check, sequences};
use crate::cpu::attention::BLOCK;
use crate::cpu::attention_grad::{Inputs, Work, add};
use crate::cpu::floats::{self, Floats};
use crate::cpu::pool::{SharedMut, par, threads};
use crate::op::{Op, Outs};
use crate::{Spec, View, ViewMut};

/// q `[T, H, D]`, k, v `[T, G, D]`, cumulative lengths `[S + 1]`, log sums `[T, H]`, y, dy `[T, H, D]`
/// -> dq `[T, H, D]`, dk, dv `[T, G, D]`; all but the lengths and the log sums are F32 or all BF16
#[derive(Debug)]
pub struct AttentionGrad {
    pub(super) scale: f32,
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("attention_grad", x);
        let (q, dy) = (&x[0], &x[6]);
        let fits = q.shape == dy.shape && [dy, &x[5]].iter().all(|s| s.dtype == q.dtype);
        assert!(fits, "attention_grad: q {q}, y {} and dy {dy}", x[5]);
        let outputs = [q, &x[1], &x[2]].map(|s| Spec::new(s.shape, s.dtype)).into();
        Outs { outputs, saved: Vec::new() }
    }
    // With p = exp(scale·q·k - log_sum) and δ = dy·y: dv += p·dy; dp = dy·v; ds = p·(dp - δ)·scale;
    // dq += ds·k; dk += ds·q.
    fn cpu(&self, x: &[View], grads: &mut [ViewMut]) {
        let [t, h, d] = *x[0].spec.shape else { unreachable!("infer checked the rank") };
        let groups = x[1].spec.shape[1];
        let [q, k, v, y, dy] = &[0, 1, 2, 5, 6].map(|i| Floats::of(&x[i]));
        let (log_sums, sizes, scale) = (x[4].data(), [h, groups, d], self.scale);
        let inputs = Inputs { q, k, v, log_sums, y, dy, sizes, scale };
        let work = works(&sequences(x[3].data(), t), groups, threads());
        let [dq, dk, dv] = grads else { unreachable!("infer gave three outputs") };
        floats::fill([dq, dk, dv], |mut grads| {
            grads.iter_mut().for_each(|g| g.fill(0.0));
            let [dq, dk, dv] = grads.map(SharedMut::new);
            par(work.len(), |job| {
                // SAFETY: no two jobs share rows of a gradient that both want.
                unsafe { add(&inputs, &work[job], [&dq, &dk, &dv]) };
            });
        });
    }
}

/// The jobs for `sequences` (first token, end) and `groups` key heads.
fn works(sequences: &[(usize, usize)], groups: usize, threads: usize) -> Vec<Work> {
    let mut works = Vec::new();
    let whole = threads == 1 || sequences.len() * groups >= 4 * threads;
    for &(start, end) in sequences {
        let blocks = (end - start).div_ceil(BLOCK);
        for group in 0..groups {
            let mut job = |queries, keys, wanted| {
                works.push(Work { tokens: start..end, group, queries, keys, wanted });
            };
            if whole {
                job(0..blocks, 0..blocks, [true, true]);
                continue;
            }
            for b in 0..blocks {
                job(b..b + 1, 0..b + 1, [true, false]);
                job(b..blocks, b..b + 1, [false, true]);
            }
        }
    }
    works
}
