//! The right operand of an exact product, cut into panels of floats that the kernels read.
//!
//! Whatever the dtype, the packing and the strides, a kernel sees 16 columns side by side for each k.
//! Float weights packed as panels are read where they lie; everything else goes through a scratch
//! of a few hundred k at a time, so that it stays in the cache while all rows of the left operand
//! pass by.

use crate::cpu::operands::Pack;
use crate::cpu::panel::{LANES, Weight, decode_floats};
use crate::cpu::simd::{AHEAD, Isa, Panel};
use crate::{DType, quant};
use std::ops::Range;

/// Values of k whose panels stay in the cache together; a multiple of every block length.
pub(super) const K_CHUNK: usize = 256;

/// A matrix `[K, N]` with any strides (in elements); of a block dtype one of them is 1.
pub(super) struct Columns<'a> {
    pub isa: Isa,
    pub dtype: DType,
    pub packed: bool,
    pub bytes: &'a [u8],
    pub k_step: usize,
    pub n_step: usize,
    pub k: usize,
    pub n: usize,
    /// As [`Panel::dots`].
    pub dots: bool,
}

/// Memory that a job reuses for all its panels.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    floats: Vec<f32>,
}

/// Panels ready for a kernel.
pub(super) struct Panels<'s> {
    dtype: DType,
    dots: bool,
    bytes: &'s [u8],
    /// Bytes from a panel to the next, from which one to start, and how many to take.
    stride: usize,
    from: usize,
    len: usize,
}

impl Panels<'_> {
    /// Bytes from a panel to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// All panels, with the shape of the first.
    pub fn all(&self) -> Panel<'_> {
        Panel { bytes: &self.bytes[self.from..], ..self.get(0) }
    }

    /// Panel `i`.
    pub fn get(&self, i: usize) -> Panel<'_> {
        let bytes = &self.bytes[i * self.stride + self.from..][..self.len];
        let k = self.len / (LANES * self.dtype.block_bytes());
        Panel { dtype: self.dtype, bytes, k, step: LANES, dots: self.dots, ahead: AHEAD }
    }
}

impl Pack for Columns<'_> {
    fn pack(&self, _: Isa, ks: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        let panels = columns.start / LANES..columns.end.div_ceil(LANES);
        self.unpack(panels, ks, &mut Vec::new(), out);
    }

    fn in_place(&self, ks: Range<usize>, columns: Range<usize>) -> Option<(&[f32], usize)> {
        let panels = columns.start / LANES..columns.end.div_ceil(LANES);
        if self.dtype != DType::F32 || !self.in_place(&panels) {
            return None;
        }
        let (all, stride): (&[f32], _) = (bytemuck::cast_slice(self.bytes), self.k * LANES);
        let last = (panels.end - 1) * stride;
        Some((&all[panels.start * stride + ks.start * LANES..last + ks.end * LANES], stride))
    }
}

