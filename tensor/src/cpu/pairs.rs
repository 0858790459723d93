//! Operands of products of BF16: two k that follow each other are one element, as `vdpbf16ps` takes them.
//!
//! What is BF16 already and lies in pairs is read as it is; all else is copied here, F32 being rounded on the way, so
//! that training in bf16 needs no second copy of weights or activations.

use crate::cpu::operands::{Block, FEW, Left, Pack, Places, Right, Rows, copied, lines, matrix};
use crate::cpu::panel::LANES;
use crate::cpu::simd::{Isa, Lines, versions};
use crate::quant::nearest_bf16;
use crate::{Element, View};
use half::bf16;
use std::borrow::Cow;
use std::ops::Range;

/// An element that is one of a pair: BF16, or an F32 that is rounded to it.
pub(super) trait Half: Element {
    /// The bits of the nearest BF16.
    fn half(self) -> u32;

    /// Elements that follow each other as pairs, two for each of `to`.
    fn pair_up(isa: Isa, from: &[Self], to: &mut [u32]);

    /// Pairs of rows that are `step` apart, P panels of W columns that lie side by side.
    fn pair_rows<const P: usize, const W: usize>(
        isa: Isa,
        from: &[Self],
        step: usize,
        to: [&mut [[u32; W]]; P],
    );
}

impl Half for bf16 {
    #[inline(always)]
    fn half(self) -> u32 {
        self.to_bits().into()
    }

    fn pair_up(_: Isa, from: &[Self], to: &mut [u32]) {
        bytemuck::cast_slice_mut(to).copy_from_slice(from);
    }

    fn pair_rows<const P: usize, const W: usize>(
        isa: Isa,
        from: &[Self],
        step: usize,
        to: [&mut [[u32; W]]; P],
    ) {
        isa.pair_rows_bf16(from, step, to);
    }
}

impl Half for f32 {
    #[inline(always)]
    fn half(self) -> u32 {
        nearest_bf16(self)
    }

    fn pair_up(isa: Isa, from: &[Self], to: &mut [u32]) {
        isa.pair_up(from, to);
    }

    fn pair_rows<const P: usize, const W: usize>(
        isa: Isa,
        from: &[Self],
        step: usize,
        to: [&mut [[u32; W]]; P],
    ) {
        isa.pair_rows(from, step, to);
    }
}

/// Two elements of neighbouring k as one.
fn pair<T: Half>(first: T, second: T) -> u32 {
    first.half() | second.half() << 16
}

/// Elements that follow each other as pairs; a last one without a neighbour has a zero.
fn pair_up<T: Half>(isa: Isa, from: &[T], to: &mut [u32]) {
    let (pairs, last) = from.as_chunks::<2>();
    let (whole, rest) = to.split_at_mut(pairs.len().min(to.len()));
    T::pair_up(isa, &from[..2 * whole.len()], whole);
    if let ([last], [to, ..]) = (last, rest) {
        *to = last.half();
    }
}

/// The left operand `[M, K]` as pairs of BF16 along K, whatever its strides.
pub(super) struct LeftPairs<'a, T: Half> {
    data: Cow<'a, [T]>,
    places: Places,
    k: usize,
}

impl<'a, T: Half> LeftPairs<'a, T> {
    /// `x [.., K]` as products of `m` rows; copied if its rows are not evenly spaced.
    pub fn new(x: &View<'a>, m: usize) -> Self {
        let (spec, data, k) = (&x.spec, x.data::<T>(), x.spec.last());
        if let Some(places) = Places::new(spec, m) {
            return Self { data: data.into(), places, k };
        }
        let step = spec.strides.last().copied().unwrap_or(1);
        let row = |r| data[spec.row_offset(r)..].iter().step_by(step).take(k).copied();
        let data = (0..spec.rows()).flat_map(row).collect();
        Self { data, places: Places::dense(spec, m), k }
    }
}

impl<T: Half> Rows for LeftPairs<'_, T> {
    fn block<'s>(
        &'s self,
        isa: Isa,
        product: usize,
        rows: Range<usize>,
        ks: Range<usize>,
        _: bool,
        copy: &'s mut Vec<f32>,
    ) -> Block<'s> {
        let (tile, len) = (isa.tile_rows(), ks.len());
        copy.resize(rows.len().next_multiple_of(tile) * len, 0.0);
        let data = &self.data[self.places.at(product, rows.start, 2 * ks.start)..];
        let out: &mut [u32] = bytemuck::cast_slice_mut(copy);
        let (steps, k) = ([self.places.row, self.places.step], self.k - 2 * ks.start);
        let sizes = [rows.len(), len, k];
        let [row, step] = match (steps[1], isa.matrices()) {
            (1, _) => [len, 1],
            (_, true) => {
                pair_along(isa, data, steps, sizes, out);
                return Block { data: copy, tile: tile * len, row: len, step: 1 };
            }
            (_, false) => [1, tile],
        };
        pair_tiles(isa, data, steps, sizes, out);
        Block { data: copy, tile: tile * len, row, step }
    }
}

