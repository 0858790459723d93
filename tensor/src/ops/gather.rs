//! Rows picked by index, in any dtype.

use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::{DType, Dims, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "gather",
    cases: |[a, b, c, d]| {
        let mut cases = vec![
            Case::new(Gather, [Arg::f32([a, b, c]), Arg::below([d], a)]),
            Case::new(Gather, [Arg::f32([c]), Arg::below([a, b], c)]),
            Case::new(Gather, [Arg::below([b, c], 100), Arg::below([], b)]),
        ];
        for dtype in DType::WEIGHTS {
            let n = c.next_multiple_of(dtype.block_len());
            cases.push(Case::new(Gather, [Arg::of([a, n], dtype), Arg::below([b, d], a)]));
        }
        cases
    },
    bad: || {
        vec![
            Case::new(Gather, [Arg::f32([2, 3]), Arg::f32([2])]),
            Case::new(Gather, [Arg::f32([2, 3]), Arg::exact([0, 2])]),
        ]
    },
};

/// y\[i\] = x\[index\[i\]\] along the first dimension of x.
#[derive(Debug)]
pub struct Gather;

/// Checks that `index` names rows of a table of `rows`; `other` is the op's other input.
#[track_caller]
pub(super) fn check_rows(name: &str, other: &Spec, index: &View, rows: usize) {
    let indices = index.data::<u32>();
    if let Some((at, i)) = indices.iter().enumerate().find(|&(_, &i)| i as usize >= rows) {
        panic!(
            "{name}: index {i} (number {at} of {}), but there are {rows} rows ({other})",
            index.spec
        );
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let whole_rows = x[0].rank() > usize::from(x[0].dtype.is_block());
        let fits = whole_rows && x[1].dtype == DType::U32;
        assert!(fits, "gather: rows of {} by {}", x[0], x[1]);
        let shape: Dims = x[1].shape.iter().chain(&x[0].shape[1..]).copied().collect();
        Spec::new(shape, x[0].dtype).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (table, index) = (x[0], x[1]);
        check_rows("gather", &table.spec, &index, table.spec.shape[0]);
        let index = index.data::<u32>();
        let row = Spec::new(table.spec.shape.with(0, 1), table.spec.dtype).bytes();
        par_rows(y[0].bytes, row, (1 << 15) / row.max(1), |first, y| {
            for (y, &i) in y.chunks_exact_mut(row).zip(&index[first..]) {
                y.copy_from_slice(&table.bytes[i as usize * row..][..row]);
            }
        });
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        Work { bytes: x[1].spec.bytes() + 2 * y[0].bytes(), ..Work::default() }
    }
    fn reads(&self, i: usize) -> bool {
        i == 1
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let dy = dy[0].as_ref().filter(|dy| dy.dtype() == DType::F32);
        let dx = dy.map(|dy| dy.scatter_add(&x[1], x[0].shape()[0]));
        Grad::Inputs(vec![dx, None])
    }
}

impl Tensor {
    /// The rows (along the first dimension) that `index` U32 names: `index.shape ++ shape[1..]`.
    /// A gradient flows through F32 rows only.
    ///
    /// # Panics
    /// If an index is not a row, or `index` is not U32.
    #[track_caller]
    #[must_use]
    pub fn gather(&self, index: &Self) -> Self {
        apply1(Gather, &[self, index])
    }
}
