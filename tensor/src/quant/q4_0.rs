//! Q4_0, 18 bytes for 32 elements: `d` f16, `q[16]` nibbles (byte j: element j low, j + 16 high).
//! Element = d · (code − 8).

use super::{f16_at, inverse, pack_nibbles, put_f16, signed_max};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        y[j] = d * (f32::from(q & 15) - 8.0);
        y[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// Encodes one block: the element of largest magnitude gets code 0, so d is its value over −8.
pub fn encode(x: &[f32; 32], block: &mut [u8; 18]) {
    let d = signed_max(x) / -8.0;
    let scale = inverse(d);
    put_f16(block, 0, d);
    pack_nibbles(&x.map(|v| ((v * scale + 8.5) as u8).min(15)), &mut block[2..]);
}
