//! The gated activation of LLaMA-style feed-forward layers (Shazeer 2020, arXiv 2002.05202):
//! y = silu(gate) · up.

use super::unary::sigmoid;
use crate::cpu::pool::par_rows;
use crate::kernels::{Bind, Kernels, Param, grid};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "swiglu",
    cases: |[a, b, c, _]| vec![Case::new(Swiglu, [Arg::f32([a, b, c]), Arg::f32([a, b, c])])],
    bad: || vec![Case::new(Swiglu, [Arg::f32([2, 3]), Arg::f32([2, 4])])],
};

/// gate [..], up [..] -> y [..]
#[derive(Debug)]
pub struct Swiglu;

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = x[0].dtype == DType::F32 && x[1].dtype == DType::F32 && x[0].shape == x[1].shape;
        assert!(fits, "swiglu: {} and {}", x[0], x[1]);
        Spec::f32(x[0].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (gate, up) = (x[0].data::<f32>(), x[1].data::<f32>());
        par_rows(y[0].data(), 1, 4096, |first, y| {
            for ((y, &g), &u) in y.iter_mut().zip(&gate[first..]).zip(&up[first..]) {
                *y = g * sigmoid(g) * u;
            }
        });
    }
    fn gpu(&self, _: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let n = y[0].numel();
        let [gate, up] = [Bind::X(0), Bind::X(1)];
        let params = [n.into(), Param::Offset(gate), Param::Offset(up)];
        Kernels::one(&puyu_shaders::SWIGLU, [gate, up, Bind::Y(0)], params, grid(n))
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some(vec![&x[0].silu() * &x[1]])
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Compose
    }
}

impl Tensor {
    /// `silu(self) · up`, elementwise.
    ///
    /// # Panics
    /// If the shapes differ or a dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn swiglu(&self, up: &Self) -> Self {
        apply1(Swiglu, &[self, up])
    }
}
