//! Block formats: how rows of numbers become bytes and back.
//!
//! One file per format, each with its layout; all but NF4 are ggml's, bit by bit, so a GGUF file's
//! bytes are used as they lie. Everything here is a pure function on slices: kernels in `cpu/` decode faster,
//! and these functions are what they are tested against. Types that puyu only reads are in `import`.

pub(crate) mod i8_row;
mod import;
mod nf4;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;

pub use import::ImportType;

use crate::DType;
use crate::cpu::simd::{Isa, versions};
use crate::view::Real;
use half::{bf16, f16};

/// Decodes one row of `dtype` from `bytes` into `out`.
///
/// Every byte string of the right length decodes (possibly to infinities and NaN); nothing panics.
///
/// # Panics
/// If `bytes` is not as long as `out.len()` elements of `dtype`, or `dtype` is U32.
#[track_caller]
pub fn decode_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    check_lengths("decode_row", dtype, out.len(), bytes.len());
    match dtype {
        DType::F32 => {
            decode_blocks(bytes, out, |b, y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b))
        }
        DType::F16 => Isa::detect().decode_halves(bytes, out),
        DType::BF16 => decode_bf16(bytes, out),
        DType::Q8_0 => decode_blocks(bytes, out, q8_0::decode),
        DType::Q4_0 => decode_blocks(bytes, out, q4_0::decode),
        DType::Q4_1 => decode_blocks(bytes, out, q4_1::decode),
        DType::Q5_0 => decode_blocks(bytes, out, q5_0::decode),
        DType::Q5_1 => decode_blocks(bytes, out, q5_1::decode),
        DType::Q4K => decode_blocks(bytes, out, q4_k::decode),
        DType::Q5K => decode_blocks(bytes, out, q5_k::decode),
        DType::Q6K => decode_blocks(bytes, out, q6_k::decode),
        DType::Nf4 => decode_blocks(bytes, out, nf4::decode),
        DType::Nf4Dq => decode_blocks(bytes, out, nf4::decode_dq),
        DType::I8Row => decode_blocks(bytes, out, i8_row::decode),
        DType::U32 => panic!("decode_row: u32 holds indices, not numbers"),
    }
}

/// Encodes the finite numbers `x` as one row of `dtype` into `out`.
///
/// F16 and BF16 round to nearest even. Q8_0, Q4_0 and Q4_1 give the bytes llama.cpp's quantizer
/// gives. Callers that quantize foreign weights look for [`first_non_finite`] first.
///
/// # Panics
/// If `out` is not as long as `x.len()` elements of `dtype`, or `dtype` is U32; in debug builds, if
/// a block format of weights is asked to hold a NaN or an infinity.
#[track_caller]
pub fn encode_row(dtype: DType, x: &[f32], out: &mut [u8]) {
    check_lengths("encode_row", dtype, x.len(), out.len());
    debug_assert!(
        !dtype.is_block() || dtype == DType::I8Row || first_non_finite(x).is_none(),
        "encode_row: {dtype} cannot hold the non-finite element {:?}",
        first_non_finite(x)
    );
    match dtype {
        DType::F32 => encode_blocks(x, out, |x: &[f32; 1], b| *b = x[0].to_le_bytes()),
        DType::F16 => Isa::detect().encode_halves(x, out),
        DType::BF16 => encode_bf16(x, out),
        DType::Q8_0 => encode_blocks(x, out, q8_0::encode),
        DType::Q4_0 => encode_blocks(x, out, q4_0::encode),
        DType::Q4_1 => encode_blocks(x, out, q4_1::encode),
        DType::Q5_0 => encode_blocks(x, out, q5_0::encode),
        DType::Q5_1 => encode_blocks(x, out, q5_1::encode),
        DType::Q4K => encode_blocks(x, out, q4_k::encode),
        DType::Q5K => encode_blocks(x, out, q5_k::encode),
        DType::Q6K => encode_blocks(x, out, q6_k::encode),
        DType::Nf4 => encode_blocks(x, out, nf4::encode),
        DType::Nf4Dq => encode_blocks(x, out, nf4::encode_dq),
        DType::I8Row => Isa::detect().encode_i8(x.as_chunks().0, out.as_chunks_mut().0),
        DType::U32 => panic!("encode_row: u32 holds indices, not numbers"),
    }
}

