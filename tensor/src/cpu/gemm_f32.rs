//! The product of many rows in F32: training's, forward and backward, and any other.
//!
//! As in Goto and van de Geijn (2008), a block of the left operand stays in the second-level cache
//! while panels of 16 columns of the right one pass through the first. Both are copied once per block
//! into the order in which they are read, whatever their strides and dtype: so all transposed forms are
//! one loop, and no row's address meets another's in the cache. Each output is still one chain, k ascending.

use crate::cpu::operands::{Pack, Rows};
use crate::cpu::panel::LANES;
use crate::cpu::pool::{SharedMut, par, threads};
use crate::cpu::simd::{Isa, Strip};
use crate::{DType, quant};
use half::bf16;
use std::cell::Cell;
use std::ops::Range;

/// Tiles of rows in a block of the left operand at most: with 256 k they fill half of a second-level cache, which is
/// larger where tiles are.
const TALL: usize = 44;

/// Panels of a job at most: its outputs stay in a cache while blocks of k pass by.
const WIDE: usize = 64;

/// Panels of a job at least; fewer repeat too much work on the left operand.
const NARROW: usize = 4;

/// Panels from which on rows of the left operand are copied close together.
const WORTH_COPYING: usize = 8;

thread_local! {
    /// Memory for the copies and for sums, kept from job to job.
    static SCRATCH: Cell<[Vec<f32>; 3]> = const { Cell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Where products go.
pub(super) enum Out<'a> {
    /// Where they are added up.
    Sums(&'a mut [f32]),
    /// Where they are once they are rounded.
    Rounded(&'a mut [bf16]),
}

/// [`Out`], shared by the jobs.
enum Shared<'a> {
    Sums(SharedMut<'a, f32>),
    Rounded(SharedMut<'a, bf16>),
}

/// `y = left · right`, or with `add` y + left · right, for `products` products of `[m, k]` by `[k, n]`;
/// `right(product)` gives the right operand of each. It is packed from multiples of `grain` k on, which
/// divides 256. With `dots` the elements are pairs of BF16. Nothing is added to what is rounded.
pub(super) fn multiply<R: Pack>(
    (isa, dots): (Isa, bool),
    left: &dyn Rows,
    right: impl Fn(usize) -> R + Sync,
    [products, m, k, n]: [usize; 4],
    grain: usize,
    y: Out,
    add: bool,
) {
    let y = match y {
        Out::Sums(y) => Shared::Sums(SharedMut::new(y)),
        Out::Rounded(y) => Shared::Rounded(SharedMut::new(y)),
    };
    let jobs = Jobs::new(isa, products, m, n.div_ceil(LANES));
    let (at_once, longest) = isa.strip_panels();
    let chunk = k.div_ceil(k.div_ceil(longest).max(1)).max(1).next_multiple_of(grain);
    par(jobs.count(), |job| {
        let (product, rows, panels) = jobs.get(job);
        let right = right(product);
        let (first_row, first_column) = (product * m + rows.start, panels.start * LANES);
        let columns_of_job = (panels.end * LANES).min(n) - first_column;
        let [mut block, mut columns, mut sums] = SCRATCH.take();
        for k0 in (0..k.max(1)).step_by(chunk) {
            let ks = k0..(k0 + chunk).min(k);
            let wide = panels.len() >= WORTH_COPYING;
            let block = left.block(isa, product, rows.clone(), ks.clone(), wide, &mut block);
            let end = panels.end;
            let some = |first: usize| first * LANES..((first + at_once).min(end) * LANES).min(n);
            for first in panels.clone().step_by(at_once) {
                let (some, next) = (some(first), some(first + at_once));
                let next = Some(next).filter(|next| !next.is_empty());
                let (panels, stride) = match right.in_place(ks.clone(), some.clone()) {
                    Some(found) => found,
                    None => {
                        right.pack(isa, ks.clone(), some.clone(), &mut columns);
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
                    next: next.and_then(|next| right.lines(ks.clone(), next)),
                };
                match &y {
                    // SAFETY: each job has its own rows and columns of `y`.
                    Shared::Sums(y) => unsafe {
                        isa.strip(&strip, y, first_row * n + some.start, n);
                    },
                    Shared::Rounded(_) => {
                        sums.resize(rows.len() * columns_of_job, 0.0);
                        let at = some.start - first_column;
                        // SAFETY: these sums are the job's own.
                        unsafe {
                            isa.strip(&strip, &SharedMut::new(&mut sums), at, columns_of_job)
                        };
                    }
                }
            }
        }
        if let Shared::Rounded(y) = &y {
            for (row, sums) in (first_row..).zip(sums.chunks_exact(columns_of_job.max(1))) {
                let at = row * n + first_column;
                // SAFETY: each job has its own rows and columns of `y`.
                let to = unsafe { y.slice(at..at + columns_of_job) };
                quant::encode_row(DType::BF16, sums, bytemuck::cast_slice_mut(to));
            }
        }
        SCRATCH.set([block, columns, sums]);
    });
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
        let tile = isa.tile_rows();
        let least = m.div_ceil(TALL * tile).max(1);
        // Two jobs for each thread, so that one that is late does not delay all: of the ways to have them, the one that
        // copies least. The left operand is copied for each group, the right one for each piece.
        let groups = |pieces: usize| {
            let wanted = (2 * threads).div_ceil(products * pieces);
            panels.div_ceil(WIDE).max(wanted.min(panels / NARROW)).max(1)
        };
        let copies = |pieces: &usize| m * groups(*pieces) + panels * LANES * pieces;
        let most = (m / (NARROW * LANES)).clamp(least, least.max(2 * threads));
        let mut pieces = (least..=most).min_by_key(copies).unwrap_or(least);
        let mut groups = groups(pieces);
        if !(products * pieces * groups).is_multiple_of(threads) {
            if pieces >= threads {
                pieces = pieces.next_multiple_of(threads);
            } else if groups > 1 {
                groups = groups.next_multiple_of(threads).min(panels);
            }
        }
        Self { products, m, tile, pieces, panels, groups }
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
