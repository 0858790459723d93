//! Q5_1, 24 bytes for 32 elements: `d` and `m` f16, `h` u32 (bit j: fifth bit of element j), `q[16]`
//! nibbles in Q4_0's order. Element = d · code + m.

use super::{f16_at, inverse, min_max, pack_fifth_bits, pack_nibbles, put_f16, unpack_five_bits};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (y, q) in y.iter_mut().zip(unpack_five_bits(&block[4..8], &block[8..])) {
        *y = d * f32::from(q) + m;
    }
}

/// Encodes one block: 32 levels from the smallest to the largest element.
pub fn encode(x: &[f32; 32], block: &mut [u8; 24]) {
    let (low, high) = min_max(x);
    let d = (high - low) / 31.0;
    let scale = inverse(d);
    let codes = x.map(|v| (((v - low) * scale + 0.5) as u8).min(31));
    put_f16(block, 0, d);
    put_f16(block, 2, low);
    block[4..8].copy_from_slice(&pack_fifth_bits(&codes));
    pack_nibbles(&codes, &mut block[8..]);
}
