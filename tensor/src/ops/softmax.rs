//! Softmax along the last dimension.

use super::reduce::{max_of, sum_of};
use crate::cpu::{math::exp, pool::par_rows};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "softmax",
    cases: |[a, b, c, _]| {
        vec![Case::new(Softmax, [Arg::f32([a, b, c])]), Case::new(Softmax, [Arg::zero([c])])]
    },
    bad: || vec![Case::new(Softmax, [Arg::below([2, 3], 4)]), Case::new(Softmax, [Arg::f32([])])],
};

/// y = eˣ / Σ eˣ along the last dimension, with the largest x subtracted first so that nothing
/// overflows.
#[derive(Debug)]
pub struct Softmax;

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        assert!(x[0].dtype == DType::F32 && x[0].rank() > 0, "softmax: {} has no rows", x[0]);
        Spec::f32(x[0].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let x = x[0];
        let n = x.spec.last();
        par_rows(y[0].data(), n, 1024 / n.max(1), |first, y| {
            for (r, y) in y.chunks_exact_mut(n).enumerate() {
                let row = x.row::<f32>(first + r);
                let max = max_of(row);
                for (y, &x) in y.iter_mut().zip(row) {
                    *y = exp(x - max);
                }
                let scale = 1.0 / sum_of(y, |y| y);
                y.iter_mut().for_each(|y| *y *= scale);
            }
        });
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let e = (&x[0] - &x[0].max(-1)).exp();
        Some(vec![&e / &e.sum(-1)])
    }
    /// dx = y·(dy − Σ dy·y); y is computed again, which is cheaper than keeping it.
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None]) };
        let y = x[0].softmax();
        Grad::one(&y * &(dy - &(dy * &y).sum(-1)))
    }
}

impl Tensor {
    /// eˣ / Σ eˣ along the last dimension. A row of minus infinities gives NaN.
    ///
    /// # Panics
    /// If the dtype is not F32 or the rank is 0.
    #[track_caller]
    #[must_use]
    pub fn softmax(&self) -> Self {
        apply1(Softmax, &[self])
    }
}
