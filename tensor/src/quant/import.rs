//! Block formats that puyu reads and never writes: the loader decodes them to floats.
//!
//! They exist so that files of other tools open. IQ4 types and MXFP4 map 4-bit codes through a table
//! of unequal steps. Layouts are ggml's, listed at each function.

use super::{decode_blocks, f16_at};

/// A GGUF element type that is decoded at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImportType {
    /// 256 elements in 16 sub-blocks with 4-bit scales and minima, 2-bit codes.
    Q2K,
    /// 256 elements in 16 sub-blocks with 6-bit scales, 3-bit codes.
    Q3K,
    /// 32 elements: f16 scale, 4-bit codes into a table.
    Iq4Nl,
    /// 256 elements in 8 sub-blocks with 6-bit scales, 4-bit codes into IQ4_NL's table.
    Iq4Xs,
    /// 32 elements: power-of-two scale, 4-bit floats (OCP Microscaling E2M1).
    Mxfp4,
}

impl ImportType {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::Q2K, Self::Q3K, Self::Iq4Nl, Self::Iq4Xs, Self::Mxfp4];

    /// Elements in one block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Iq4Nl | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q3K | Self::Iq4Xs => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Iq4Nl => 18,
            Self::Iq4Xs => 136,
            Self::Mxfp4 => 17,
        }
    }

    /// The name llama.cpp shows, in lower case: `q2_k`, `iq4_xs`, `mxfp4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Decodes one row from `bytes` into `out`; every byte string of the right length decodes.
    ///
    /// # Panics
    /// If `out` is not whole blocks, or `bytes` is not as long as those blocks.
    #[track_caller]
    pub fn decode_row(self, bytes: &[u8], out: &mut [f32]) {
        assert!(
            out.len().is_multiple_of(self.block_len())
                && bytes.len() == out.len() / self.block_len() * self.block_bytes(),
            "decode_row: {} bytes do not hold {} elements of {}",
            bytes.len(),
            out.len(),
            self.name()
        );
        match self {
            Self::Q2K => decode_blocks(bytes, out, q2_k),
            Self::Q3K => decode_blocks(bytes, out, q3_k),
            Self::Iq4Nl => decode_blocks(bytes, out, iq4_nl),
            Self::Iq4Xs => decode_blocks(bytes, out, iq4_xs),
            Self::Mxfp4 => decode_blocks(bytes, out, mxfp4),
        }
    }
}

/// The levels of IQ4_NL and IQ4_XS: denser near zero, where weights are.
const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Twice the values of E2M1: sign, two exponent bits, one mantissa bit.
const E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// 32 elements from 16 bytes: byte j holds element j low and element j + 16 high, through `table`.
fn table_nibbles(bytes: &[u8], table: &[f32; 16], scale: f32, y: &mut [f32]) {
    for (j, &q) in bytes.iter().enumerate() {
        y[j] = scale * table[usize::from(q & 15)];
        y[j + 16] = scale * table[usize::from(q >> 4)];
    }
}

/// `d` f16, `q[16]` nibbles.
fn iq4_nl(block: &[u8; 18], y: &mut [f32; 32]) {
    table_nibbles(&block[2..], &IQ4, f16_at(block, 0), y);
}

/// `d` f16, `high` u16 (bit pair j: upper scale bits of sub-block j), `low[4]` nibbles (lower scale
/// bits), `q[128]` nibbles, 16 bytes per sub-block. Scales are stored plus 32.
fn iq4_xs(block: &[u8; 136], y: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (j, y) in y.chunks_mut(32).enumerate() {
        let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
        let scale = f32::from(u16::from(low) | (high >> (2 * j) & 3) << 4) - 32.0;
        table_nibbles(&block[8 + 16 * j..][..16], &IQ4, d * scale, y);
    }
}

/// `e` exponent byte, `q[16]` nibbles; the scale 2^(e − 128) undoes the table's doubling.
fn mxfp4(block: &[u8; 17], y: &mut [f32; 32]) {
    let e = u32::from(block[0]);
    // Below 2^−126 an f32 is subnormal: one bit of the mantissa, no exponent.
    let bits = if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 };
    table_nibbles(&block[1..], &E2M1, f32::from_bits(bits), y);
}

/// `s[16]` (low nibble scale, high nibble minimum), `q[64]` bit pairs, `d` and `dmin` f16. Element
/// 32·k + l of a half of 128 is bit pair k of its q[l]. Element = d · scale · code − dmin · min.
fn q2_k(block: &[u8; 84], y: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (j, y) in y.chunks_mut(16).enumerate() {
        let (scale, min) = (d * f32::from(block[j] & 15), dmin * f32::from(block[j] >> 4));
        let (bytes, pair) = bit_pairs(&block[16..80], j);
        for (y, q) in y.iter_mut().zip(bytes) {
            *y = scale * f32::from(q >> pair & 3) - min;
        }
    }
}

/// `h[32]` third bits (bit j / 2 of h[l], set means no −4), `q[64]` bit pairs as in Q2_K, `s[12]`
/// sixteen 6-bit scales plus 32, `d` f16. Element = d · scale · (code − 4).
fn q3_k(block: &[u8; 110], y: &mut [f32; 256]) {
    let d = f16_at(block, 108);
    let packed = &block[96..108];
    for (j, y) in y.chunks_mut(16).enumerate() {
        let low = packed[j % 8] >> (j / 8 * 4) & 15;
        let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (bytes, pair) = bit_pairs(&block[32..96], j);
        let third = &block[j % 2 * 16..][..16];
        for ((y, q), h) in y.iter_mut().zip(bytes).zip(third) {
            let code = q >> pair & 3 | (h >> (j / 2) & 1) << 2;
            *y = scale * (f32::from(code) - 4.0);
        }
    }
}

/// Of 64 bytes of bit pairs, the 16 that hold sub-block `j`, and the shift to its pair.
fn bit_pairs(bytes: &[u8], j: usize) -> (&[u8], usize) {
    (&bytes[j / 8 * 32 + j % 2 * 16..][..16], j % 8 / 2 * 2)
}
