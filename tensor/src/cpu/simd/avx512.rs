//! AVX-512: f32 activations times panels of floats. A register holds 16 outputs; each step loads one
//! row of the panel and multiplies it with one broadcast element of each row of the left operand.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::Sums;
use super::format::for_tiles;
use crate::DType;
use std::arch::x86_64::*;

const F32: u8 = DType::F32 as u8;
const F16: u8 = DType::F16 as u8;
const BF16: u8 = DType::BF16 as u8;

/// See [`super::Isa::tile`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn tile(a: &[f32], at: [usize; 2], dtype: DType, panel: &[u8], sums: &mut Sums) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match dtype {
            DType::F32 => rows::<F32>(a, at, panel, sums),
            DType::F16 => rows::<F16>(a, at, panel, sums),
            DType::BF16 => rows::<BF16>(a, at, panel, sums),
            other => unreachable!("{other} is no float"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows<const E: u8>(a: &[f32], [row, step]: [usize; 2], panel: &[u8], sums: &mut Sums) {
    for_tiles!(sums, a, row, [8, 4, 2, 1], |now, a, M| {
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
    panel: &[u8],
    sums: &mut Sums,
) {
    let size = if E == F32 { 64 } else { 32 };
    let mut a = a.as_ptr();
    // SAFETY: the panel has 16 elements for each k, `a` has M rows, `sums` M entries of 16 floats.
    unsafe {
        let mut y: [__m512; M] = std::array::from_fn(|m| _mm512_loadu_ps(sums[m].as_ptr()));
        for w in panel.chunks_exact(size) {
            let w = match E {
                F32 => _mm512_loadu_ps(w.as_ptr().cast()),
                F16 => _mm512_cvtph_ps(_mm256_loadu_si256(w.as_ptr().cast())),
                _ => {
                    let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(w.as_ptr().cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))
                }
            };
            for m in 0..M {
                y[m] = _mm512_fmadd_ps(_mm512_set1_ps(*a.add(m * row)), w, y[m]);
            }
            a = a.wrapping_add(step);
        }
        for m in 0..M {
            _mm512_storeu_ps(sums[m].as_mut_ptr(), y[m]);
        }
    }
}
