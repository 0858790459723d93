//! Root mean square normalization (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4):
//! y = w · x / √(mean(x²) + ε).

use crate::cpu::pool::par_rows;
use crate::kernels::{Bind, Kernels, Param, fold};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "rms_norm",
    cases: |[a, b, c, _]| {
        vec![Case::new(RmsNorm { eps: 1e-5 }, [Arg::f32([a, b, c]), Arg::f32([c])])]
    },
    bad: || {
        vec![
            Case::new(RmsNorm { eps: 1e-5 }, [Arg::f32([2, 3]), Arg::f32([4])]),
            Case::new(RmsNorm { eps: 1e-5 }, [Arg::below([2, 3], 5), Arg::f32([3])]),
        ]
    },
};

/// x `[.., H]`, weight `[H]` -> y `[.., H]`
#[derive(Debug)]
pub struct RmsNorm {
    eps: f32,
}

/// Σ x², in 16 lanes added in order.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (l, v) in lanes.iter_mut().zip(chunk) {
            *l += v * v;
        }
    }
    for (l, v) in lanes.iter_mut().zip(rest) {
        *l += v * v;
    }
    lanes.into_iter().sum()
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = x[0].dtype == DType::F32
            && x[1].dtype == DType::F32
            && x[0].rank() > 0
            && *x[1].shape == [x[0].last()];
        assert!(fits, "rms_norm: {} with weight {}", x[0], x[1]);
        Spec::f32(x[0].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (h, w) = (x[0].spec.last(), x[1].data::<f32>());
        let x = x[0].data::<f32>();
        par_rows(y[0].data(), h.max(1), 8192 / h.max(1), |first, y| {
            for (r, y) in y.chunks_exact_mut(h.max(1)).enumerate() {
                let x = &x[(first + r) * h..][..h];
                let scale = 1.0 / (sum_of_squares(x) / h as f32 + self.eps).sqrt();
                for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                    *y = x * scale * w;
                }
            }
        });
    }
    fn gpu(&self, x: &[Spec], _: &[Spec]) -> Option<Kernels> {
        let (rows, h) = (x[0].rows(), x[0].last());
        let [x, weight] = [Bind::X(0), Bind::X(1)];
        let offsets = [Param::Offset(x), Param::Offset(weight)];
        let params = [rows.into(), h.into(), offsets[0], offsets[1], self.eps.into()];
        Kernels::one(&puyu_shaders::RMS_NORM, [x, weight, Bind::Y(0)], params, fold(rows))
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let scale = x[0].square().mean(-1).affine(1.0, self.eps).rsqrt();
        Some(vec![&(&x[0] * &scale) * &x[1]])
    }
    // With s = 1/√(mean(x²) + ε) and g = dy·w: dx = s·g - x·s³·mean(g·x), dw = Σ dy·x·s.
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None, None]) };
        let (x, w) = (&x[0], &x[1]);
        let s = x.square().mean(-1).affine(1.0, self.eps).rsqrt();
        let g = dy * w;
        let along = &(&g * x).mean(-1) * &(&s.square() * &s);
        let dx = &(&g * &s) - &(x * &along);
        let dw = (&(dy * x) * &s).sum_to(w.spec().shape);
        Grad::Inputs(vec![Some(dx), Some(dw)])
    }
}

impl Tensor {
    /// `weight · x / √(mean(x²) + eps)` over the last dimension; weight `[H]`.
    ///
    /// # Panics
    /// If the shapes do not fit or a dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn rms_norm(&self, weight: &Self, eps: f32) -> Self {
        apply1(RmsNorm { eps }, &[self, weight])
    }
}
