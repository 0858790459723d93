//! Q5_0, 22 bytes for 32 elements: `d` f16, `h` u32 (bit j: fifth bit of element j), `q[16]` nibbles
//! in Q4_0's order. Element = d · (code − 16).

use super::{
    f16_at, inverse, pack_fifth_bits, pack_nibbles, put_f16, signed_max, unpack_five_bits,
};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (y, q) in y.iter_mut().zip(unpack_five_bits(&block[2..6], &block[6..])) {
        *y = d * (f32::from(q) - 16.0);
    }
}

/// Encodes one block: the element of largest magnitude gets code 0, so d is its value over −16.
pub fn encode(x: &[f32; 32], block: &mut [u8; 22]) {
    let d = signed_max(x) / -16.0;
    let scale = inverse(d);
    let codes = x.map(|v| ((v * scale + 16.5) as u8).min(31));
    put_f16(block, 0, d);
    block[2..6].copy_from_slice(&pack_fifth_bits(&codes));
    pack_nibbles(&codes, &mut block[6..]);
}
