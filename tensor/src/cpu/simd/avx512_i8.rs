//! AVX-512 with VNNI: int8 activations times panels of block formats, and decoding of panels.
//!
//! One register holds one dword of codes of each of 16 rows; `vpdpbusd` multiplies them with four
//! broadcast activations, so that lanes are outputs and nothing is ever summed across lanes. Codes
//! are unsigned; their bias is taken off through the sum of the activations.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::format::*;
use super::{AHEAD, Sums};
use crate::DType;
use std::arch::x86_64::*;

/// See [`super::Isa::tile_i8`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile_i8` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn tile_i8(
    x: &[u8],
    x_row: usize,
    dtype: DType,
    panel: &[u8],
    ahead: bool,
    sums: &mut Sums,
) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, rows(x, x_row, panel, ahead, sums)) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows<const F: u8>(x: &[u8], x_row: usize, panel: &[u8], ahead: bool, sums: &mut Sums) {
    for_tiles!(sums, x, x_row, [8, 4, 2, 1], |now, x, M| {
        // SAFETY: `x` begins at the tile's first row and holds as many rows as are left.
        unsafe { tile::<F, M>(x, x_row, panel, ahead, now) }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const F: u8, const M: usize>(
    x: &[u8],
    x_row: usize,
    panel: &[u8],
    ahead: bool,
    sums: &mut Sums,
) {
    let format = const { format(F) };
    // SAFETY: panel offsets stay within a block's bytes, activations within the rows' blocks, and
    // `sums` has M entries of 16 floats.
    unsafe {
        let mut y: [__m512; M] = std::array::from_fn(|m| _mm512_loadu_ps(sums[m].as_ptr()));
        let mut x = x.as_ptr();
        for w in panel.chunks_exact(format.bytes) {
            let w = w.as_ptr();
            for s in 0..format.subs {
                if ahead {
                    let sub = format.bytes / format.subs;
                    for line in (s * sub..(s + 1) * sub).step_by(64) {
                        ask::<F>(w.wrapping_offset(ahead_of(F) + line as isize));
                    }
                }
                let (scale, offset) = scales::<F>(w, s);
                if F == Q6K {
                    let dot = dots::<F, M, 0, 4>(w, s, x, x_row);
                    for m in 0..M {
                        let block = x.add(m * x_row);
                        y[m] =
                            add_scaled::<F>(y[m], dot[m], dword(block.add(X_HALF)), scale, block);
                    }
                    let dot = dots::<F, M, 4, 8>(w, s, x, x_row);
                    for m in 0..M {
                        let block = x.add(m * x_row);
                        let first = dword(block.add(X_HALF));
                        let sum = _mm512_sub_epi32(dword(block.add(X_SUM)), first);
                        y[m] = add_scaled::<F>(y[m], dot[m], sum, offset, block);
                    }
                } else {
                    let dot = dots::<F, M, 0, 8>(w, s, x, x_row);
                    for m in 0..M {
                        let block = x.add(m * x_row);
                        let sum = dword(block.add(X_SUM));
                        y[m] = add_scaled::<F>(y[m], dot[m], sum, scale, block);
                        if format.offset {
                            let shift = block.add(X_SHIFT).cast::<f32>().read_unaligned();
                            y[m] = _mm512_fmadd_ps(offset, _mm512_set1_ps(shift), y[m]);
                        }
                    }
                }
                x = x.add(X_BLOCK);
            }
        }
        for m in 0..M {
            _mm512_storeu_ps(sums[m].as_mut_ptr(), y[m]);
        }
    }
}

/// For each row of `x` the products of its activations 4·FROM to 4·TO of a block with the codes of sub-block `s`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dots<const F: u8, const M: usize, const FROM: usize, const TO: usize>(
    w: *const u8,
    s: usize,
    x: *const u8,
    x_row: usize,
) -> [__m512i; M] {
    let mut dot = [_mm512_setzero_si512(); M];
    for g in FROM..TO {
        // SAFETY: the caller points at a panel's block, and at blocks of M rows of activations.
        unsafe {
            let q = codes::<F>(w, s, g);
            for m in 0..M {
                let v = dword(x.add(m * x_row + X_CODES + 4 * g));
                dot[m] = _mm512_dpbusd_epi32(dot[m], q, v);
            }
        }
    }
    dot
}

/// Bytes to what memory is asked for. A half of a block of Q6_K is read at once, and its codes then looked at again.
/// Codes of four bits read 4 KB ahead are a tenth faster on a Xeon than 2 KB ahead, and as fast on a Zen 4.
const fn ahead_of(f: u8) -> isize {
    match f {
        Q6K => 3 * AHEAD,
        Q8_0 => AHEAD,
        _ => 2 * AHEAD,
    }
}

/// Asks memory for the line at `at`: into the second-level cache, which more lines can be on their way to, if
/// memory is all that limits; into the first where less is read and more is done with it.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask<const F: u8>(at: *const u8) {
    if F == Q8_0 || F == Q6K {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    } else {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}

/// y + (dot − bias · sum) · scale · d, d and `sum` being the scale and the sum of the activations in `block`.
/// The integers are such that floats hold them exactly.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_scaled<const F: u8>(
    y: __m512,
    mut dot: __m512i,
    sum: __m512i,
    scale: __m512,
    block: *const u8,
) -> __m512 {
    // SAFETY: the caller points at a block of I8Row, which begins with its scale.
    let d = _mm512_set1_ps(unsafe { block.cast::<f32>().read_unaligned() });
    let bias = const { format(F).bias as u32 };
    if bias != 0 {
        // A power of two.
        let shift = _mm_cvtsi32_si128(bias.trailing_zeros() as i32);
        dot = _mm512_sub_epi32(dot, _mm512_sll_epi32(sum, shift));
    }
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, d), y)
}

