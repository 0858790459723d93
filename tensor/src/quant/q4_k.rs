//! Q4_K, 144 bytes for 256 elements in 8 sub-blocks of 32: `d` and `dmin` f16, `s[12]` eight 6-bit
//! scale and minimum pairs (see `search`), `q[128]` nibbles: of each 32 bytes, the low nibbles are
//! one sub-block and the high nibbles the next. Element = d · scale · code − dmin · min.

use super::f16_at;
use super::search::{Levels, encode_sub_blocks, unpack_pairs};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let pairs = unpack_pairs(&block[4..16]);
    for (j, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(pairs[j][0]), dmin * f32::from(pairs[j][1]));
        let bytes = &block[16 + j / 2 * 32..][..32];
        for (y, q) in y.iter_mut().zip(bytes) {
            *y = scale * f32::from(q >> (j % 2 * 4) & 15) - min;
        }
    }
}

/// Encodes one block.
pub fn encode(x: &[f32; 256], block: &mut [u8; 144]) {
    let levels = Levels { max: 15.0, first: -1.0, steps: 20 };
    let codes = encode_sub_blocks(x, &levels, block);
    for (pair, bytes) in codes.as_chunks::<64>().0.iter().zip(block[16..].chunks_mut(32)) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = pair[l] | pair[l + 32] << 4;
        }
    }
}
