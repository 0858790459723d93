//! Operands of products of BF16: two k that follow each other are one element, as `vdpbf16ps` takes them.
//!
//! What is BF16 already and lies in pairs is read as it is; all else is copied here, F32 being rounded on the way, so
//! that training in bf16 needs no second copy of weights or activations.

use crate::cpu::operands::{Block, FEW, Left, Pack, Places, Right, Rows, lines, matrix};
use crate::cpu::panel::LANES;
use crate::cpu::simd::{Isa, Lines, versions};
use crate::quant::nearest_bf16;
use crate::{DType, Element, View};
use half::bf16;
use std::borrow::Cow;
use std::ops::Range;

/// An element that is one of a pair: BF16, or an F32 that is rounded to it.
pub(super) trait Half: Element {
    /// The bits of the nearest BF16.
    fn half(self) -> u32;
}

impl Half for bf16 {
    #[inline(always)]
    fn half(self) -> u32 {
        self.to_bits().into()
    }
}

impl Half for f32 {
    #[inline(always)]
    fn half(self) -> u32 {
        nearest_bf16(self)
    }
}

/// Two elements of neighbouring k as one.
#[inline(always)]
fn pair<T: Half>(first: T, second: T) -> u32 {
    first.half() | second.half() << 16
}

/// A row of pairs of two rows of elements.
#[inline(always)]
fn interleave<T: Half, const N: usize>(a: &[T; N], b: &[T; N], to: &mut [u32; N]) {
    for ((a, b), to) in a.iter().zip(b).zip(to) {
        *to = pair(*a, *b);
    }
}

/// Elements that follow each other as pairs; a last one without a neighbour has a zero.
#[inline(always)]
fn pair_up<T: Half>(from: &[T], to: &mut [u32]) {
    let (pairs, last) = from.as_chunks::<2>();
    for (to, [a, b]) in to.iter_mut().zip(pairs) {
        *to = pair(*a, *b);
    }
    if let ([last], Some(to)) = (last, to.get_mut(pairs.len())) {
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
        pair_rows(data, steps, [rows.len(), len, k], tile, out);
        match steps {
            [_, 1] => Block { data: copy, tile: tile * len, row: len, step: 1 },
            _ => Block { data: copy, tile: tile * len, row: 1, step: tile },
        }
    }
}

/// `len` pairs of the `k` values from here on, element (i, k) at `i · row + k · step`: as `[row][pair]` if they
/// follow each other, else as `[tile][pair][row]`.
fn pair_rows<T: Half>(x: &[T], steps: [usize; 2], sizes: [usize; 3], tile: usize, out: &mut [u32]) {
    versions! {
        fn floats(x: &[f32], steps: [usize; 2], sizes: [usize; 3], out: &mut [u32]) {
            pair_tiles::<f32, 12>(x, steps, sizes, out);
        }
    }
    versions! {
        fn halves(x: &[bf16], steps: [usize; 2], sizes: [usize; 3], out: &mut [u32]) {
            pair_tiles::<bf16, 12>(x, steps, sizes, out);
        }
    }
    assert!(tile == 12, "no kernel takes pairs, {tile} rows at once");
    match T::DTYPE {
        DType::F32 => floats(bytemuck::cast_slice(x), steps, sizes, out),
        _ => halves(bytemuck::cast_slice(x), steps, sizes, out),
    }
}

