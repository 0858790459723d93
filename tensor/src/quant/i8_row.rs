//! I8Row, 48 bytes for 32 activations: `d` f32, `sum` i32 of the codes, `half` i32 of the first 16, `shift` f32
//! = d · sum, `q[32]` int8. Element j = d · q[j]. The sums serve weights with an offset: Σ x·(a·w + b) =
//! a·Σ x·w + b·Σ x, and codes with a bias.

use super::inverse;

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 48], y: &mut [f32; 32]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (y, &q) in y.iter_mut().zip(&block[16..]) {
        *y = d * f32::from(q as i8);
    }
}

/// Encodes one block: d = max|x| / 127, codes rounded half to even. An infinity or NaN makes the block
/// NaN: activations come from computation, and what went wrong there must stay visible.
#[inline(always)]
pub fn encode(x: &[f32; 32], block: &mut [u8; 48]) {
    // Magnitudes order as their bits do, NaN above all, which a maximum of floats would skip.
    let max = x.iter().fold(0, |max: u32, v| max.max(v.abs().to_bits()));
    let d = f32::from_bits(max) / 127.0;
    let scale = inverse(d);
    // Adding 1.5·2²³ rounds half to even and leaves the integer in the low bits, on every CPU.
    const ROUND: f32 = 12_582_912.0;
    let codes = x.map(|v| (v * scale + ROUND).to_bits() as i8);
    let sum = |codes: &[i8]| -> i32 { codes.iter().map(|&q| i32::from(q)).sum() };
    let (half, rest) = (sum(&codes[..16]), sum(&codes[16..]));
    block[..4].copy_from_slice(&d.to_le_bytes());
    block[4..8].copy_from_slice(&(half + rest).to_le_bytes());
    block[8..12].copy_from_slice(&half.to_le_bytes());
    block[12..16].copy_from_slice(&(d * (half + rest) as f32).to_le_bytes());
    for (byte, q) in block[16..].iter_mut().zip(codes) {
        *byte = q as u8;
    }
}