/// Four activations, or a number of a block's, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn dword(at: *const u8) -> __m512i {
    // SAFETY: the caller points at four readable bytes.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// Chunk `i` of a panel's block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn chunk(w: *const u8, i: usize) -> __m512i {
    // SAFETY: the caller points at a block with that many chunks.
    unsafe { _mm512_loadu_si512(w.add(64 * i).cast()) }
}

/// Every byte shifted right by `n` bits, with bits of its neighbour above, to be masked off.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shift_right(v: __m512i, n: usize) -> __m512i {
    _mm512_srl_epi16(v, _mm_cvtsi32_si128(n as i32))
}

/// The unsigned codes 4·g to 4·g + 3 of sub-block `s`, of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn codes<const F: u8>(w: *const u8, s: usize, g: usize) -> __m512i {
    let format = const { format(F) };
    let (at, shift) = low_bits(F, s, g);
    // SAFETY: both chunks lie in the block.
    unsafe {
        let low = chunk(w.add(format.codes), at);
        if F == Q8_0 {
            return _mm512_xor_si512(low, _mm512_set1_epi8(-128));
        }
        let low = _mm512_and_si512(shift_right(low, shift), _mm512_set1_epi8(15));
        match F {
            Q5_0 | Q5_1 => {
                // Byte g / 2 of each row's 32 bits goes to its four code bytes; each tests one bit.
                let bits = chunk(w.add(format.high), 0);
                let spread = _mm512_set1_epi32((g as i32 / 2) * 0x0101_0101);
                let base = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
                let bytes = _mm512_shuffle_epi8(bits, _mm512_add_epi8(base, spread));
                let tests = if g.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 };
                let set = _mm512_test_epi8_mask(bytes, _mm512_set1_epi32(tests));
                _mm512_mask_add_epi8(low, set, low, _mm512_set1_epi8(16))
            }
            Q5K => {
                let bits = shift_right(chunk(w.add(format.high), g), s);
                let bit = _mm512_and_si512(bits, _mm512_set1_epi8(1));
                _mm512_or_si512(low, _mm512_slli_epi16(bit, 4))
            }
            Q6K => {
                // The two bits of each byte go to bits 4 and 5; what comes from other bytes does not
                // reach these.
                let (at, place) = q6k_bits(s, g);
                let left = _mm512_set1_epi32((4 - place as i32) & 31);
                let bits = _mm512_rolv_epi32(chunk(w.add(format.codes), at), left);
                const A_OR_B_AND_C: i32 = 0b1111_1000;
                _mm512_ternarylogic_epi32::<A_OR_B_AND_C>(low, bits, _mm512_set1_epi8(0x30))
            }
            _ => low,
        }
    }
}

