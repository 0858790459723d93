//! Q5_K, 176 bytes for 256 elements in 8 sub-blocks of 32: `d` and `dmin` f16, `s[12]` as in Q4_K,
//! `h[32]` fifth bits (bit j of h[l] belongs to element l of sub-block j), `q[128]` nibbles as in
//! Q4_K. Element = d · scale · code − dmin · min.

use super::f16_at;
use super::search::{Levels, encode_sub_blocks, unpack_pairs};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let pairs = unpack_pairs(&block[4..16]);
    let fifth = &block[16..48];
    for (j, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(pairs[j][0]), dmin * f32::from(pairs[j][1]));
        let bytes = &block[48 + j / 2 * 32..][..32];
        for ((y, q), h) in y.iter_mut().zip(bytes).zip(fifth) {
            let code = q >> (j % 2 * 4) & 15 | (h >> j & 1) << 4;
            *y = scale * f32::from(code) - min;
        }
    }
}

/// Encodes one block.
pub fn encode(x: &[f32; 256], block: &mut [u8; 176]) {
    let levels = Levels { max: 31.0, first: -0.5, steps: 15 };
    let codes = encode_sub_blocks(x, &levels, block);
    let (fifth, nibbles) = block[16..].split_at_mut(32);
    for (l, byte) in fifth.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, j| bits | codes[32 * j + l] >> 4 << j);
    }
    for (pair, bytes) in codes.as_chunks::<64>().0.iter().zip(nibbles.chunks_mut(32)) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = pair[l] & 15 | pair[l + 32] << 4;
        }
    }
}
