//! AVX2: int8 activations times panels of block formats, and decoding of panels: the kernels of `avx512_i8`, with
//! two registers for the 16 outputs and pairs of products in 16 bits.

#![expect(clippy::needless_range_loop, reason = "one index walks registers and pointers alike")]

use super::format::*;
use super::{AHEAD, LANES, Sums};
use crate::DType;
use std::arch::x86_64::*;

/// See [`super::Isa::tile_i8`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile_i8` checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn tile_i8(x: &[u8], x_row: usize, dtype: DType, panel: &[u8], sums: &mut Sums) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, rows_i8(x, x_row, panel, sums)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_i8<const F: u8>(x: &[u8], x_row: usize, panel: &[u8], sums: &mut Sums) {
    // SAFETY: `x` begins at the tile's first row and holds as many rows as are left. Eight rows leave
    // registers for half of the outputs only.
    for_tiles!(sums, x, x_row, [8, 4, 2, 1], |now, x, M| unsafe {
        if M == 8 {
            outputs::<F, M, 1>(x, x_row, panel, now, 0);
            outputs::<F, M, 1>(x, x_row, panel, now, 1);
        } else {
            outputs::<F, M, 2>(x, x_row, panel, now, 0);
        }
    });
}

/// Outputs `8 · h` and on of M rows, 8 or all 16 of them in H registers.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn outputs<const F: u8, const M: usize, const H: usize>(
    x: &[u8],
    x_row: usize,
    panel: &[u8],
    sums: &mut Sums,
    h: usize,
) {
    let format = const { format(F) };
    // Q6_K has a scale for each half of a sub-block, the others one for all of it.
    let parts = if F == Q6K { 2 } else { 1 };
    let zeros = [[_mm256_setzero_si256(); M]; H];
    // SAFETY: panel offsets stay within a block's bytes, activations within the rows' blocks, and
    // `sums` has M entries of 16 floats.
    unsafe {
        let mut y: [[__m256; M]; H] = std::array::from_fn(|i| {
            std::array::from_fn(|m| _mm256_loadu_ps(sums[m].as_ptr().add(8 * (h + i))))
        });
        let mut x = x.as_ptr();
        for w in panel.chunks_exact(format.bytes) {
            let w = w.as_ptr();
            for s in 0..format.subs {
                if M == 1 {
                    let sub = format.bytes / format.subs;
                    for line in (s * sub..(s + 1) * sub).step_by(64) {
                        _mm_prefetch::<_MM_HINT_T0>(
                            w.wrapping_offset(AHEAD + line as isize).cast(),
                        );
                    }
                }
                for part in 0..parts {
                    let mut dot = zeros;
                    for first in (part * 4..part * 4 + 8 / parts).step_by(together(F)) {
                        let mut pairs = zeros;
                        for g in first..first + together(F) {
                            let q: [__m256i; H] =
                                std::array::from_fn(|i| codes::<F>(w, s, g, h + i));
                            for m in 0..M {
                                let v = x.add(m * x_row + X_CODES + 4 * g).cast::<i32>();
                                let v = _mm256_set1_epi32(v.read_unaligned());
                                for i in 0..H {
                                    let product = multiply::<F>(q[i], v);
                                    pairs[i][m] = _mm256_add_epi16(pairs[i][m], product);
                                }
                            }
                        }
                        for i in 0..H {
                            for m in 0..M {
                                dot[i][m] = _mm256_add_epi32(dot[i][m], add_pairs(pairs[i][m]));
                            }
                        }
                    }
                    let scales: [_; H] = std::array::from_fn(|i| scales::<F>(w, s, part, h + i));
                    for m in 0..M {
                        let block = x.add(m * x_row);
                        // From memory to all lanes, which takes no shuffle.
                        let d = _mm256_set1_ps(block.cast::<f32>().read_unaligned());
                        let sum =
                            |at| _mm256_set1_epi32(block.add(at).cast::<i32>().read_unaligned());
                        let sum = match (F, part) {
                            (Q6K, 0) => sum(X_HALF),
                            (Q6K, _) => _mm256_sub_epi32(sum(X_SUM), sum(X_HALF)),
                            _ => sum(X_SUM),
                        };
                        let bias = match format.bias.checked_ilog2() {
                            Some(bits) if F != Q8_0 => {
                                _mm256_sll_epi32(sum, _mm_cvtsi32_si128(bits as i32))
                            }
                            _ => _mm256_setzero_si256(),
                        };
                        for i in 0..H {
                            let dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[i][m], bias));
                            let (scale, offset) = scales[i];
                            y[i][m] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, d), y[i][m]);
                            if format.offset {
                                let shift = block.add(X_SHIFT).cast::<f32>().read_unaligned();
                                let shift = _mm256_set1_ps(shift);
                                y[i][m] = _mm256_fmadd_ps(offset, shift, y[i][m]);
                            }
                        }
                    }
                }
                x = x.add(X_BLOCK);
            }
        }
        for i in 0..H {
            for m in 0..M {
                _mm256_storeu_ps(sums[m].as_mut_ptr().add(8 * (h + i)), y[i][m]);
            }
        }
    }
}

