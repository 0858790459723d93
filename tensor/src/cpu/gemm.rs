//! Matrix product on the CPU.
//!
//! Each output is one chain of multiply-adds with k ascending, whatever the number of rows, the tile
//! or the thread: so a token gives the same bits alone and in a batch. Vectors therefore run across
//! outputs, over panels of 16 columns of `w` (`columns`), and threads split rows and columns, never k.

use crate::cpu::columns::{Columns, K_CHUNK, Scratch};
use crate::cpu::gemm_f32::{self, Right};
use crate::cpu::panel::{LANES, Weight};
use crate::cpu::pool::{SharedMut, par, threads};
use crate::cpu::simd::{Isa, TILE};
use crate::{DType, Packing, View, ViewMut, quant};
use std::borrow::Cow;

/// Panels of a job at most; a multiple of the panels in any block.
const MAX_GROUP: usize = 16;

/// Rows from which on decoded panels are copied for tiles of more rows.
const MANY_ROWS: usize = 12;

/// Jobs for `m` rows, several for each thread, so that one that is late delays little. With few rows all time
/// goes into reading weights, and memory is the faster the longer the pieces that are read at a time.
fn jobs(m: usize) -> usize {
    threads() * if m < TILE { 3 } else { 8 }
}

/// Rows of the left operand below which splitting them would only repeat work on the panels.
const MIN_ROWS: usize = 64;

/// `y [.., M, N] = x [.., M, K] · w [.., K, N]`, `w` of rank 2 or with the leading dimensions of `x`,
/// any strides for floats; of a block dtype the rows (along K or along N) must be contiguous.
///
/// # Panics
/// If the blocks of `w` lie along neither dimension.
pub(crate) fn matmul(x: &View, w: &View, y: &mut ViewMut) {
    matmul_with(Isa::detect(), x, w, y);
}

/// `y [M, N] += x [M, K] · w [K, N]`, all F32 with any strides.
pub(crate) fn matmul_add(x: &View, w: &View, y: &mut ViewMut) {
    let [m, n] = *y.spec.shape else { unreachable!("the op checked the rank") };
    if m > 0 && n > 0 {
        let (left, k) = (Left::new(x, m), x.spec.last());
        let right = |_| Right::new(w, 0);
        let isa = (Isa::detect(), false);
        gemm_f32::multiply(isa, &left, right, [1, m, k, n], 1, y.data(), true);
    }
}

/// The product of two views with the kernels of `isa`; ops take the set that fits this CPU.
///
/// # Panics
/// If the blocks of `w` lie along neither dimension.
pub fn matmul_with(isa: Isa, x: &View, w: &View, y: &mut ViewMut) {
    let along = w.spec.strides[w.spec.rank() - 2..].contains(&1);
    assert!(
        along || !w.spec.dtype.is_block(),
        "matmul: {} has its blocks along neither dimension",
        w.spec
    );
    let rows = y.spec.rows();
    let y = y.data::<f32>();
    if let Some(w) = integers(x, w) {
        return rounded(isa, x, &mut [(w, y)]);
    }
    match pairs(isa, x, w) {
        Some([x, w]) => floats((isa, true), &x, &w, rows, y),
        None => floats((isa, false), x, w, rows, y),
    }
}

/// Both operands with pairs of BF16 along k as elements, if they are such and the CPU has their products.
fn pairs<'a>(isa: Isa, x: &View<'a>, w: &View<'a>) -> Option<[View<'a>; 2]> {
    let (x_k, w_k) = (x.spec.rank() - 1, w.spec.rank() - 2);
    let halve = |v: &View<'a>, k: usize| {
        let View { mut spec, bytes } = *v;
        let even = (0..spec.rank()).all(|d| d == k || spec.strides[d].is_multiple_of(2));
        let fits = spec.dtype == DType::BF16
            && spec.strides[k] == 1
            && spec.shape[k].is_multiple_of(2)
            && even
            && bytes.as_ptr().cast::<f32>().is_aligned();
        spec.dtype = DType::F32;
        spec.shape[k] /= 2;
        let strides = spec.strides.iter_mut().enumerate().filter(|(d, _)| *d != k);
        strides.for_each(|(_, stride)| *stride /= 2);
        fits.then_some(View { spec, bytes })
    };
    if isa.dots() { Some([halve(x, x_k)?, halve(w, w_k)?]) } else { None }
}

