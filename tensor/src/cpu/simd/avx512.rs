//! AVX-512: f32 activations times panels of floats. A register holds 16 outputs; each step loads one
//! row of the panel and multiplies it with one broadcast element of each row of the left operand.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::format::{for_rows, for_tiles, through_copy};
use super::{LANES, Panel, Strip, Sums, portable};
use crate::DType;
use std::arch::x86_64::*;

const F32: u8 = DType::F32 as u8;
const F16: u8 = DType::F16 as u8;
const BF16: u8 = DType::BF16 as u8;
/// Pairs of BF16, multiplied with pairs.
const DOTS: u8 = 255;

/// See [`super::Isa::tile`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn tile(a: &[f32], at: [usize; 2], panel: Panel, sums: &mut Sums) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match panel.dtype {
            _ if panel.dots => rows::<DOTS>(a, at, panel, sums),
            DType::F32 => rows::<F32>(a, at, panel, sums),
            DType::F16 => rows::<F16>(a, at, panel, sums),
            DType::BF16 => rows::<BF16>(a, at, panel, sums),
            other => unreachable!("{other} is no float"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows<const E: u8>(a: &[f32], [row, step]: [usize; 2], panel: Panel, sums: &mut Sums) {
    for_tiles!(sums, a, row, [8, 4, 3, 2, 1], |now, a, M| {
        // SAFETY: `a` begins at the tile's first row and holds as many rows as are left.
        unsafe {
            if step == 1 {
                chains::<E, M>(a, [row, 1], panel, now);
            } else {
                chains::<E, M>(a, [row, step], panel, now);
            }
        }
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn chains<const E: u8, const M: usize>(
    a: &[f32],
    [row, step]: [usize; 2],
    panel: Panel,
    sums: &mut Sums,
) {
    let (at_once, size) = const { (at_once(E), size(E)) };
    let mut w = panel.bytes.as_ptr();
    let mut a = a.as_ptr();
    // SAFETY: the panel has 16 elements for each of its k, `a` has M rows, `sums` M entries of 16 floats.
    unsafe {
        let mut y: [__m512; M] = std::array::from_fn(|m| _mm512_loadu_ps(sums[m].as_ptr()));
        for _ in 0..panel.k / at_once {
            if M == 1 {
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_offset(panel.ahead).cast());
            }
            let v = elements::<E>(w);
            for i in 0..at_once {
                for m in 0..M {
                    let a = _mm512_set1_ps(*a.add(m * row + i * step));
                    y[m] = multiply_add::<E>(a, v[i], y[m]);
                }
            }
            a = a.wrapping_add(at_once * step);
            w = w.wrapping_add(panel.step * size);
        }
        for m in 0..M {
            _mm512_storeu_ps(sums[m].as_mut_ptr(), y[m]);
        }
    }
}

/// Values of k whose elements lie side by side.
const fn at_once(e: u8) -> usize {
    if e == BF16 { 2 } else { 1 }
}

/// Bytes of such elements of a row.
const fn size(e: u8) -> usize {
    if e == F16 { 2 } else { 4 }
}

/// Sixteen elements as floats, and sixteen of the next k if they lie side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn elements<const E: u8>(at: *const u8) -> [__m512; 2] {
    // SAFETY: the caller points at 16 readable elements, or pairs of them.
    unsafe {
        match E {
            F16 => [_mm512_cvtph_ps(_mm256_loadu_si256(at.cast())), _mm512_setzero_ps()],
            BF16 => {
                let pairs = _mm512_loadu_si512(at.cast());
                let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(!0xffff));
                [_mm512_slli_epi32(pairs, 16), odd].map(|bits| _mm512_castsi512_ps(bits))
            }
            _ => [_mm512_loadu_ps(at.cast()), _mm512_setzero_ps()],
        }
    }
}

/// y + a·w; of pairs, the sum of two products.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add<const E: u8>(a: __m512, w: __m512, mut y: __m512) -> __m512 {
    if E != DOTS {
        return _mm512_fmadd_ps(a, w, y);
    }
    // SAFETY: pairs come only to a CPU that has the instruction, which reads and writes registers. By its
    // name it needs no copy of all loops that are compiled for its feature.
    unsafe {
        std::arch::asm!("vdpbf16ps {y}, {a}, {w}", y = inout(zmm_reg) y, a = in(zmm_reg) a,
            w = in(zmm_reg) w, options(pure, nomem, nostack, preserves_flags));
    }
    y
}

