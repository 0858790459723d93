//! The gated activation of LLaMA-style feed-forward layers (Shazeer 2020, arXiv 2002.05202):
//! y = silu(gate) · up.

use crate::cpu::math::exp;
use crate::cpu::pool::{par_each, par_rows};
use crate::cpu::simd::versions;
use crate::kernels::{Bind, Kernels, Param, grid};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::view::Real;
use crate::{DType, Device, Spec, Tensor, View, ViewMut, apply, apply1};
use half::bf16;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "swiglu",
    cases: |[a, b, c, _]| {
        let of = |dtype| {
            let x = || Arg::of([a, b, c], dtype);
            [Case::new(Swiglu, [x(), x()]), Case::new(SwigluGrad, [x(), x(), x()])]
        };
        DType::ACTIVATIONS.into_iter().flat_map(of).collect()
    },
    bad: || {
        let x = |n| Arg::f32([2, n]);
        vec![
            Case::new(Swiglu, [x(3), x(4)]),
            Case::new(Swiglu, [x(3), Arg::of([2, 3], DType::BF16)]),
            Case::new(SwigluGrad, [x(3), x(3), x(4)]),
        ]
    },
};

/// σ(x) = 1/(1 + e⁻ˣ), in a form that compilers vectorize.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

versions! {
    pub(super) fn forward<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            let g = g.get();
            *y = T::nearest(g * sigmoid(g) * u.get());
        }
    }
}

versions! {
    /// With σ = σ(g): dg = dy·u·σ·(1 + g·(1 − σ)), du = dy·g·σ.
    fn backward<T: Real>(gate: &[T], up: &[T], dy: &[T], dg: &mut [T], du: &mut [T]) {
        for ((((dg, du), g), u), dy) in dg.iter_mut().zip(du).zip(gate).zip(up).zip(dy) {
            let [g, u, dy] = [g, u, dy].map(|x| x.get());
            let s = sigmoid(g);
            *dg = T::nearest(dy * u * (s * (1.0 + g * (1.0 - s))));
            *du = T::nearest(dy * (g * s));
        }
    }
}

/// The spec of the results: the inputs', which must be alike, of F32 or of BF16.
fn same(name: &str, x: &[Spec]) -> Spec {
    let alike = x.iter().all(|s| s.shape == x[0].shape && s.dtype == x[0].dtype);
    let fits = alike && DType::ACTIVATIONS.contains(&x[0].dtype);
    let all = || x.iter().map(Spec::to_string).collect::<Vec<_>>().join(", ");
    assert!(fits, "{name}: {}", all());
    Spec::new(x[0].shape, x[0].dtype)
}

/// gate `[..]`, up `[..]` -> y `[..]`, all F32 or all BF16
#[derive(Debug)]
pub struct Swiglu;

impl Swiglu {
    fn of<T: Real>(x: &[View], y: &mut [T]) {
        let (gate, up) = (x[0].data(), x[1].data());
        par_rows(y, 1, 4096, |first, y| forward(&gate[first..], &up[first..], y));
    }
}

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        same("swiglu", x).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        match x[0].spec.dtype {
            DType::BF16 => Self::of::<bf16>(x, y[0].data()),
            _ => Self::of::<f32>(x, y[0].data()),
        }
    }
    fn gpu(&self, _: &[Spec], y: &[Spec]) -> Option<Kernels> {
        if y[0].dtype != DType::F32 {
            return None;
        }
        let n = y[0].numel();
        let [gate, up] = [Bind::X(0), Bind::X(1)];
        let params = [n.into(), Param::Offset(gate), Param::Offset(up)];
        Kernels::one(&puyu_shaders::SWIGLU, [gate, up, Bind::Y(0)], params, grid(n))
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let dtype = x[0].dtype();
        let [gate, up] = [0, 1].map(|i| x[i].to_dtype(DType::F32));
        Some(vec![(&gate.silu() * &up).to_dtype(dtype)])
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

/// gate, up, dy `[..]` -> dgate, dup `[..]`, all F32 or all BF16
#[derive(Debug)]
pub struct SwigluGrad;

impl SwigluGrad {
    fn of<T: Real>(x: &[View], dg: &mut [T], du: &mut [T]) {
        let [gate, up, dy] = [0, 1, 2].map(|i| x[i].data::<T>());
        par_each(dg.chunks_mut(CHUNK).zip(du.chunks_mut(CHUNK)).enumerate(), |(i, (dg, du))| {
            let at = i * CHUNK;
            backward(&gate[at..], &up[at..], &dy[at..], dg, du);
        });
    }
}

impl Op for SwigluGrad {
    fn name(&self) -> &'static str {
        "swiglu_grad"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        Outs { outputs: vec![same("swiglu_grad", x); 2], saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [dg, du] = y else { unreachable!("infer gave two outputs") };
        match x[0].spec.dtype {
            DType::BF16 => Self::of::<bf16>(x, dg.data(), du.data()),
            _ => Self::of::<f32>(x, dg.data(), du.data()),
        }
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let dtype = x[0].dtype();
        let [g, u, dy] = [0, 1, 2].map(|i| x[i].to_dtype(DType::F32));
        let s = g.sigmoid();
        let slope = &s * &(&g * &s.affine(-1.0, 1.0)).affine(1.0, 1.0);
        Some([&(&dy * &u) * &slope, &dy * &(&g * &s)].map(|dx| dx.to_dtype(dtype)).into())
    }
}

impl Tensor {
    /// `silu(self) · up`, elementwise.
    ///
    /// # Panics
    /// If the shapes or dtypes differ, or these are neither F32 nor BF16.
    #[track_caller]
    #[must_use]
    pub fn swiglu(&self, up: &Self) -> Self {
        apply1(Swiglu, &[self, up])
    }
}