/// What [`pair_tiles`] takes whose elements do not follow each other, as `[row][pair]`: in squares of 16.
fn pair_along<T: Half>(
    isa: Isa,
    x: &[T],
    [row, step]: [usize; 2],
    [rows, len, k]: [usize; 3],
    out: &mut [u32],
) {
    let mut square = [[0; LANES]; LANES];
    let mut turned = [0.0; LANES * LANES];
    for (i0, p0) in
        (0..rows).step_by(LANES).flat_map(|i| (0..len).step_by(LANES).map(move |p| (i, p)))
    {
        let (height, width) = (LANES.min(rows - i0), LANES.min(len - p0));
        let whole = row == 1 && height == LANES && 2 * (p0 + width) <= k;
        if whole {
            T::pair_rows(isa, &x[2 * p0 * step + i0..], step, [&mut square[..width]]);
            let lines: &[[f32; LANES]] = bytemuck::cast_slice(&square);
            isa.transpose(&std::array::from_fn(|p| &lines[p][..]), &mut turned);
        }
        for i in 0..height {
            let to = &mut out[(i0 + i) * len + p0..][..width];
            if whole {
                to.copy_from_slice(bytemuck::cast_slice(&turned[i * LANES..][..width]));
                continue;
            }
            for (p, to) in (p0..).zip(to) {
                let at = |k: usize| x[(2 * p + k) * step + (i0 + i) * row];
                *to = pair(at(0), if 2 * p + 1 < k { at(1) } else { T::zeroed() });
            }
        }
    }
}

/// Rows of a tile of the kernels that take pairs.
const TILE: usize = 12;

/// `len` pairs of the `k` values from here on, element (i, k) at `i · row + k · step`: as `[row][pair]` if they
/// follow each other, else as `[tile][pair][row]`.
fn pair_tiles<T: Half>(
    isa: Isa,
    x: &[T],
    [row, step]: [usize; 2],
    [rows, len, k]: [usize; 3],
    out: &mut [u32],
) {
    if step == 1 {
        for (i, to) in out.chunks_exact_mut(len.max(1)).take(rows).enumerate() {
            pair_up(isa, &x[i * row..][..k.min(2 * len)], to);
        }
        return;
    }
    assert!(isa.tile_rows() == TILE, "no kernel takes pairs, {} rows at once", isa.tile_rows());
    let whole = len.min(k / 2);
    for p0 in (0..len).step_by(FEW / 2) {
        let end = (p0 + FEW / 2).min(len);
        for (t, out) in out.chunks_exact_mut(TILE * len).enumerate() {
            let first = t * TILE;
            let count = TILE.min(rows - first);
            let out = out.as_chunks_mut::<TILE>().0;
            let done = if row == 1 && count == TILE { end.min(whole) } else { p0 };
            let from = x.get(2 * p0 * step + first..).unwrap_or_default();
            T::pair_rows(isa, from, step, [&mut out[p0..done]]);
            for (p, to) in (done..end).zip(&mut out[done..end]) {
                let at = |k: usize| &x[(2 * p + k) * step + first * row..];
                for (i, to) in to[..count].iter_mut().enumerate() {
                    let second = if p < whole { at(1)[i * row] } else { T::zeroed() };
                    *to = pair(at(0)[i * row], second);
                }
            }
        }
    }
}

/// A right operand `[K, N]` as pairs of BF16 along K, whatever its strides.
pub(super) struct RightPairs<'a, T: Half> {
    data: &'a [T],
    k_step: usize,
    n_step: usize,
    k: usize,
}

impl<'a, T: Half> RightPairs<'a, T> {
    /// The matrix of `w [.., K, N]` whose first row is row `row` of all.
    pub fn new(w: &View<'a>, row: usize) -> Self {
        let (data, [k_step, n_step]) = matrix(w, row);
        Self { data, k_step, n_step, k: w.spec.shape[w.spec.rank() - 2] }
    }
}

