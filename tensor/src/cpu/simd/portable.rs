//! Kernels in plain Rust, written so that compilers vectorize them: the meaning of the others.

use super::format::*;
use super::{LANES, Panel, Strip, Sums};
use crate::DType;
use crate::cpu::panel::unpack_row;
use crate::quant::{decode_row, f16_to_f32};
use half::f16;

/// a·b + c with one rounding where the target always has the instruction, else with two.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// See [`super::Isa::tile`].
pub fn tile(a: &[f32], at: [usize; 2], panel: Panel, sums: &mut Sums) {
    match panel.dtype {
        DType::F32 => chains(a, at, panel, sums, |b| [f32::from_le_bytes(b)]),
        DType::F16 => chains(a, at, panel, sums, |b| [f16_to_f32(u16::from_le_bytes(b))]),
        DType::BF16 => chains(a, at, panel, sums, |b| {
            let pair = u32::from_le_bytes(b);
            [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
        }),
        other => unreachable!("{other} is no float"),
    }
}

#[inline(always)]
fn chains<const SIZE: usize, const AT_ONCE: usize>(
    a: &[f32],
    [row, step]: [usize; 2],
    panel: Panel,
    sums: &mut Sums,
    decode: impl Fn([u8; SIZE]) -> [f32; AT_ONCE],
) {
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut y = *sums;
        for k in 0..panel.k / AT_ONCE {
            let a: [f32; AT_ONCE] = std::array::from_fn(|j| a[i * row + (k * AT_ONCE + j) * step]);
            let w = &panel.bytes[k * panel.step * SIZE..][..SIZE * LANES];
            for (y, &w) in y.iter_mut().zip(w.as_chunks::<SIZE>().0) {
                *y = a.iter().zip(decode(w)).fold(*y, |y, (&a, w)| multiply_add(a, w, y));
            }
        }
        *sums = y;
    }
}

/// Rows of a tile.
pub const STRIP_ROWS: usize = 4;

/// See [`super::Isa::strip`].
///
/// # Safety
/// Lengths fit as `Isa::strip` checks, and nobody else uses the outputs.
pub unsafe fn strip(s: &Strip, y: *mut f32, y_row: usize) {
    for p in 0..s.width.div_ceil(LANES) {
        let width = LANES.min(s.width - p * LANES);
        let panel = &s.panels[p * s.stride..][..s.k * LANES];
        for row in 0..s.rows {
            // SAFETY: the outputs are those that were checked, and this call's own.
            let y =
                unsafe { std::slice::from_raw_parts_mut(y.add(row * y_row + p * LANES), width) };
            let at = row / STRIP_ROWS * s.tile + row % STRIP_ROWS * s.row;
            let mut sums = [0.0; LANES];
            if !s.fresh {
                sums[..width].copy_from_slice(y);
            }
            for (k, w) in panel.as_chunks::<LANES>().0.iter().enumerate() {
                let a = s.left[at + k * s.step];
                for (sum, &w) in sums.iter_mut().zip(w) {
                    *sum = multiply_add(a, w, *sum);
                }
            }
            y.copy_from_slice(&sums[..width]);
        }
    }
}

/// See [`super::Isa::tile_i8`].
pub fn tile_i8(x: &[u8], x_row: usize, dtype: DType, panel: &[u8], sums: &mut Sums) {
    for (i, sums) in sums.iter_mut().enumerate() {
        with_format!(dtype, dot(&x[i * x_row..], panel, sums));
    }
}

fn dot<const F: u8>(x: &[u8], panel: &[u8], y: &mut [f32; LANES]) {
    let format = const { format(F) };
    let (mut x, _) = x.as_chunks::<X_BLOCK>();
    for w in panel.chunks_exact(format.bytes) {
        for s in 0..format.subs {
            let (block, later) = x.split_first().expect("a block of x for each of w");
            x = later;
            let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            // Q6_K has a scale for each half of the sub-block, the others one for all of it.
            let halves = if F == Q6K { 2 } else { 1 };
            for half in 0..halves {
                let mut dot = [0i32; LANES];
                let mut sum = 0;
                for g in 4 * half..4 * half + 8 / halves {
                    let v: [i32; 4] =
                        std::array::from_fn(|i| i32::from(block[X_CODES + 4 * g + i] as i8));
                    sum += v.iter().sum::<i32>();
                    let q = codes::<F>(w, s, g);
                    for (dot, q) in dot.iter_mut().zip(q.as_chunks::<4>().0) {
                        for (q, v) in q.iter().zip(v) {
                            *dot += i32::from(*q) * v;
                        }
                    }
                }
                let (scale, offset) = scales::<F>(w, s, half);
                for lane in 0..LANES {
                    let dot = (dot[lane] - format.bias * sum) as f32;
                    y[lane] = multiply_add(dot, scale[lane] * d, y[lane]);
                    if format.offset {
                        y[lane] = multiply_add(offset[lane], d * sum as f32, y[lane]);
                    }
                }
            }
        }
    }
}

