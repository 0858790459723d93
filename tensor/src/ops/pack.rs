//! Weights rearranged for the CPU's kernels, and back: the same elements, another [`Packing`].
//!
//! A frozen weight is packed once at load, so that a matmul streams it as it lies. Ops that do not
//! know packings get the weight unpacked.

use crate::cpu::panel::{LANES, Weight};
use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Op, Outs};
use crate::storage::{Owned, Storage};
use crate::{DType, Device, Packing, Spec, Tensor, View, ViewMut, apply1};
use std::sync::Arc;

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

/// Writes the weight `x` to `y`, with panels interleaved or row after row.
fn rearrange(x: &View, packed: bool, y: &mut [u8]) {
    let x = Weight::new(&x.spec, x.bytes);
    if x.packed == packed || x.stride == 0 {
        return y.copy_from_slice(x.bytes);
    }
    let whole = x.rows / LANES * LANES * x.stride;
    let (panels, rest) = y.split_at_mut(whole);
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

/// Weights `[N, K]` in the layout that the CPU's matmul reads without rearranging, side by side in large pages;
/// with `floats`, those of floats are rounded to it first. Pages of mapped files that they were read from are
/// released one weight after another. On a GPU, where rows stay rows, they are what they were.
///
/// # Panics
/// If one is not a weight of rank 2.
#[track_caller]
#[must_use]
pub fn pack_all(weights: &[Tensor], floats: Option<DType>) -> Vec<Tensor> {
    if weights.iter().any(|w| w.device() != Device::Cpu) {
        return weights.to_vec();
    }
    let op = Pack { packing: Packing::Panel16 };
    let dtype = |w: &Tensor| floats.filter(|_| w.dtype().is_float()).unwrap_or(w.dtype());
    let mut end = 0usize;
    let places: Vec<(Spec, usize)> = weights
        .iter()
        .map(|w| {
            let spec = op.infer(&[Spec::new(w.spec().shape, dtype(w))]).outputs[0];
            // Whole blocks from the beginning, and whole lines of the cache.
            let place = end.next_multiple_of(64 * spec.dtype.block_bytes());
            end = place + spec.bytes();
            (spec, place)
        })
        .collect();
    let mut memory = Owned::large_pages(end);
    for (w, (spec, place)) in weights.iter().zip(&places) {
        let rows = w.to_dtype(spec.dtype).unpack().contiguous();
        let y = &mut memory.bytes_mut()[*place..place + spec.bytes()];
        rearrange(&rows.view(), true, y);
        w.release();
    }
    let storage = Arc::new(Storage::Owned(memory));
    let build = |(spec, place): (Spec, usize)| {
        let offset = place / spec.dtype.block_bytes() * spec.dtype.block_len();
        Tensor::build(spec, offset, storage.clone(), None)
    };
    places.into_iter().map(build).collect()
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
        rearrange(&x[0], self.packing == Packing::Panel16, y[0].bytes);
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some(vec![x[0].clone()])
    }
}

impl Tensor {
    /// This weight `[N, K]` alone as [`pack_all`] lays out several.
    ///
    /// # Panics
    /// If it is not a weight of rank 2.
    #[track_caller]
    #[must_use]
    pub fn pack(&self) -> Self {
        pack_all(std::slice::from_ref(self), None).remove(0)
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
