//! Matrix product on the CPU: the plain version and the meaning of the fast ones.
//!
//! Each output is one chain of multiply-adds with k ascending, whatever the number of rows, the tile
//! or the thread: so a token gives the same bits alone and in a batch. Vectors therefore run across
//! outputs, over panels of 16 columns of `w` decoded to f32.

use crate::cpu::pool::{SharedMut, par};
use crate::{Spec, View, ViewMut, quant};

/// Columns of `w` handled together.
const PANEL: usize = 16;

/// `y [.., M, N] = x [.., M, K] · w [.., K, N]`, `w` of rank 2 or with the leading dimensions of `x`,
/// any strides for floats; of a block dtype the rows (along K or along N) must be contiguous.
pub(crate) fn matmul(x: &View, w: &View, y: &mut ViewMut) {
    let wr = w.spec.rank();
    let (k, n) = (w.spec.shape[wr - 2], w.spec.shape[wr - 1]);
    let batched = wr > 2;
    let rows = y.spec.rows();
    // Rows of x per product, and products.
    let m = if batched { y.spec.shape[wr - 2] } else { rows };
    let products = if batched { rows / m.max(1) } else { 1 };
    let decoded = decode_rows(x);
    let x_at = |r: usize| decoded.as_ref().map_or_else(|| x.spec.row_offset(r), |_| r * k);
    let x_step = if decoded.is_some() { 1 } else { x.spec.strides.last().copied().unwrap_or(1) };
    let x = decoded.as_deref().unwrap_or_else(|| x.data::<f32>());
    let panels = n.div_ceil(PANEL);
    let out = SharedMut::new(y.data::<f32>());
    par(products * panels, |job| {
        let (product, first) = (job / panels, job % panels * PANEL);
        let width = PANEL.min(n - first);
        let mut panel = vec![[0.0f32; PANEL]; k];
        fill_panel(w, product, first, width, &mut panel);
        for r in product * m..(product + 1) * m {
            let mut acc = [0.0f32; PANEL];
            let row = x_at(r);
            for (i, p) in panel.iter().enumerate() {
                let v = x[row + i * x_step];
                for (a, &p) in acc.iter_mut().zip(p) {
                    *a += v * p;
                }
            }
            // SAFETY: each job writes its own columns of its own rows.
            let y = unsafe { out.slice(r * n + first..r * n + first + width) };
            y.copy_from_slice(&acc[..width]);
        }
    });
}

/// The rows of an input that is not F32, decoded.
fn decode_rows(x: &View) -> Option<Vec<f32>> {
    if x.spec.dtype == crate::DType::F32 {
        return None;
    }
    let n = x.spec.last();
    let mut out = vec![0.0; x.spec.numel()];
    for (r, row) in out.chunks_exact_mut(n).enumerate() {
        quant::decode_row(x.spec.dtype, x.row_bytes(r), row);
    }
    Some(out)
}

/// Columns `first..first + width` of product `product` of `w [.., K, N]`, decoded: `panel[k][column]`.
fn fill_panel(w: &View, product: usize, first: usize, width: usize, panel: &mut [[f32; PANEL]]) {
    let Spec { dtype, strides, shape, .. } = w.spec;
    let rank = shape.len();
    let (len, size) = (dtype.block_len(), dtype.block_bytes());
    let base = w.spec.row_offset(product * shape[rank - 2]);
    let (k, n_step, k_step) = (panel.len(), strides[rank - 1], strides[rank - 2]);
    let bytes_at = |element: usize, count: usize| {
        let start = element / len * size;
        &w.bytes[start..start + dtype.bytes(count)]
    };
    if k_step == 1 || !dtype.is_block() && n_step != 1 {
        // Rows along K: each column of the panel is one contiguous (or strided float) row.
        let mut row = vec![0.0; k];
        for c in 0..width {
            let at = base + (first + c) * n_step;
            if k_step == 1 {
                quant::decode_row(dtype, bytes_at(at, k), &mut row);
            } else {
                for (i, v) in row.iter_mut().enumerate() {
                    quant::decode_row(dtype, bytes_at(at + i * k_step, 1), std::slice::from_mut(v));
                }
            }
            for (p, &v) in panel.iter_mut().zip(&row) {
                p[c] = v;
            }
        }
        return;
    }
    assert!(n_step == 1, "matmul: {} has its blocks along neither dimension", w.spec);
    // Rows along N: a panel is a piece of each row, widened to whole blocks.
    let from = first / len * len;
    let to = (first + width).next_multiple_of(len).min(shape[rank - 1]);
    let mut piece = vec![0.0; to - from];
    for (i, p) in panel.iter_mut().enumerate() {
        quant::decode_row(dtype, bytes_at(base + i * k_step + from, to - from), &mut piece);
        p[..width].copy_from_slice(&piece[first - from..first - from + width]);
    }
}
