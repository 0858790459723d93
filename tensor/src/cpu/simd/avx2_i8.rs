//! AVX2: int8 activations times panels of block formats, and decoding of panels: the kernels of `avx512_i8`, with
//! two registers for the 16 outputs and pairs of products in 16 bits.

use super::format::*;
use super::{AHEAD, LANES, Sums};
use crate::DType;
use std::arch::asm;
use std::arch::x86_64::*;

/// Repeats `$body` with the constant `$i` each of the numbers: what is chosen by it is chosen when it is compiled.
macro_rules! repeat {
    ($i:ident in [$($number:literal),*] $body:block) => {
        $({
            const $i: usize = $number;
            $body
        })*
    };
}

/// See [`super::Isa::tile_i8`].
///
/// # Safety
/// The CPU has the features, and lengths fit as `Isa::tile_i8` checks.
#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<const F: u8>(x: &[u8], x_row: usize, panel: &[u8], ahead: bool, sums: &mut Sums) {
    // The sums of four rows take half of the registers.
    for_tiles!(sums, x, x_row, [4, 2, 1], |now, x, M| {
        // SAFETY: `x` begins at the tile's first row and holds as many rows as are left.
        unsafe { tile::<F, M>(x, x_row, panel, ahead, now) }
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const F: u8, const M: usize>(
    x: &[u8],
    x_row: usize,
    panel: &[u8],
    ahead: bool,
    sums: &mut Sums,
) {
    let format = const { format(F) };
    // A compiler that knows how often a loop runs writes it out, and then has more codes than registers.
    let twice = std::hint::black_box(2);
    // SAFETY: panel offsets stay within a block's bytes, activations within the rows' blocks, and
    // `sums` has M entries of 16 floats.
    unsafe {
        let mut y = [[_mm256_setzero_ps(); 2]; M];
        for m in 0..M {
            y[m] = [_mm256_loadu_ps(sums[m].as_ptr()), _mm256_loadu_ps(sums[m].as_ptr().add(8))];
        }
        let mut x = x.as_ptr();
        for w in panel.chunks_exact(format.bytes) {
            let w = w.as_ptr();
            let sixes = sixes::<F>(w);
            for first in (0..format.subs).step_by(const { cycle(F) }) {
                repeat!(N in [0, 1, 2, 3] {
                    if N < const { cycle(F) } {
                        let s = first + N;
                        // Only a single row is slow for want of memory.
                        if ahead && M == 1 {
                            let sub = format.bytes / format.subs;
                            for line in (s * sub..(s + 1) * sub).step_by(64) {
                                _mm_prefetch::<_MM_HINT_T0>(
                                    w.wrapping_offset(AHEAD + line as isize).cast(),
                                );
                            }
                        }
                        for part in 0..if F == Q6K { twice } else { 1 } {
                            let dot = dots::<F, M, N>([w, x], x_row, s, part, twice);
                            add_scaled::<F, M>([w, x], x_row, s, part, dot, &sixes, &mut y);
                        }
                        x = x.add(X_BLOCK);
                    }
                });
            }
        }
        for m in 0..M {
            _mm256_storeu_ps(sums[m].as_mut_ptr(), y[m][0]);
            _mm256_storeu_ps(sums[m].as_mut_ptr().add(8), y[m][1]);
        }
    }
}

/// Sums of products of activations with the codes of sub-block `s`, the N-th of a [`cycle`], of M rows and 16
/// outputs; of Q6_K those of part `part`, which has a scale of its own. `twice` is 2.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<const F: u8, const M: usize, const N: usize>(
    [w, x]: [*const u8; 2],
    x_row: usize,
    s: usize,
    part: usize,
    twice: usize,
) -> [[__m256i; 2]; M] {
    let mut dot = [[_mm256_setzero_si256(); 2]; M];
    let mut pairs = dot;
    let mut i = 2 * part;
    loop {
        // Both halves of a byte's bits one after the other, so that it need not be held meanwhile.
        repeat!(J in [0, 2, 1, 3] {
            if F != Q6K || J < 2 {
                // SAFETY: the caller points at a panel's block, and at blocks of M rows of activations.
                unsafe {
                    let q = [codes::<F, N, J>(w, s, i, 0), codes::<F, N, J>(w, s, i, 1)];
                    for m in 0..M {
                        let v = dword(x.add(m * x_row + X_CODES + 4 * group(i, J)));
                        for h in 0..2 {
                            let product = multiply::<F>(q[h], v);
                            if F == Q8_0 {
                                dot[m][h] = _mm256_add_epi32(dot[m][h], add_pairs(product));
                            } else {
                                pairs[m][h] = _mm256_add_epi16(pairs[m][h], product);
                            }
                        }
                    }
                    for m in 0..M {
                        for h in 0..2 {
                            if F == Q8_0 { pin(&mut dot[m][h]) } else { pin(&mut pairs[m][h]) }
                        }
                    }
                }
            }
        });
        if F != Q8_0 && const { wide(F) } {
            for m in 0..M {
                for h in 0..2 {
                    dot[m][h] = _mm256_add_epi32(dot[m][h], add_pairs(pairs[m][h]));
                    pairs[m][h] = _mm256_setzero_si256();
                }
            }
        }
        i += 1;
        if i == 2 * part + if F == Q6K { 2 } else { twice } {
            break;
        }
    }
    if const { !wide(F) } {
        for m in 0..M {
            dot[m] = [add_pairs(pairs[m][0]), add_pairs(pairs[m][1])];
        }
    }
    dot
}

/// Adds `dot` to `y`, less the codes' bias times the sum of the activations, and scaled; and what the offset gives.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_scaled<const F: u8, const M: usize>(
    [w, x]: [*const u8; 2],
    x_row: usize,
    s: usize,
    part: usize,
    dot: [[__m256i; 2]; M],
    sixes: &[__m128i; 16],
    y: &mut [[__m256; 2]; M],
) {
    let format = const { format(F) };
    // SAFETY: the caller points at a panel's block, and at blocks of M rows of activations.
    unsafe {
        let scales = [scales::<F>(w, sixes, s, part, 0), scales::<F>(w, sixes, s, part, 1)];
        for m in 0..M {
            let block = x.add(m * x_row);
            // From memory to all lanes, which takes no shuffle.
            let d = _mm256_set1_ps(block.cast::<f32>().read_unaligned());
            let number = |at: usize| block.add(at).cast::<i32>().read_unaligned();
            let sum = match (F, part) {
                (Q6K, 0) => number(X_HALF),
                (Q6K, _) => number(X_SUM) - number(X_HALF),
                _ => number(X_SUM),
            };
            let bias = _mm256_set1_epi32(format.bias * sum);
            for h in 0..2 {
                let mut dot = dot[m][h];
                if F != Q8_0 && format.bias != 0 {
                    dot = _mm256_sub_epi32(dot, bias);
                }
                let dot = _mm256_cvtepi32_ps(dot);
                let (scale, offset) = scales[h];
                y[m][h] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, d), y[m][h]);
                if format.offset {
                    let shift = block.add(X_SHIFT).cast::<f32>().read_unaligned();
                    y[m][h] = _mm256_fmadd_ps(offset, _mm256_set1_ps(shift), y[m][h]);
                }
            }
        }
    }
}

