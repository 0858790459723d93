//! Where the fields of a block lie in a panel (`cpu/panel.rs`), as constants that the kernels of all
//! instruction sets share.
//!
//! Kernels are generic over the number of a dtype, so that each format compiles to its own loop. A
//! chunk is 64 bytes: one dword, four codes or their bits, of each of the 16 rows.

use crate::DType;

pub const Q8_0: u8 = DType::Q8_0 as u8;
pub const Q4_0: u8 = DType::Q4_0 as u8;
pub const Q4_1: u8 = DType::Q4_1 as u8;
pub const Q5_0: u8 = DType::Q5_0 as u8;
pub const Q5_1: u8 = DType::Q5_1 as u8;
pub const Q4K: u8 = DType::Q4K as u8;
pub const Q5K: u8 = DType::Q5K as u8;
pub const Q6K: u8 = DType::Q6K as u8;

/// Bytes of a block of one row as I8Row: f32 scale, i32 sums of all and of half the codes, f32 shift, 32 codes.
pub const X_BLOCK: usize = DType::I8Row.block_bytes();
/// Where the sum of all codes lies, the sum of the first 16, scale times sum, and the codes.
pub const X_SUM: usize = 4;
pub const X_HALF: usize = 8;
pub const X_SHIFT: usize = 12;
pub const X_CODES: usize = 16;

/// What a kernel knows of a block format.
pub struct Format {
    /// Bytes of a panel's block: 16 rows.
    pub bytes: usize,
    /// Sub-blocks of 32 elements in a block.
    pub subs: usize,
    /// Codes are stored as value + bias, in an unsigned byte.
    pub bias: i32,
    /// Whether elements have an offset (m or −dmin · min) besides the scale.
    pub offset: bool,
    /// First byte of the fifth bits.
    pub high: usize,
    /// First byte of the codes (in Q6_K of all their bits).
    pub codes: usize,
}

/// The format of dtype number `f`.
pub const fn format(f: u8) -> Format {
    match f {
        Q8_0 => Format { bytes: 544, subs: 1, bias: 128, offset: false, high: 0, codes: 32 },
        Q4_0 => Format { bytes: 288, subs: 1, bias: 8, offset: false, high: 0, codes: 32 },
        Q4_1 => Format { bytes: 320, subs: 1, bias: 0, offset: true, high: 0, codes: 64 },
        Q5_0 => Format { bytes: 352, subs: 1, bias: 16, offset: false, high: 32, codes: 96 },
        Q5_1 => Format { bytes: 384, subs: 1, bias: 0, offset: true, high: 64, codes: 128 },
        Q4K => Format { bytes: 2304, subs: 8, bias: 0, offset: true, high: 0, codes: 256 },
        Q5K => Format { bytes: 2816, subs: 8, bias: 0, offset: true, high: 256, codes: 768 },
        Q6K => Format { bytes: 3360, subs: 8, bias: 32, offset: false, high: 0, codes: 288 },
        _ => panic!("no block format has this number"),
    }
}

/// First of Q4_K's and Q5_K's twelve rows of packed 6-bit pairs.
pub const K_PAIRS: usize = 64;
/// First of Q6_K's sixteen rows of scales.
pub const Q6K_SCALES: usize = 32;

/// Chunk and shift of the codes (low bits) of sub-block `s`, dword `g`.
#[inline(always)]
pub const fn low_bits(f: u8, s: usize, g: usize) -> (usize, usize) {
    match f {
        Q8_0 => (g, 0),
        Q4K | Q5K => (s / 2 * 8 + g, s % 2 * 4),
        Q6K => (s / 4 * 24 + 8 + s % 2 * 8 + g, s % 4 / 2 * 4),
        _ => (g % 4, g / 4 * 4),
    }
}

/// Chunk of Q6_K's fifth and sixth bits of sub-block `s`, dword `g`, and where they are in its bytes.
#[inline(always)]
pub const fn q6k_bits(s: usize, g: usize) -> (usize, usize) {
    (s / 4 * 24 + g, s % 4 * 2)
}

/// Calls `$f::<FORMAT>` for the format of `$dtype`.
macro_rules! with_format {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            DType::Q8_0 => $f::<Q8_0>($($arg),*),
            DType::Q4_0 => $f::<Q4_0>($($arg),*),
            DType::Q4_1 => $f::<Q4_1>($($arg),*),
            DType::Q5_0 => $f::<Q5_0>($($arg),*),
            DType::Q5_1 => $f::<Q5_1>($($arg),*),
            DType::Q4K => $f::<Q4K>($($arg),*),
            DType::Q5K => $f::<Q5K>($($arg),*),
            DType::Q6K => $f::<Q6K>($($arg),*),
            other => unreachable!("{other} is no block format"),
        }
    };
}
pub(super) use with_format;

/// Cuts `$sums` into tiles of the listed sizes, largest first, and calls `$f::<SIZE>` with the rest
/// of `$x` from the tile's first row on, `$row` elements apart.
macro_rules! for_tiles {
    ($sums:expr, $x:expr, $row:expr, [$($size:literal),*], |$now:ident, $from:ident, $n:ident| $call:expr) => {
        let (mut sums, mut x) = ($sums, $x);
        $(
            while sums.len() >= $size {
                let ($now, later) = sums.split_at_mut($size);
                {
                    const $n: usize = $size;
                    let $from = x;
                    $call;
                }
                x = x.get($size * $row..).unwrap_or_default();
                sums = later;
            }
        )*
    };
}
pub(super) use for_tiles;

/// Cuts `$count` rows into tiles of the listed sizes, largest first, and runs `$call` for each with its
/// first row and its size.
macro_rules! for_rows {
    ($count:expr, [$($size:literal),*], |$first:ident, $n:ident| $call:expr) => {
        let (mut $first, count) = (0, $count);
        $(
            while count - $first >= $size {
                const $n: usize = $size;
                $call;
                $first += $size;
            }
        )*
    };
}
pub(super) use for_rows;

/// Runs `$write(tile's first row, rows, where, row step)` for the tiles of `$rows` rows of an output at
/// `$y`: on the output itself if it is 16 columns wide, else on a copy that is.
macro_rules! through_copy {
    ($s:expr, $y:expr, $y_row:expr, $width:expr, $tile:expr, |$at:ident, $count:ident, $to:ident, $row:ident| $call:expr) => {
        for $at in (0..$s.rows).step_by($tile) {
            let $count = $tile.min($s.rows - $at);
            let y = $y.add($at * $y_row);
            if $width == LANES {
                let ($to, $row) = (y, $y_row);
                $call;
                continue;
            }
            let mut copy = [[0.0f32; LANES]; $tile];
            for (i, copy) in copy[..$count].iter_mut().enumerate().filter(|_| !$s.fresh) {
                y.add(i * $y_row).copy_to_nonoverlapping(copy.as_mut_ptr(), $width);
            }
            let ($to, $row) = (copy.as_mut_ptr().cast::<f32>(), LANES);
            $call;
            for (i, copy) in copy[..$count].iter().enumerate() {
                y.add(i * $y_row).copy_from_nonoverlapping(copy.as_ptr(), $width);
            }
        }
    };
}
pub(super) use through_copy;
