//! `Packing::Panel16`: the layout of weights that the CPU kernels read.
//!
//! Each output of a matmul is one chain of operations, so SIMD lanes are different outputs: 16 rows
//! of the weight side by side. A panel holds 16 rows, block after block; inside a block every field
//! is cut into units (a half, a dword of codes, a byte of scales, two BF16) and the 16 rows' units lie
//! next to each other, in the order in which the kernels read them. It is a permutation of bytes: same size, and `unpack` gives the file's bytes
//! back. Rows beyond the last whole panel stay row after row at the end.

use crate::{DType, Packing, Spec, quant};
use std::ops::Range;

/// Rows in a panel: the f32 lanes of AVX-512.
pub const LANES: usize = 16;

/// A run of equal units in a row's block: where it starts, how many, and how many bytes each has.
struct Field {
    at: usize,
    units: usize,
    size: usize,
}

const fn field(at: usize, units: usize, size: usize) -> Field {
    Field { at, units, size }
}

/// The fields of a block, in a panel's order; together they are all of it.
fn fields(dtype: DType) -> &'static [Field] {
    const PLAIN4: &[Field] = &[field(0, 1, 4)];
    const PLAIN2: &[Field] = &[field(0, 1, 2)];
    const Q8_0: &[Field] = &[field(0, 1, 2), field(2, 8, 4)];
    const Q4_0: &[Field] = &[field(0, 1, 2), field(2, 4, 4)];
    const Q4_1: &[Field] = &[field(0, 2, 2), field(4, 4, 4)];
    const Q5_0: &[Field] = &[field(0, 1, 2), field(2, 5, 4)];
    const Q5_1: &[Field] = &[field(0, 2, 2), field(4, 5, 4)];
    const Q4K: &[Field] = &[field(0, 2, 2), field(4, 12, 1), field(16, 32, 4)];
    const Q5K: &[Field] = &[field(0, 2, 2), field(4, 12, 1), field(16, 40, 4)];
    // d, scales, and for each half the fifth and sixth bits, then the first four.
    const Q6K: &[Field] = &[
        field(208, 1, 2),
        field(192, 16, 1),
        field(128, 8, 4),
        field(0, 16, 4),
        field(160, 8, 4),
        field(64, 16, 4),
    ];
    const NF4: &[Field] = &[field(0, 1, 4), field(4, 8, 4)];
    const NF4_DQ: &[Field] = &[field(0, 1, 1), field(1, 8, 4)];
    match dtype {
        DType::F32 | DType::U32 => PLAIN4,
        DType::F16 => PLAIN2,
        // Pairs, as dot products take them.
        DType::BF16 => PLAIN4,
        DType::Q8_0 => Q8_0,
        DType::Q4_0 => Q4_0,
        DType::Q4_1 => Q4_1,
        DType::Q5_0 => Q5_0,
        DType::Q5_1 => Q5_1,
        DType::Q4K => Q4K,
        DType::Q5K => Q5K,
        DType::Q6K => Q6K,
        DType::Nf4 => NF4,
        DType::Nf4Dq => NF4_DQ,
        DType::I8Row => panic!("activations are never packed"),
    }
}

/// Bytes of a row that are interleaved together, and their fields: whole blocks, and of BF16 whole pairs;
/// a last element without a neighbour lies alone.
fn pieces(dtype: DType, len: usize) -> impl Iterator<Item = (usize, &'static [Field])> {
    let block = if dtype == DType::BF16 { 4 } else { dtype.block_bytes() };
    let whole = len / block * block;
    let single = (len > whole).then(|| (whole, fields(DType::F16)));
    (0..whole).step_by(block).map(move |at| (at, fields(dtype))).chain(single)
}

/// The 16 units of `size` bytes at the same place of a block of every row.
#[inline(always)]
fn interleave<const SIZE: usize>(rows: &[&[u8]], from: usize, out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<SIZE>();
    for (out, row) in out.iter_mut().zip(rows) {
        out.copy_from_slice(&row[from..from + SIZE]);
    }
}

/// Interleaves up to 16 rows of whole blocks into `out`, which has room for 16; missing rows stay as
/// they are in `out`.
///
/// # Panics
/// If the rows differ in length, or `out` is not 16 times as long.
#[track_caller]
pub fn pack_panel(dtype: DType, rows: &[&[u8]], out: &mut [u8]) {
    let len = rows.first().map_or(0, |r| r.len());
    assert!(
        rows.len() <= LANES && out.len() == LANES * len && rows.iter().all(|r| r.len() == len),
        "pack_panel: {} rows of {len} bytes into {} bytes",
        rows.len(),
        out.len()
    );
    let mut rest = out;
    for (start, fields) in pieces(dtype, len) {
        for f in fields {
            for u in 0..f.units {
                let from = start + f.at + u * f.size;
                let to = rest.split_off_mut(..f.size * LANES).expect("a panel is 16 rows long");
                match f.size {
                    4 => interleave::<4>(rows, from, to),
                    2 => interleave::<2>(rows, from, to),
                    _ => interleave::<1>(rows, from, to),
                }
            }
        }
    }
}

