//! The place of the largest element of each row, and the k largest with their places.
//!
//! Equal elements come in order of their index, so greedy decoding is the same everywhere; a NaN is
//! smaller than any number.

use super::reduce::max_of;
use crate::cpu::pool::{par_each, par_rows};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply, apply1};

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

/// A number that orders the elements of a row: the larger first, then the lower index.
fn key(value: f32, index: u32) -> u64 {
    // Bits of a float order like integers once those of negative ones are inverted; adding zero
    // makes both zeros one.
    let bits = (value + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    let falling = if value.is_nan() { u32::MAX } else { !rising };
    u64::from(falling) << 32 | u64::from(index)
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
        par_rows(y[0].data::<u32>(), 1, 4096 / x.spec.last(), |first, y| {
            for (r, y) in y.iter_mut().enumerate() {
                let row = x.row::<f32>(first + r);
                let max = max_of(row);
                *y = row.iter().position(|&v| v == max).unwrap_or(0) as u32;
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
            let mut order: Vec<u64> = row.iter().zip(0..).map(|(&v, i)| key(v, i)).collect();
            if k < row.len() {
                order.select_nth_unstable(k - 1);
            }
            order.truncate(k);
            order.sort_unstable();
            for ((value, index), key) in values.iter_mut().zip(indices).zip(order) {
                *index = key as u32;
                *value = row[*index as usize];
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
