//! Matrix product on the CPU.
//!
//! Each output is one chain of multiply-adds with k ascending, whatever the number of rows, the tile
//! or the thread: so a token gives the same bits alone and in a batch. Vectors therefore run across
//! outputs, over panels of 16 columns of `w` (`columns`), and threads split rows and columns, never k.

use crate::cpu::ahead;
use crate::cpu::columns::{Columns, K_CHUNK, Scratch};
use crate::cpu::gemm_f32::{self, Out};
use crate::cpu::operands::{Left, Right, Rows};
use crate::cpu::pairs::{Halves, LeftPairs, RightPairs, Rounded};
use crate::cpu::panel::{LANES, Weight};
use crate::cpu::pool::{SharedMut, par, threads};
use crate::cpu::simd::{Isa, TILE};
use crate::{DType, Packing, Spec, View, ViewMut};
use half::bf16;
use std::borrow::Cow;
use std::ops::Range;

/// Panels of a job at most; a multiple of the panels in any block.
const MAX_GROUP: usize = 16;

/// Rows from which on decoded panels are copied for tiles of more rows.
const MANY_ROWS: usize = 12;

/// Jobs for each thread, so that one that is late delays little.
const JOBS: usize = 8;

/// Rows with which a product takes as long as its weight takes to be read.
const FEW_ROWS: usize = 4;

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
    add_to(Isa::detect(), x, w, y.data(), true);
}

/// `y [.., M, N] = x [.., M, K] · w [.., K, N]`, or with `add` y and that, of F32 that is rounded to BF16 or of BF16,
/// with any strides; sums are F32, and rounded if `y` is BF16.
pub(crate) fn matmul_bf16(x: &View, w: &View, y: &mut ViewMut, add: bool) {
    matmul_bf16_with(Isa::detect(), x, w, y, add);
}

/// `y = x · w`, or with `add` y + x · w, of operands that are BF16 or rounded to it, with the kernels of `isa`; nothing
/// is added to a y of BF16.
///
/// # Panics
/// If an operand or y is neither F32 nor BF16.
pub fn matmul_bf16_with(isa: Isa, x: &View, w: &View, y: &mut ViewMut, add: bool) {
    let elements = y.spec.numel();
    let y = match y.spec.dtype {
        DType::BF16 => Out::Rounded(y.data()),
        _ => Out::Sums(y.data()),
    };
    let sizes @ [_, m, ..] = sizes(w, elements);
    if m == 0 {
        return;
    }
    if isa.pairs() {
        return multiply_pairs(isa, x, w, sizes, y, add);
    }
    let halves = if x.spec.dtype == DType::BF16 { Halves::new(x, m) } else { None };
    let left: Box<dyn Rows> = match halves {
        Some(halves) => Box::new(halves),
        None => Box::new(Rounded(Left::new(x, m))),
    };
    let (left, isa) = (&*left, (isa, false));
    if w.spec.dtype == DType::F32 {
        let right = |product: usize| Rounded(Right::new(w, product * sizes[2]));
        return gemm_f32::multiply(isa, left, right, sizes, 1, y, add);
    }
    let floats = Floats { isa: isa.0, dots: false, w: *w, sizes };
    gemm_f32::multiply(isa, left, |product| floats.columns(product), sizes, 1, y, add);
}

/// `y = x · w`, or with `add` y + x · w, all F32.
fn add_to(isa: Isa, x: &View, w: &View, y: &mut [f32], add: bool) {
    let sizes @ [_, m, ..] = sizes(w, y.len());
    if m > 0 {
        Floats { isa, dots: false, w: *w, sizes }.many(&Left::new(x, m), y, add);
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
    let pairs_of_x = in_pairs(x, x.spec.rank() - 1).filter(|_| isa.dots());
    let (mut codes, mut plain, mut paired) = (Vec::new(), Vec::new(), Vec::new());
    for (w, y) in all {
        if let Some(w) = integers(x, &w) {
            codes.push((w, y));
        } else if let Some(w) = pairs_of_x.and_then(|_| in_pairs(&w, w.spec.rank() - 2)) {
            paired.push((w, y));
        } else if both_bf16(isa, x, &w) {
            // A packed weight comes here only if K is odd or `x` lies oddly.
            let rows = (w.spec.packing == Packing::Panel16).then(|| unpacked(&w));
            let w = match &rows {
                Some((spec, rows)) => View { spec: *spec, bytes: bytemuck::cast_slice(rows) },
                None => w,
            };
            let sizes = sizes(&w, y.len());
            if sizes[1] > 0 {
                multiply_pairs(isa, x, &w, sizes, Out::Sums(y), false);
            }
        } else {
            plain.push((w, y));
        }
    }
    if !codes.is_empty() {
        rounded(isa, x, codes);
    }
    floats((isa, true), &pairs_of_x.unwrap_or(*x), paired);
    floats((isa, false), x, plain);
}

/// Products, rows of each, K and N of `y = x · w`, y having so many elements.
fn sizes(w: &View, y: usize) -> [usize; 4] {
    let rank = w.spec.rank();
    let (k, n) = (w.spec.shape[rank - 2], w.spec.shape[rank - 1]);
    let products = w.spec.shape[..rank - 2].iter().product::<usize>();
    [products, y / n.max(1) / products.max(1), k, n]
}

/// Whether both operands are BF16 and a kernel takes pairs of them.
fn both_bf16(isa: Isa, x: &View, w: &View) -> bool {
    isa.pairs() && [x, w].iter().all(|v| v.spec.dtype == DType::BF16)
}

/// The rows of a packed weight `w [K, N]` of BF16, one after another.
fn unpacked(w: &View) -> (Spec, Vec<bf16>) {
    let mut spec = Spec { packing: Packing::Rows, ..w.spec };
    let (k, n) = (spec.shape[0], spec.shape[1]);
    let weight =
        Weight::new(&Spec { packing: w.spec.packing, ..Spec::new([n, k], DType::BF16) }, w.bytes);
    let mut rows = vec![bf16::ZERO; n * k];
    for (r, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
        weight.row(r, bytemuck::cast_slice_mut(row));
    }
    spec.strides = [1, k].into();
    (spec, rows)
}

/// `v` with pairs of BF16 along dimension `k` as elements, if they lie so.
fn in_pairs<'a>(v: &View<'a>, k: usize) -> Option<View<'a>> {
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
}