/// Groups of four codes whose sums of two products may be added in 16 bits: the largest code times 127,
/// twice, is 3810 for codes of 4 bits, 7874 of 5 and 16002 of 6; Q8_0's 32512 stands alone. Q6_K's bias, 32
/// times 127 twice, has room for four.
const fn together(f: u8) -> usize {
    match f {
        Q8_0 => 1,
        Q6K => 2,
        Q5_0 | Q5_1 | Q5K => 4,
        _ => 8,
    }
}

/// Sums of two products of codes and activations, in 16 bits. Codes are unsigned, except Q8_0's: there the
/// sign moves to the activation, because 255 · 127 · 2 would not fit.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply<const F: u8>(q: __m256i, v: __m256i) -> __m256i {
    if F == Q8_0 {
        _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(v, q))
    } else {
        _mm256_maddubs_epi16(q, v)
    }
}

/// Neighbours of 16 bits added to 32.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Half `h` of chunk `i` of a panel's block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn chunk(w: *const u8, i: usize, h: usize) -> __m256i {
    // SAFETY: the caller points at a block with that many chunks.
    unsafe { _mm256_loadu_si256(w.add(64 * i + 32 * h).cast()) }
}

/// Every byte shifted right by `n` bits, with bits of its neighbour above, to be masked off.
#[inline]
#[target_feature(enable = "avx2")]
fn shift_right(v: __m256i, n: usize) -> __m256i {
    _mm256_srl_epi16(v, _mm_cvtsi32_si128(n as i32))
}

/// The codes 4·g to 4·g + 3 of sub-block `s`, of eight rows; unsigned but for Q8_0.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn codes<const F: u8>(w: *const u8, s: usize, g: usize, h: usize) -> __m256i {
    let format = const { format(F) };
    let (at, shift) = low_bits(F, s, g);
    // SAFETY: both chunks lie in the block.
    unsafe {
        let low = chunk(w.add(format.codes), at, h);
        if F == Q8_0 {
            return low;
        }
        let low = _mm256_and_si256(shift_right(low, shift), _mm256_set1_epi8(15));
        match F {
            Q5_0 | Q5_1 => {
                // Byte g / 2 of each row's 32 bits goes to its four code bytes; each tests one bit.
                let bits = chunk(w.add(format.high), 0, h);
                let spread = _mm256_set1_epi8((g / 2) as i8);
                let base = _mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
                let base = _mm256_add_epi8(_mm256_broadcastsi128_si256(base), spread);
                let tests = if g.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 };
                let tests = _mm256_set1_epi32(tests);
                let bytes = _mm256_and_si256(_mm256_shuffle_epi8(bits, base), tests);
                let set = _mm256_cmpeq_epi8(bytes, tests);
                _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
            Q5K => {
                let bits = shift_right(chunk(w.add(format.high), g, h), s);
                let bit = _mm256_and_si256(bits, _mm256_set1_epi8(1));
                _mm256_or_si256(low, _mm256_slli_epi16(bit, 4))
            }
            Q6K => {
                let (at, place) = q6k_bits(s, g);
                let bits = shift_right(chunk(w.add(format.codes), at, h), place);
                let pair = _mm256_and_si256(bits, _mm256_set1_epi8(3));
                _mm256_or_si256(low, _mm256_slli_epi16(pair, 4))
            }
            _ => low,
        }
    }
}

/// Scale and offset of part `part` of sub-block `s`, of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales<const F: u8>(w: *const u8, s: usize, part: usize, h: usize) -> (__m256, __m256) {
    // SAFETY: all rows read lie in the block.
    unsafe {
        let halves = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(w.add(at + 16 * h).cast()));
        let bytes = |at: usize, i: usize| _mm_loadl_epi64(w.add(at + LANES * i + 8 * h).cast());
        match F {
            Q4_1 | Q5_1 => (halves(0), halves(32)),
            Q4K | Q5K => {
                let pair = |j: usize| bytes(K_PAIRS, j);
                let six = _mm_set1_epi8(63);
                let four = _mm_set1_epi8(15);
                let (scale, min) = if s < 4 {
                    (_mm_and_si128(pair(s), six), _mm_and_si128(pair(s + 4), six))
                } else {
                    let low = pair(s + 4);
                    let top = |v| _mm_and_si128(_mm_srli_epi16(v, 2), _mm_set1_epi8(48));
                    let low_min = _mm_and_si128(_mm_srli_epi16(low, 4), four);
                    (
                        _mm_or_si128(_mm_and_si128(low, four), top(pair(s - 4))),
                        _mm_or_si128(low_min, top(pair(s))),
                    )
                };
                let float = |v| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v));
                let minus_dmin = _mm256_sub_ps(_mm256_setzero_ps(), halves(32));
                (_mm256_mul_ps(halves(0), float(scale)), _mm256_mul_ps(minus_dmin, float(min)))
            }
            Q6K => {
                let v = _mm256_cvtepi8_epi32(bytes(Q6K_SCALES, 2 * s + part));
                (_mm256_mul_ps(halves(0), _mm256_cvtepi32_ps(v)), _mm256_setzero_ps())
            }
            _ => (halves(0), _mm256_setzero_ps()),
        }
    }
}

