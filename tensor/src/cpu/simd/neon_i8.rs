//! NEON with dot products of bytes (Armv8.2's `dotprod`, as every Arm core since 2018 has it): int8 activations
//! times panels of block formats, and decoding of panels.
//!
//! `sdot` multiplies the four codes of each of four rows with four activations that it takes from one place of a
//! register, so an activation is never copied to all lanes; `smmla`, where the CPU has `i8mm`, does twice as
//! much. Codes below 64 are their own signed bytes.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::format::*;
use super::neon::{Floats, from_halves, load, store};
use super::{LANES, Sums};
use crate::DType;
use std::arch::aarch64::*;
use std::arch::asm;

/// See [`super::Isa::tile_i8`].
///
/// # Safety
/// The CPU has the feature, and lengths fit as `Isa::tile_i8` checks.
#[target_feature(enable = "dotprod")]
pub unsafe fn tile_i8(x: &[u8], x_row: usize, dtype: DType, panel: &[u8], sums: &mut Sums) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, rows_i8(x, x_row, panel, sums)) }
}

#[target_feature(enable = "dotprod")]
unsafe fn rows_i8<const F: u8>(x: &[u8], x_row: usize, panel: &[u8], sums: &mut Sums) {
    for_tiles!(sums, x, x_row, [4, 2, 1], |now, x, M| {
        // SAFETY: `x` begins at the tile's first row and holds as many rows as are left.
        unsafe { outputs::<F, M>(x, x_row, panel, now) }
    });
}

#[target_feature(enable = "dotprod")]
unsafe fn outputs<const F: u8, const M: usize>(
    x: &[u8],
    x_row: usize,
    panel: &[u8],
    sums: &mut Sums,
) {
    let format = const { format(F) };
    // SAFETY: panel offsets stay within a block's bytes, activations within the rows' blocks, and
    // `sums` has M entries of 16 floats.
    unsafe {
        let mut y: [Floats; M] = std::array::from_fn(|m| load(sums[m].as_ptr()));
        let mut x = x.as_ptr();
        for w in panel.chunks_exact(format.bytes) {
            let w = w.as_ptr();
            for s in 0..format.subs {
                for part in 0..parts(F) {
                    let mut dot = [[vdupq_n_s32(0); 4]; M];
                    for half in part..part + 2 / parts(F) {
                        let v: [int8x16_t; M] =
                            std::array::from_fn(|m| sixteen(x.add(m * x_row), half));
                        add_dots::<0, M>(&mut dot, codes::<F>(w, s, 4 * half), &v);
                        add_dots::<1, M>(&mut dot, codes::<F>(w, s, 4 * half + 1), &v);
                        add_dots::<2, M>(&mut dot, codes::<F>(w, s, 4 * half + 2), &v);
                        add_dots::<3, M>(&mut dot, codes::<F>(w, s, 4 * half + 3), &v);
                    }
                    let scales = scales::<F>(w, s, part);
                    for m in 0..M {
                        add_scaled::<F>(&mut y[m], dot[m], x.add(m * x_row), part, &scales);
                    }
                }
                x = x.add(X_BLOCK);
            }
        }
        for m in 0..M {
            store(sums[m].as_mut_ptr(), y[m]);
        }
    }
}

/// Parts of a sub-block with scales of their own.
const fn parts(f: u8) -> usize {
    if f == Q6K { 2 } else { 1 }
}

/// Half `half` of the activations of a block.
#[inline(always)]
unsafe fn sixteen(block: *const u8, half: usize) -> int8x16_t {
    // SAFETY: the caller points at a block, which has two halves.
    unsafe { vld1q_s8(block.add(X_CODES + 16 * half).cast()) }
}