/// `y = x · w`, or with `add` y + x · w, of BF16 or of F32 that are rounded to it, with any strides: what does not lie
/// in pairs is copied so. There is at least a row.
fn multiply_pairs(
    isa: Isa,
    x: &View,
    w: &View,
    [products, m, k, n]: [usize; 4],
    y: Out,
    add: bool,
) {
    let left: Box<dyn Rows> = match (in_pairs(x, x.spec.rank() - 1), x.spec.dtype) {
        (Some(x), _) => Box::new(Left::new(&x, m)),
        (None, DType::F32) => Box::new(LeftPairs::<f32>::new(x, m)),
        (None, _) => Box::new(LeftPairs::<bf16>::new(x, m)),
    };
    let (isa, left, sizes) = ((isa, true), &*left, [products, m, k.div_ceil(2), n]);
    match (in_pairs(w, w.spec.rank() - 2), w.spec.dtype) {
        (Some(w), _) => {
            let right = |p: usize| Right::new(&w, p * (k / 2));
            gemm_f32::multiply(isa, left, right, sizes, 1, y, add);
        }
        (None, DType::F32) => {
            let right = |p: usize| RightPairs::<f32>::new(w, p * k);
            gemm_f32::multiply(isa, left, right, sizes, 1, y, add);
        }
        (None, _) => {
            let right = |p: usize| RightPairs::<bf16>::new(w, p * k);
            gemm_f32::multiply(isa, left, right, sizes, 1, y, add);
        }
    }
}

/// The same of floats, or of what is decoded to floats.
fn floats<'a>((isa, dots): (Isa, bool), x: &View, all: Vec<(View<'a>, &'a mut [f32])>) {
    let mut left = None;
    let mut few = Vec::new();
    for (w, y) in all {
        let sizes @ [_, m, ..] = sizes(&w, y.len());
        if m == 0 {
            continue;
        }
        let left = &*left.get_or_insert_with(|| Left::new(x, m));
        let right = Floats { isa, dots, w, sizes };
        right.multiply(left, y, &mut few);
    }
    let Some(left) = left else { return };
    let panels = |f: &Floats| f.sizes[0] * f.sizes[3].div_ceil(LANES);
    let total: usize = few.iter().map(|(f, _)| panels(f)).sum();
    if few.iter().any(|(f, _)| f.sizes[1] <= FEW_ROWS) {
        ahead::reading(few.iter().map(|(f, _)| f.w.bytes));
    }
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
        let (spec, [_, m, ..]) = (&self.w.spec, self.sizes);
        let whole = spec.strides[spec.rank() - 2] == 1 || spec.dtype.is_float();
        if self.plain() && m > 1 || m >= MANY_ROWS && whole {
            self.many(left, y, false);
        } else {
            few.push((self, SharedMut::new(y)));
        }
    }

    /// Whether the elements are F32 that lie as their strides say.
    fn plain(&self) -> bool {
        self.w.spec.dtype == DType::F32 && self.w.spec.packing != Packing::Panel16
    }

    /// `y = left · w`, or with `add` y + left · w.
    fn many(&self, left: &Left, y: &mut [f32], add: bool) {
        let isa = (self.isa, self.dots);
        if self.plain() {
            let right = |p: usize| Right::new(&self.w, p * self.sizes[2]);
            gemm_f32::multiply(isa, left, right, self.sizes, 1, Out::Sums(y), add);
        } else {
            let grain = self.w.spec.dtype.block_len().max(LANES);
            let right = |p| self.columns(p);
            gemm_f32::multiply(isa, left, right, self.sizes, grain, Out::Sums(y), add);
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
                isa.rows(a, [0, left.steps()[1]], ready.all(), several, sums);
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
                    isa.tile(a, left.steps(), ready.get(i), sums);
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
    if m <= FEW_ROWS {
        ahead::reading(all.iter().map(|(w, _)| w.bytes));
    }
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
