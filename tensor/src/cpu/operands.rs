//! The operands of a product of many rows, and their copies in the order in which kernels read them.
//!
//! Whatever the strides, a copy has the same shape: tiles of rows of the left operand, panels of 16 columns
//! of the right one. An element is an F32 or, for products of BF16, a pair of two k that follow each other
//! (`pairs`).

use crate::cpu::panel::LANES;
use crate::cpu::pool::par_each;
use crate::cpu::simd::{Isa, Lines};
use crate::view::Real;
use crate::{DType, Element, Spec, View, quant};
use std::borrow::Cow;
use std::ops::Range;

/// Rows of a left operand as [`crate::cpu::simd::Strip`] takes them.
pub(super) struct Block<'a> {
    pub data: &'a [f32],
    pub tile: usize,
    pub row: usize,
    pub step: usize,
}

/// A left operand `[M, K]` of each of several products.
pub(super) trait Rows: Sync {
    /// `rows` and `ks` of a product: where they lie if that is good enough, else copied. Copies of what is `wide`
    /// are read often.
    fn block<'s>(
        &'s self,
        isa: Isa,
        product: usize,
        rows: Range<usize>,
        ks: Range<usize>,
        wide: bool,
        copy: &'s mut Vec<f32>,
    ) -> Block<'s>;
}

/// A right operand `[K, N]`.
pub(crate) trait Pack {
    /// Rows `ks` of `columns` as panels of 16, `[panel][k][16]`, with zeros beyond the last column.
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>);

    /// Where they lie now, if that is known.
    fn lines(&self, _: Range<usize>, _: Range<usize>) -> Option<Lines> {
        None
    }

    /// The same where it lies, and how far panels are apart, if it already lies so.
    fn in_place(&self, _: Range<usize>, _: Range<usize>) -> Option<(&[f32], usize)> {
        None
    }
}

/// Where the rows of products lie: element (i, k) at `bases[product] + i·row + k·step`.
pub(super) struct Places {
    bases: Vec<usize>,
    pub row: usize,
    pub step: usize,
}

impl Places {
    /// Those of `spec [.., K]` as products of `m` rows; `None` if rows are not evenly spaced.
    pub fn new(spec: &Spec, m: usize) -> Option<Self> {
        let row = if m > 1 { spec.row_offset(1).wrapping_sub(spec.row_offset(0)) } else { 0 };
        let bases: Vec<usize> = (0..spec.rows() / m).map(|p| spec.row_offset(p * m)).collect();
        let even = bases.iter().enumerate().all(|(p, base)| {
            (1..m).all(|i| spec.row_offset(p * m + i) == base.wrapping_add(i.wrapping_mul(row)))
        });
        let step = spec.strides.last().copied().unwrap_or(1);
        even.then_some(Self { bases, row, step })
    }

    /// Of rows of `k` elements without gaps.
    pub fn dense(spec: &Spec, m: usize) -> Self {
        let k = spec.last();
        Self { bases: (0..spec.rows() / m).map(|p| p * m * k).collect(), row: k, step: 1 }
    }

    /// The place of element (`row`, `k`) of `product`.
    pub fn at(&self, product: usize, row: usize, k: usize) -> usize {
        self.bases[product] + row * self.row + k * self.step
    }
}

/// The left operand as floats.
pub(super) struct Left<'a> {
    data: Cow<'a, [f32]>,
    places: Places,
}

impl<'a> Left<'a> {
    /// `x [.., K]` as products of `m` rows; copied if it is not F32 or its rows are not evenly spaced.
    pub fn new(x: &View<'a>, m: usize) -> Self {
        let spec = &x.spec;
        let places = Places::new(spec, m);
        match (spec.dtype, places) {
            (DType::F32, Some(places)) => Self { data: x.data::<f32>().into(), places },
            (dtype, Some(places))
                if dtype.is_float() && (1..=2 * spec.numel()).contains(&span(spec)) =>
            {
                let mut data = vec![0.0; span(spec)];
                let pieces = data.chunks_mut(1 << 14).zip(x.bytes.chunks(dtype.bytes(1 << 14)));
                par_each(pieces, |(to, from)| quant::decode_row(dtype, from, to));
                Self { data: data.into(), places }
            }
            _ => Self { data: decode(x).into(), places: Places::dense(spec, m) },
        }
    }

