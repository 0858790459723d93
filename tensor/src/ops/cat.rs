//! Tensors joined along one dimension.

use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "cat",
    cases: |[a, b, c, d]| {
        vec![
            Case::new(Cat { axis: 0 }, [Arg::f32([a, b]), Arg::f32([c, b])]),
            Case::new(
                Cat { axis: 1 },
                [Arg::f32([a, b, c]), Arg::f32([a, d, c]), Arg::f32([a, a, c])],
            ),
            Case::new(Cat { axis: 1 }, [Arg::below([a, b], 9), Arg::below([a, c], 9)]),
            Case::new(
                Cat { axis: 0 },
                [Arg::of([a, 64], DType::Q8_0), Arg::of([b, 64], DType::Q8_0)],
            ),
        ]
    },
    bad: || {
        vec![
            Case::new(Cat { axis: 0 }, [Arg::f32([2, 3]), Arg::f32([2, 4])]),
            Case::new(Cat { axis: 0 }, [Arg::f32([2, 3]), Arg::below([2, 3], 4)]),
        ]
    },
};

/// Bytes that are worth another thread.
const GRAIN: usize = 1 << 16;

/// The inputs one after another along dimension `axis`.
#[derive(Debug)]
pub struct Cat {
    axis: usize,
}

impl Op for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let axis = self.axis;
        let mut y = Spec::new(x[0].shape, x[0].dtype);
        for s in &x[1..] {
            let fits = s.rank() == y.rank()
                && axis < y.rank()
                && s.dtype == y.dtype
                && s.shape.with(axis, 0) == y.shape.with(axis, 0);
            assert!(fits, "cat: {} and {s} along dimension {axis}", x[0]);
            y = Spec::new(y.shape.with(axis, y.shape[axis] + s.shape[axis]), y.dtype);
        }
        y.into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let outer: usize = y[0].spec.shape[..self.axis].iter().product();
        let row = y[0].bytes.len() / outer.max(1);
        par_rows(y[0].bytes, row, GRAIN / row.max(1), |first, rows| {
            for (o, mut to) in (first..).zip(rows.chunks_exact_mut(row)) {
                for v in x {
                    let n = v.bytes.len() / outer;
                    to.split_off_mut(..n)
                        .expect("as long as its parts")
                        .copy_from_slice(&v.bytes[o * n..(o + 1) * n]);
                }
            }
        });
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None; x.len()]) };
        let mut start = 0;
        let parts = x.iter().map(|x| {
            let n = x.shape()[self.axis];
            start += n;
            Some(dy.narrow(self.axis as isize, start - n, n))
        });
        Grad::Inputs(parts.collect())
    }
}

impl Tensor {
    /// `x` one after another along dimension `axis`.
    ///
    /// # Panics
    /// If dtypes or the other dimensions differ, or `x` is empty.
    #[track_caller]
    #[must_use]
    pub fn cat(x: &[&Self], axis: isize) -> Self {
        let axis = x[0].axis(axis);
        apply1(Cat { axis }, x)
    }
}