/// Rows of a tile: twelve rows of two sums and a row of two panels fill 26 of 32 registers.
pub const STRIP_ROWS: usize = 12;

/// See [`super::Isa::strip`].
///
/// # Safety
/// The CPU has the features, lengths fit as `Isa::strip` checks, and nobody else uses the outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn strip(s: &Strip, y: *mut f32, y_row: usize) {
    // SAFETY: panels, tiles and outputs are those that were checked.
    unsafe {
        let w = s.panels.as_ptr();
        if s.width == 2 * LANES {
            // Both panels are whole: no copy is needed, whatever the width of one.
            through_copy!(s, y, y_row, LANES, STRIP_ROWS, |at, count, to, to_row| {
                if s.dots {
                    tile_of::<2, DOTS>(s, at, count, w, to, to_row);
                } else {
                    tile_of::<2, F32>(s, at, count, w, to, to_row);
                }
            });
            return;
        }
        for p in 0..s.width.div_ceil(LANES) {
            let width = LANES.min(s.width - p * LANES);
            let (w, y) = (w.add(p * s.stride), y.add(p * LANES));
            through_copy!(s, y, y_row, width, STRIP_ROWS, |at, count, to, to_row| {
                if s.dots {
                    tile_of::<1, DOTS>(s, at, count, w, to, to_row);
                } else {
                    tile_of::<1, F32>(s, at, count, w, to, to_row);
                }
            });
        }
    }
}

/// `count` rows of a strip, from row `at` on, by N panels at `w`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile_of<const N: usize, const E: u8>(
    s: &Strip,
    at: usize,
    count: usize,
    w: *const f32,
    y: *mut f32,
    y_row: usize,
) {
    let a = s.left.as_ptr().wrapping_add(at / STRIP_ROWS * s.tile);
    if let Some(next) = s.next {
        next.ask(at / STRIP_ROWS, s.rows.div_ceil(STRIP_ROWS));
    }
    // SAFETY: the caller's promises are passed on.
    unsafe {
        for_rows!(count, [12, 8, 4, 2, 1], |i, M| {
            let (a, y) = (a.wrapping_add(i * s.row), y.add(i * y_row));
            match (s.row, s.step) {
                (1, STRIP_ROWS) => sums::<M, N, E>(a, [1, STRIP_ROWS], w, s, y, y_row),
                (row, 1) => sums::<M, N, E>(a, [row, 1], w, s, y, y_row),
                (row, step) => sums::<M, N, E>(a, [row, step], w, s, y, y_row),
            }
        });
    }
}

/// M rows of a strip by N panels at `w`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn sums<const M: usize, const N: usize, const E: u8>(
    mut a: *const f32,
    [row, step]: [usize; 2],
    mut w: *const f32,
    s: &Strip,
    y: *mut f32,
    y_row: usize,
) {
    // SAFETY: the caller points at M rows of the left operand, N panels, and M rows of 16 N outputs.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        if !s.fresh {
            for m in 0..M {
                for n in 0..N {
                    sums[m][n] = _mm512_loadu_ps(y.add(m * y_row + n * LANES));
                }
            }
        }
        for m in 0..M {
            // Where the next tile's sums will go.
            for n in 0..N {
                let next = y.wrapping_add((M + m) * y_row + n * LANES);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
        }
        for _ in 0..s.k {
            let row_of_w: [__m512; N] =
                std::array::from_fn(|n| _mm512_loadu_ps(w.add(n * s.stride)));
            for m in 0..M {
                let v = _mm512_set1_ps(*a.add(m * row));
                for n in 0..N {
                    sums[m][n] = multiply_add::<E>(v, row_of_w[n], sums[m][n]);
                }
            }
            a = a.wrapping_add(step);
            w = w.wrapping_add(LANES);
        }
        for m in 0..M {
            for n in 0..N {
                _mm512_storeu_ps(y.add(m * y_row + n * LANES), sums[m][n]);
            }
        }
    }
}

