//! One AdamW step in place, in one pass over memory.
//!
//! Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2, in the order of
//! PyTorch: decay, moments, bias correction, update.

use crate::cpu::pool::par_each;
use crate::cpu::simd::versions;
use crate::op::{Arg, Case, Entry, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply_to};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "adamw",
    cases: |[a, b, c, _]| {
        let state = || [Arg::f32([a, b, c]), Arg::f32([a, b, c]), Arg::positive([a, b, c])];
        let x = || [Arg::f32([a, b, c]), Arg::positive([4])];
        vec![Case::in_place(AdamW::default(), state(), x())]
    },
    bad: || {
        let three = || [Arg::f32([2, 3]), Arg::f32([2, 3]), Arg::f32([2, 3])];
        vec![
            Case::in_place(AdamW::default(), three(), [Arg::f32([2, 4]), Arg::f32([4])]),
            Case::in_place(AdamW::default(), three(), [Arg::f32([2, 3]), Arg::f32([3])]),
        ]
    },
};

/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// p, m, v (all F32, one shape), changed by a gradient g:
///
/// g ← s·g, p ← p − lr·weight_decay·p, m ← β1·m + (1 − β1)·g, v ← β2·v + (1 − β2)·g²,
/// p ← p − (lr / c1)·m / (√v / √c2 + ε)
///
/// What changes between steps comes as the second input, see [`AdamW::step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The decay of the first moment.
    pub beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// What keeps the quotient finite.
    pub eps: f32,
    /// The share of a weight that a step with learning rate 1 would remove.
    pub weight_decay: f32,
}

impl Default for AdamW {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamW {
    /// What a step needs besides the gradient, F32 `[4]`: lr, c1 = 1 − β1ᵗ, c2 = 1 − β2ᵗ, and the
    /// factor s on the gradient (clipping, loss scale). `t` counts steps from 1.
    pub fn step(&self, t: u64, lr: f32, scale: f32) -> Tensor {
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(t as f64)) as f32;
        Tensor::new(&[lr, correction(self.beta1), correction(self.beta2), scale], [4])
    }

    /// Changes `p` and its moments `m` and `v` by the gradient `g`.
    ///
    /// # Panics
    /// If the shapes differ, a dtype is not F32, or another tensor shares the
    /// storage of what changes.
    #[track_caller]
    pub fn update(self, [p, m, v]: [&mut Tensor; 3], g: &Tensor, step: &Tensor) {
        apply_to(self, &mut [p, m, v], &[g, step]);
    }
}

versions! {
    /// The formulas of [`AdamW`] for some elements; constants: s, 1 − lr·weight_decay, lr / c1, √c2, ε.
    fn update(
        p: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        g: &[f32],
        betas: [f32; 2],
        constants: [f32; 5],
    ) {
        let [beta1, beta2] = betas;
        let [scale, keep, rate, root, eps] = constants;
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = scale * g;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p = keep * *p - rate * *m / (v.sqrt() / root + eps);
        }
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        panic!("adamw: works in place, and was asked for a new tensor from {:?}", x[0].shape);
    }
    fn check_to(&self, y: &[Spec], x: &[Spec]) {
        let (g, step) = (&x[0], &x[1]);
        assert!(*step == Spec::f32([4]), "adamw: a step {step} for {g}, expected f32[4]");
        assert!(y.len() == 3, "adamw: {} tensors to change by {g}", y.len());
        for (i, y) in y.iter().enumerate() {
            let fits = y.dtype == DType::F32 && g.dtype == DType::F32 && y.shape == g.shape;
            assert!(fits, "adamw: tensor {i} {y} to change by a gradient {g}");
        }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [p, m, v] = y else { unreachable!("check_to saw three") };
        let (g, step) = (x[0].data::<f32>(), x[1].data::<f32>());
        let &[lr, c1, c2, scale] = step else { unreachable!("check_to saw four") };
        let Self { beta1, beta2, eps, weight_decay } = *self;
        let betas = [beta1, beta2];
        let constants = [scale, 1.0 - lr * weight_decay, lr / c1, c2.sqrt(), eps];
        let chunks = p.data::<f32>().chunks_mut(CHUNK);
        let chunks = chunks.zip(m.data::<f32>().chunks_mut(CHUNK));
        let chunks = chunks.zip(v.data::<f32>().chunks_mut(CHUNK)).zip(g.chunks(CHUNK));
        par_each(chunks, |(((p, m), v), g)| update(p, m, v, g, betas, constants));
    }
}