/// Groups of four codes are multiplied four at a time, J = 0 to 3, for i = 0 and 1: their bits then lie at places
/// that J alone tells. Of Q6_K it is J = 0 and 1, for i = 0 to 3.
const fn group(i: usize, j: usize) -> usize {
    2 * i + j % 2 + j / 2 * 4
}

/// Whether sums of two products of all groups of a sub-block need more than 16 bits: the largest code times 127,
/// twice, is 3810 for codes of 4 bits, 7874 of 5 and 16002 of 6; so four groups of 5 bits fit, and two of 6. Q8_0's
/// 32512 stands alone.
const fn wide(f: u8) -> bool {
    matches!(f, Q5_0 | Q5_1 | Q5K | Q6K | Q8_0)
}

/// Sub-blocks after which the places of codes in their bytes come again.
const fn cycle(f: u8) -> usize {
    match f {
        Q4K | Q5K => 2,
        Q6K => 4,
        _ => 1,
    }
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dword(at: *const u8) -> __m256i {
    // SAFETY: the caller points at four readable bytes.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
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

/// The codes of [`group`] (i, J) of sub-block `s`, the N-th of a [`cycle`], of eight rows; unsigned but for Q8_0.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn codes<const F: u8, const N: usize, const J: usize>(
    w: *const u8,
    s: usize,
    i: usize,
    h: usize,
) -> __m256i {
    let (format, g) = (const { format(F) }, group(i, J));
    // SAFETY: both chunks lie in the block.
    unsafe {
        let low = chunk(w.add(format.codes), low_bits(F, s, g).0, h);
        if F == Q8_0 {
            return low;
        }
        // Bits of a byte's neighbour come along, to be masked off.
        let shifted = const { low_bits(F, N, group(0, J)).1 == 4 };
        let low = if shifted { _mm256_srli_epi16::<4>(low) } else { low };
        let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
        match F {
            Q5_0 | Q5_1 => {
                // Byte g / 2 of each row's 32 bits goes to its four code bytes; each tests one bit.
                let bits = chunk(w.add(format.high), 0, h);
                let spread = _mm256_set1_epi8((g / 2) as i8);
                let base = _mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
                let base = _mm256_add_epi8(_mm256_broadcastsi128_si256(base), spread);
                let tests = if J.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 };
                let tests = _mm256_set1_epi32(tests);
                let bytes = _mm256_and_si256(_mm256_shuffle_epi8(bits, base), tests);
                let set = _mm256_cmpeq_epi8(bytes, tests);
                _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
            Q5K => {
                let bits = chunk(w.add(format.high), g, h);
                let bits = _mm256_srl_epi16(bits, _mm_cvtsi32_si128(s as i32));
                let bit = _mm256_and_si256(bits, _mm256_set1_epi8(1));
                _mm256_or_si256(low, _mm256_slli_epi16::<4>(bit))
            }
            Q6K => {
                let bits = chunk(w.add(format.codes), q6k_bits(s, g).0, h);
                let bits = match const { q6k_bits(N, 0).1 } {
                    0 => _mm256_slli_epi16::<4>(bits),
                    2 => _mm256_slli_epi16::<2>(bits),
                    4 => bits,
                    _ => _mm256_srli_epi16::<2>(bits),
                };
                _mm256_or_si256(low, _mm256_and_si256(bits, _mm256_set1_epi8(0x30)))
            }
            _ => low,
        }
    }
}

/// Nothing, but the compiler cannot look through it: it would form sums of products first, and holds more of them than
/// there are registers.
#[inline]
#[target_feature(enable = "avx2")]
fn pin(v: &mut __m256i) {
    // SAFETY: no instruction is in it.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) * v, options(pure, nomem, nostack, preserves_flags));
    }
}