/// The product of floats, or of what is decoded to floats, `rows` rows in all.
fn floats((isa, dots): (Isa, bool), x: &View, w: &View, rows: usize, y: &mut [f32]) {
    let wr = w.spec.rank();
    let (k, n) = (w.spec.shape[wr - 2], w.spec.shape[wr - 1]);
    let (k_step, n_step) = (w.spec.strides[wr - 2], w.spec.strides[wr - 1]);
    let (dtype, packed) = (w.spec.dtype, w.spec.packing == Packing::Panel16);
    // Rows of x per product, and products.
    let m = if wr > 2 {
        y.len() / n.max(1) / w.spec.shape[..wr - 2].iter().product::<usize>().max(1)
    } else {
        rows
    };
    if m == 0 || n == 0 {
        return;
    }
    let left = Left::new(x, m);
    let products = rows / m;
    if dtype == DType::F32 && !packed && m > 1 {
        let right = |p: usize| Right::new(w, p * k);
        let sizes = [products, m, k, n];
        return gemm_f32::multiply((isa, dots), &left, right, sizes, 1, y, false);
    }
    let columns = |product: usize| {
        let start = dtype.bytes(w.spec.row_offset(product * k));
        Columns { isa, dtype, packed, bytes: &w.bytes[start..], k_step, n_step, k, n, dots }
    };
    if m >= MANY_ROWS && k_step == 1 {
        let (sizes, grain) = ([products, m, k, n], dtype.block_len().max(LANES));
        return gemm_f32::multiply((isa, dots), &left, columns, sizes, grain, y, false);
    }
    let out = SharedMut::new(y);
    let panels = n.div_ceil(LANES);
    let grain = columns(0).granularity();
    let plan = Plan::new(jobs(m), [products, panels, grain], [m, MIN_ROWS]);
    par(plan.jobs(), |job| {
        let (product, panels, rows) = plan.job(job);
        let columns = columns(product);
        let mut scratch = Scratch::default();
        let mut sums = [[0.0; LANES]; TILE];
        let chunk = if columns.in_place(&panels) { k.max(1) } else { K_CHUNK };
        for k0 in (0..k.max(1)).step_by(chunk) {
            let ks = k0..(k0 + chunk).min(k);
            let ready = columns.panels(panels.clone(), ks.clone(), &mut scratch);
            if rows.len() == 1 {
                let at = (product * m + rows.start) * n;
                let (first, last) = (panels.start * LANES, (panels.end * LANES).min(n));
                // SAFETY: each job has its own rows and columns of `out`.
                let y = unsafe { out.slice(at + first..at + last) };
                let mut sums = [[0.0; LANES]; MAX_GROUP];
                if k0 > 0 {
                    sums.as_flattened_mut()[..y.len()].copy_from_slice(y);
                }
                let a = left.at(product, rows.start, k0);
                isa.row(a, left.step, ready.all(), ready.stride(), &mut sums[..panels.len()]);
                y.copy_from_slice(&sums.as_flattened()[..y.len()]);
                continue;
            }
            for (i, panel) in panels.clone().enumerate() {
                let first = panel * LANES;
                let width = LANES.min(n - first);
                for row in rows.clone().step_by(TILE) {
                    let count = TILE.min(rows.end - row);
                    let y = |r: usize| {
                        let at = (product * m + row + r) * n + first;
                        // SAFETY: each job has its own rows and columns of `out`, and looks at one
                        // piece at a time.
                        unsafe { out.slice(at..at + width) }
                    };
                    for (r, sums) in sums[..count].iter_mut().enumerate() {
                        *sums = [0.0; LANES];
                        if k0 > 0 {
                            sums[..width].copy_from_slice(y(r));
                        }
                    }
                    let a = left.at(product, row, k0);
                    let sums = &mut sums[..count];
                    isa.tile(a, [left.row, left.step], ready.get(i), sums);
                    for (r, sums) in sums.iter().enumerate() {
                        y(r).copy_from_slice(&sums[..width]);
                    }
                }
            }
        }
    });
}

