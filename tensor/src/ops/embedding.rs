//! Rows of a weight table by token id, decoded to F32: the first op of every model, and with the
//! table in any dtype.

use super::gather::check_rows;
use crate::cpu::panel::Weight;
use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, SparseRows, Work};
use crate::{DType, Dims, Spec, Tensor, View, ViewMut, apply1, quant};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "embedding",
    cases: |[a, b, c, d]| {
        let weights = DType::WEIGHTS.map(|dtype| {
            let n = c.next_multiple_of(dtype.block_len());
            Case::new(Embedding, [Arg::of([d, n], dtype), Arg::below([a, b], d)])
        });
        weights.into()
    },
    bad: || {
        vec![
            Case::new(Embedding, [Arg::f32([3]), Arg::below([2], 3)]),
            Case::new(Embedding, [Arg::below([2, 3], 4), Arg::below([2], 2)]),
            Case::new(Embedding, [Arg::f32([4, 3]), Arg::exact([1, 4])]),
        ]
    },
};

/// y\[i\] = w\[ids\[i\]\] as F32.
#[derive(Debug)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn packed(&self, i: usize) -> bool {
        i == 0
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let (w, ids) = (&x[0], &x[1]);
        let fits = DType::WEIGHTS.contains(&w.dtype) && w.rank() == 2 && ids.dtype == DType::U32;
        assert!(fits, "embedding: rows of {w} by {ids}");
        let shape: Dims = ids.shape.iter().chain(&[w.last()]).copied().collect();
        Spec::f32(shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (w, ids) = (x[0], x[1]);
        check_rows("embedding", &w.spec, &ids, w.spec.shape[0]);
        let (ids, w) = (ids.data::<u32>(), Weight::new(&w.spec, w.bytes));
        let n = w.len;
        par_rows(y[0].data(), n, 4096 / n.max(1), |first, y| {
            let mut row = vec![0; w.stride];
            for (y, &id) in y.chunks_exact_mut(n).zip(&ids[first..]) {
                w.row(id as usize, &mut row);
                quant::decode_row(w.dtype, &row, y);
            }
        });
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        let (w, ids) = (&x[0].spec, &x[1].spec);
        Work { bytes: ids.numel() * w.dtype.bytes(w.last()) + y[0].bytes(), ..Work::default() }
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some(vec![x[0].gather(&x[1]).to_dtype(DType::F32)])
    }
    fn reads(&self, i: usize) -> bool {
        i == 1
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        match &dy[0] {
            Some(dy) if x[0].dtype().is_float() => {
                let (rows, index, count) = (dy.clone(), x[1].clone(), x[0].dim(0));
                Grad::Sparse(SparseRows { rows, index, count })
            }
            _ => Grad::Inputs(vec![None, None]),
        }
    }
}

impl Tensor {
    /// The rows of this table `[V, H]`, of any weight dtype, that `ids` U32 `[..]` name, as F32
    /// `[.., H]`. Block formats have no gradient; that of other
    /// tables is F32.
    ///
    /// # Panics
    /// If an id is not below V, or the dtypes do not fit. Models check ids where they come in.
    #[track_caller]
    #[must_use]
    pub fn embedding(&self, ids: &Self) -> Self {
        apply1(Embedding, &[self, ids])
    }
}
