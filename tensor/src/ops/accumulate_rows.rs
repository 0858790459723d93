//! Rows added to those of a table in a flat memory, in place: the gradient of an embedding, most of whose rows are
//! zero, where the table has one already.
//!
//! Rows with the same index are added in the order they come, whatever the number of threads.

use super::gather::check_rows;
use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply_to};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "accumulate_rows",
    cases: |[a, b, c, d]| {
        let x = [Arg::f32([a, b, c]), Arg::below([a, b], d), Arg::exact([2, 0])];
        vec![Case::in_place(AccumulateRows, [Arg::f32([2 + d * c])], x)]
    },
    bad: || {
        let case = |y: usize, index: [u32; 2], at| {
            let x = [Arg::f32([2, 3]), Arg::exact(index), at];
            Case::in_place(AccumulateRows, [Arg::f32([y])], x)
        };
        vec![
            case(6, [0, 2], Arg::exact([0, 0])),
            case(6, [0, 1], Arg::exact([1, 0])),
            case(6, [0, 1], Arg::exact([0])),
        ]
    },
};

/// `y[offset + index[i]·d + j] += x[i, j]`, i ascending, for a flat F32 `y`, F32 rows `x` of d elements and U32 `index`.
/// The third input, U32 `[2]`, is the offset's lower and upper half.
#[derive(Debug)]
pub struct AccumulateRows;

impl Op for AccumulateRows {
    fn name(&self) -> &'static str {
        "accumulate_rows"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let shape = x[0].shape;
        panic!("accumulate_rows: works in place, and was asked for a new tensor from {shape:?}");
    }
    fn check_to(&self, y: &[Spec], x: &[Spec]) {
        let (y, x, index, at) = (&y[0], &x[0], &x[1], &x[2]);
        let types = [y.dtype, x.dtype, index.dtype, at.dtype];
        let fits = types == [DType::F32, DType::F32, DType::U32, DType::U32]
            && y.rank() == 1
            && x.shape.starts_with(&index.shape)
            && *at.shape == [2];
        assert!(fits, "accumulate_rows: {x} by {index} at {at} into {y}");
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, index, at) = (x[0], x[1], x[2].data::<u32>());
        let &[low, high] = at else { unreachable!("check_to saw two") };
        let start = (u64::from(high) << 32 | u64::from(low)) as usize;
        let row: usize = x.spec.shape[index.spec.rank()..].iter().product();
        let y = y[0].data::<f32>().get_mut(start..).unwrap_or_default();
        let rows = y.len() / row.max(1);
        check_rows("accumulate_rows", &x.spec, &index, rows);
        let mut by_target: Vec<(u32, usize)> = index.data().iter().copied().zip(0..).collect();
        by_target.sort_unstable();
        let x = x.data::<f32>();
        par_rows(&mut y[..rows * row], row, 4096 / row.max(1), |first, y| {
            let from = by_target.partition_point(|(target, _)| (*target as usize) < first);
            for &(target, source) in &by_target[from..] {
                let to = (target as usize - first) * row;
                let Some(y) = y.get_mut(to..to + row) else { break };
                y.iter_mut().zip(&x[source * row..]).for_each(|(y, &x)| *y += x);
            }
        });
    }
}

impl Tensor {
    /// Adds rows `x` `[.., D]` to the rows that `index`, U32 `[..]`, names of the table of rows of D elements that begins
    /// at element `offset` of this flat tensor, in place.
    ///
    /// # Panics
    /// If a row reaches past the end, the dtypes are not F32 and U32, or another tensor shares this one's
    /// storage.
    #[track_caller]
    pub fn accumulate_rows(&mut self, offset: usize, x: &Self, index: &Self) {
        let offset = offset as u64;
        let at = Self::new(&[offset as u32, (offset >> 32) as u32], [2]).to_device(&self.device());
        apply_to(AccumulateRows, &mut [self], &[x, index, &at]);
    }
}
