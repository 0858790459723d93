//! AVX-512 with BF16: floats rounded to the pairs that `vdpbf16ps` multiplies, to nearest even. What is smaller than
//! the smallest normal number becomes zero, as it is for the products.

use half::bf16;
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
    // SAFETY: it is called where two rows have W columns.
    let both = |at: *const f32| unsafe {
        let row = |k| _mm512_maskz_loadu_ps(const { first(W) }, at.add(k * step));
        rounded([row(0), row(1)])
    };
    // SAFETY: the caller's promises are passed on.
    unsafe { interleave(x, step, to, both) };
}

/// The same of BF16.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn pair_rows_bf16<const P: usize, const W: usize>(
    x: &[bf16],
    step: usize,
    to: &mut [&mut [[u32; W]]; P],
) {
    // SAFETY: as above.
    let both = |at: *const bf16| unsafe {
        let row = |k| _mm256_maskz_loadu_epi16(const { first(W) }, at.add(k * step).cast());
        _mm512_inserti64x4(_mm512_castsi256_si512(row(0)), row(1), 1)
    };
    // SAFETY: as above.
    unsafe { interleave(x, step, to, both) };
}

/// Pairs of rows, of which `both` gives W columns of the first, and from lane 16 on W of the second.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn interleave<T, const P: usize, const W: usize>(
    x: &[T],
    step: usize,
    to: &mut [&mut [[u32; W]]; P],
    both: impl Fn(*const T) -> __m512i,
) {
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    // SAFETY: each of the two rows has the columns of all panels, of which a mask leaves out what is not there.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        for i in 0..to[0].len() {
            for (p, to) in to.iter_mut().enumerate() {
                let pairs = both(x.as_ptr().add(2 * i * step + p * W));
                let pairs = _mm512_permutexvar_epi16(order, pairs);
                _mm512_mask_storeu_epi32(to[i].as_mut_ptr().cast(), const { first(W) }, pairs);
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