/// The unsigned codes 4·g to 4·g + 3 of sub-block `s`, of each row.
#[inline(always)]
fn codes<const F: u8>(w: &[u8], s: usize, g: usize) -> [u8; 64] {
    let format = const { format(F) };
    let (at, shift) = low_bits(F, s, g);
    let chunk = |start: usize, i: usize| {
        let at = start + 64 * i;
        *w[at..].first_chunk::<64>().expect("chunks lie in the block")
    };
    let low = chunk(format.codes, at);
    if F == Q8_0 {
        return low.map(|q| q ^ 128);
    }
    let mut codes = low.map(|q| q >> shift & 15);
    match F {
        Q5_0 | Q5_1 => {
            let bits = chunk(format.high, 0);
            for (i, q) in codes.iter_mut().enumerate() {
                let bit = bits[i / 4 * 4 + g / 2] >> (g % 2 * 4 + i % 4) & 1;
                *q |= bit << 4;
            }
        }
        Q5K => {
            for (q, h) in codes.iter_mut().zip(chunk(format.high, g)) {
                *q |= (h >> s & 1) << 4;
            }
        }
        Q6K => {
            let (at, place) = q6k_bits(s, g);
            for (q, h) in codes.iter_mut().zip(chunk(format.codes, at)) {
                *q |= (h >> place & 3) << 4;
            }
        }
        _ => {}
    }
    codes
}

/// Scale and offset of half `half` of sub-block `s`, of each row.
#[inline(always)]
fn scales<const F: u8>(w: &[u8], s: usize, half: usize) -> ([f32; LANES], [f32; LANES]) {
    let floats = |at: usize| -> [f32; LANES] {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([w[at + 2 * i], w[at + 2 * i + 1]])))
    };
    match F {
        Q4_1 | Q5_1 => (floats(0), floats(32)),
        Q4K | Q5K => {
            let (mut scale, mut min) = (floats(0), floats(32));
            for i in 0..LANES {
                let pair = |j: usize| w[K_PAIRS + LANES * j + i];
                let [sc, m] = if s < 4 {
                    [pair(s) & 63, pair(s + 4) & 63]
                } else {
                    let low = pair(s + 4);
                    [low & 15 | pair(s - 4) >> 6 << 4, low >> 4 | pair(s) >> 6 << 4]
                };
                scale[i] *= f32::from(sc);
                min[i] *= -f32::from(m);
            }
            (scale, min)
        }
        Q6K => {
            let mut scale = floats(0);
            for (i, v) in scale.iter_mut().enumerate() {
                *v *= f32::from(w[Q6K_SCALES + LANES * (2 * s + half) + i] as i8);
            }
            (scale, [0.0; LANES])
        }
        _ => (floats(0), [0.0; LANES]),
    }
}

/// See [`super::Isa::decode_halves`].
pub fn decode_halves(bytes: &[u8], out: &mut [f32]) {
    for (y, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *y = f16_to_f32(u16::from_le_bytes(*b));
    }
}

/// See [`super::Isa::encode_halves`].
pub fn encode_halves(x: &[f32], out: &mut [u8]) {
    for (x, b) in x.iter().zip(out.as_chunks_mut::<2>().0) {
        *b = f16::from_f32(*x).to_le_bytes();
    }
}

/// See [`super::Isa::decode_panel`]: row by row through the formats' own decoders.
pub fn decode_panel(dtype: DType, panel: &[u8], out: &mut [f32]) {
    let k = out.len() / LANES;
    let mut bytes = vec![0; dtype.bytes(k)];
    let mut row = vec![0.0; k];
    for lane in 0..LANES {
        unpack_row(dtype, panel, lane, &mut bytes);
        decode_row(dtype, &bytes, &mut row);
        for (out, &v) in out.chunks_exact_mut(LANES).zip(&row) {
            out[lane] = v;
        }
    }
}

/// See [`super::Isa::transpose`]; from element `from` of the rows and of `out` on.
pub fn transpose(rows: &[&[f32]; LANES], from: usize, out: &mut [f32]) {
    for (k, out) in out.chunks_exact_mut(LANES).enumerate().skip(from) {
        for (out, row) in out.iter_mut().zip(rows) {
            *out = row[k];
        }
    }
}
