//! Elements picked along the last dimension by an index per row, and their way back: each op is the
//! gradient of the other.
//!
//! The index [`NO_INDEX`] picks nothing: it reads as zero, and what is put there is dropped. That is
//! how ignored targets pass through a loss.

use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The index, or the target of a loss, that stands for none: a label of -100 in PyTorch's files.
pub const NO_INDEX: u32 = u32::MAX;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "along",
    cases: |[a, b, c, d]| {
        vec![
            Case::new(TakeAlong, [Arg::f32([a, b, c]), Arg::below([a, b, d], c)]),
            Case::new(TakeAlong, [Arg::f32([2, c]), Arg::exact([0, NO_INDEX]).shaped([2, 1])]),
            Case::new(PutAlong { len: c }, [Arg::f32([a, b, d]), Arg::below([a, b, d], c)]),
            Case::new(
                PutAlong { len: 1 },
                [Arg::f32([1, 3]), Arg::exact([0, NO_INDEX, 0]).shaped([1, 3])],
            ),
        ]
    },
    bad: || {
        vec![
            Case::new(TakeAlong, [Arg::f32([2, 3]), Arg::below([3, 1], 3)]),
            Case::new(TakeAlong, [Arg::f32([2, 3]), Arg::f32([2, 1])]),
            Case::new(TakeAlong, [Arg::f32([1, 3]), Arg::exact([3]).shaped([1, 1])]),
            Case::new(PutAlong { len: 3 }, [Arg::f32([2, 2]), Arg::below([2, 1], 3)]),
            Case::new(PutAlong { len: 3 }, [Arg::f32([1, 1]), Arg::exact([3]).shaped([1, 1])]),
        ]
    },
};

/// Checks that `x` is F32, `index` U32, and both have the same rows.
fn check(name: &str, x: &Spec, index: &Spec) {
    let types = x.dtype == DType::F32 && index.dtype == DType::U32;
    let rows = x.rank() > 0 && x.rank() == index.rank();
    let fits = types && rows && x.shape.with(x.rank() - 1, 0) == index.shape.with(x.rank() - 1, 0);
    assert!(fits, "{name}: {x} along {index}");
}

/// The element that `index` names in a row of `len`; `x` and `indices` are for the message.
fn position(name: &str, index: u32, len: usize, x: &Spec, indices: &Spec) -> Option<usize> {
    let fits = index == NO_INDEX || (index as usize) < len;
    assert!(fits, "{name}: index {index} of rows of {len}, {x} along {indices}");
    (index != NO_INDEX).then_some(index as usize)
}

/// y\[.., j\] = x\[.., index\[.., j\]\], or 0 for [`NO_INDEX`].
#[derive(Debug)]
pub struct TakeAlong;

impl Op for TakeAlong {
    fn name(&self) -> &'static str {
        "take_along"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("take_along", &x[0], &x[1]);
        Spec::f32(x[1].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, index) = (x[0], x[1]);
        let (n, k) = (x.spec.last(), index.spec.last());
        par_rows(y[0].data(), k, 1024 / k.max(1), |first, y| {
            for (r, y) in y.chunks_exact_mut(k).enumerate() {
                let row = x.row::<f32>(first + r);
                for (y, &i) in y.iter_mut().zip(index.row::<u32>(first + r)) {
                    let at = position("take_along", i, n, &x.spec, &index.spec);
                    *y = at.map_or(0.0, |i| row[i]);
                }
            }
        });
    }
    fn reads(&self, i: usize) -> bool {
        i == 1
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let dx = dy[0].as_ref().map(|dy| dy.put_along(&x[1], x[0].spec().last()));
        Grad::Inputs(vec![dx, None])
    }
}

/// y\[.., index\[.., j\]\] += x\[.., j\], j ascending, in rows of `len` that start as zeros.
#[derive(Debug)]
pub struct PutAlong {
    /// The size of the last dimension of the result.
    pub len: usize,
}

impl Op for PutAlong {
    fn name(&self) -> &'static str {
        "put_along"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("put_along", &x[0], &x[1]);
        assert!(x[0].shape == x[1].shape, "put_along: {} along {}", x[0], x[1]);
        Spec::f32(x[0].shape.with(x[0].rank() - 1, self.len)).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, index, n) = (x[0], x[1], self.len);
        par_rows(y[0].data(), n, 1024 / n.max(1), |first, y| {
            y.fill(0.0);
            for (r, y) in y.chunks_exact_mut(n).enumerate() {
                for (&x_j, &i) in x.row::<f32>(first + r).iter().zip(index.row::<u32>(first + r)) {
                    if let Some(i) = position("put_along", i, n, &x.spec, &index.spec) {
                        y[i] += x_j;
                    }
                }
            }
        });
    }
    fn reads(&self, i: usize) -> bool {
        i == 1
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.take_along(&x[1])), None])
    }
}

impl Tensor {
    /// The elements of each row `[.., N]` that `index` `[.., K]` U32 names, `[.., K]`; zero for
    /// [`NO_INDEX`].
    ///
    /// # Panics
    /// If the leading dimensions differ, the dtypes are not F32 and U32, or an index reaches past
    /// the row.
    #[track_caller]
    #[must_use]
    pub fn take_along(&self, index: &Self) -> Self {
        apply1(TakeAlong, &[self, index])
    }

    /// Rows of `len` zeros to which the elements `[.., K]` are added where `index` `[.., K]` U32
    /// says; [`NO_INDEX`] drops one. Undoes [`Tensor::take_along`].
    ///
    /// # Panics
    /// If the shapes differ, the dtypes are not F32 and U32, or an index reaches past the row.
    #[track_caller]
    #[must_use]
    pub fn put_along(&self, index: &Self, len: usize) -> Self {
        apply1(PutAlong { len }, &[self, index])
    }
}