/// Sixteen halves as floats.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller points at 32 readable bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// Row `i` of 16 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn bytes(at: *const u8, i: usize) -> __m128i {
    // SAFETY: the caller points at that many rows.
    unsafe { _mm_loadu_si128(at.add(16 * i).cast()) }
}

/// Scale and offset of sub-block `s` of each row; for Q6_K, which has no offset, the scales of both
/// halves of the sub-block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scales<const F: u8>(w: *const u8, s: usize) -> (__m512, __m512) {
    // SAFETY: all rows read lie in the block.
    unsafe {
        match F {
            Q4_1 | Q5_1 => (halves(w), halves(w.add(32))),
            Q4K | Q5K => {
                let pairs = w.add(K_PAIRS);
                let six = _mm_set1_epi8(63);
                let four = _mm_set1_epi8(15);
                let (scale, min) = if s < 4 {
                    (_mm_and_si128(bytes(pairs, s), six), _mm_and_si128(bytes(pairs, s + 4), six))
                } else {
                    let low = bytes(pairs, s + 4);
                    let top = |v| _mm_and_si128(_mm_srli_epi16(v, 2), _mm_set1_epi8(48));
                    let low_min = _mm_and_si128(_mm_srli_epi16(low, 4), four);
                    (
                        _mm_or_si128(_mm_and_si128(low, four), top(bytes(pairs, s - 4))),
                        _mm_or_si128(low_min, top(bytes(pairs, s))),
                    )
                };
                let float = |v| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
                let minus_dmin = _mm512_sub_ps(_mm512_setzero_ps(), halves(w.add(32)));
                (_mm512_mul_ps(halves(w), float(scale)), _mm512_mul_ps(minus_dmin, float(min)))
            }
            Q6K => {
                let d = halves(w);
                let scale = |i| {
                    let v = bytes(w.add(Q6K_SCALES), i);
                    _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v)))
                };
                (scale(2 * s), scale(2 * s + 1))
            }
            _ => (halves(w), _mm512_setzero_ps()),
        }
    }
}

/// See [`super::Isa::decode_panel`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::decode_panel` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn decode_panel(dtype: DType, panel: &[u8], out: &mut [f32]) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, decode(panel, out)) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn decode<const F: u8>(panel: &[u8], out: &mut [f32]) {
    let format = const { format(F) };
    let mut out = out.as_mut_ptr();
    for w in panel.chunks_exact(format.bytes) {
        let w = w.as_ptr();
        for s in 0..format.subs {
            // SAFETY: panel offsets stay within a block's bytes; each group of codes fills 64 of
            // the 512 floats that `out` has for a sub-block.
            unsafe {
                let (scale, offset) = scales::<F>(w, s);
                for g in 0..8 {
                    let q = codes::<F>(w, s, g);
                    let scale = if F == Q6K && g >= 4 { offset } else { scale };
                    for i in 0..4 {
                        let q = _mm512_srl_epi32(q, _mm_cvtsi32_si128(8 * i));
                        let q = _mm512_and_si512(q, _mm512_set1_epi32(255));
                        let q = _mm512_sub_epi32(q, _mm512_set1_epi32(format.bias));
                        let mut v = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(q));
                        if format.offset {
                            v = _mm512_add_ps(v, offset);
                        }
                        _mm512_storeu_ps(out, v);
                        out = out.add(16);
                    }
                }
            }
        }
    }
}
