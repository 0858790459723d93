//! Weights rearranged for the CPU's kernels, and back: the same elements, another [`Packing`].
//!
//! A frozen weight is packed once at load, so that a matmul streams it as it lies. Ops that do not
//! know packings get the weight unpacked.

use crate::cpu::panel::{LANES, Weight};
use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Op, Outs};
use crate::{DType, Device, Packing, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "pack",
    cases: |[a, b, c, _]| {
        let weights = DType::WEIGHTS.map(|dtype| {
            let n = c.next_multiple_of(dtype.block_len());
            Case::new(Pack { packing: Packing::Panel16 }, [Arg::of([a * b, n], dtype)])
        });
        weights.into()
    },
    bad: || {
        let pack = || Pack { packing: Packing::Panel16 };
        vec![Case::new(pack(), [Arg::f32([2, 3, 4])]), Case::new(pack(), [Arg::below([2, 3], 4)])]
    },
};

/// The weight `x [N, K]` in another packing.
#[derive(Debug)]
pub struct Pack {
    /// The packing of the result.
    pub packing: Packing,
}

impl Op for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }
    fn packed(&self, i: usize) -> bool {
        i == 0
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = x[0].rank() == 2 && DType::WEIGHTS.contains(&x[0].dtype);
        assert!(fits, "pack: {} is no weight", x[0]);
        Spec { packing: self.packing, ..Spec::new(x[0].shape, x[0].dtype) }.into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let x = Weight::new(&x[0].spec, x[0].bytes);
        let packed = self.packing == Packing::Panel16;
        if x.packed == packed || x.stride == 0 {
            return y[0].bytes.copy_from_slice(x.bytes);
        }
        let whole = x.rows / LANES * LANES * x.stride;
        let (panels, rest) = y[0].bytes.split_at_mut(whole);
        rest.copy_from_slice(&x.bytes[whole..]);
        let size = x.stride * LANES;
        par_rows(panels, size, (1 << 16) / size, |first, panels| {
            for (p, panel) in panels.chunks_exact_mut(size).enumerate() {
                if packed {
                    x.interleave(first + p, 0..x.len, panel);
                } else {
                    for (i, row) in panel.chunks_exact_mut(x.stride).enumerate() {
                        x.row((first + p) * LANES + i, row);
                    }
                }
            }
        });
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some(vec![x[0].clone()])
    }
}

impl Tensor {
    /// This weight `[N, K]` in the layout that the CPU's matmul reads without rearranging. Pages of a
    /// mapped file that it was read from are released. On a GPU, where rows stay rows, itself.
    ///
    /// # Panics
    /// If it is not a weight of rank 2.
    #[track_caller]
    #[must_use]
    pub fn pack(&self) -> Self {
        if self.device() != Device::Cpu {
            return self.clone();
        }
        let y = apply1(Pack { packing: Packing::Panel16 }, &[self]);
        self.release();
        y
    }

    /// This tensor with its elements row after row.
    #[track_caller]
    #[must_use]
    pub fn unpack(&self) -> Self {
        match self.spec().packing {
            Packing::Rows => self.clone(),
            Packing::Panel16 => apply1(Pack { packing: Packing::Rows }, &[self]),
        }
    }
}