/// The bits of the nearest BF16, an even one if two are as near; a NaN stays one. Loops over it vectorize.
#[inline(always)]
pub(crate) fn nearest_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if x.is_nan() { bits | 0x40_0000 } else { rounded }) >> 16
}

versions! {
    /// BF16 as F32.
    fn decode_bf16(x: &[u8], out: &mut [f32]) {
        for (x, out) in x.as_chunks::<2>().0.iter().zip(out) {
            *out = bf16::from_le_bytes(*x).get();
        }
    }
}

versions! {
    /// Rounds to BF16.
    fn encode_bf16(x: &[f32], out: &mut [u8]) {
        for (x, out) in x.iter().zip(out.as_chunks_mut::<2>().0) {
            *out = (nearest_bf16(*x) as u16).to_le_bytes();
        }
    }
}

/// The index of the first NaN or infinity in `x`: what a quantizer reports before it encodes.
pub fn first_non_finite(x: &[f32]) -> Option<usize> {
    x.iter().position(|v| !v.is_finite())
}

/// IEEE half bits as f32, without a branch, so that loops over it vectorize.
///
/// A half is a float with the exponent bias 15 instead of 127, hence the factor 2^112, which also
/// normalizes subnormals; only infinities and NaN need their exponent filled up.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// The f16 at byte `at` of `block`.
#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Stores `x` as f16 at byte `at` of `block`, and returns the value a reader will see.
fn put_f16(block: &mut [u8], at: usize, x: f32) -> f32 {
    let half = f16::from_f32(x);
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// `1 / d`, or 0 for a block whose scale is 0, so that its codes become the code of zero.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The element with the largest magnitude (the first of equals), with its sign.
fn signed_max(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max: f32, &v| if v.abs() > max.abs() { v } else { max })
}

/// The smallest and largest element.
fn min_max(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| {
        (if v < low { v } else { low }, if v > high { v } else { high })
    })
}

/// Applies `decode` to every block of `bytes`.
#[inline(always)]
fn decode_blocks<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (block, y) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, y);
    }
}

/// Applies `encode` to every block of `x`.
#[inline(always)]
fn encode_blocks<const B: usize, const N: usize>(
    x: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; N], &mut [u8; B]),
) {
    for (x, block) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode(x, block);
    }
}

#[track_caller]
fn check_lengths(what: &str, dtype: DType, elements: usize, bytes: usize) {
    assert!(
        elements.is_multiple_of(dtype.block_len()) && bytes == dtype.bytes(elements),
        "{what}: {bytes} bytes do not hold {elements} elements of {dtype}"
    );
}

/// Packs 32 codes below 16: byte `j` holds element `j` low and element `j + 16` high.
fn pack_nibbles(codes: &[u8; 32], out: &mut [u8]) {
    for (j, byte) in out.iter_mut().enumerate() {
        *byte = codes[j] & 15 | codes[j + 16] << 4;
    }
}

/// Packs the fifth bits of 32 codes below 32: bit `j` of a little-endian u32 belongs to element `j`.
fn pack_fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().enumerate().fold(0, |bits, (j, &q)| bits | u32::from(q >> 4) << j);
    bits.to_le_bytes()
}

/// The 32 five-bit codes of four bytes of fifth bits and 16 bytes of nibbles.
#[inline(always)]
fn unpack_five_bits(fifth: &[u8], nibbles: &[u8]) -> [u8; 32] {
    let bits = u32::from_le_bytes([fifth[0], fifth[1], fifth[2], fifth[3]]);
    std::array::from_fn(|j| {
        let low = if j < 16 { nibbles[j] & 15 } else { nibbles[j - 16] >> 4 };
        low | ((bits >> j & 1) as u8) << 4
    })
}
