//! Sums and maxima along one dimension, which stays with size one.
//!
//! Elements are taken in ascending order in a fixed number of lanes, so the result does not depend on
//! the number of threads.

use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Dims, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "reduce",
    cases: |[a, b, c, _]| {
        (0..3)
            .map(|axis| Case::new(Sum { axis }, [Arg::f32([a, b, c])]))
            .chain((0..2).map(|axis| Case::new(Max { axis }, [Arg::f32([b, c])])))
            .collect()
    },
    bad: || {
        vec![
            Case::new(Sum { axis: 2 }, [Arg::f32([2, 3])]),
            Case::new(Max { axis: 0 }, [Arg::below([3], 4)]),
        ]
    },
};

/// Lanes of a sum over neighbours: lane i takes elements i, i + 16, ..., then lanes are added in
/// order.
const LANES: usize = 16;

fn infer(name: &str, axis: usize, x: &Spec) -> Outs {
    assert!(x.dtype == DType::F32 && axis < x.rank(), "{name}: dimension {axis} of {x}");
    Spec::f32(x.shape.with(axis, 1)).into()
}

/// Folds `f` over `row` in lanes that start at `init` and are merged by `merge`.
fn fold_row(
    row: &[f32],
    init: f32,
    f: impl Fn(f32, f32) -> f32,
    merge: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [init; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (l, &v) in lanes.iter_mut().zip(chunk) {
            *l = f(*l, v);
        }
    }
    for (l, &v) in lanes.iter_mut().zip(rest) {
        *l = f(*l, v);
    }
    lanes.into_iter().fold(init, merge)
}

/// The largest element of a row.
pub(super) fn max_of(row: &[f32]) -> f32 {
    fold_row(row, f32::NEG_INFINITY, f32::max, f32::max)
}

/// Σ f(x) over a row, in the order of [`Sum`].
pub(super) fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    fold_row(row, 0.0, |sum, x| sum + f(x), |a, b| a + b)
}

/// Folds `f` over dimension `axis` of `x`, from `init`.
fn fold(x: &View, axis: usize, y: &mut ViewMut, init: f32, f: impl Fn(f32, f32) -> f32 + Sync) {
    let n = x.spec.shape[axis];
    let inner: usize = x.spec.shape[axis + 1..].iter().product();
    let x = x.data::<f32>();
    if inner == 1 {
        return par_rows(y.data(), 1, (4096 / n.max(1)).max(1), |first, y| {
            for (r, y) in y.iter_mut().enumerate() {
                *y = fold_row(&x[(first + r) * n..][..n], init, &f, &f);
            }
        });
    }
    par_rows(y.data(), inner.max(1), (4096 / (n * inner).max(1)).max(1), |first, y| {
        for (r, y) in y.chunks_exact_mut(inner.max(1)).enumerate() {
            y.fill(init);
            let block = &x[(first + r) * n * inner..][..n * inner];
            for row in block.chunks_exact(inner.max(1)) {
                for (y, &v) in y.iter_mut().zip(row) {
                    *y = f(*y, v);
                }
            }
        }
    });
}

/// The sum along one dimension.
#[derive(Debug)]
pub struct Sum {
    axis: usize,
}

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        infer("sum", self.axis, &x[0])
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        fold(&x[0], self.axis, &mut y[0], 0.0, |a, b| a + b);
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.broadcast_to(x[0].spec().shape))])
    }
}

/// The largest value along one dimension. No gradient flows through it: its uses are stabilizers.
#[derive(Debug)]
pub struct Max {
    axis: usize,
}

impl Op for Max {
    fn name(&self) -> &'static str {
        "max"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        infer("max", self.axis, &x[0])
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        fold(&x[0], self.axis, &mut y[0], f32::NEG_INFINITY, f32::max);
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![None])
    }
}

impl Tensor {
    /// The sum along dimension `axis`, which stays with size 1.
    ///
    /// # Panics
    /// If there is no such dimension or the dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn sum(&self, axis: isize) -> Self {
        apply1(Sum { axis: self.axis(axis) }, &[self])
    }

    /// The mean along dimension `axis`, which stays with size 1.
    ///
    /// # Panics
    /// If there is no such dimension or the dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn mean(&self, axis: isize) -> Self {
        self.sum(axis).affine(1.0 / self.dim(axis) as f32, 0.0)
    }

    /// The largest value along dimension `axis`, which stays with size 1. No gradient flows through.
    ///
    /// # Panics
    /// If there is no such dimension or the dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn max(&self, axis: isize) -> Self {
        apply1(Max { axis: self.axis(axis) }, &[self])
    }

    /// The sum of all elements, a scalar.
    ///
    /// # Panics
    /// If the dtype is not F32.
    #[track_caller]
    #[must_use]
    pub fn sum_all(&self) -> Self {
        self.reshape([self.spec().numel()]).sum(0).reshape([])
    }

    /// Summed over the dimensions that broadcasting stretched from `shape`; undoes
    /// [`Tensor::broadcast_to`].
    ///
    /// # Panics
    /// If this shape is not one `shape` broadcasts to.
    #[track_caller]
    #[must_use]
    pub fn sum_to(&self, shape: impl Into<Dims>) -> Self {
        let shape = shape.into();
        if self.spec().shape == shape {
            return self.clone();
        }
        let lead = self.shape().len() - shape.len();
        let mut y = self.clone();
        for i in 0..self.shape().len() {
            let target = if i < lead { 1 } else { shape[i - lead] };
            if y.shape()[i] != target {
                assert!(target == 1, "sum_to: {} to {shape}", self.spec());
                y = y.sum(i as isize);
            }
        }
        y.reshape(shape)
    }
}
