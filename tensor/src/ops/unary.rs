//! Functions of one value, elementwise.

use crate::cpu::pool::par_rows;
use crate::cpu::simd::versions;
use crate::kernels::{Bind, Kernels, Param, grid};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "unary",
    cases: |[a, b, c, _]| {
        let mut cases: Vec<_> =
            [Unary::Neg, Unary::Exp, Unary::Square, Unary::Tanh, Unary::Sigmoid, Unary::Silu]
                .map(|op| Case::new(op, [Arg::f32([a, b, c])]))
                .into();
        cases.push(Case::new(Unary::Affine { mul: -1.5, add: 0.25 }, [Arg::f32([b, c])]));
        for op in [Unary::Log, Unary::Sqrt, Unary::Rsqrt, Unary::Recip] {
            cases.push(Case::new(op, [Arg::positive([a, c])]));
        }
        cases
    },
    bad: || vec![Case::new(Unary::Exp, [Arg::below([2, 3], 9)])],
};

/// A function of one F32 value.
#[derive(Clone, Copy, Debug)]
pub enum Unary {
    /// -x
    Neg,
    /// eˣ
    Exp,
    /// ln x
    Log,
    /// x²
    Square,
    /// √x
    Sqrt,
    /// 1/√x
    Rsqrt,
    /// 1/x
    Recip,
    /// tanh x
    Tanh,
    /// σ(x) = 1/(1 + e⁻ˣ)
    Sigmoid,
    /// x·σ(x)
    Silu,
    /// mul·x + add
    Affine {
        /// The factor.
        mul: f32,
        /// The summand.
        add: f32,
    },
}

/// σ(x) = 1/(1 + e⁻ˣ).
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Unary {
    fn eval(self, x: f32) -> f32 {
        match self {
            Self::Neg => -x,
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Square => x * x,
            Self::Sqrt => x.sqrt(),
            Self::Rsqrt => 1.0 / x.sqrt(),
            Self::Recip => 1.0 / x,
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::Affine { mul, add } => mul * x + add,
        }
    }
}

versions! {
    fn affine(x: &[f32], y: &mut [f32], mul: f32, add: f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = mul * x + add);
    }
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        match self {
            Self::Neg => "neg",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Square => "square",
            Self::Sqrt => "sqrt",
            Self::Rsqrt => "rsqrt",
            Self::Recip => "recip",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Silu => "silu",
            Self::Affine { .. } => "affine",
        }
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        assert!(x[0].dtype == DType::F32, "{}: {} is not f32", self.name(), x[0]);
        Spec::f32(x[0].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let x = x[0].data::<f32>();
        par_rows(y[0].data(), 1, 4096, |first, y| match *self {
            Self::Affine { mul, add } => affine(&x[first..], y, mul, add),
            _ => y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = self.eval(*x)),
        });
    }
    fn gpu(&self, _: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let (function, mul, add) = match *self {
            Self::Neg => (0, 0.0, 0.0),
            Self::Exp => (1, 0.0, 0.0),
            Self::Log => (2, 0.0, 0.0),
            Self::Square => (3, 0.0, 0.0),
            Self::Sqrt => (4, 0.0, 0.0),
            Self::Rsqrt => (5, 0.0, 0.0),
            Self::Recip => (6, 0.0, 0.0),
            Self::Tanh => (7, 0.0, 0.0),
            Self::Sigmoid => (8, 0.0, 0.0),
            Self::Silu => (9, 0.0, 0.0),
            Self::Affine { mul, add } => (10, mul, add),
        };
        let n = y[0].numel();
        let offset = Param::Offset(Bind::X(0));
        let params = [n.into(), offset, Param::U32(function), mul.into(), add.into()];
        Kernels::one(&puyu_shaders::UNARY, [Bind::X(0), Bind::Y(0)], params, grid(n))
    }
    fn reads(&self, _: usize) -> bool {
        !matches!(self, Self::Neg | Self::Affine { .. })
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None]) };
        let x = &x[0];
        Grad::one(match *self {
            Self::Neg => dy.neg(),
            Self::Exp => dy * &x.exp(),
            Self::Log => dy / x,
            Self::Square => dy * &x.affine(2.0, 0.0),
            Self::Sqrt => dy * &x.rsqrt().affine(0.5, 0.0),
            Self::Rsqrt => dy * &(&x.rsqrt() / x).affine(-0.5, 0.0),
            Self::Recip => dy * &x.recip().square().neg(),
            Self::Tanh => dy * &x.tanh().square().affine(-1.0, 1.0),
            Self::Sigmoid => {
                let s = x.sigmoid();
                dy * &(&s * &s.affine(-1.0, 1.0))
            }
            // (x·σ)' = σ·(1 + x·(1 - σ))
            Self::Silu => {
                let s = x.sigmoid();
                dy * &(&s * &(x * &s.affine(-1.0, 1.0)).affine(1.0, 1.0))
            }
            Self::Affine { mul, .. } => dy.affine(mul, 0.0),
        })
    }
}

macro_rules! methods {
    ($($name:ident => $op:ident, $formula:literal;)*) => {
        impl Tensor {
            $(
                #[doc = concat!($formula, ", elementwise.\n\n# Panics\nIf the dtype is not F32.")]
                #[track_caller]
                #[must_use]
                pub fn $name(&self) -> Self {
                    apply1(Unary::$op, &[self])
                }
            )*
        }
    };
}
methods! {
    neg => Neg, "-x";
    exp => Exp, "eˣ";
    log => Log, "ln x";
    square => Square, "x²";
    sqrt => Sqrt, "√x";
    rsqrt => Rsqrt, "1/√x";
    recip => Recip, "1/x";
    tanh => Tanh, "tanh x";
    sigmoid => Sigmoid, "1/(1 + e⁻ˣ)";
    silu => Silu, "x/(1 + e⁻ˣ)";
}

impl Tensor {
    /// mul·x + add, elementwise.
    ///
    /// # Panics
    /// If the dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn affine(&self, mul: f32, add: f32) -> Self {
        apply1(Unary::Affine { mul, add }, &[self])
    }
}
