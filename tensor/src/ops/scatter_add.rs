//! Rows added to the rows of a larger table that an index names: the gradient of [`super::Gather`]
//! and of [`super::Embedding`].
//!
//! Rows with the same index are added in the order they come, whatever the number of threads: a
//! counting sort lists them by target first, and each target row is one thread's work.

use super::gather::check_rows;
use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Dims, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "scatter_add",
    cases: |[a, b, c, d]| {
        vec![
            Case::new(ScatterAdd { rows: d }, [Arg::f32([a, b, c]), Arg::below([a, b], d)]),
            Case::new(ScatterAdd { rows: a }, [Arg::f32([d]), Arg::below([d], a)]),
        ]
    },
    bad: || {
        vec![
            Case::new(ScatterAdd { rows: 4 }, [Arg::f32([2, 3]), Arg::below([3], 4)]),
            Case::new(ScatterAdd { rows: 4 }, [Arg::below([2, 3], 9), Arg::below([2], 4)]),
            Case::new(ScatterAdd { rows: 4 }, [Arg::f32([2, 3]), Arg::exact([1, 4])]),
        ]
    },
};

/// y\[index\[i\]\] += x\[i\], i ascending, in a table of `rows` rows that start as zeros.
#[derive(Debug)]
pub struct ScatterAdd {
    /// The number of rows of the result.
    pub rows: usize,
}

/// For each of `rows` targets, where its sources begin in the list of all sources by target.
fn by_target(index: &[u32], rows: usize) -> (Vec<usize>, Vec<usize>) {
    let mut starts = vec![0; rows + 1];
    index.iter().for_each(|&i| starts[i as usize + 1] += 1);
    for i in 0..rows {
        starts[i + 1] += starts[i];
    }
    let (mut next, mut sources) = (starts.clone(), vec![0; index.len()]);
    for (source, &i) in index.iter().enumerate() {
        sources[next[i as usize]] = source;
        next[i as usize] += 1;
    }
    (starts, sources)
}

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let types = x[0].dtype == DType::F32 && x[1].dtype == DType::U32;
        let fits = types && x[0].shape.starts_with(&x[1].shape);
        assert!(fits, "scatter_add: {} by {} into {} rows", x[0], x[1], self.rows);
        let tail = &x[0].shape[x[1].rank()..];
        let shape: Dims = std::iter::once(self.rows).chain(tail.iter().copied()).collect();
        Spec::f32(shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, index) = (x[0], x[1]);
        check_rows("scatter_add", &x.spec, &index, self.rows);
        let (starts, sources) = by_target(index.data(), self.rows);
        let x = x.data::<f32>();
        let row = y[0].spec.numel() / self.rows.max(1);
        par_rows(y[0].data(), row, 4096 / row.max(1), |first, y| {
            y.fill(0.0);
            for (r, y) in y.chunks_exact_mut(row).enumerate() {
                let target = first + r;
                for &s in &sources[starts[target]..starts[target + 1]] {
                    y.iter_mut().zip(&x[s * row..]).for_each(|(y, &x)| *y += x);
                }
            }
        });
    }
    fn reads(&self, i: usize) -> bool {
        i == 1
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.gather(&x[1])), None])
    }
}

impl Tensor {
    /// A table of `rows` zero rows to which row i of this tensor is added at `index[i]` (U32, the
    /// leading dimensions of this shape). Undoes [`Tensor::gather`].
    ///
    /// # Panics
    /// If the leading dimensions differ, the dtypes are not F32 and U32, or an index is not below
    /// `rows`.
    #[track_caller]
    #[must_use]
    pub fn scatter_add(&self, index: &Self, rows: usize) -> Self {
        apply1(ScatterAdd { rows }, &[self, index])
    }
}
