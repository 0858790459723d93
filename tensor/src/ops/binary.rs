//! Functions of two values, elementwise with NumPy's broadcasting.

use crate::cpu::pool::par_rows;
use crate::cpu::simd::versions;
use crate::kernels::{Bind, Kernels, Param, grid, strided};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "binary",
    cases: |[a, b, c, _]| {
        let x = || Arg::f32([a, b, c]);
        vec![
            Case::new(Binary::Add, [x(), x()]),
            Case::new(Binary::Add, [x(), Arg::f32([c])]),
            Case::new(Binary::Sub, [x(), Arg::f32([b, 1])]),
            Case::new(Binary::Mul, [x(), Arg::f32([])]),
            Case::new(Binary::Mul, [Arg::f32([a, 1, c]), Arg::f32([b, 1])]),
            Case::new(Binary::Div, [x(), Arg::positive([a, b, c])]),
        ]
    },
    bad: || {
        vec![
            Case::new(Binary::Add, [Arg::f32([2, 3]), Arg::f32([2, 4])]),
            Case::new(Binary::Mul, [Arg::f32([3]), Arg::below([3], 5)]),
        ]
    },
};

/// A function of two F32 values.
#[derive(Clone, Copy, Debug)]
pub enum Binary {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a·b
    Mul,
    /// a/b
    Div,
}

impl Binary {
    fn eval(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
        }
    }
}

versions! {
    fn dense(op: Binary, a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = op.eval(a, b);
        }
    }
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
        }
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let floats = x[0].dtype == DType::F32 && x[1].dtype == DType::F32;
        let shape = x[0].broadcast_with(&x[1]).filter(|_| floats);
        let shape = shape.unwrap_or_else(|| panic!("{}: {} and {}", self.name(), x[0], x[1]));
        Spec::f32(shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let shape = y[0].spec.shape;
        let spread = |v: &View| v.spec.broadcast_to(shape).expect("infer checked the shapes");
        let (sa, sb) = (spread(&x[0]), spread(&x[1]));
        let (a, b) = (x[0].data::<f32>(), x[1].data::<f32>());
        let n = y[0].spec.last();
        let step = |s: &Spec| s.strides.last().copied().unwrap_or(0);
        let (ta, tb) = (step(&sa), step(&sb));
        par_rows(y[0].data(), n.max(1), 4096 / n.max(1), |first, y| {
            for (r, y) in y.chunks_exact_mut(n.max(1)).enumerate() {
                let (a, b) = (&a[sa.row_offset(first + r)..], &b[sb.row_offset(first + r)..]);
                if ta == 1 && tb == 1 {
                    dense(*self, a, b, y);
                } else {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = self.eval(a[i * ta], b[i * tb]);
                    }
                }
            }
        });
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let shape = y[0].shape;
        let spread = |x: &Spec| x.broadcast_to(shape).expect("infer checked the shapes").strides;
        let (mut params, rank) = strided(&shape, &[&spread(&x[0]), &spread(&x[1])]);
        let n = y[0].numel();
        let [a, b] = [Bind::X(0), Bind::X(1)];
        let function = Param::U32(*self as u32);
        params.extend([rank, n.into(), Param::Offset(a), Param::Offset(b), function]);
        Kernels::one(&puyu_shaders::BINARY, [a, b, Bind::Y(0)], params, grid(n))
    }
    fn reads(&self, _: usize) -> bool {
        matches!(self, Self::Mul | Self::Div)
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None, None]) };
        let (a, b) = (&x[0], &x[1]);
        let (da, db) = match self {
            Self::Add => (dy.clone(), dy.clone()),
            Self::Sub => (dy.clone(), dy.neg()),
            Self::Mul => (dy * b, dy * a),
            Self::Div => (dy / b, (dy * &(a / &b.square())).neg()),
        };
        Grad::Inputs(vec![Some(da.sum_to(a.spec().shape)), Some(db.sum_to(b.spec().shape))])
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident;)*) => {
        $(
            impl std::ops::$trait for &Tensor {
                type Output = Tensor;
                /// Elementwise with NumPy's broadcasting.
                ///
                /// # Panics
                /// If the shapes do not broadcast or a dtype is not F32.
                #[track_caller]
                fn $method(self, other: Self) -> Tensor {
                    apply1(Binary::$trait, &[self, other])
                }
            }
        )*
    };
}
operators! {
    Add add;
    Sub sub;
    Mul mul;
    Div div;
}
