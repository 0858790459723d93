//! A tensor added to its place in a flat one, in place: how the gradients of all parameters gather in
//! one memory, whatever the number of micro-batches.

use crate::cpu::pool::par_each;
use crate::op::{Arg, Case, Entry, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply_to};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "accumulate",
    cases: |[a, b, c, _]| {
        let case = |keep| {
            let x = [Arg::f32([a, b]), Arg::exact([c as u32, 0, keep])];
            Case::in_place(Accumulate, [Arg::f32([a * b + 2 * c])], x)
        };
        vec![case(0), case(1)]
    },
    bad: || {
        let x = |at| [Arg::f32([2, 3]), at];
        vec![
            Case::in_place(Accumulate, [Arg::f32([5])], x(Arg::exact([0, 0, 1]))),
            Case::in_place(Accumulate, [Arg::f32([9])], x(Arg::exact([0, 1]))),
            Case::in_place(Accumulate, [Arg::f32([3, 3])], x(Arg::exact([0, 0, 1]))),
        ]
    },
};

/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `y[offset..offset + n] ← x + keep·y[offset..offset + n]` for a flat F32 `y` and any F32 `x` of n
/// elements. The second input, U32 `[3]`, is the offset's lower and upper half and keep, 0 or 1.
#[derive(Debug)]
pub struct Accumulate;

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        panic!("accumulate: works in place, and was asked for a new tensor from {:?}", x[0].shape);
    }
    fn check_to(&self, y: &[Spec], x: &[Spec]) {
        let (y, x, at) = (&y[0], &x[0], &x[1]);
        let types = y.dtype == DType::F32 && x.dtype == DType::F32 && at.dtype == DType::U32;
        let fits = types && y.rank() == 1 && x.numel() <= y.numel() && *at.shape == [3];
        assert!(fits, "accumulate: {x} at {at} into {y}");
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, at) = (x[0].data::<f32>(), x[1].data::<u32>());
        let &[low, high, keep] = at else { unreachable!("check_to saw three") };
        let start = (u64::from(high) << 32 | u64::from(low)) as usize;
        let y = y[0].data::<f32>();
        let end = start.checked_add(x.len()).filter(|end| *end <= y.len());
        let end = end.unwrap_or_else(|| {
            panic!("accumulate: [{}] at {start} into [{}]", x.len(), y.len());
        });
        par_each(y[start..end].chunks_mut(CHUNK).zip(x.chunks(CHUNK)), |(y, x)| match keep {
            0 => y.copy_from_slice(x),
            _ => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
        });
    }
}

impl Tensor {
    /// Adds `x`, n elements of any shape, to elements `offset` to `offset + n` of this flat tensor, in
    /// place; without `keep`, what was there is forgotten first.
    ///
    /// # Panics
    /// If `x` reaches past the end, a dtype is not F32, or another tensor shares this one's storage.
    #[track_caller]
    pub fn accumulate(&mut self, offset: usize, x: &Self, keep: bool) {
        let offset = offset as u64;
        let at = [offset as u32, (offset >> 32) as u32, keep.into()];
        let at = Self::new(&at, [3]).to_device(&self.device());
        apply_to(Accumulate, &mut [self], &[x, &at]);
    }
}
