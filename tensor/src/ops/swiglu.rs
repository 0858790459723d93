//! The gated activation of LLaMA-style feed-forward layers (Shazeer 2020, arXiv 2002.05202):
//! y = silu(gate) · up.

use crate::cpu::math::exp;
use crate::cpu::pool::{par_each, par_rows};
use crate::cpu::simd::versions;
use crate::kernels::{Bind, Kernels, Param, grid};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Device, Spec, Tensor, View, ViewMut, apply, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "swiglu",
    cases: |[a, b, c, _]| {
        let x = || Arg::f32([a, b, c]);
        vec![Case::new(Swiglu, [x(), x()]), Case::new(SwigluGrad, [x(), x(), x()])]
    },
    bad: || {
        let x = |n| Arg::f32([2, n]);
        vec![Case::new(Swiglu, [x(3), x(4)]), Case::new(SwigluGrad, [x(3), x(3), x(4)])]
    },
};

/// σ(x) = 1/(1 + e⁻ˣ), in a form that compilers vectorize.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

versions! {
    pub(super) fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * sigmoid(g) * u;
        }
    }
}

versions! {
    /// With σ = σ(g): dg = dy·u·σ·(1 + g·(1 − σ)), du = dy·g·σ.
    fn backward(gate: &[f32], up: &[f32], dy: &[f32], dg: &mut [f32], du: &mut [f32]) {
        for ((((dg, du), &g), &u), &dy) in dg.iter_mut().zip(du).zip(gate).zip(up).zip(dy) {
            let s = sigmoid(g);
            *dg = dy * u * (s * (1.0 + g * (1.0 - s)));
            *du = dy * (g * s);
        }
    }
}

/// gate `[..]`, up `[..]` -> y `[..]`
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
            forward(&gate[first..], &up[first..], y);
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
    fn cheap(&self) -> bool {
        true
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        match &dy[0] {
            Some(dy) if dy.device() == Device::Cpu => {
                let dx = apply(SwigluGrad, &[&x[0], &x[1], dy]);
                Grad::Inputs(dx.into_iter().map(Some).collect())
            }
            _ => Grad::Compose,
        }
    }
}

/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 13;

/// gate, up, dy `[..]` -> dgate, dup `[..]`
#[derive(Debug)]
pub struct SwigluGrad;

impl Op for SwigluGrad {
    fn name(&self) -> &'static str {
        "swiglu_grad"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = x.iter().all(|s| s.dtype == DType::F32 && s.shape == x[0].shape);
        assert!(fits, "swiglu_grad: {}, {} and dy {}", x[0], x[1], x[2]);
        Outs { outputs: vec![Spec::f32(x[0].shape); 2], saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [gate, up, dy] = [0, 1, 2].map(|i| x[i].data::<f32>());
        let [dg, du] = y else { unreachable!("infer gave two outputs") };
        let outputs = dg.data::<f32>().chunks_mut(CHUNK).zip(du.data::<f32>().chunks_mut(CHUNK));
        par_each(outputs.enumerate(), |(i, (dg, du))| {
            let at = i * CHUNK;
            backward(&gate[at..], &up[at..], &dy[at..], dg, du);
        });
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let (g, u, dy) = (&x[0], &x[1], &x[2]);
        let s = g.sigmoid();
        let slope = &s * &(g * &s.affine(-1.0, 1.0)).affine(1.0, 1.0);
        Some(vec![&(dy * u) * &slope, dy * &(g * &s)])
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
