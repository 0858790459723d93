//! NEON: the float kernels of `avx512`, with four registers for the 16 outputs. What Rust has no stable intrinsic
//! for is an instruction by name.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::format::{for_rows, for_tiles, through_copy};
use super::{LANES, Panel, Strip, Sums};
use crate::DType;
use std::arch::aarch64::*;
use std::arch::asm;

const F32: u8 = DType::F32 as u8;
const F16: u8 = DType::F16 as u8;
const BF16: u8 = DType::BF16 as u8;

/// 16 numbers.
pub(super) type Floats = [float32x4_t; 4];

/// See [`super::Isa::tile`].
///
/// # Safety
/// Lengths fit as `Isa::tile` checks.
pub unsafe fn tile(a: &[f32], at: [usize; 2], panel: Panel, sums: &mut Sums) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match panel.dtype {
            DType::F32 => rows::<F32>(a, at, panel, sums),
            DType::F16 => rows::<F16>(a, at, panel, sums),
            DType::BF16 => rows::<BF16>(a, at, panel, sums),
            other => unreachable!("{other} is no float"),
        }
    }
}

unsafe fn rows<const E: u8>(a: &[f32], at: [usize; 2], panel: Panel, sums: &mut Sums) {
    for_tiles!(sums, a, at[0], [4, 2, 1], |now, a, M| {
        // SAFETY: `a` begins at the tile's first row and holds as many rows as are left.
        unsafe { chains::<E, M>(a, at, panel, now) }
    });
}

unsafe fn chains<const E: u8, const M: usize>(
    a: &[f32],
    [row, step]: [usize; 2],
    panel: Panel,
    sums: &mut Sums,
) {
    // BF16 lies in pairs of two k.
    let (at_once, size) = if E == BF16 { (2, 4) } else { (1, if E == F32 { 4 } else { 2 }) };
    let mut at = panel.bytes.as_ptr();
    let mut a = a.as_ptr();
    // SAFETY: the panel has 16 elements for each of its k, `a` has M rows, `sums` M entries of 16 floats.
    unsafe {
        let mut y: [Floats; M] = std::array::from_fn(|m| load(sums[m].as_ptr()));
        for _ in 0..panel.k / at_once {
            let w: [[float32x4_t; 2]; 4] = std::array::from_fn(|j| four::<E>(at.add(4 * j * size)));
            for i in 0..at_once {
                let w = w.map(|w| w[i]);
                for m in 0..M {
                    add_product(&mut y[m], &w, *a.add(m * row + i * step));
                }
            }
            a = a.wrapping_add(at_once * step);
            at = at.wrapping_add(panel.step * size);
        }
        for m in 0..M {
            store(sums[m].as_mut_ptr(), y[m]);
        }
    }
}

#[inline(always)]
pub(super) unsafe fn load(at: *const f32) -> Floats {
    // SAFETY: the caller points at 16 readable floats.
    unsafe { std::array::from_fn(|j| vld1q_f32(at.add(4 * j))) }
}

#[inline(always)]
pub(super) unsafe fn store(at: *mut f32, y: Floats) {
    for j in 0..4 {
        // SAFETY: the caller points at 16 floats that may be written.
        unsafe { vst1q_f32(at.add(4 * j), y[j]) };
    }
}

/// y ← y + w·a, each with one rounding.
#[inline(always)]
fn add_product(y: &mut Floats, w: &Floats, a: f32) {
    for j in 0..4 {
        // SAFETY: every aarch64 CPU that Rust builds for has NEON.
        y[j] = unsafe { vfmaq_n_f32(y[j], w[j], a) };
    }
}

/// Four elements as floats, and of pairs four of the next k.
#[inline(always)]
unsafe fn four<const E: u8>(at: *const u8) -> [float32x4_t; 2] {
    // SAFETY: the caller points at four readable elements, or pairs of them.
    unsafe {
        match E {
            F32 => [vld1q_f32(at.cast()), vdupq_n_f32(0.0)],
            F16 => [from_halves(vld1_u16(at.cast())), vdupq_n_f32(0.0)],
            _ => {
                let pairs = vld1q_u32(at.cast());
                let odd = vandq_u32(pairs, vdupq_n_u32(!0xffff));
                [vshlq_n_u32::<16>(pairs), odd].map(|bits| vreinterpretq_f32_u32(bits))
            }
        }
    }
}

/// Four halves as floats.
#[inline(always)]
pub(super) fn from_halves(halves: uint16x4_t) -> float32x4_t {
    let y;
    // SAFETY: the instruction reads one register and writes another.
    unsafe {
        asm!("fcvtl {y:v}.4s, {x:v}.4h", y = out(vreg) y, x = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    y
}

/// Rows of a tile: six rows of four sums, a row of the panel and a factor fill 29 of 32 registers.
pub const STRIP_ROWS: usize = 6;

/// See [`super::Isa::strip`].
///
/// # Safety
/// Lengths fit as `Isa::strip` checks, and nobody else uses the outputs.
pub unsafe fn strip(s: &Strip, y: *mut f32, y_row: usize) {
    for p in 0..s.width.div_ceil(LANES) {
        let width = LANES.min(s.width - p * LANES);
        // SAFETY: panels, tiles and outputs are those that were checked.
        unsafe {
            let w = s.panels.as_ptr().add(p * s.stride);
            let y = y.add(p * LANES);
            through_copy!(s, y, y_row, width, STRIP_ROWS, |at, count, to, to_row| {
                let a = s.left.as_ptr().wrapping_add(at / STRIP_ROWS * s.tile);
                for_rows!(count, [6, 4, 2, 1], |i, M| {
                    let (a, to) = (a.wrapping_add(i * s.row), to.add(i * to_row));
                    sums::<M>(a, w, s, to, to_row);
                });
            });
        }
    }
}

/// M rows of a strip by one panel at `w`.
#[inline(always)]
unsafe fn sums<const M: usize>(
    mut a: *const f32,
    mut w: *const f32,
    s: &Strip,
    y: *mut f32,
    y_row: usize,
) {
    // SAFETY: the caller points at M rows of the left operand, a panel, and M rows of 16 outputs.
    unsafe {
        let mut sums: [Floats; M] = [[vdupq_n_f32(0.0); 4]; M];
        if !s.fresh {
            for m in 0..M {
                sums[m] = load(y.add(m * y_row));
            }
        }
        for _ in 0..s.k {
            let row = load(w);
            for m in 0..M {
                add_product(&mut sums[m], &row, *a.add(m * s.row));
            }
            a = a.wrapping_add(s.step);
            w = w.wrapping_add(LANES);
        }
        for m in 0..M {
            store(y.add(m * y_row), sums[m]);
        }
    }
}

/// See [`super::Isa::decode_halves`]; returns how many of them it has decoded.
///
/// # Safety
/// There are as many halves as `out` has elements.
pub unsafe fn decode_halves(bytes: &[u8], out: &mut [f32]) -> usize {
    let (fours, _) = out.as_chunks_mut::<4>();
    for (y, b) in fours.iter_mut().zip(bytes.as_chunks::<8>().0) {
        // SAFETY: four halves are read and four floats written.
        unsafe { vst1q_f32(y.as_mut_ptr(), four::<F16>(b.as_ptr())[0]) };
    }
    4 * fours.len()
}
