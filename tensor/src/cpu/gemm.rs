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
use std::ops::Range;

/// Panels of a job at most; a multiple of the panels in any block.
const MAX_GROUP: usize = 16;

/// Rows from which on decoded panels are copied for tiles of more rows.
const MANY_ROWS: usize = 12;

/// Jobs for each thread, so that one that is late delays little.
const JOBS: usize = 8;

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
    products(isa, x, vec![(*w, y.data())]);
}

/// `y_i [M, N_i] = x [M, K] · w_i [K, N_i]` for several `w`, in one parallel region if M is small.
pub(crate) fn project(x: &View, w: &[View], y: &mut [ViewMut]) {
    let y = y.iter_mut().map(|y| y.data::<f32>());
    products(Isa::detect(), x, w.iter().copied().zip(y).collect());
}

/// The products of `x` by each of several `w`; those of one kind in one go.
fn products<'a>(isa: Isa, x: &View<'a>, all: Vec<(View<'a>, &'a mut [f32])>) {
    let (mut codes, mut plain, mut left, mut paired) = (Vec::new(), Vec::new(), *x, Vec::new());
    for (w, y) in all {
        if let Some(w) = integers(x, &w) {
            codes.push((w, y));
        } else if let Some([pairs_of_x, w]) = pairs(isa, x, &w) {
            left = pairs_of_x;
            paired.push((w, y));
        } else {
            plain.push((w, y));
        }
    }
    if !codes.is_empty() {
        rounded(isa, x, codes);
    }
    floats((isa, true), &left, paired);
    floats((isa, false), x, plain);
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

/// The same of floats, or of what is decoded to floats.
fn floats<'a>((isa, dots): (Isa, bool), x: &View, all: Vec<(View<'a>, &'a mut [f32])>) {
    let mut left = None;
    let mut few = Vec::new();
    for (w, y) in all {
        let rank = w.spec.rank();
        let (k, n) = (w.spec.shape[rank - 2], w.spec.shape[rank - 1]);
        let products = w.spec.shape[..rank - 2].iter().product::<usize>();
        // Rows of x per product.
        let m = y.len() / n.max(1) / products.max(1);
        if m == 0 {
            continue;
        }
        let left = &*left.get_or_insert_with(|| Left::new(x, m));
        let right = Floats { isa, dots, w, sizes: [products, m, k, n] };
        right.multiply(left, y, &mut few);
    }
    let Some(left) = left else { return };
    let panels = |f: &Floats| f.sizes[0] * f.sizes[3].div_ceil(LANES);
    let total: usize = few.iter().map(|(f, _)| panels(f)).sum();
    let plan = |(f, _): &(Floats, _)| f.plan((JOBS * threads() * panels(f)).div_ceil(total));
    par_plans(&few, plan, |(f, out), job| f.few_rows(&left, out, job));
}

/// A right operand of floats, or of what is decoded to floats.
struct Floats<'a> {
    isa: Isa,
    dots: bool,
    /// `[.., K, N]`
    w: View<'a>,
    /// Products, rows of each, K, N.
    sizes: [usize; 4],
}

