//! AVX2 with FMA and F16C: the kernels of `avx512`, with two registers for the 16 outputs.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::format::{for_rows, for_tiles, through_copy};
use super::{LANES, Panel, Strip, Sums, portable};
use crate::DType;
use std::arch::x86_64::*;

const F32: u8 = DType::F32 as u8;
const F16: u8 = DType::F16 as u8;
const BF16: u8 = DType::BF16 as u8;

/// See [`super::Isa::tile`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile` checks.
#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<const E: u8>(a: &[f32], at: [usize; 2], panel: Panel, sums: &mut Sums) {
    for_tiles!(sums, a, at[0], [4, 2, 1], |now, a, M| {
        // SAFETY: `a` begins at the tile's first row and holds as many rows as are left.
        unsafe { chains::<E, M>(a, at, panel, now) }
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
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
        let half = |m: usize, h: usize| sums[m].as_ptr().add(8 * h);
        let mut y: [[__m256; 2]; M] =
            std::array::from_fn(|m| [_mm256_loadu_ps(half(m, 0)), _mm256_loadu_ps(half(m, 1))]);
        for _ in 0..panel.k / at_once {
            if M == 1 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_offset(panel.ahead).cast());
            }
            let w = [eight::<E>(at), eight::<E>(at.add(8 * size))];
            for i in 0..at_once {
                for m in 0..M {
                    let v = _mm256_set1_ps(*a.add(m * row + i * step));
                    y[m][0] = _mm256_fmadd_ps(v, w[0][i], y[m][0]);
                    y[m][1] = _mm256_fmadd_ps(v, w[1][i], y[m][1]);
                }
            }
            a = a.wrapping_add(at_once * step);
            at = at.wrapping_add(panel.step * size);
        }
        for m in 0..M {
            _mm256_storeu_ps(sums[m].as_mut_ptr(), y[m][0]);
            _mm256_storeu_ps(sums[m].as_mut_ptr().add(8), y[m][1]);
        }
    }
}

/// Eight elements as floats, and of pairs eight of the next k.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight<const E: u8>(at: *const u8) -> [__m256; 2] {
    // SAFETY: the caller points at eight readable elements, or pairs of them.
    unsafe {
        match E {
            F32 => [_mm256_loadu_ps(at.cast()), _mm256_setzero_ps()],
            F16 => [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_setzero_ps()],
            _ => {
                let pairs = _mm256_loadu_si256(at.cast());
                let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(!0xffff));
                [_mm256_slli_epi32(pairs, 16), odd].map(|bits| _mm256_castsi256_ps(bits))
            }
        }
    }
}

/// Rows of a tile: six rows of two sums, a row of the panel and a factor fill 15 of 16 registers.
pub const STRIP_ROWS: usize = 6;

/// See [`super::Isa::strip`].
///
/// # Safety
/// The CPU has the features, lengths fit as `Isa::strip` checks, and nobody else uses the outputs.
#[target_feature(enable = "avx2,fma,f16c")]
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
                    match (s.row, s.step) {
                        (1, STRIP_ROWS) => sums::<M>(a, [1, STRIP_ROWS], w, s, to, to_row),
                        (row, 1) => sums::<M>(a, [row, 1], w, s, to, to_row),
                        (row, step) => sums::<M>(a, [row, step], w, s, to, to_row),
                    }
                });
            });
        }
    }
}

