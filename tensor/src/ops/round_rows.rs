//! Activations rounded for a fast matmul: done once by their producer, shared by every matmul that
//! reads them.

use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1, quant};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "round_rows",
    cases: |[a, b, c, _]| {
        vec![
            Case::new(RoundRows { dtype: DType::I8Row }, [Arg::f32([a, b, c * 32])]),
            Case::new(RoundRows { dtype: DType::I8Row }, [Arg::zero([32])]),
            Case::new(RoundRows { dtype: DType::BF16 }, [Arg::f32([a, b, c])]),
        ]
    },
    bad: || {
        vec![
            Case::new(RoundRows { dtype: DType::I8Row }, [Arg::f32([2, 33])]),
            Case::new(RoundRows { dtype: DType::Q8_0 }, [Arg::f32([2, 32])]),
            Case::new(RoundRows { dtype: DType::BF16 }, [Arg::below([2, 3], 4)]),
        ]
    },
};

/// The same values rounded to nearest even: to I8Row (32 int8 codes, their sum, and a scale of
/// max|x| / 127), or to BF16. It serves inference, so no gradient flows through it.
#[derive(Debug)]
pub struct RoundRows {
    /// I8Row or BF16.
    pub dtype: DType,
}

/// Checks that `x` can be rounded to `dtype`, and gives what comes of it.
pub(super) fn rounded(name: &str, x: &Spec, dtype: DType) -> Spec {
    let types = x.dtype == DType::F32 && matches!(dtype, DType::I8Row | DType::BF16);
    let fits = types && x.rank() > 0 && x.last().is_multiple_of(dtype.block_len());
    assert!(fits, "{name}: {x} to {dtype}");
    Spec::new(x.shape, dtype)
}

/// Rounds the rows of `x` to `dtype`.
pub(super) fn round(x: &View, dtype: DType, y: &mut [u8]) {
    let n = x.spec.last();
    let row = dtype.bytes(n);
    par_rows(y, row, 4096 / n.max(1), |first, y| {
        for (r, y) in y.chunks_exact_mut(row).enumerate() {
            quant::encode_row(dtype, x.row(first + r), y);
        }
    });
}

impl Op for RoundRows {
    fn name(&self) -> &'static str {
        "round_rows"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        rounded("round_rows", &x[0], self.dtype).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        round(&x[0], self.dtype, y[0].bytes);
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        (self.dtype == DType::BF16).then(|| vec![x[0].to_dtype(DType::BF16)])
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![None])
    }
}

impl Tensor {
    /// The rows `[.., K]` F32 rounded to `dtype` (I8Row or BF16) for a fast matmul.
    ///
    /// # Panics
    /// If it is another dtype, or K is not whole blocks of it.
    #[track_caller]
    #[must_use]
    pub fn round_rows(&self, dtype: DType) -> Self {
        apply1(RoundRows { dtype }, &[self])
    }
}