impl<'a> Floats<'a> {
    fn columns(&self, product: usize) -> Columns<'a> {
        let ([_, _, k, n], View { spec, bytes }) = (self.sizes, self.w);
        let [k_step, n_step] = [2, 1].map(|i| spec.strides[spec.rank() - i]);
        let (dtype, packed) = (spec.dtype, spec.packing == Packing::Panel16);
        let bytes = &bytes[dtype.bytes(spec.row_offset(product * k))..];
        Columns { isa: self.isa, dtype, packed, bytes, k_step, n_step, k, n, dots: self.dots }
    }

    /// Many rows at once; few go to `few`, so that several products share a parallel region.
    fn multiply(self, left: &Left, y: &'a mut [f32], few: &mut Vec<(Self, SharedMut<'a, f32>)>) {
        let (spec, [_, m, k, _]) = (&self.w.spec, self.sizes);
        let packed = spec.packing == Packing::Panel16;
        let isa = (self.isa, self.dots);
        if spec.dtype == DType::F32 && !packed && m > 1 {
            let right = |p: usize| Right::new(&self.w, p * k);
            gemm_f32::multiply(isa, left, right, self.sizes, 1, y, false);
        } else if m >= MANY_ROWS && spec.strides[spec.rank() - 2] == 1 {
            let grain = spec.dtype.block_len().max(LANES);
            gemm_f32::multiply(isa, left, |p| self.columns(p), self.sizes, grain, y, false);
        } else {
            few.push((self, SharedMut::new(y)));
        }
    }

    fn plan(&self, wanted: usize) -> Plan {
        let [products, m, _, n] = self.sizes;
        let grain = self.columns(0).granularity();
        Plan::new(wanted, [products, n.div_ceil(LANES), grain], [m, MIN_ROWS])
    }

    /// One job of few rows.
    fn few_rows(&self, left: &Left, out: &SharedMut<f32>, (product, panels, rows): Job) {
        let ([_, m, k, n], isa) = (self.sizes, self.isa);
        let columns = self.columns(product);
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
                let sums = &mut sums[..panels.len()];
                if k0 > 0 {
                    sums.as_flattened_mut()[..y.len()].copy_from_slice(y);
                }
                let a = left.at(product, rows.start, k0);
                let several = [panels.len(), ready.stride()];
                isa.rows(a, [0, left.step], ready.all(), several, sums);
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
fn rounded<'a>(isa: Isa, x: &View, all: Vec<(Weight<'a>, &'a mut [f32])>) {
    /// Bytes of `x` that stay in the second-level cache while the weights pass by.
    const X_BYTES: usize = 1 << 18;
    let m = x.spec.rows();
    let x_row = DType::I8Row.bytes(x.spec.last());
    if m == 0 || x_row == 0 {
        return all.into_iter().for_each(|(_, y)| y.fill(0.0));
    }
    let dense = x.spec.is_contiguous();
    let rows: Cow<[u8]> = if dense { x.bytes.into() } else { gather(x, x_row).into() };
    let tall = (X_BYTES / x_row).next_multiple_of(TILE);
    let all: Vec<_> = all.into_iter().map(|(w, y)| (w, SharedMut::new(y))).collect();
    let total: usize = all.iter().map(|(w, _)| w.panels()).sum();
    let plan = |(w, _): &(Weight, _)| {
        let share = (JOBS * threads() * w.panels()).div_ceil(total.max(1));
        Plan::new(share, [m.div_ceil(tall), w.panels(), 1], [tall.min(m), MIN_ROWS])
    };
    par_plans(&all, plan, |(w, out), (part, panels, range)| {
        let n = w.rows;
        let range = part * tall + range.start..(part * tall + range.end).min(m);
        let (mut scratch, mut sums) = (Vec::new(), [[0.0; LANES]; TILE]);
        for panel in panels {
            let bytes = w.panel_part(panel, 0..w.len, &mut scratch);
            let first = panel * LANES;
            let width = LANES.min(n - first);
            for row in range.clone().step_by(TILE) {
                let sums = &mut sums[..TILE.min(range.end - row)];
                sums.fill([0.0; LANES]);
                let ahead = row == range.start;
                isa.tile_i8(&rows[row * x_row..], x_row, w.dtype, bytes, ahead, sums);
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

/// Product, panels and rows of a job.
type Job = (usize, Range<usize>, Range<usize>);

/// Cuts each of `all` into jobs by its plan, and calls `f` for all jobs in one parallel region.
fn par_plans<T: Sync>(all: &[T], plan: impl Fn(&T) -> Plan, f: impl Fn(&T, Job) + Sync) {
    let mut end = 0;
    let plan = |part| {
        let plan = plan(part);
        end += plan.jobs();
        (part, plan, end)
    };
    let plans: Vec<(&T, Plan, usize)> = all.iter().map(plan).collect();
    par(end, |job| {
        let (part, plan, end) = &plans[plans.partition_point(|(.., end)| *end <= job)];
        f(part, plan.job(job + plan.jobs() - end));
    });
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

    fn job(&self, job: usize) -> Job {
        let (rest, group) = (job / self.groups, job % self.groups);
        let (product, piece) = (rest / self.pieces, rest % self.pieces);
        let panels = group * self.group..((group + 1) * self.group).min(self.panels);
        (product, panels, piece * self.tall..((piece + 1) * self.tall).min(self.rows))
    }
}
