//! Root mean square normalization (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4):
//! y = w · x / √(mean(x²) + ε).

use crate::cpu::panel::LANES;
use crate::cpu::pool::{par_each, par_rows};
use crate::cpu::simd::{ask, versions};
use crate::kernels::{Bind, Kernels, Param, fold};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Device, Spec, Tensor, View, ViewMut, apply, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "rms_norm",
    cases: |[a, b, c, _]| {
        let x = || Arg::f32([a, b, c]);
        vec![
            Case::new(RmsNorm { eps: 1e-5 }, [x(), Arg::f32([c])]),
            Case::new(RmsNormGrad { eps: 1e-5 }, [x(), Arg::f32([c]), x()]),
        ]
    },
    bad: || {
        vec![
            Case::new(RmsNorm { eps: 1e-5 }, [Arg::f32([2, 3]), Arg::f32([4])]),
            Case::new(RmsNorm { eps: 1e-5 }, [Arg::below([2, 3], 5), Arg::f32([3])]),
            Case::new(
                RmsNormGrad { eps: 1e-5 },
                [Arg::f32([2, 3]), Arg::f32([3]), Arg::f32([3, 3])],
            ),
        ]
    },
};

/// x `[.., H]`, weight `[H]` -> y `[.., H]`
#[derive(Debug)]
pub struct RmsNorm {
    eps: f32,
}

/// Σ of the products of elements at like places, in 16 lanes added in order.
#[inline(always)]
fn sum<const N: usize>(x: [&[f32]; N]) -> f32 {
    let product = |values: [f32; N]| values.into_iter().reduce(|a, b| a * b).unwrap_or(0.0);
    let parts = x.map(|x| x.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for c in 0..parts[0].0.len() {
        let chunks = parts.map(|(chunks, _)| &chunks[c]);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += product(chunks.map(|chunk| chunk[i]));
        }
    }
    for (i, lane) in lanes[..parts[0].1.len()].iter_mut().enumerate() {
        *lane += product(parts.map(|(_, rest)| rest[i]));
    }
    lanes.into_iter().sum()
}

/// 1/√(mean(x²) + ε)
#[inline(always)]
fn scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum([x, x]) / x.len() as f32 + eps).sqrt()
}

versions! {
    /// One row's y.
    pub(super) fn forward_row(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
        // The weight was last read a token ago: it comes while squares are added.
        w.as_chunks::<LANES>().0.iter().for_each(|line| ask(line));
        let scale = scale(x, eps);
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x * scale * w;
        }
    }
}

versions! {
    /// One row's dx, and its part of dw added to `dw`.
    fn grad_row(x: &[f32], w: &[f32], dy: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32]) {
        let n = x.len();
        let (w, dy, dx, dw) = (&w[..n], &dy[..n], &mut dx[..n], &mut dw[..n]);
        let s = scale(x, eps);
        let along = sum([dy, w, x]) / n as f32 * (s * s * s);
        for i in 0..n {
            dx[i] = dy[i] * w[i] * s - x[i] * along;
            dw[i] += dy[i] * x[i] * s;
        }
    }
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
                forward_row(&x[(first + r) * h..][..h], w, self.eps, y);
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
    fn cheap(&self) -> bool {
        true
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None, None]) };
        let op = RmsNormGrad { eps: self.eps };
        let x = [&x[0], &x[1], dy];
        let dx = match dy.device() {
            Device::Cpu => apply(op, &x),
            _ => op.formula(x),
        };
        Grad::Inputs(dx.into_iter().map(Some).collect())
    }
}

/// x `[.., H]`, weight `[H]`, dy `[.., H]` -> dx `[.., H]`, dw `[H]`. With s = 1/√(mean(x²) + ε) and
/// g = dy·w: dx = s·g − x·s³·mean(g·x), dw = Σ dy·x·s.
#[derive(Debug)]
pub struct RmsNormGrad {
    eps: f32,
}

/// Rows whose parts of dw are added up before the sums of all such pieces are, in order.
const PIECE: usize = 64;

impl RmsNormGrad {
    /// The same in tensor ops.
    fn formula(&self, [x, w, dy]: [&Tensor; 3]) -> Vec<Tensor> {
        let s = x.square().mean(-1).affine(1.0, self.eps).rsqrt();
        let g = dy * w;
        let along = &(&g * x).mean(-1) * &(&s.square() * &s);
        let dx = &(&g * &s) - &(x * &along);
        vec![dx, (&(dy * x) * &s).sum_to(w.spec().shape)]
    }
}

impl Op for RmsNormGrad {
    fn name(&self) -> &'static str {
        "rms_norm_grad"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = x.iter().all(|x| x.dtype == DType::F32)
            && x[0].rank() > 0
            && *x[1].shape == [x[0].last()]
            && x[0].shape == x[2].shape;
        assert!(fits, "rms_norm_grad: {} with weight {} and dy {}", x[0], x[1], x[2]);
        Outs { outputs: vec![Spec::f32(x[0].shape), Spec::f32(x[1].shape)], saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let h = x[0].spec.last().max(1);
        let [x, w, dy] = [0, 1, 2].map(|i| x[i].data::<f32>());
        let [dx, dw] = y else { unreachable!("infer gave two outputs") };
        let piece = PIECE * h;
        let mut parts = vec![0.0; x.len().div_ceil(piece) * h];
        let pieces = dx.data::<f32>().chunks_mut(piece).zip(parts.chunks_exact_mut(h)).enumerate();
        par_each(pieces, |(i, (dx, dw))| {
            let rows = x[i * piece..].chunks_exact(h).zip(dy[i * piece..].chunks_exact(h));
            for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(h)) {
                grad_row(x, w, dy, self.eps, dx, dw);
            }
        });
        let dw = dw.data::<f32>();
        dw.fill(0.0);
        for part in parts.chunks_exact(h) {
            dw.iter_mut().zip(part).for_each(|(dw, part)| *dw += part);
        }
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some(self.formula([&x[0], &x[1], &x[2]]))
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
