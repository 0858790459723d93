//! AVX-512 with BF16: floats rounded to the pairs that `vdpbf16ps` multiplies, to nearest even. What is smaller than
//! the smallest normal number becomes zero, as it is for the products.

use std::arch::x86_64::*;

/// See [`super::Isa::pair_up`].
///
/// # Safety
/// The CPU has the features, and `x` has two elements for each of `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn pair_up(x: &[f32], to: &mut [u32]) {
    const WHOLE: usize = 16;
    let mut left = to.len();
    let (mut x, mut to) = (x.as_ptr(), to.as_mut_ptr());
    // SAFETY: masks leave out what is beyond the last pair.
    unsafe {
        while left >= WHOLE {
            let pairs = rounded([_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(WHOLE))]);
            _mm512_storeu_si512(to.cast(), pairs);
            (x, to, left) = (x.add(2 * WHOLE), to.add(WHOLE), left - WHOLE);
        }
        let [low, high] = [2 * left, (2 * left).saturating_sub(WHOLE)].map(first);
        let second = _mm512_maskz_loadu_ps(high, x.wrapping_add(WHOLE));
        let pairs = rounded([_mm512_maskz_loadu_ps(low, x), second]);
        _mm512_mask_storeu_epi32(to.cast(), first(left), pairs);
    }
}

/// See [`super::Isa::pair_rows`].
///
/// # Safety
/// The CPU has the features, `x` has all rows, and panels have at most 16 columns and as many rows as the first.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn pair_rows<const P: usize, const W: usize>(
    x: &[f32],
    step: usize,
    to: &mut [&mut [[u32; W]]; P],
) {
    let mask = const { first(W) };
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    let x = x.as_ptr();
    // SAFETY: each of the two rows has the columns of all panels, of which a mask leaves out what is not there.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        for i in 0..to[0].len() {
            for (p, to) in to.iter_mut().enumerate() {
                let row = |k| _mm512_maskz_loadu_ps(mask, x.add((2 * i + k) * step + p * W));
                let pairs = _mm512_permutexvar_epi16(order, rounded([row(0), row(1)]));
                _mm512_mask_storeu_epi32(to[i].as_mut_ptr().cast(), mask, pairs);
            }
        }
    }
}

/// A mask of the first `n` lanes of 16.
const fn first(n: usize) -> __mmask16 {
    if n < 16 { (1 << n) - 1 } else { !0 }
}

/// 16 elements and 16 more as BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded([low, high]: [__m512; 2]) -> __m512i {
    let both = _mm512_cvtne2ps_pbh(high, low);
    // SAFETY: both are 64 bytes without a meaning of their own.
    unsafe { std::mem::transmute(both) }
}