/// M rows of a strip by one panel at `w`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums<const M: usize>(
    mut a: *const f32,
    [row, step]: [usize; 2],
    mut w: *const f32,
    s: &Strip,
    y: *mut f32,
    y_row: usize,
) {
    // SAFETY: the caller points at M rows of the left operand, a panel, and M rows of 16 outputs.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        if !s.fresh {
            for m in 0..M {
                let y = y.add(m * y_row);
                sums[m] = [_mm256_loadu_ps(y), _mm256_loadu_ps(y.add(8))];
            }
        }
        for m in 0..M {
            // Where the next tile's sums will go.
            _mm_prefetch::<_MM_HINT_T0>(y.wrapping_add((M + m) * y_row).cast());
        }
        for _ in 0..s.k {
            let w01 = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
            for m in 0..M {
                let v = _mm256_broadcast_ss(&*a.add(m * row));
                sums[m][0] = _mm256_fmadd_ps(v, w01[0], sums[m][0]);
                sums[m][1] = _mm256_fmadd_ps(v, w01[1], sums[m][1]);
            }
            a = a.wrapping_add(step);
            w = w.wrapping_add(LANES);
        }
        for m in 0..M {
            let y = y.add(m * y_row);
            _mm256_storeu_ps(y, sums[m][0]);
            _mm256_storeu_ps(y.add(8), sums[m][1]);
        }
    }
}

/// See [`super::Isa::transpose`]: squares of 8 by 8 through three rounds of shuffles.
///
/// # Safety
/// The CPU has the features, and rows are as long as `Isa::transpose` checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn transpose(rows: &[&[f32]; LANES], out: &mut [f32]) {
    let squares = out.len() / (8 * LANES);
    for (s, out) in out.chunks_exact_mut(8 * LANES).enumerate() {
        for h in 0..2 {
            // SAFETY: every row has 8 elements from 8·s on, as many as `out` has rows.
            let r: [__m256; 8] = std::array::from_fn(|i| unsafe {
                _mm256_loadu_ps(rows[8 * h + i].as_ptr().add(8 * s))
            });
            let r: [__m256; 8] = std::array::from_fn(|i| match i % 2 {
                0 => _mm256_unpacklo_ps(r[i], r[i + 1]),
                _ => _mm256_unpackhi_ps(r[i - 1], r[i]),
            });
            // r[4·i + j] has columns j and j + 4 of rows 4·i to 4·i + 3.
            let r: [__m256; 8] = std::array::from_fn(|i| {
                let at = i / 4 * 4 + i % 4 / 2;
                match i % 2 {
                    0 => _mm256_shuffle_ps::<0x44>(r[at], r[at + 2]),
                    _ => _mm256_shuffle_ps::<0xee>(r[at], r[at + 2]),
                }
            });
            for j in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(r[j], r[j + 4]);
                let high = _mm256_permute2f128_ps::<0x31>(r[j], r[j + 4]);
                // SAFETY: `out` has 8 rows of 16, of which these are halves.
                unsafe {
                    _mm256_storeu_ps(out[LANES * j + 8 * h..][..8].as_mut_ptr(), low);
                    _mm256_storeu_ps(out[LANES * (j + 4) + 8 * h..][..8].as_mut_ptr(), high);
                }
            }
        }
    }
    portable::transpose(rows, 8 * squares, out);
}

/// See [`super::Isa::decode_halves`]; returns how many of them it has decoded.
///
/// # Safety
/// The CPU has the features, and there are as many halves as `out` has elements.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn decode_halves(bytes: &[u8], out: &mut [f32]) -> usize {
    let (eights, _) = out.as_chunks_mut::<8>();
    for (y, b) in eights.iter_mut().zip(bytes.as_chunks::<16>().0) {
        // SAFETY: eight halves are read and eight floats written.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), eight::<F16>(b.as_ptr())[0]) };
    }
    8 * eights.len()
}

/// See [`super::Isa::encode_halves`]; returns how many it has rounded.
///
/// # Safety
/// The CPU has the features, and `out` has room for as many halves as there are numbers.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn encode_halves(x: &[f32], out: &mut [u8]) -> usize {
    let (eights, _) = x.as_chunks::<8>();
    for (x, b) in eights.iter().zip(out.as_chunks_mut::<16>().0) {
        // SAFETY: eight floats are read and eight halves written.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(b.as_mut_ptr().cast(), halves);
        }
    }
    8 * eights.len()
}
