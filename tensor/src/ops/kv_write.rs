//! New keys and values written into the block-paged cache, in place.

use super::rope::{rotate, turns};
use crate::cpu::attention::BLOCK;
use crate::cpu::pool::{SharedMut, par_ranges};
use crate::op::{Arg, Case, Entry, Op, Outs, Work};
use crate::{DType, Spec, Tensor, View, ViewMut, apply_to, quant};
use std::ops::Range;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "kv_write",
    cases: |[t, g, d, _]| {
        let case = |dtype| {
            let kv = || Arg::f32([t, g, d]);
            let slots = Arg::exact((0..t as u32).map(|i| i * 5 % 128));
            let cache = [Arg::of([2, g, d, BLOCK], dtype), Arg::of([2, g, BLOCK, d], dtype)];
            (cache, vec![kv(), kv(), slots])
        };
        let as_it_is = |dtype| {
            let (cache, x) = case(dtype);
            Case::in_place(KvWrite, cache, x)
        };
        let turned = |dtype| {
            let (cache, mut x) = case(dtype);
            x.push(Arg::f32([t, d]));
            Case::in_place(KvWrite, cache, x)
        };
        let even = d.is_multiple_of(2);
        let dtypes = [DType::F32, DType::F16, DType::BF16];
        let turned = dtypes.map(turned).into_iter().filter(|_| even);
        dtypes.map(as_it_is).into_iter().chain(turned).collect()
    },
    bad: || {
        let cache = [Arg::f32([2, 2, 8, BLOCK]), Arg::f32([2, 2, BLOCK, 8])];
        let x = [Arg::f32([3, 2, 6]), Arg::f32([3, 2, 6]), Arg::exact([0, 1, 2])];
        let angles = |n| {
            let kv = || Arg::f32([3, 2, 8]);
            vec![kv(), kv(), Arg::exact([0, 1, 2]), Arg::f32([n, 8])]
        };
        vec![Case::in_place(KvWrite, cache.clone(), x), Case::in_place(KvWrite, cache, angles(2))]
    },
};

/// Changes key blocks `[N, G, D, 64]` and value blocks `[N, G, 64, D]`; takes k, v `[T, G, D]` and the
/// slot of each token `[T]`, block · 64 + place; and angles `[T, D]`, if keys are to be turned by them first.
#[derive(Debug)]
pub struct KvWrite;

impl Op for KvWrite {
    fn name(&self) -> &'static str {
        "kv_write"
    }
    fn infer(&self, _: &[Spec]) -> Outs {
        Outs::default()
    }
    fn check_to(&self, y: &[Spec], x: &[Spec]) {
        let (k, v, slots) = (&x[0], &x[1], &x[2]);
        let fits = k.rank() == 3
            && x.get(3).is_none_or(|angles| turns(k, angles))
            && k.shape == v.shape
            && k.dtype == DType::F32
            && v.dtype == DType::F32
            && slots.dtype == DType::U32
            && *slots.shape == [k.shape[0]]
            && y.iter().all(|s| s.rank() == 4 && s.dtype.is_float() && s.dtype == y[0].dtype)
            && y[0].shape[1..] == [k.shape[1], k.shape[2], BLOCK]
            && y[1].shape[..] == [y[0].shape[0], k.shape[1], BLOCK, k.shape[2]];
        let rest = &x[3..];
        assert!(fits, "kv_write: k {k}, v {v}, slots {slots}, {rest:?} into {} and {}", y[0], y[1]);
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [t, groups, d] = *x[0].spec.shape else { unreachable!("check_to checked the rank") };
        let (k, v, slots) = (x[0].data::<f32>(), x[1].data::<f32>(), x[2].data::<u32>());
        let angles = x.get(3);
        let dtype = y[0].spec.dtype;
        let size = dtype.block_bytes();
        let [kb, vb] = y else { unreachable!("check_to took two") };
        let (keys, values) = (SharedMut::new(&mut *kb.bytes), SharedMut::new(&mut *vb.bytes));
        par_ranges(groups, GRAIN / (t * d).max(1), |heads| {
            let (mut rows, mut turned) = (Vec::new(), vec![0.0; d]);
            for (g, run) in heads.flat_map(|g| runs(slots).map(move |run| (g, run))) {
                let slot = slots[run.start] as usize;
                let (block, place) = (slot / BLOCK, slot % BLOCK);
                let head = (block * groups + g) * d * BLOCK * size;
                let all = head..head + d * BLOCK * size;
                // SAFETY: every piece of work has heads of its own, and so its own parts of both caches.
                let (keys, values) = unsafe { (keys.slice(all.clone()), values.slice(all)) };
                rows.resize(run.len() * d * size, 0);
                let values = values.chunks_exact_mut(d * size).skip(place);
                for ((t, value), row) in run.zip(values).zip(rows.chunks_exact_mut(d * size)) {
                    let at = (t * groups + g) * d;
                    let mut key = &k[at..at + d];
                    if let Some(angles) = angles {
                        rotate(key, angles.row(t), 1.0, &mut turned);
                        key = &turned;
                    }
                    quant::encode_row(dtype, key, row);
                    quant::encode_row(dtype, &v[at..at + d], value);
                }
                match size {
                    2 => spread::<2>(&rows, d, keys, place),
                    _ => spread::<4>(&rows, d, keys, place),
                }
            }
        });
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        let numbers = x[0].spec.numel() + x[1].spec.numel();
        Work { bytes: numbers * (4 + y[0].dtype.block_bytes()), ..Work::default() }
    }
}

/// Numbers that are written by one thread at least.
const GRAIN: usize = 4096;

/// The tokens whose slots follow each other within a block, run after run.
fn runs(slots: &[u32]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = *slots.get(start)? as usize;
        let follows =
            |(i, slot): &(usize, &u32)| **slot as usize == first + i && (first % BLOCK + i) < BLOCK;
        let run = start..start + slots[start..].iter().enumerate().take_while(follows).count();
        start = run.end;
        Some(run)
    })
}

/// Writes `rows [T][D]`, elements of SIZE bytes, to columns `place` and following of `keys [D, 64]`.
fn spread<const SIZE: usize>(rows: &[u8], d: usize, keys: &mut [u8], place: usize) {
    let (cells, rows) = (keys.as_chunks_mut::<SIZE>().0, rows.as_chunks::<SIZE>().0);
    for (i, cells) in cells.chunks_exact_mut(BLOCK).enumerate() {
        for (cell, row) in cells[place..].iter_mut().zip(rows.chunks_exact(d)) {
            *cell = row[i];
        }
    }
}

/// Writes `k`, `v` `[T, G, D]` to the `slots [T]` of the cache's key blocks `[N, G, D, 64]` and value
/// blocks `[N, G, 64, D]`; with `angles [T, D]`, k turned by them.
///
/// # Panics
/// If the shapes do not fit, or the cache is shared.
#[track_caller]
pub fn kv_write(
    key_blocks: &mut Tensor,
    value_blocks: &mut Tensor,
    k: &Tensor,
    v: &Tensor,
    slots: &Tensor,
    angles: Option<&Tensor>,
) {
    let mut y = [key_blocks, value_blocks];
    match angles {
        Some(angles) => apply_to(KvWrite, &mut y, &[k, v, slots, angles]),
        None => apply_to(KvWrite, &mut y, &[k, v, slots]),
    }
}
