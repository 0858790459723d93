//! Q4_1, 20 bytes for 32 elements: `d` and `m` f16, `q[16]` nibbles in Q4_0's order.
//! Element = d · code + m.

use super::{f16_at, inverse, min_max, pack_nibbles, put_f16};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (j, &q) in block[4..].iter().enumerate() {
        y[j] = d * f32::from(q & 15) + m;
        y[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// Encodes one block: 16 levels from the smallest to the largest element.
pub fn encode(x: &[f32; 32], block: &mut [u8; 20]) {
    let (low, high) = min_max(x);
    let d = (high - low) / 15.0;
    let scale = inverse(d);
    put_f16(block, 0, d);
    put_f16(block, 2, low);
    pack_nibbles(&x.map(|v| (((v - low) * scale + 0.5) as u8).min(15)), &mut block[4..]);
}