/// Copies row `lane` of a panel to `row`.
///
/// # Panics
/// If the panel is not 16 times as long as the row.
#[track_caller]
pub fn unpack_row(dtype: DType, panel: &[u8], lane: usize, row: &mut [u8]) {
    assert!(panel.len() == LANES * row.len() && lane < LANES, "unpack_row: lengths differ");
    let mut rest = panel;
    for (start, fields) in pieces(dtype, row.len()) {
        for f in fields {
            for at in (start + f.at..).step_by(f.size).take(f.units) {
                let (units, later) = rest.split_at(f.size * LANES);
                row[at..at + f.size].copy_from_slice(&units[lane * f.size..][..f.size]);
                rest = later;
            }
        }
    }
}

/// The 16 elements for each k of a panel of floats, as floats.
///
/// # Panics
/// If `out` has another number of elements, or `dtype` is no float.
#[track_caller]
pub fn decode_floats(dtype: DType, panel: &[u8], out: &mut [f32]) {
    if dtype != DType::BF16 {
        return quant::decode_row(dtype, panel, out);
    }
    assert!(panel.len() == 2 * out.len() && out.len().is_multiple_of(LANES), "decode_floats");
    let (pairs, single) = panel.as_chunks::<{ 4 * LANES }>();
    let (out, last) = out.split_at_mut(2 * LANES * pairs.len());
    for (pairs, out) in pairs.iter().zip(out.as_chunks_mut::<{ 2 * LANES }>().0) {
        let (even, odd) = out.split_at_mut(LANES);
        for ((pair, even), odd) in pairs.as_chunks::<4>().0.iter().zip(even).zip(odd) {
            let pair = u32::from_le_bytes(*pair);
            (*even, *odd) = (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
        }
    }
    quant::decode_row(dtype, single, last);
}

/// A matrix of weights as it lies in memory: `rows` rows of `len` elements.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// Element type.
    pub dtype: DType,
    /// Whether whole panels are interleaved; then rows follow each other without gaps.
    pub packed: bool,
    /// From the first byte of the first row to past the last of the last.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements per row.
    pub len: usize,
}

impl<'a> Weight<'a> {
    /// The contiguous weight `spec [.., rows, len]` over `bytes`.
    pub fn new(spec: &Spec, bytes: &'a [u8]) -> Self {
        let (rows, len) = (spec.rows(), spec.last());
        let packed = spec.packing == Packing::Panel16;
        Self { dtype: spec.dtype, packed, bytes, stride: spec.dtype.bytes(len), rows, len }
    }

    /// Panels needed to cover all rows; the last may be partly empty.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The bytes of panel `p` if they lie in memory as a panel.
    pub fn panel(&self, p: usize) -> Option<&'a [u8]> {
        let n = self.stride * LANES;
        let whole = self.packed && (p + 1) * LANES <= self.rows;
        whole.then(|| &self.bytes[p * n..(p + 1) * n])
    }

    /// Elements `range` (whole blocks) of the rows of panel `p`, as a panel: from memory, or
    /// interleaved in `scratch`, with zeros for rows that do not exist.
    pub fn panel_part<'s>(
        &self,
        p: usize,
        range: Range<usize>,
        scratch: &'s mut Vec<u8>,
    ) -> &'s [u8]
    where
        'a: 's,
    {
        let (from, to) = (self.dtype.bytes(range.start), self.dtype.bytes(range.end));
        if let Some(panel) = self.panel(p) {
            return &panel[from * LANES..to * LANES];
        }
        scratch.clear();
        scratch.resize((to - from) * LANES, 0);
        self.interleave(p, range, scratch);
        scratch
    }

    /// Elements `range` (whole blocks) of the rows of panel `p`, which lie row after row, as a panel
    /// in `out`; places of rows that do not exist are left alone.
    pub fn interleave(&self, p: usize, range: Range<usize>, out: &mut [u8]) {
        let (from, to) = (self.dtype.bytes(range.start), self.dtype.bytes(range.end));
        let first = p * LANES;
        let count = LANES.min(self.rows - first);
        let mut rows = [&[][..]; LANES];
        for (i, row) in rows[..count].iter_mut().enumerate() {
            *row = &self.bytes[(first + i) * self.stride..][from..to];
        }
        pack_panel(self.dtype, &rows[..count], out);
    }

    /// Copies the bytes of row `r`, as in a file, to `out`.
    pub fn row(&self, r: usize, out: &mut [u8]) {
        match self.panel(r / LANES) {
            Some(panel) => unpack_row(self.dtype, panel, r % LANES, out),
            None => out.copy_from_slice(&self.bytes[r * self.stride..][..out.len()]),
        }
    }
}