#[inline(always)]
fn pair_tiles<T: Half, const TILE: usize>(
    x: &[T],
    [row, step]: [usize; 2],
    [rows, len, k]: [usize; 3],
    out: &mut [u32],
) {
    if step == 1 {
        for (i, to) in out.chunks_exact_mut(len.max(1)).take(rows).enumerate() {
            pair_up(&x[i * row..][..k.min(2 * len)], to);
        }
        return;
    }
    for p0 in (0..len).step_by(FEW / 2) {
        let ps = p0..(p0 + FEW / 2).min(len);
        for (t, out) in out.chunks_exact_mut(TILE * len).enumerate() {
            let first = t * TILE;
            let count = TILE.min(rows - first);
            for (p, to) in ps.clone().zip(&mut out.as_chunks_mut::<TILE>().0[ps.clone()]) {
                let at = |k: usize| &x[(2 * p + k) * step + first * row..];
                let second = 2 * p + 1 < k;
                if row == 1 && count == TILE && second {
                    let (a, b) = (at(0).first_chunk::<TILE>(), at(1).first_chunk::<TILE>());
                    let whole = "the tile is whole, so each row has as many";
                    interleave(a.expect(whole), b.expect(whole), to);
                    continue;
                }
                for (i, to) in to[..count].iter_mut().enumerate() {
                    *to = pair(at(0)[i * row], if second { at(1)[i * row] } else { T::zeroed() });
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

impl Pack for RightPairs<'_, f32> {
    fn lines(&self, ks: Range<usize>, columns: Range<usize>) -> Option<Lines> {
        lines(self.data, [self.k_step, self.n_step], 2 * ks.start..2 * ks.end, columns)
    }
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        versions! {
            fn pack(of: &RightPairs<f32>, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
                of.panels(isa, ks, columns, out);
            }
        }
        out.resize(columns.len().div_ceil(LANES) * ks.len() * LANES, 0.0);
        pack(self, isa, ks, columns, out);
    }
}

impl Pack for RightPairs<'_, bf16> {
    fn lines(&self, ks: Range<usize>, columns: Range<usize>) -> Option<Lines> {
        lines(self.data, [self.k_step, self.n_step], 2 * ks.start..2 * ks.end, columns)
    }
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        versions! {
            fn pack(of: &RightPairs<bf16>, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
                of.panels(isa, ks, columns, out);
            }
        }
        out.resize(columns.len().div_ceil(LANES) * ks.len() * LANES, 0.0);
        pack(self, isa, ks, columns, out);
    }
}

impl<T: Half> RightPairs<'_, T> {
    /// `[panel][pair][16]` of the pairs `ks` of `columns`.
    #[inline(always)]
    fn panels(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let Self { data, k_step, n_step, k } = *self;
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
                    pair_up(&data[(first + i) * n_step..][all], to);
                }
                let rows: &[f32] = bytemuck::cast_slice(&rows);
                isa.transpose(&std::array::from_fn(|i| &rows[i * ks.len()..][..ks.len()]), out);
                continue;
            }
            let out = bytemuck::cast_slice_mut::<f32, u32>(out).as_chunks_mut::<LANES>().0;
            let at = |k: usize| &data[k * k_step + first * n_step..];
            if n_step == 1 && first + 2 * LANES <= columns.end {
                let (next, _) = panels.next().expect("32 columns are two panels");
                let next = bytemuck::cast_slice_mut::<f32, u32>(next).as_chunks_mut::<LANES>().0;
                for ((p, out), next) in ks.clone().zip(out).zip(next) {
                    let row =
                        |k| at(k).first_chunk::<{ 2 * LANES }>().expect("a row has all columns");
                    let zeros = [T::zeroed(); 2 * LANES];
                    let a = row(2 * p);
                    let b = if 2 * p + 1 < k { row(2 * p + 1) } else { &zeros };
                    let ((a, of_next_a), (b, of_next_b)) = (halves(a), halves(b));
                    interleave(a, b, out);
                    interleave(of_next_a, of_next_b, next);
                }
                continue;
            }
            for (p, out) in ks.clone().zip(out) {
                *out = [0; LANES];
                for (i, out) in out[..width].iter_mut().enumerate() {
                    let second =
                        if 2 * p + 1 < k { at(2 * p + 1)[i * n_step] } else { T::zeroed() };
                    *out = pair(at(2 * p)[i * n_step], second);
                }
            }
        }
    }
}

/// The columns of two panels.
#[inline(always)]
fn halves<T>(row: &[T; 2 * LANES]) -> (&[T; LANES], &[T; LANES]) {
    let (first, second) = row.as_chunks::<LANES>().0.split_at(1);
    (&first[0], &second[0])
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
