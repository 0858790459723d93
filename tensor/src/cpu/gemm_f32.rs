//! The product of many rows in F32: training's, forward and backward, and any other.
//!
//! As in Goto and van de Geijn (2008), a block of the left operand stays in the second-level cache
//! while panels of 16 columns of the right one pass through the first. Both are copied once per block
//! into the order in which they are read, whatever their strides and dtype: so all transposed forms are
//! one loop, and no row's address meets another's in the cache. Each output is still one chain, k ascending.

use crate::View;
use crate::cpu::gemm::Left;
use crate::cpu::panel::LANES;
use crate::cpu::pool::{SharedMut, par, threads};
use crate::cpu::simd::{Isa, Strip};
use std::cell::Cell;
use std::ops::Range;

/// Rows of the left operand in a block at most: with 256 k they fill half of a second-level cache. A multiple of every tile.
const TALL: usize = 264;

/// Panels of a job at most: its outputs stay in a cache while blocks of k pass by.
const WIDE: usize = 64;

/// Panels of a job at least; fewer repeat too much work on the left operand.
const NARROW: usize = 4;

/// Panels from which on rows of the left operand are copied close together.
const WORTH_COPYING: usize = 8;

/// A right operand `[K, N]`.
pub(crate) trait Pack {
    /// Rows `ks` of `columns` as panels of 16, `[panel][k][16]`, with zeros beyond the last column.
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>);

    /// The same where it lies, and how far panels are apart, if it already lies so.
    fn in_place(&self, _: Range<usize>, _: Range<usize>) -> Option<(&[f32], usize)> {
        None
    }
}

/// A right operand of F32: element (k, n) lies at `k · k_step + n · n_step`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub data: &'a [f32],
    pub k_step: usize,
    pub n_step: usize,
}

thread_local! {
    /// Memory for the copies, kept from job to job.
    static SCRATCH: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// `y = left · right`, or with `add` y + left · right, for `products` products of `[m, k]` by `[k, n]`;
/// `right(product)` gives the right operand of each. It is packed from multiples of `grain` k on, which
/// divides 256. With `dots` the elements are pairs of BF16.
pub(super) fn multiply<R: Pack>(
    (isa, dots): (Isa, bool),
    left: &Left,
    right: impl Fn(usize) -> R + Sync,
    [products, m, k, n]: [usize; 4],
    grain: usize,
    y: &mut [f32],
    add: bool,
) {
    let y = SharedMut::new(y);
    let jobs = Jobs::new(isa, products, m, n.div_ceil(LANES));
    let (at_once, longest) = isa.strip_panels();
    let chunk = k.div_ceil(k.div_ceil(longest).max(1)).max(1).next_multiple_of(grain);
    par(jobs.count(), |job| {
        let (product, rows, panels) = jobs.get(job);
        let right = right(product);
        let mut scratch = SCRATCH.take();
        for k0 in (0..k.max(1)).step_by(chunk) {
            let ks = k0..(k0 + chunk).min(k);
            let [block, columns] = &mut scratch;
            let wide = panels.len() >= WORTH_COPYING;
            let block = left.block(isa, product, rows.clone(), ks.clone(), wide, block);
            for first in panels.clone().step_by(at_once) {
                let some = first * LANES..((first + at_once).min(panels.end) * LANES).min(n);
                let (panels, stride) = match right.in_place(ks.clone(), some.clone()) {
                    Some(found) => found,
                    None => {
                        right.pack(isa, ks.clone(), some.clone(), columns);
                        (&columns[..], ks.len() * LANES)
                    }
                };
                let strip = Strip {
                    left: block.data,
                    tile: block.tile,
                    row: block.row,
                    step: block.step,
                    panels,
                    stride,
                    k: ks.len(),
                    rows: rows.len(),
                    width: some.len(),
                    fresh: k0 == 0 && !add,
                    dots,
                };
                // SAFETY: each job has its own rows and columns of `y`.
                unsafe { isa.strip(&strip, &y, (product * m + rows.start) * n + some.start, n) };
            }
        }
        SCRATCH.set(scratch);
    });
}

/// Rows of a left operand as [`Strip`] takes them.
pub(crate) struct Block<'a> {
    pub data: &'a [f32],
    pub tile: usize,
    pub row: usize,
    pub step: usize,
}