    /// From element (`row`, `k`) of `product` on.
    pub fn at(&self, product: usize, row: usize, k: usize) -> &[f32] {
        self.data.get(self.places.at(product, row, k)..).unwrap_or_default()
    }

    /// From a row to the next, and from a k to the next.
    pub fn steps(&self) -> [usize; 2] {
        [self.places.row, self.places.step]
    }
}

/// Elements from the first to the last of a view.
fn span(spec: &Spec) -> usize {
    let steps = spec.shape.iter().zip(&*spec.strides).map(|(n, s)| n.checked_sub(1).map(|n| n * s));
    steps.sum::<Option<usize>>().map_or(0, |last| last + 1)
}

/// The rows of a view as floats, one after another.
fn decode(x: &View) -> Vec<f32> {
    let spec = &x.spec;
    let (k, step) = (spec.last(), spec.strides.last().copied().unwrap_or(1));
    let mut data = vec![0.0; spec.rows() * k];
    for (r, out) in data.chunks_exact_mut(k.max(1)).enumerate() {
        let at = spec.row_offset(r);
        if step == 1 || spec.dtype.is_block() {
            let start = spec.dtype.bytes(at);
            let bytes = &x.bytes[start..start + spec.dtype.bytes(k)];
            quant::decode_row(spec.dtype, bytes, out);
        } else {
            for (i, v) in out.iter_mut().enumerate() {
                let start = spec.dtype.bytes(at + i * step);
                let bytes = &x.bytes[start..start + spec.dtype.block_bytes()];
                quant::decode_row(spec.dtype, bytes, std::slice::from_mut(v));
            }
        }
    }
    data
}

impl Rows for Left<'_> {
    fn block<'s>(
        &'s self,
        isa: Isa,
        product: usize,
        rows: Range<usize>,
        ks: Range<usize>,
        wide: bool,
        copy: &'s mut Vec<f32>,
    ) -> Block<'s> {
        let (tile, [row, step]) = (isa.tile_rows(), self.steps());
        let (data, len) = (self.at(product, rows.start, ks.start), ks.len());
        if step == 1 && !wide {
            return Block { data, tile: tile * row, row, step: 1 };
        }
        copied(tile, data, [row, step], [rows.len(), len], copy)
    }
}

/// `rows` rows of `len` elements as floats, element (i, k) at `i · row + k · step`: tile by tile if rows lie side by
/// side, else row by row.
pub(super) fn copied<'s, T: Real>(
    tile: usize,
    data: &[T],
    [row, step]: [usize; 2],
    [rows, len]: [usize; 2],
    copy: &'s mut Vec<f32>,
) -> Block<'s> {
    copy.resize(rows.next_multiple_of(tile) * len, 0.0);
    if row == 1 && step != 1 {
        pack_tiles(tile, data, step, rows, copy);
        return Block { data: copy, tile: tile * len, row: 1, step: tile };
    }
    for (i, to) in copy.chunks_exact_mut(len.max(1)).take(rows).enumerate() {
        let from = &data[i * row..];
        if step == 1 {
            to.iter_mut().zip(&from[..len]).for_each(|(to, x)| *to = x.get());
        } else {
            to.iter_mut().enumerate().for_each(|(k, to)| *to = from[k * step].get());
        }
    }
    Block { data: copy, tile: tile * len, row: len, step: 1 }
}

/// Values of k whose pieces stay in the first-level cache while the tiles pass by.
pub(super) const FEW: usize = 8;

/// Rows that lie side by side, element (i, k) at `i + k · step`, as floats `[tile][k][row]` of `tile` rows each.
fn pack_tiles<T: Real>(tile: usize, x: &[T], step: usize, rows: usize, out: &mut [f32]) {
    match tile {
        4 => pack_tiles_of::<4, T>(x, step, rows, out),
        6 => pack_tiles_of::<6, T>(x, step, rows, out),
        12 => pack_tiles_of::<12, T>(x, step, rows, out),
        _ => unreachable!("no kernel takes {tile} rows at once"),
    }
}

