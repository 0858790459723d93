//! `PUYU_CHECK=1`: the GPU is never a second truth. Every op also runs on the CPU, and the first whose
//! elements differ, or that writes past the end of an output, panics with its name.

use super::{Buffer, Gpu, run::Place};
use crate::storage::{Owned, Storage, class_bytes};
use crate::{DType, Op, Result, Tensor, apply, quant, wait};
use std::sync::Arc;

/// A NaN that no computation gives.
const POISON: u32 = 0x7fc0_dead;

/// Bytes behind an output that must stay as they are.
const GUARD: usize = 64;

/// The largest difference allowed between two f32 results of the same sum in another order, or of the
/// same function in another library, as a part of the larger of the element and the tensor's maximum.
const TOLERANCE: f32 = 2e-5;

/// A buffer for `len` bytes, full of poison and with a guard behind.
pub(super) fn poisoned(gpu: &Gpu, len: usize) -> Buffer {
    let words = class_bytes(len + GUARD) / 4;
    gpu.upload(bytemuck::cast_slice(&vec![POISON; words]))
}

/// CPU tensors with the same strides and elements.
pub(super) fn copies(places: &[Place]) -> Result<Vec<Tensor>> {
    places.iter().map(copy).collect()
}

fn copy(place: &Place) -> Result<Tensor> {
    let bytes = wait(place.buffer.gpu().read(place.buffer, place.bytes()))?;
    Ok(Tensor::build(place.spec, 0, Arc::new(Storage::Owned(Owned::copy_of(&bytes))), None))
}

/// Checks what `op` on `x` wrote to fresh outputs `y`.
pub(super) fn outputs(op: &dyn Op, x: &[Place], y: &[Place]) {
    let specs: Vec<_> = y.iter().map(|p| p.spec).collect();
    // A device that has failed runs nothing, and its next read says why.
    let Ok(x) = copies(x) else { return };
    let x: Vec<&Tensor> = x.iter().collect();
    let want = apply::run_cpu(op, &x, &specs);
    compare(op, &want, y);
    for place in y {
        let end = place.bytes().end.next_multiple_of(4);
        let Ok(guard) = wait(place.buffer.gpu().read(place.buffer, end..place.buffer.len())) else {
            return;
        };
        let whole = bytemuck::pod_collect_to_vec::<u8, u32>(&guard).iter().all(|&w| w == POISON);
        assert!(whole, "{op:?} writes past the end of its output {}", place.spec);
    }
}

/// Checks what `op` on `x` made of `before`.
pub(super) fn in_place(op: &dyn Op, x: &[Place], y: &[Place], before: Result<Vec<Tensor>>) {
    let (Ok(mut want), Ok(x)) = (before, copies(x)) else { return };
    let mut memory: Vec<_> = want.iter_mut().map(|t| apply::exclusive(op.name(), t)).collect();
    apply::run_cpu_to(op, &mut memory, &x.iter().collect::<Vec<_>>());
    compare(op, &want, y);
}

fn compare(op: &dyn Op, want: &[Tensor], got: &[Place]) {
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        let Ok(got) = copy(got) else { return };
        if let Some(difference) = difference(want, &got) {
            panic!("{op:?}: output {i} {} differs on the GPU {difference}", want.spec());
        }
    }
}

/// Where `got` differs from `want` by more than rounding, both contiguous in CPU memory.
fn difference(want: &Tensor, got: &Tensor) -> Option<String> {
    if want.dtype() == DType::U32 {
        let at = want.data::<u32>().iter().zip(got.data::<u32>()).position(|(w, g)| w != g)?;
        return Some(format!("at {at}: {} for {}", got.data::<u32>()[at], want.data::<u32>()[at]));
    }
    let ulp = match want.dtype() {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 0.0,
    };
    let (want, got) = (values(want), values(got));
    let largest = want.iter().filter(|v| v.is_finite()).fold(0.0, |m: f32, v| m.max(v.abs()));
    let same = |w: f32, g: f32| {
        let near = (w - g).abs() <= TOLERANCE.max(ulp) * w.abs() + TOLERANCE * largest;
        near || w == g || (w.is_nan() && g.is_nan())
    };
    let at = want.iter().zip(&got).position(|(&w, &g)| !same(w, g))?;
    Some(format!("at {at}: {} for {} (largest {largest})", got[at], want[at]))
}

fn values(t: &Tensor) -> Vec<f32> {
    let mut v = vec![0.0; t.spec().numel()];
    quant::decode_row(t.dtype(), t.bytes(), &mut v);
    v
}