impl Left<'_> {
    /// `rows` and `ks` of a product: where they lie if that is good enough, else copied.
    fn block<'s>(
        &'s self,
        isa: Isa,
        product: usize,
        rows: Range<usize>,
        ks: Range<usize>,
        wide: bool,
        copy: &'s mut Vec<f32>,
    ) -> Block<'s> {
        let tile = isa.tile_rows();
        let (data, len) = (self.at(product, rows.start, ks.start), ks.len());
        if self.step == 1 && !wide {
            return Block { data, tile: tile * self.row, row: self.row, step: 1 };
        }
        copy.resize(rows.len().next_multiple_of(tile) * len, 0.0);
        if self.row == 1 && self.step != 1 {
            match tile {
                4 => pack_tiles::<4>(data, self.step, rows.len(), len, copy),
                6 => pack_tiles::<6>(data, self.step, rows.len(), len, copy),
                12 => pack_tiles::<12>(data, self.step, rows.len(), len, copy),
                _ => unreachable!("no kernel takes {tile} rows at once"),
            }
            return Block { data: copy, tile: tile * len, row: 1, step: tile };
        }
        for (i, to) in copy.chunks_exact_mut(len.max(1)).take(rows.len()).enumerate() {
            if self.step == 1 {
                to.copy_from_slice(&data[i * self.row..][..len]);
            } else {
                to.iter_mut()
                    .enumerate()
                    .for_each(|(k, v)| *v = data[i * self.row + k * self.step]);
            }
        }
        Block { data: copy, tile: tile * len, row: len, step: 1 }
    }
}

/// Rows that lie side by side, element (i, k) at `i + k · step`, as `[tile][k][TILE]`.
fn pack_tiles<const TILE: usize>(x: &[f32], step: usize, rows: usize, len: usize, out: &mut [f32]) {
    /// Values of k whose pieces stay in the first-level cache while the tiles pass by.
    const FEW: usize = 16;
    for k0 in (0..len).step_by(FEW) {
        let ks = k0..(k0 + FEW).min(len);
        for (t, out) in out.chunks_exact_mut(TILE * len).enumerate() {
            let first = t * TILE;
            let count = TILE.min(rows - first);
            for (k, to) in ks.clone().zip(&mut out.as_chunks_mut::<TILE>().0[ks.clone()]) {
                let from = &x[k * step + first..];
                match from.first_chunk::<TILE>() {
                    Some(from) if count == TILE => *to = *from,
                    _ => to[..count].copy_from_slice(&from[..count]),
                }
            }
        }
    }
}

impl<'a> Right<'a> {
    /// The F32 matrix of `w [.., K, N]` whose first row is row `row` of all.
    pub fn new(w: &View<'a>, row: usize) -> Self {
        let (data, spec) = (w.data(), &w.spec);
        let start = if data.is_empty() { 0 } else { spec.row_offset(row) };
        let rank = spec.rank();
        Self {
            data: &data[start..],
            k_step: spec.strides[rank - 2],
            n_step: spec.strides[rank - 1],
        }
    }
}

impl Pack for Right<'_> {
    fn pack(&self, isa: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        let Self { data, k_step, n_step } = *self;
        let one = ks.len() * LANES;
        out.resize(columns.len().div_ceil(LANES) * one, 0.0);
        for (out, first) in out.chunks_exact_mut(one.max(1)).zip(columns.clone().step_by(LANES)) {
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
            for (k, out) in ks.clone().zip(out.as_chunks_mut::<LANES>().0) {
                let from = &data[k * k_step + first * n_step..];
                match (n_step, from.first_chunk::<LANES>()) {
                    (1, Some(from)) if width == LANES => *out = *from,
                    _ => {
                        *out = [0.0; LANES];
                        let each = out[..width].iter_mut().zip(from.iter().step_by(n_step.max(1)));
                        each.for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }
}

/// How the products are cut into jobs: groups of panels, then products, then pieces of the rows, so
/// that a thread's jobs share columns of the right operand.
struct Jobs {
    products: usize,
    m: usize,
    tile: usize,
    pieces: usize,
    panels: usize,
    groups: usize,
}

impl Jobs {
    fn new(isa: Isa, products: usize, m: usize, panels: usize) -> Self {
        let threads = threads();
        let mut pieces = m.div_ceil(TALL).max(1);
        // Several jobs for each thread, so that one that is late delays little.
        let wanted = (4 * threads).div_ceil(products * pieces);
        let mut groups = panels.div_ceil(WIDE).max(wanted.min(panels / NARROW)).max(1);
        if !(products * pieces * groups).is_multiple_of(threads) {
            if pieces >= threads {
                pieces = pieces.next_multiple_of(threads);
            } else if groups > 1 {
                groups = groups.next_multiple_of(threads).min(panels);
            }
        }
        Self { products, m, tile: isa.tile_rows(), pieces, panels, groups }
    }

    fn count(&self) -> usize {
        self.products * self.pieces * self.groups
    }

    /// Product, rows and panels of a job.
    fn get(&self, job: usize) -> (usize, Range<usize>, Range<usize>) {
        let (rest, piece) = (job / self.pieces, job % self.pieces);
        let (group, product) = (rest / self.products, rest % self.products);
        let tiles = self.m.div_ceil(self.tile);
        let row = |piece: usize| (piece * tiles / self.pieces * self.tile).min(self.m);
        let panel = |group: usize| group * self.panels / self.groups;
        (product, row(piece)..row(piece + 1), panel(group)..panel(group + 1))
    }
}