/// Adds what part `part` of a sub-block gives to a row of outputs: `dot` without the codes' bias, scaled.
#[inline(always)]
unsafe fn add_scaled<const F: u8>(
    y: &mut Floats,
    dot: [int32x4_t; 4],
    block: *const u8,
    part: usize,
    (scale, offset): &(Floats, Floats),
) {
    let format = const { format(F) };
    // SAFETY: the caller points at a block of activations.
    unsafe {
        let d = block.cast::<f32>().read_unaligned();
        let sum = |at| block.add(at).cast::<i32>().read_unaligned();
        let bias = match (F, part) {
            (Q8_0, _) => 0,
            (Q6K, 0) => format.bias * sum(X_HALF),
            (Q6K, _) => format.bias * (sum(X_SUM) - sum(X_HALF)),
            _ => format.bias * sum(X_SUM),
        };
        let shift = block.add(X_SHIFT).cast::<f32>().read_unaligned();
        for j in 0..4 {
            let dot = vcvtq_f32_s32(vsubq_s32(dot[j], vdupq_n_s32(bias)));
            y[j] = vfmaq_f32(y[j], dot, vmulq_n_f32(scale[j], d));
            if format.offset {
                y[j] = vfmaq_n_f32(y[j], offset[j], shift);
            }
        }
    }
}