/// The sums of an even number of panels in [`super::Isa::rows`]: `rows` rows of `y_row` floats.
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::rows` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn several(
    a: &[f32],
    at: [usize; 2],
    panel: Panel,
    [panels, stride]: [usize; 2],
    sums: &mut Sums,
    [rows, y_row]: [usize; 2],
) {
    let y = sums.as_flattened_mut().as_mut_ptr();
    for_rows!(panels, [4, 2], |p, N| {
        for_rows!(rows, [4, 3, 2, 1], |i, M| {
            // SAFETY: `a` and `y` have that many rows, and as many panels; the rest is the caller's promise.
            unsafe {
                let (a, y) = (a.as_ptr().add(i * at[0]), y.add(i * y_row + p * LANES));
                let panel = Panel { bytes: &panel.bytes[p * stride..], ..panel };
                match panel.dtype {
                    _ if panel.dots => streams::<DOTS, M, N>(a, at, panel, stride, y, y_row),
                    DType::F32 => streams::<F32, M, N>(a, at, panel, stride, y, y_row),
                    DType::F16 => streams::<F16, M, N>(a, at, panel, stride, y, y_row),
                    DType::BF16 => streams::<BF16, M, N>(a, at, panel, stride, y, y_row),
                    other => unreachable!("{other} is no float"),
                }
            }
        });
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn streams<const E: u8, const M: usize, const N: usize>(
    mut a: *const f32,
    [row, step]: [usize; 2],
    panel: Panel,
    stride: usize,
    y: *mut f32,
    y_row: usize,
) {
    let (at_once, size) = const { (at_once(E), size(E)) };
    let mut w = panel.bytes.as_ptr();
    // SAFETY: N panels have 16 elements for each of their k, `a` has M rows, `y` M rows of N times 16.
    unsafe {
        let at = |m: usize, p: usize| y.add(m * y_row + p * LANES);
        let mut sums: [[__m512; N]; M] =
            std::array::from_fn(|m| std::array::from_fn(|p| _mm512_loadu_ps(at(m, p))));
        for _ in 0..panel.k / at_once {
            for p in 0..N {
                let w = w.add(p * stride);
                let ahead = w.wrapping_offset(panel.ahead).cast();
                _mm_prefetch::<_MM_HINT_T1>(ahead);
                let v = elements::<E>(w);
                for i in 0..at_once {
                    for m in 0..M {
                        let a = _mm512_set1_ps(*a.add(m * row + i * step));
                        sums[m][p] = multiply_add::<E>(a, v[i], sums[m][p]);
                    }
                }
            }
            a = a.wrapping_add(at_once * step);
            w = w.wrapping_add(panel.step * size);
        }
        for m in 0..M {
            for p in 0..N {
                _mm512_storeu_ps(at(m, p), sums[m][p]);
            }
        }
    }
}

/// See [`super::Isa::transpose`]: squares of 16 by 16 through four rounds of shuffles.
///
/// # Safety
/// The CPU has the features, and rows are as long as `Isa::transpose` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn transpose(rows: &[&[f32]; LANES], out: &mut [f32]) {
    let squares = out.len() / (LANES * LANES);
    for (s, out) in out.chunks_exact_mut(LANES * LANES).enumerate() {
        // SAFETY: every row has 16 elements from 16·s on, as many as `out` has rows.
        let r: [__m512; 16] =
            std::array::from_fn(|i| unsafe { _mm512_loadu_ps(rows[i].as_ptr().add(16 * s)) });
        // Pairs, then quadruples of rows: r[4·i + j] has columns j, j + 4, ... of rows 4·i to 4·i + 3.
        let r: [__m512; 16] = std::array::from_fn(|i| match i % 2 {
            0 => _mm512_unpacklo_ps(r[i], r[i + 1]),
            _ => _mm512_unpackhi_ps(r[i - 1], r[i]),
        });
        let r: [__m512; 16] = std::array::from_fn(|i| {
            let (low, high) = (i / 4 * 4 + i % 4 / 2, i / 4 * 4 + i % 4 / 2 + 2);
            let (low, high) = (_mm512_castps_pd(r[low]), _mm512_castps_pd(r[high]));
            _mm512_castpd_ps(match i % 2 {
                0 => _mm512_unpacklo_pd(low, high),
                _ => _mm512_unpackhi_pd(low, high),
            })
        });
        for j in 0..4 {
            let even = [0, 8].map(|i| _mm512_shuffle_f32x4::<0x88>(r[i + j], r[i + j + 4]));
            let odd = [0, 8].map(|i| _mm512_shuffle_f32x4::<0xdd>(r[i + j], r[i + j + 4]));
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]),
                _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                let to = &mut out[16 * (4 * i + j)..][..16];
                // SAFETY: `to` has 16 elements.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), column) };
            }
        }
    }
    portable::transpose(rows, 16 * squares, out);
}