fn pack_tiles_of<const TILE: usize, T: Real>(x: &[T], step: usize, rows: usize, out: &mut [f32]) {
    let len = out.len() / rows.next_multiple_of(TILE).max(1);
    for k0 in (0..len).step_by(FEW) {
        let ks = k0..(k0 + FEW).min(len);
        for (t, out) in out.chunks_exact_mut(TILE * len).enumerate() {
            let first = t * TILE;
            let count = TILE.min(rows - first);
            for (k, to) in ks.clone().zip(&mut out.as_chunks_mut::<TILE>().0[ks.clone()]) {
                let from = &x[k * step + first..];
                match from.first_chunk::<TILE>() {
                    Some(from) if count == TILE => *to = from.map(Real::get),
                    _ => to[..count].iter_mut().zip(from).for_each(|(to, from)| *to = from.get()),
                }
            }
        }
    }
}

/// A right operand of F32: element (k, n) lies at `k · k_step + n · n_step`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub data: &'a [f32],
    pub k_step: usize,
    pub n_step: usize,
}

impl<'a> Right<'a> {
    /// The F32 matrix of `w [.., K, N]` whose first row is row `row` of all.
    pub fn new(w: &View<'a>, row: usize) -> Self {
        let (data, [k_step, n_step]) = matrix(w, row);
        Self { data, k_step, n_step }
    }
}

/// The elements from those of the matrix of `w [.., K, N]` on whose first row is row `row` of all, and its strides.
pub(super) fn matrix<'a, T: Element>(w: &View<'a>, row: usize) -> (&'a [T], [usize; 2]) {
    let (data, spec) = (w.data(), &w.spec);
    let start = if data.is_empty() { 0 } else { spec.row_offset(row) };
    (&data[start..], [2, 1].map(|i| spec.strides[spec.rank() - i]))
}

/// Elements `ks` of `columns` of the matrix `data`, as rows along its dimension without gaps.
pub(super) fn lines<T>(
    data: &[T],
    [k_step, n_step]: [usize; 2],
    ks: Range<usize>,
    columns: Range<usize>,
) -> Option<Lines> {
    let at = data.as_ptr().wrapping_add(ks.start * k_step + columns.start * n_step).cast();
    let (rows, len, step) = match (k_step, n_step) {
        (_, 1) => (ks.len(), columns.len(), k_step),
        (1, _) => (columns.len(), ks.len(), n_step),
        _ => return None,
    };
    let size = size_of::<T>();
    Some(Lines { at, stride: step * size, rows, bytes: len * size })
}

impl Pack for Right<'_> {
    fn lines(&self, ks: Range<usize>, columns: Range<usize>) -> Option<Lines> {
        lines(self.data, [self.k_step, self.n_step], ks, columns)
    }
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        let Self { data, k_step, n_step } = *self;
        let one = ks.len() * LANES;
        out.resize(columns.len().div_ceil(LANES) * one, 0.0);
        let mut panels = out.chunks_exact_mut(one.max(1)).zip(columns.clone().step_by(LANES));
        while let Some((out, first)) = panels.next() {
            let width = LANES.min(columns.end - first);
            if k_step == 1 {
                let zeros = [0.0; 1024];
                let row = |i: usize| match i < width {
                    true => &data[(first + i) * n_step + ks.start..][..ks.len()],
                    false => &zeros[..ks.len()],
                };
                isa.transpose(&std::array::from_fn(row), out);
                continue;
            }
            let out = out.as_chunks_mut::<LANES>().0;
            if n_step == 1 && first + 2 * LANES <= columns.end {
                // What lies side by side in memory goes to two panels.
                let (next, _) = panels.next().expect("32 columns are two panels");
                let both = out.iter_mut().zip(next.as_chunks_mut::<LANES>().0);
                for (k, (out, next)) in ks.clone().zip(both) {
                    let from = data[k * k_step + first..].first_chunk::<{ 2 * LANES }>();
                    let (from, of_next) =
                        from.expect("a row has all columns of the strip").split_at(LANES);
                    out.copy_from_slice(from);
                    next.copy_from_slice(of_next);
                }
                continue;
            }
            if n_step == 1 && width == LANES {
                for (k, out) in ks.clone().zip(out) {
                    let from = data[k * k_step + first..].first_chunk();
                    *out = *from.expect("a row has all columns of the panel");
                }
                continue;
            }
            for (k, out) in ks.clone().zip(out) {
                *out = [0.0; LANES];
                let from = data[k * k_step + first * n_step..].iter().step_by(n_step.max(1));
                out[..width].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }
}
