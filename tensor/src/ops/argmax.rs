//! The place of the largest element of each row, and the k largest with their places.
//!
//! Equal elements come in order of their index, so greedy decoding is the same everywhere; a NaN is
//! smaller than any number.

use crate::cpu::pool::{par_each, par_rows};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply, apply1};
use std::cmp::Ordering;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "argmax",
    cases: |[a, b, c, _]| {
        vec![
            Case::new(Argmax, [Arg::f32([a, b, c])]),
            Case::new(Argmax, [Arg::zero([c])]),
            Case::new(TopK { k: c.min(3) }, [Arg::distinct([a, b, c])]),
            Case::new(TopK { k: c }, [Arg::distinct([b, c])]),
        ]
    },
    bad: || {
        vec![
            Case::new(Argmax, [Arg::below([2, 3], 4)]),
            Case::new(Argmax, [Arg::f32([])]),
            Case::new(TopK { k: 4 }, [Arg::f32([2, 3])]),
        ]
    },
};

/// The order in which elements i and j of `row` rank: the larger first, then the lower index.
fn rank(row: &[f32], i: u32, j: u32) -> Ordering {
    let (a, b) = (row[i as usize], row[j as usize]);
    let larger = b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    larger.then(i.cmp(&j))
}

#[track_caller]
fn check(name: &str, x: &Spec, k: usize) {
    let fits = x.dtype == DType::F32 && x.rank() > 0 && (1..=x.last()).contains(&k);
    assert!(fits, "{name}: the largest {k} of each row of {x}");
}

/// The index of the largest element of each row, U32; the last dimension goes.
#[derive(Debug)]
pub struct Argmax;

impl Op for Argmax {
    fn name(&self) -> &'static str {
        "argmax"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("argmax", &x[0], 1);
        Spec::new(&x[0].shape[..x[0].rank() - 1], DType::U32).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let x = x[0];
        let n = x.spec.last();
        par_rows(y[0].data::<u32>(), 1, 4096 / n, |first, y| {
            for (r, y) in y.iter_mut().enumerate() {
                let row = x.row::<f32>(first + r);
                let best = |a, b| if rank(row, b, a).is_lt() { b } else { a };
                *y = (1..n as u32).fold(0, best);
            }
        });
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let (_, index) = x[0].top_k(1);
        Some(vec![index.reshape(&x[0].shape()[..x[0].shape().len() - 1])])
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![None])
    }
}

/// The k largest elements of each row in falling order, and their indices.
#[derive(Debug)]
pub struct TopK {
    /// How many.
    pub k: usize,
}

impl Op for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("top_k", &x[0], self.k);
        let shape = x[0].shape.with(x[0].rank() - 1, self.k);
        let outputs = vec![Spec::f32(shape), Spec::new(shape, DType::U32)];
        Outs { outputs, saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, k) = (x[0], self.k);
        let [values, indices, ..] = y else { unreachable!("infer gives two outputs") };
        let rows = values.data::<f32>().chunks_exact_mut(k);
        let rows = rows.zip(indices.data::<u32>().chunks_exact_mut(k)).enumerate();
        par_each(rows, |(r, (values, indices))| {
            let row = x.row::<f32>(r);
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            if k < row.len() {
                order.select_nth_unstable_by(k - 1, |&i, &j| rank(row, i, j));
            }
            order.truncate(k);
            order.sort_unstable_by(|&i, &j| rank(row, i, j));
            for ((value, index), i) in values.iter_mut().zip(indices).zip(order) {
                (*value, *index) = (row[i as usize], i);
            }
        });
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let dx = dy[0].as_ref().map(|dy| {
            let (_, index) = x[0].detach().top_k(self.k);
            dy.put_along(&index, x[0].spec().last())
        });
        Grad::Inputs(vec![dx])
    }
}

impl Tensor {
    /// The index of the largest element of each row `[.., N]`, U32 `[..]`; the lowest of equals.
    ///
    /// # Panics
    /// If the dtype is not F32, or there are no rows.
    #[track_caller]
    #[must_use]
    pub fn argmax(&self) -> Self {
        apply1(Argmax, &[self])
    }

    /// The `k` largest elements of each row `[.., N]` in falling order, F32 `[.., k]`, and their
    /// indices, U32 `[.., k]`; of equals the lower index first.
    ///
    /// # Panics
    /// If the dtype is not F32, or `k` is 0 or above N.
    #[track_caller]
    #[must_use]
    pub fn top_k(&self, k: usize) -> (Self, Self) {
        super::pair(apply(TopK { k }, &[self]))
    }
}
