//! Q8_0, 34 bytes for 32 elements: `d` f16, `q[32]` int8. Element j = d · q[j].

use super::{f16_at, inverse, put_f16};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (y, &q) in y.iter_mut().zip(&block[2..]) {
        *y = d * f32::from(q as i8);
    }
}

/// Encodes one block: d = max|x| / 127, codes rounded half away from zero by the unrounded d.
pub fn encode(x: &[f32; 32], block: &mut [u8; 34]) {
    let d = x.iter().fold(0.0, |max: f32, v| max.max(v.abs())) / 127.0;
    let scale = inverse(d);
    put_f16(block, 0, d);
    for (q, v) in block[2..].iter_mut().zip(x) {
        *q = (v * scale).round() as i8 as u8;
    }
}
