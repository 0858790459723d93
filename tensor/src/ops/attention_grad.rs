//! The gradient of `attention` without the T x T matrix: probabilities are recomputed from the saved
//! log of the softmax's denominator (Dao et al. 2022, arXiv 2205.14135, algorithm 4).

use super::attention::{check, sequences};
use crate::cpu::pool::{SharedMut, par};
use crate::op::{Op, Outs};
use crate::{Spec, View, ViewMut};

/// q [T, H, D], k, v [T, G, D], cumulative lengths [S + 1], log sums [T, H], y, dy [T, H, D]
/// -> dq [T, H, D], dk, dv [T, G, D]
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
        assert!(q.shape == dy.shape, "attention_grad: q {q} and dy {dy}");
        let outputs = [q, &x[1], &x[2]].map(|s| Spec::f32(s.shape)).into();
        Outs { outputs, saved: Vec::new() }
    }
    // With p = exp(scale·q·k - log_sum) and δ = dy·y: dv += p·dy; dp = dy·v; ds = p·(dp - δ)·scale;
    // dq += ds·k; dk += ds·q. One job owns one key head of one sequence, so sums keep their order.
    fn cpu(&self, x: &[View], grads: &mut [ViewMut]) {
        let [t, h, d] = *x[0].spec.shape else { unreachable!("infer checked the rank") };
        let groups = x[1].spec.shape[1];
        let repeat = h / groups;
        let [q, k, v] = [0, 1, 2].map(|i| x[i].data::<f32>());
        let [log_sums, y, dy] = [4, 5, 6].map(|i| x[i].data::<f32>());
        let sequences = sequences(x[3].data(), t);
        let [dq, dk, dv] = grads else { unreachable!("infer gave three outputs") };
        for g in [&mut *dq, &mut *dk, &mut *dv] {
            g.bytes.fill(0);
        }
        let [dq, dk, dv] = [dq, dk, dv].map(|g| SharedMut::new(g.data::<f32>()));
        par(sequences.len() * groups, |job| {
            let ((start, end), g) = (sequences[job / groups], job % groups);
            for t in start..end {
                for head in g * repeat..(g + 1) * repeat {
                    let row = (t * h + head) * d..(t * h + head + 1) * d;
                    let (q, dy, log_sum) =
                        (&q[row.clone()], &dy[row.clone()], log_sums[t * h + head]);
                    let delta = dot(dy, &y[row.clone()]);
                    // SAFETY: each job owns its sequence's rows of its heads.
                    let dq = unsafe { dq.slice(row) };
                    for s in start..=t {
                        let row = (s * groups + g) * d..(s * groups + g + 1) * d;
                        let p = (dot(q, &k[row.clone()]) * self.scale - log_sum).exp();
                        let ds = p * (dot(dy, &v[row.clone()]) - delta) * self.scale;
                        // SAFETY: as above.
                        let (dk, dv) = unsafe { (dk.slice(row.clone()), dv.slice(row.clone())) };
                        for i in 0..d {
                            dv[i] += p * dy[i];
                            dq[i] += ds * k[row.start + i];
                            dk[i] += ds * q[i];
                        }
                    }
                }
            }
        });
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