/// Eight scales and eight minima of 6 bits of each of the 16 rows of a block of Q4_K or Q5_K; nothing of others.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sixes<const F: u8>(w: *const u8) -> [__m128i; 16] {
    if F != Q4K && F != Q5K {
        return [_mm_setzero_si128(); 16];
    }
    // SAFETY: the caller points at a block, whose twelve rows of pairs these are.
    let pair = |i: usize| unsafe { _mm_loadu_si128(w.add(K_PAIRS + LANES * i).cast()) };
    let low = |v| _mm_and_si128(v, _mm_set1_epi8(15));
    let top = |v| _mm_and_si128(_mm_srli_epi16::<2>(v), _mm_set1_epi8(48));
    std::array::from_fn(|i| match i {
        0..4 => _mm_and_si128(pair(i), _mm_set1_epi8(63)),
        4..8 => _mm_or_si128(low(pair(i + 4)), top(pair(i - 4))),
        8..12 => _mm_and_si128(pair(i - 4), _mm_set1_epi8(63)),
        _ => _mm_or_si128(low(_mm_srli_epi16::<4>(pair(i - 4))), top(pair(i - 8))),
    })
}

/// Scale and offset of part `part` of sub-block `s`, of eight rows; `sixes` are those of the block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales<const F: u8>(
    w: *const u8,
    sixes: &[__m128i; 16],
    s: usize,
    part: usize,
    h: usize,
) -> (__m256, __m256) {
    // SAFETY: all rows read lie in the block.
    unsafe {
        let halves = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(w.add(at + 16 * h).cast()));
        match F {
            Q4_1 | Q5_1 => (halves(0), halves(32)),
            Q4K | Q5K => {
                let float = |i: usize| {
                    let eight =
                        _mm_loadl_epi64((&raw const sixes[i]).cast::<u8>().add(8 * h).cast());
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight))
                };
                let minus_dmin = _mm256_sub_ps(_mm256_setzero_ps(), halves(32));
                (_mm256_mul_ps(halves(0), float(s)), _mm256_mul_ps(minus_dmin, float(8 + s)))
            }
            Q6K => {
                let at = w.add(Q6K_SCALES + LANES * (2 * s + part) + 8 * h);
                let v = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()));
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
    let mut subs = out.as_chunks_mut::<{ 32 * LANES }>().0.iter_mut();
    for w in panel.chunks_exact(format.bytes) {
        let w = w.as_ptr();
        // SAFETY: `w` points at a whole block of the panel.
        let sixes = unsafe { sixes::<F>(w) };
        for first in (0..format.subs).step_by(const { cycle(F) }) {
            repeat!(N in [0, 1, 2, 3] {
                if N < const { cycle(F) } && let Some(out) = subs.next() {
                    for i in 0..2 {
                        repeat!(J in [0, 1, 2, 3] {
                            let out = &mut out[4 * LANES * group(i, J)..][..4 * LANES];
                            // SAFETY: as above.
                            unsafe { decode_codes::<F, N, J>(w, &sixes, first + N, i, out) };
                        });
                    }
                }
            });
        }
    }
}

/// The codes of [`group`] (i, J) of sub-block `s`, the N-th of a [`cycle`], as 16 floats each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode_codes<const F: u8, const N: usize, const J: usize>(
    w: *const u8,
    sixes: &[__m128i; 16],
    s: usize,
    i: usize,
    out: &mut [f32],
) {
    let format = const { format(F) };
    let bias = _mm256_set1_epi32(if F == Q8_0 { 0 } else { format.bias });
    for h in 0..2 {
        // SAFETY: the caller points at a whole block of the panel.
        let (q, (scale, offset)) =
            unsafe { (codes::<F, N, J>(w, s, i, h), scales::<F>(w, sixes, s, J / 2, h)) };
        for (j, out) in out.chunks_exact_mut(LANES).enumerate() {
            // Byte j of each dword, with its sign where it has one.
            let high = _mm256_sll_epi32(q, _mm_cvtsi32_si128(24 - 8 * j as i32));
            let code = match F {
                Q8_0 => _mm256_srai_epi32::<24>(high),
                _ => _mm256_srli_epi32::<24>(high),
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