/// `y_i [M, N_i] = x [M, K] · w_i [K, N_i]` for several `w`, in one parallel region if x is rounded.
pub(crate) fn project(x: &View, w: &[View], y: &mut [ViewMut]) {
    let isa = Isa::detect();
    let weights: Option<Vec<Weight>> = w.iter().map(|w| integers(x, w)).collect();
    match weights {
        Some(weights) => {
            let y = y.iter_mut().map(|y| y.data::<f32>());
            rounded(isa, x, &mut weights.into_iter().zip(y).collect::<Vec<_>>());
        }
        None => w.iter().zip(y).for_each(|(w, y)| matmul_with(isa, x, w, y)),
    }
}

/// The weight `w [K, N]` for rounded rows `x`, if both are such.
fn integers<'a>(x: &View, w: &View<'a>) -> Option<Weight<'a>> {
    let (dtype, packed) = (w.spec.dtype, w.spec.packing == Packing::Panel16);
    let ([len, rows], [1, step]) = (&w.spec.shape[..], &w.spec.strides[..]) else { return None };
    let fits = x.spec.dtype == DType::I8Row && dtype.has_integer_codes();
    fits.then(|| Weight {
        dtype,
        packed,
        bytes: w.bytes,
        stride: dtype.bytes(*step),
        rows: *rows,
        len: *len,
    })
}

/// `y [M, N]` of rounded rows `x [.., K]` and a block weight of N rows, for each weight and `y` in `all`.
fn rounded(isa: Isa, x: &View, all: &mut [(Weight, &mut [f32])]) {
    /// Bytes of `x` that stay in the second-level cache while the weights pass by.
    const X_BYTES: usize = 1 << 18;
    let m = x.spec.rows();
    let x_row = DType::I8Row.bytes(x.spec.last());
    if m == 0 || x_row == 0 {
        return all.iter_mut().for_each(|(_, y)| y.fill(0.0));
    }
    let dense = x.spec.is_contiguous();
    let rows: Cow<[u8]> = if dense { x.bytes.into() } else { gather(x, x_row).into() };
    let tall = (X_BYTES / x_row).next_multiple_of(TILE);
    let panels: usize = all.iter().map(|(w, _)| w.panels()).sum();
    let mut count = 0;
    let parts: Vec<(&Weight, SharedMut<f32>, Plan, usize)> = all
        .iter_mut()
        .map(|(w, y)| {
            let share = (jobs(m) * w.panels()).div_ceil(panels.max(1));
            let plan = Plan::new(share, [m.div_ceil(tall), w.panels(), 1], [tall.min(m), MIN_ROWS]);
            let first = count;
            count += plan.jobs();
            (&*w, SharedMut::new(y), plan, first)
        })
        .collect();
    par(count, |job| {
        let part = parts.iter().rfind(|(.., plan, first)| job >= *first && plan.jobs() > 0);
        let (w, out, plan, first) = part.expect("every job belongs to a weight");
        let (n, (part, panels, range)) = (w.rows, plan.job(job - first));
        let range = part * tall + range.start..(part * tall + range.end).min(m);
        let (mut scratch, mut sums) = (Vec::new(), [[0.0; LANES]; TILE]);
        for panel in panels {
            let bytes = w.panel_part(panel, 0..w.len, &mut scratch);
            let first = panel * LANES;
            let width = LANES.min(n - first);
            for row in range.clone().step_by(TILE) {
                let sums = &mut sums[..TILE.min(range.end - row)];
                sums.fill([0.0; LANES]);
                isa.tile_i8(&rows[row * x_row..], x_row, w.dtype, bytes, sums);
                for (r, sums) in sums.iter().enumerate() {
                    let at = (row + r) * n + first;
                    // SAFETY: each job has its own rows and columns of `out`.
                    let y = unsafe { out.slice(at..at + width) };
                    // A length that is known costs no call.
                    match y.as_mut_array() {
                        Some(y) => *y = *sums,
                        None => y.copy_from_slice(&sums[..width]),
                    }
                }
            }
        }
    });
}