impl Columns<'_> {
    /// How many panels make whole blocks along N.
    pub fn granularity(&self) -> usize {
        if self.k_step == 1 { 1 } else { self.dtype.block_len().div_ceil(LANES) }
    }

    /// The matrix as rows in memory: columns if they are contiguous, else rows.
    fn weight(&self) -> Weight<'_> {
        let Self { dtype, packed, bytes, .. } = *self;
        let (rows, len, step) = if self.k_step == 1 {
            (self.n, self.k, self.n_step)
        } else {
            (self.k, self.n, self.k_step)
        };
        Weight { dtype, packed, bytes, stride: dtype.bytes(step), rows, len }
    }

    /// Whether these panels are read where they lie.
    pub fn in_place(&self, panels: &Range<usize>) -> bool {
        self.packed && self.k_step == 1 && self.dtype.is_float() && panels.end * LANES <= self.n
    }

    /// Panels `panels`, rows `k` of them: whole blocks of them, at most [`K_CHUNK`].
    pub fn panels<'s>(
        &'s self,
        panels: Range<usize>,
        k: Range<usize>,
        scratch: &'s mut Scratch,
    ) -> Panels<'s> {
        let size = self.dtype.block_bytes() * LANES;
        if self.in_place(&panels) {
            let stride = self.k * size;
            let bytes = &self.bytes[panels.start * stride..panels.end * stride];
            return Panels {
                dtype: self.dtype,
                dots: self.dots,
                bytes,
                stride,
                from: k.start * size,
                len: k.len() * size,
            };
        }
        let one = 4 * k.len() * LANES;
        self.unpack(panels, k, &mut scratch.bytes, &mut scratch.floats);
        let bytes = bytemuck::cast_slice(&scratch.floats);
        Panels { dtype: DType::F32, dots: self.dots, bytes, stride: one, from: 0, len: one }
    }

    /// The same as floats, whatever they were; `bytes` is memory to use.
    fn unpack(
        &self,
        panels: Range<usize>,
        k: Range<usize>,
        bytes: &mut Vec<u8>,
        out: &mut Vec<f32>,
    ) {
        let one = k.len() * LANES;
        out.resize(panels.len() * one, 0.0);
        if self.k_step == 1 {
            for (p, out) in panels.zip(out.chunks_exact_mut(one.max(1))) {
                if self.dtype == DType::F32 && !self.packed {
                    self.transpose_rows(p, k.clone(), out);
                    continue;
                }
                let part = self.weight().panel_part(p, k.clone(), bytes);
                if self.dtype.is_block() {
                    self.isa.decode_panel(self.dtype, part, out);
                } else {
                    decode_floats(self.dtype, part, out);
                }
            }
        } else if self.packed {
            self.transpose_panels(panels, k, bytes, out);
        } else {
            self.copy_rows(panels, k, out);
        }
    }

    /// From F32 rows along K.
    fn transpose_rows(&self, panel: usize, k: Range<usize>, out: &mut [f32]) {
        let data: &[f32] = bytemuck::cast_slice(self.bytes);
        let zeros = [0.0; K_CHUNK];
        let row = |i: usize| match panel * LANES + i {
            n if n < self.n => &data[n * self.n_step..][k.clone()],
            _ => &zeros[..k.len()],
        };
        self.isa.transpose(&std::array::from_fn(row), out);
    }

    /// The columns that `panels` cover, widened to whole blocks.
    fn span(&self, panels: &Range<usize>) -> Range<usize> {
        let len = self.dtype.block_len();
        let (from, to) = (panels.start * LANES, (panels.end * LANES).min(self.n));
        from / len * len..to.next_multiple_of(len)
    }

    /// From rows along N: a piece of each row, decoded and dealt out to the panels.
    fn copy_rows(&self, panels: Range<usize>, k: Range<usize>, out: &mut [f32]) {
        let span = self.span(&panels);
        let skip = panels.start * LANES - span.start;
        let mut piece = vec![0.0; span.len()];
        let one = k.len() * LANES;
        for (i, k) in k.enumerate() {
            let at = |n: usize| {
                let start = self.dtype.bytes(k * self.k_step + n * self.n_step);
                &self.bytes[start..]
            };
            if self.n_step == 1 {
                let bytes = &at(span.start)[..self.dtype.bytes(span.len())];
                quant::decode_row(self.dtype, bytes, &mut piece);
            } else {
                for (n, v) in span.clone().zip(&mut piece) {
                    let bytes = &at(n)[..self.dtype.block_bytes()];
                    quant::decode_row(self.dtype, bytes, std::slice::from_mut(v));
                }
            }
            for (p, piece) in piece[skip..].chunks(LANES).take(panels.len()).enumerate() {
                let to = &mut out[p * one + i * LANES..][..LANES];
                to[..piece.len()].copy_from_slice(piece);
                to[piece.len()..].fill(0.0);
            }
        }
    }

    /// From panels whose 16 rows are 16 values of k (the gradient of a packed weight's input).
    fn transpose_panels(
        &self,
        panels: Range<usize>,
        k: Range<usize>,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) {
        let span = self.span(&panels);
        let first = panels.start * LANES;
        let mut decoded = vec![0.0; span.len() * LANES];
        let one = k.len() * LANES;
        out.fill(0.0);
        for group in k.start / LANES..k.end.div_ceil(LANES) {
            let part = self.weight().panel_part(group, span.clone(), bytes);
            if self.dtype.is_block() {
                self.isa.decode_panel(self.dtype, part, &mut decoded);
            } else {
                decode_floats(self.dtype, part, &mut decoded);
            }
            let rows = k.clone().skip(group * LANES - k.start).take(LANES);
            for n in first.max(span.start)..(panels.end * LANES).min(self.n) {
                let (p, lane) = ((n - first) / LANES, (n - first) % LANES);
                for (row, k_at) in rows.clone().enumerate() {
                    out[p * one + (k_at - k.start) * LANES + lane] =
                        decoded[(n - span.start) * LANES + row];
                }
            }
        }
    }
}