/// As [`tile_i8`], two rows at a time through `smmla`, which multiplies two rows of eight codes with two of
/// eight activations.
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile_i8` checks.
#[target_feature(enable = "dotprod,i8mm")]
pub unsafe fn tile_i8mm(x: &[u8], x_row: usize, dtype: DType, panel: &[u8], sums: &mut Sums) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, rows_i8mm(x, x_row, panel, sums)) }
}

#[target_feature(enable = "dotprod,i8mm")]
unsafe fn rows_i8mm<const F: u8>(x: &[u8], x_row: usize, panel: &[u8], sums: &mut Sums) {
    for_tiles!(sums, x, x_row, [4, 2, 1], |now, x, M| {
        // SAFETY: `x` begins at the tile's first row and holds as many rows as are left.
        unsafe {
            match M {
                4 => pairs::<F, 2>(x, x_row, panel, now),
                2 => pairs::<F, 1>(x, x_row, panel, now),
                _ => outputs::<F, 1>(x, x_row, panel, now),
            }
        }
    });
}

/// P pairs of rows.
#[target_feature(enable = "dotprod,i8mm")]
unsafe fn pairs<const F: u8, const P: usize>(
    x: &[u8],
    x_row: usize,
    panel: &[u8],
    sums: &mut Sums,
) {
    let format = const { format(F) };
    // SAFETY: panel offsets stay within a block's bytes, activations within the rows' blocks, and
    // `sums` has 2·P entries of 16 floats.
    unsafe {
        let mut y: [[Floats; 2]; P] =
            std::array::from_fn(|p| std::array::from_fn(|i| load(sums[2 * p + i].as_ptr())));
        let mut x = x.as_ptr();
        for w in panel.chunks_exact(format.bytes) {
            let w = w.as_ptr();
            for s in 0..format.subs {
                for part in 0..parts(F) {
                    // Of each pair: x₀·w₀, x₀·w₁, x₁·w₀, x₁·w₁ for eight pairs of outputs.
                    let mut dot = [[vdupq_n_s32(0); 8]; P];
                    for g in (4 * part..4 * part + 8 / parts(F)).step_by(2) {
                        let (a, b) = (codes::<F>(w, s, g), codes::<F>(w, s, g + 1));
                        let eight =
                            |row: usize| vld1_s8(x.add(row * x_row + X_CODES + 4 * g).cast());
                        for j in 0..4 {
                            let [a, b] = [a[j], b[j]].map(|v| vreinterpretq_u32_u8(v));
                            for (h, q) in
                                [vzip1q_u32(a, b), vzip2q_u32(a, b)].into_iter().enumerate()
                            {
                                for p in 0..P {
                                    let v = vcombine_s8(eight(2 * p), eight(2 * p + 1));
                                    multiply_pairs(&mut dot[p][2 * j + h], v, q);
                                }
                            }
                        }
                    }
                    let scales = scales::<F>(w, s, part);
                    for p in 0..P {
                        let wide = |i: usize| vreinterpretq_s64_s32(dot[p][i]);
                        let low =
                            |j| vreinterpretq_s32_s64(vzip1q_s64(wide(2 * j), wide(2 * j + 1)));
                        let high =
                            |j| vreinterpretq_s32_s64(vzip2q_s64(wide(2 * j), wide(2 * j + 1)));
                        let rows = [std::array::from_fn(low), std::array::from_fn(high)];
                        for (i, dot) in rows.into_iter().enumerate() {
                            let block = x.add((2 * p + i) * x_row);
                            add_scaled::<F>(&mut y[p][i], dot, block, part, &scales);
                        }
                    }
                }
                x = x.add(X_BLOCK);
            }
        }
        for p in 0..P {
            for i in 0..2 {
                store(sums[2 * p + i].as_mut_ptr(), y[p][i]);
            }
        }
    }
}

/// Adds the products of two rows of eight activations and two rows of eight codes.
#[inline]
#[target_feature(enable = "i8mm")]
fn multiply_pairs(sum: &mut int32x4_t, v: int8x16_t, q: uint32x4_t) {
    let mut all = *sum;
    // SAFETY: the instruction reads three registers and writes one of them.
    unsafe {
        asm!("smmla {all:v}.4s, {v:v}.16b, {q:v}.16b", all = inout(vreg) all, v = in(vreg) v,
            q = in(vreg) q, options(pure, nomem, nostack, preserves_flags));
    }
    *sum = all;
}

/// Adds the products of a chunk's codes and dword I of the activations.
#[inline]
#[target_feature(enable = "dotprod")]
fn add_dots<const I: usize, const M: usize>(
    dot: &mut [[int32x4_t; 4]; M],
    q: [uint8x16_t; 4],
    v: &[int8x16_t; M],
) {
    for m in 0..M {
        for j in 0..4 {
            let mut sum = dot[m][j];
            // SAFETY: the instruction reads three registers and writes one of them.
            unsafe {
                asm!("sdot {sum:v}.4s, {q:v}.16b, {v:v}.4b[{i}]", sum = inout(vreg) sum,
                    q = in(vreg) q[j], v = in(vreg) v[m], i = const I,
                    options(pure, nomem, nostack, preserves_flags));
            }
            dot[m][j] = sum;
        }
    }
}

/// Every byte shifted right by `n` bits.
#[inline(always)]
fn shift_right(v: uint8x16_t, n: usize) -> uint8x16_t {
    // SAFETY: every aarch64 CPU that Rust builds for has NEON.
    unsafe { vshlq_u8(v, vdupq_n_s8(-(n as i8))) }
}

/// The codes 4·g to 4·g + 3 of sub-block `s`, of each row; unsigned but for Q8_0.
#[inline(always)]
unsafe fn codes<const F: u8>(w: *const u8, s: usize, g: usize) -> [uint8x16_t; 4] {
    let format = const { format(F) };
    let (at, shift) = low_bits(F, s, g);
    // SAFETY: all chunks lie in the block.
    unsafe {
        let chunk = |start: usize, i: usize, j: usize| vld1q_u8(w.add(start + 64 * i + 16 * j));
        std::array::from_fn(|j| {
            let low = chunk(format.codes, at, j);
            if F == Q8_0 {
                return low;
            }
            let low = vandq_u8(shift_right(low, shift), vdupq_n_u8(15));
            match F {
                Q5_0 | Q5_1 => {
                    // Byte g / 2 of each row's 32 bits goes to its four code bytes; each takes one bit.
                    let base: [u8; 16] = std::array::from_fn(|i| (i / 4 * 4 + g / 2) as u8);
                    let shifts: [i8; 16] = std::array::from_fn(|i| -((g % 2 * 4 + i % 4) as i8));
                    let bits = vqtbl1q_u8(chunk(format.high, 0, j), vld1q_u8(base.as_ptr()));
                    let bit = vshlq_u8(bits, vld1q_s8(shifts.as_ptr()));
                    vorrq_u8(low, vshlq_n_u8::<4>(vandq_u8(bit, vdupq_n_u8(1))))
                }
                Q5K => {
                    let bit = shift_right(chunk(format.high, g, j), s);
                    vorrq_u8(low, vshlq_n_u8::<4>(vandq_u8(bit, vdupq_n_u8(1))))
                }
                Q6K => {
                    let (at, place) = q6k_bits(s, g);
                    let pair = shift_right(chunk(format.codes, at, j), place);
                    vorrq_u8(low, vshlq_n_u8::<4>(vandq_u8(pair, vdupq_n_u8(3))))
                }
                _ => low,
            }
        })
    }
}

/// Scale and offset of part `part` of sub-block `s`, of each row.
#[inline(always)]
unsafe fn scales<const F: u8>(w: *const u8, s: usize, part: usize) -> (Floats, Floats) {
    // SAFETY: all rows read lie in the block.
    unsafe {
        let zeros = [vdupq_n_f32(0.0); 4];
        let halves = |at: usize| -> Floats {
            std::array::from_fn(|j| from_halves(vld1_u16(w.add(at + 8 * j).cast())))
        };
        match F {
            Q4_1 | Q5_1 => (halves(0), halves(32)),
            Q4K | Q5K => {
                let pair = |j: usize| vld1q_u8(w.add(K_PAIRS + LANES * j));
                let six = vdupq_n_u8(63);
                let (scale, min) = if s < 4 {
                    (vandq_u8(pair(s), six), vandq_u8(pair(s + 4), six))
                } else {
                    let low = pair(s + 4);
                    let top = |v| vandq_u8(vshrq_n_u8::<2>(v), vdupq_n_u8(48));
                    (
                        vorrq_u8(vandq_u8(low, vdupq_n_u8(15)), top(pair(s - 4))),
                        vorrq_u8(vshrq_n_u8::<4>(low), top(pair(s))),
                    )
                };
                let (d, dmin) = (halves(0), halves(32));
                let (scale, min) = (wide(scale), wide(min));
                let product = |j: usize| vmulq_f32(d[j], vcvtq_f32_u32(scale[j]));
                let minus = |j: usize| vmulq_f32(dmin[j], vnegq_f32(vcvtq_f32_u32(min[j])));
                (std::array::from_fn(product), std::array::from_fn(minus))
            }
            Q6K => {
                let bytes = vld1q_s8(w.add(Q6K_SCALES + LANES * (2 * s + part)).cast());
                let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
                let words = [
                    vmovl_s16(vget_low_s16(low)),
                    vmovl_high_s16(low),
                    vmovl_s16(vget_low_s16(high)),
                    vmovl_high_s16(high),
                ];
                let d = halves(0);
                (std::array::from_fn(|j| vmulq_f32(d[j], vcvtq_f32_s32(words[j]))), zeros)
            }
            _ => (halves(0), zeros),
        }
    }
}

/// 16 bytes as 16 words.
#[inline(always)]
fn wide(v: uint8x16_t) -> [uint32x4_t; 4] {
    // SAFETY: every aarch64 CPU that Rust builds for has NEON.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(v)), vmovl_high_u8(v));
        [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ]
    }
}

/// See [`super::Isa::decode_panel`].
///
/// # Safety
/// Lengths fit as `Isa::decode_panel` checks.
pub unsafe fn decode_panel(dtype: DType, panel: &[u8], out: &mut [f32]) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, decode(panel, out)) }
}

unsafe fn decode<const F: u8>(panel: &[u8], out: &mut [f32]) {
    let format = const { format(F) };
    let (groups, _) = out.as_chunks_mut::<{ 4 * LANES }>();
    for (i, out) in groups.iter_mut().enumerate() {
        let (s, g) = (i / 8 % format.subs, i % 8);
        let w = panel[i / (8 * format.subs) * format.bytes..][..format.bytes].as_ptr();
        let part = if F == Q6K { g / 4 } else { 0 };
        // SAFETY: `w` points at a whole block of the panel, and `out` has four rows of 16.
        unsafe {
            let (q, (scale, offset)) = (codes::<F>(w, s, g), scales::<F>(w, s, part));
            for (k, out) in out.chunks_exact_mut(LANES).enumerate() {
                for j in 0..4 {
                    // Byte k of each dword, with its sign where it has one.
                    let left = vdupq_n_s32(24 - 8 * k as i32);
                    let high = vshlq_u32(vreinterpretq_u32_u8(q[j]), left);
                    let code = match F {
                        Q8_0 => vshrq_n_s32::<24>(vreinterpretq_s32_u32(high)),
                        _ => {
                            let code = vreinterpretq_s32_u32(vshrq_n_u32::<24>(high));
                            vsubq_s32(code, vdupq_n_s32(format.bias))
                        }
                    };
                    let mut v = vmulq_f32(scale[j], vcvtq_f32_s32(code));
                    if format.offset {
                        v = vaddq_f32(v, offset[j]);
                    }
                    vst1q_f32(out[4 * j..][..4].as_mut_ptr(), v);
                }
            }
        }
    }
}