/// The bytes of the rows of a strided view, one after another.
fn gather(x: &View, row_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(x.spec.rows() * row_bytes);
    for r in 0..x.spec.rows() {
        let start = x.spec.dtype.bytes(x.spec.row_offset(r));
        out.extend_from_slice(&x.bytes[start..start + row_bytes]);
    }
    out
}

/// The left operand: element (i, k) of a product lies at `base + i·row + k·step`.
pub(super) struct Left<'a> {
    data: Cow<'a, [f32]>,
    bases: Vec<usize>,
    pub row: usize,
    pub step: usize,
}

impl<'a> Left<'a> {
    /// `x [.., K]` as products of `m` rows; copied if it is not F32 or its rows are not evenly
    /// spaced.
    fn new(x: &View<'a>, m: usize) -> Self {
        let spec = &x.spec;
        let (rows, k) = (spec.rows(), spec.last());
        let row = if m > 1 { spec.row_offset(1).wrapping_sub(spec.row_offset(0)) } else { 0 };
        let bases: Vec<usize> = (0..rows / m).map(|p| spec.row_offset(p * m)).collect();
        let even = bases.iter().enumerate().all(|(p, base)| {
            (1..m).all(|i| spec.row_offset(p * m + i) == base.wrapping_add(i.wrapping_mul(row)))
        });
        if spec.dtype == DType::F32 && even {
            let step = spec.strides.last().copied().unwrap_or(1);
            return Self { data: x.data::<f32>().into(), bases, row, step };
        }
        let mut data = vec![0.0; rows * k];
        let step = spec.strides.last().copied().unwrap_or(1);
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
        Self {
            data: data.into(),
            bases: (0..rows / m).map(|p| p * m * k).collect(),
            row: k,
            step: 1,
        }
    }

    /// From element (`row`, `k`) of `product` on.
    pub fn at(&self, product: usize, row: usize, k: usize) -> &[f32] {
        self.data.get(self.bases[product] + row * self.row + k * self.step..).unwrap_or_default()
    }
}

/// How a product is cut into jobs: products, then rows, then groups of panels.
struct Plan {
    panels: usize,
    group: usize,
    groups: usize,
    rows: usize,
    tall: usize,
    pieces: usize,
    products: usize,
}

impl Plan {
    /// About `wanted` jobs for `products` products of `rows` rows by `panels` panels, whose number in a job
    /// is a multiple of `grain`; a piece of the rows has at least `min_rows`.
    fn new(
        wanted: usize,
        [products, panels, grain]: [usize; 3],
        [rows, min_rows]: [usize; 2],
    ) -> Self {
        let wanted = wanted.max(1);
        let group = (products * panels / wanted).clamp(1, MAX_GROUP).next_multiple_of(grain);
        let groups = panels.div_ceil(group);
        let pieces = wanted.div_ceil(products * groups).min(rows / min_rows).max(1);
        let tall = rows.div_ceil(pieces).next_multiple_of(TILE);
        Self { panels, group, groups, rows, tall, pieces: rows.div_ceil(tall), products }
    }

    fn jobs(&self) -> usize {
        self.products * self.pieces * self.groups
    }

    /// Product, panels and rows of a job.
    fn job(&self, job: usize) -> (usize, std::ops::Range<usize>, std::ops::Range<usize>) {
        let (rest, group) = (job / self.groups, job % self.groups);
        let (product, piece) = (rest / self.pieces, rest % self.pieces);
        let panels = group * self.group..((group + 1) * self.group).min(self.panels);
        (product, panels, piece * self.tall..((piece + 1) * self.tall).min(self.rows))
    }
}