/// See [`super::Isa::decode_panel`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::decode_panel` checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn decode_panel(dtype: DType, panel: &[u8], out: &mut [f32]) {
    // SAFETY: the caller's promises are passed on.
    unsafe { with_format!(dtype, decode(panel, out)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode<const F: u8>(panel: &[u8], out: &mut [f32]) {
    let format = const { format(F) };
    let bias = _mm256_set1_epi32(if F == Q8_0 { 0 } else { format.bias });
    let (groups, _) = out.as_chunks_mut::<{ 4 * LANES }>();
    for (i, out) in groups.iter_mut().enumerate() {
        let (s, g) = (i / 8 % format.subs, i % 8);
        let w = panel[i / (8 * format.subs) * format.bytes..][..format.bytes].as_ptr();
        let part = if F == Q6K { g / 4 } else { 0 };
        for h in 0..2 {
            // SAFETY: `w` points at a whole block of the panel.
            let (q, (scale, offset)) =
                unsafe { (codes::<F>(w, s, g, h), scales::<F>(w, s, part, h)) };
            for (j, out) in out.chunks_exact_mut(LANES).enumerate() {
                // Byte j of each dword, with its sign where it has one.
                let high = _mm256_sll_epi32(q, _mm_cvtsi32_si128(24 - 8 * j as i32));
                let code = match F {
                    Q8_0 => _mm256_srai_epi32(high, 24),
                    _ => _mm256_srli_epi32(high, 24),
                };
                let code = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, bias));
                let mut v = _mm256_mul_ps(scale, code);
                if format.offset {
                    v = _mm256_add_ps(v, offset);
                }
                // SAFETY: eight of the row's sixteen floats begin there.
                unsafe { _mm256_storeu_ps(out[8 * h..][..8].as_mut_ptr(), v) };
            }
        }
    }
}

/// Rounds activations to I8Row blocks, to the bits of [`crate::quant::encode_row`].
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn encode_i8(x: &[[f32; 32]], blocks: &mut [[u8; X_BLOCK]]) {
    let magnitude = _mm256_set1_epi32(i32::MAX);
    let round = _mm256_set1_ps(12_582_912.0);
    for (x, block) in x.iter().zip(blocks) {
        // SAFETY: four registers hold a block's 32 numbers, and what is written fits into its 48 bytes.
        unsafe {
            let v: [__m256; 4] = std::array::from_fn(|i| _mm256_loadu_ps(x.as_ptr().add(8 * i)));
            // Magnitudes order as their bits do, NaN above all.
            let bits = v.map(|v| _mm256_and_si256(_mm256_castps_si256(v), magnitude));
            let most = |a, b| _mm256_max_epu32(a, b);
            let all = most(most(bits[0], bits[1]), most(bits[2], bits[3]));
            let all =
                _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
            let all = _mm_max_epu32(all, _mm_shuffle_epi32::<0b00_00_11_10>(all));
            let all = _mm_max_epu32(all, _mm_shuffle_epi32::<0b00_00_00_01>(all));
            let d = f32::from_bits(_mm_cvtsi128_si32(all) as u32) / 127.0;
            let scale = _mm256_set1_ps(if d == 0.0 { 0.0 } else { 1.0 / d });
            // The integer lies in the low byte of a sum with 1.5 · 2²³.
            let code = |v| {
                let bits = _mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(v, scale), round));
                _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(bits))
            };
            let [a, b, c, e] = v.map(code);
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, e));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(bytes, order);
            // Bytes without a sign, 128 too large each, are added up in eights.
            let unsigned = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
            let sums = _mm256_sad_epu8(unsigned, _mm256_setzero_si256());
            let sums = _mm256_add_epi64(sums, _mm256_unpackhi_epi64(sums, sums));
            let half = _mm256_cvtsi256_si32(sums) - 16 * 128;
            let sum = half + _mm256_extract_epi32::<4>(sums) - 16 * 128;
            let block = block.as_mut_ptr();
            block.cast::<f32>().write_unaligned(d);
            block.add(X_SUM).cast::<i32>().write_unaligned(sum);
            block.add(X_HALF).cast::<i32>().write_unaligned(half);
            block.add(X_SHIFT).cast::<f32>().write_unaligned(d * sum as f32);
            _mm256_storeu_si256(block.add(X_CODES).cast(), bytes);
        }
    }
}