impl<T: Half> Pack for RightPairs<'_, T> {
    fn lines(&self, ks: Range<usize>, columns: Range<usize>) -> Option<Lines> {
        lines(self.data, [self.k_step, self.n_step], 2 * ks.start..2 * ks.end, columns)
    }

    /// `[panel][pair][16]` of the pairs `ks` of `columns`.
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        let Self { data, k_step, n_step, k } = *self;
        out.resize(columns.len().div_ceil(LANES) * ks.len() * LANES, 0.0);
        let whole = ks.end.min(k / 2) - ks.start;
        let last = ks.start + whole..ks.end;
        let rows_from = |column| data.get(2 * ks.start * k_step + column..).unwrap_or_default();
        let mut rows = Vec::new();
        let panels = out.chunks_exact_mut((ks.len() * LANES).max(1));
        let mut panels = panels.zip(columns.clone().step_by(LANES));
        while let Some((out, first)) = panels.next() {
            let width = LANES.min(columns.end - first);
            if k_step == 1 {
                rows.resize(LANES * ks.len(), 0);
                rows[width * ks.len()..].fill(0);
                for (i, to) in rows.chunks_exact_mut(ks.len().max(1)).take(width).enumerate() {
                    let all = 2 * ks.start..(2 * ks.end).min(k);
                    pair_up(isa, &data[(first + i) * n_step..][all], to);
                }
                let rows: &[f32] = bytemuck::cast_slice(&rows);
                isa.transpose(&std::array::from_fn(|i| &rows[i * ks.len()..][..ks.len()]), out);
                continue;
            }
            let (out, from) = (as_pairs(out), rows_from(first));
            if n_step == 1 && first + 2 * LANES <= columns.end {
                // What lies side by side in memory goes to two panels.
                let (next, _) = panels.next().expect("32 columns are two panels");
                let next = as_pairs(next);
                T::pair_rows(isa, from, k_step, [&mut out[..whole], &mut next[..whole]]);
                self.pair_each(last.clone(), first, LANES, &mut out[whole..]);
                self.pair_each(last.clone(), first + LANES, LANES, &mut next[whole..]);
                continue;
            }
            let whole = if n_step == 1 && width == LANES { whole } else { 0 };
            T::pair_rows(isa, from, k_step, [&mut out[..whole]]);
            self.pair_each(ks.start + whole..ks.end, first, width, &mut out[whole..]);
        }
    }
}

impl<T: Half> RightPairs<'_, T> {
    /// The pairs `ps` of columns from `first` on one by one, whatever their strides; zeros where nothing is.
    fn pair_each(&self, ps: Range<usize>, first: usize, width: usize, out: &mut [[u32; LANES]]) {
        let Self { data, k_step, n_step, k } = *self;
        for (p, out) in ps.zip(out) {
            let at = |k: usize, i: usize| data[k * k_step + (first + i) * n_step];
            *out = [0; LANES];
            for (i, out) in out[..width].iter_mut().enumerate() {
                let second = if 2 * p + 1 < k { at(2 * p + 1, i) } else { T::zeroed() };
                *out = pair(at(2 * p, i), second);
            }
        }
    }
}

/// Rows of a panel.
fn as_pairs(panel: &mut [f32]) -> &mut [[u32; LANES]] {
    bytemuck::cast_slice_mut::<f32, u32>(panel).as_chunks_mut().0
}

/// An operand of F32 that is rounded to BF16 in the copies that kernels read, for products of floats.
pub(super) struct Rounded<T>(pub T);

impl Rows for Rounded<Left<'_>> {
    fn block<'s>(
        &'s self,
        isa: Isa,
        product: usize,
        rows: Range<usize>,
        ks: Range<usize>,
        _: bool,
        copy: &'s mut Vec<f32>,
    ) -> Block<'s> {
        // What is said to be read often is copied.
        let Block { tile, row, step, .. } = self.0.block(isa, product, rows, ks, true, copy);
        round(copy);
        Block { data: copy, tile, row, step }
    }
}

/// A left operand of BF16 for products of floats.
pub(super) struct Halves<'a> {
    data: &'a [bf16],
    places: Places,
}

impl<'a> Halves<'a> {
    /// `x [.., K]` as products of `m` rows, if these are evenly spaced.
    pub fn new(x: &View<'a>, m: usize) -> Option<Self> {
        Some(Self { data: x.data(), places: Places::new(&x.spec, m)? })
    }
}

impl Rows for Halves<'_> {
    fn block<'s>(
        &'s self,
        isa: Isa,
        product: usize,
        rows: Range<usize>,
        ks: Range<usize>,
        _: bool,
        copy: &'s mut Vec<f32>,
    ) -> Block<'s> {
        let data = self.data.get(self.places.at(product, rows.start, ks.start)..);
        let steps = [self.places.row, self.places.step];
        copied(isa.tile_rows(), data.unwrap_or_default(), steps, [rows.len(), ks.len()], copy)
    }
}

impl Pack for Rounded<Right<'_>> {
    fn lines(&self, ks: Range<usize>, columns: Range<usize>) -> Option<Lines> {
        self.0.lines(ks, columns)
    }
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        self.0.pack(isa, ks, columns, out);
        round(out);
    }
}

versions! {
    /// Every value as the nearest BF16.
    fn round(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = f32::from_bits(x.half() << 16));
    }
}
