//! Ops that only rename elements: reshape, transpose, narrow, broadcast. They run nothing; what they
//! have is a layout and a gradient.

use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{Dims, Spec, Tensor, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "view",
    cases: |[a, b, c, d]| {
        vec![
            Case::new(Reshape { shape: [b * a, d * c].into() }, [Arg::f32([a, b, c, d])]),
            Case::new(Transpose { a: 0, b: 2 }, [Arg::f32([a, b, c])]),
            Case::new(Narrow { axis: 1, start: b / 2, len: b - b / 2 }, [Arg::f32([a, b, c])]),
            Case::new(BroadcastTo { shape: [c, a, b].into() }, [Arg::f32([a, 1])]),
        ]
    },
    bad: || {
        vec![
            Case::new(Reshape { shape: [7].into() }, [Arg::f32([2, 3])]),
            Case::new(Narrow { axis: 0, start: 2, len: 3 }, [Arg::f32([4])]),
            Case::new(BroadcastTo { shape: [2, 3].into() }, [Arg::f32([2])]),
        ]
    },
};

/// The same elements in row-major order under another shape.
#[derive(Debug)]
pub struct Reshape {
    shape: Dims,
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = x[0].numel() == self.shape.numel();
        assert!(fits, "reshape: {} to {}", x[0], self.shape);
        Spec { shape: self.shape, strides: self.shape.contiguous_strides(), ..x[0] }.into()
    }
    fn view(&self, x: &Spec) -> Option<(Spec, usize)> {
        Some((self.infer(&[*x]).outputs[0], 0))
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.reshape(x[0].spec().shape))])
    }
}

/// Two dimensions exchanged.
#[derive(Debug)]
pub struct Transpose {
    a: usize,
    b: usize,
}

impl Op for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let mut y = x[0];
        y.shape.swap(self.a, self.b);
        y.strides.swap(self.a, self.b);
        y.into()
    }
    fn view(&self, x: &Spec) -> Option<(Spec, usize)> {
        Some((self.infer(&[*x]).outputs[0], 0))
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Self { a, b } = *self;
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.transpose(a as isize, b as isize))])
    }
}

/// `len` neighbours along one dimension, from `start`.
#[derive(Debug)]
pub struct Narrow {
    axis: usize,
    start: usize,
    len: usize,
}

impl Op for Narrow {
    fn name(&self) -> &'static str {
        "narrow"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let Self { axis, start, len } = *self;
        let fits = start + len <= x[0].shape[axis];
        assert!(fits, "narrow: {start}..{} of dimension {axis} of {}", start + len, x[0]);
        if axis + 1 == x[0].rank() {
            let block = x[0].dtype.block_len();
            let whole = start.is_multiple_of(block) && len.is_multiple_of(block);
            assert!(whole, "narrow: {start}..{} cuts blocks of {}", start + len, x[0]);
        }
        Spec { shape: x[0].shape.with(axis, len), ..x[0] }.into()
    }
    fn view(&self, x: &Spec) -> Option<(Spec, usize)> {
        Some((self.infer(&[*x]).outputs[0], self.start * x.strides[self.axis]))
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Self { axis, start, len } = *self;
        let device = x[0].device();
        let zeros = |n| Tensor::zeros(x[0].spec().shape.with(axis, n), x[0].dtype());
        let pad = |n| zeros(n).to_device(&device);
        let dx = dy[0].as_ref().map(|dy| {
            let after = x[0].shape()[axis] - start - len;
            Tensor::cat(&[&pad(start), dy, &pad(after)], axis as isize)
        });
        Grad::Inputs(vec![dx])
    }
}

/// Sizes of one stretched, NumPy's rule.
#[derive(Debug)]
pub struct BroadcastTo {
    shape: Dims,
}

impl Op for BroadcastTo {
    fn name(&self) -> &'static str {
        "broadcast_to"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let y = x[0].broadcast_to(self.shape);
        y.unwrap_or_else(|| panic!("broadcast_to: {} to {}", x[0], self.shape)).into()
    }
    fn view(&self, x: &Spec) -> Option<(Spec, usize)> {
        Some((self.infer(&[*x]).outputs[0], 0))
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.sum_to(x[0].spec().shape))])
    }
}

impl Tensor {
    /// The same elements under another shape; copies only a strided tensor.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[track_caller]
    #[must_use]
    pub fn reshape(&self, shape: impl Into<Dims>) -> Self {
        let shape = shape.into();
        if shape == self.spec().shape {
            return self.clone();
        }
        apply1(Reshape { shape }, &[self])
    }

    /// Dimensions `a` and `b` exchanged; negative ones count from the end.
    ///
    /// # Panics
    /// If there is no such dimension.
    #[track_caller]
    #[must_use]
    pub fn transpose(&self, a: isize, b: isize) -> Self {
        apply1(Transpose { a: self.axis(a), b: self.axis(b) }, &[self])
    }

    /// The last two dimensions exchanged.
    ///
    /// # Panics
    /// If the rank is below 2.
    #[track_caller]
    #[must_use]
    pub fn t(&self) -> Self {
        self.transpose(-2, -1)
    }

    /// `len` neighbours along dimension `axis`, from `start`.
    ///
    /// # Panics
    /// If they reach past the end, or cut a block of a block dtype.
    #[track_caller]
    #[must_use]
    pub fn narrow(&self, axis: isize, start: usize, len: usize) -> Self {
        apply1(Narrow { axis: self.axis(axis), start, len }, &[self])
    }

    /// Sizes of one stretched to `shape`, NumPy's rule.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[track_caller]
    #[must_use]
    pub fn broadcast_to(&self, shape: impl Into<Dims>) -> Self {
        apply1(BroadcastTo { shape: shape.into() }, &[self])
    }
}
