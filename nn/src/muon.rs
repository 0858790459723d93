//! Muon's update of a matrix: the momentum with all its singular values made about one, so that directions
//! which the gradient shows seldom move as far as those it shows always.
//!
//! Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); the size of the update is
//! that of Liu et al., "Muon is Scalable for LLM Training" (2025), section 2.2, so that a learning rate and a
//! decay that suit AdamW suit it too. XTuner's `MuonConfig` is the same.

use puyu_tensor::Tensor;

/// Newton-Schulz iterations.
const ITERATIONS: usize = 5;

/// The coefficients of one, p(s) = 3.4445·s − 4.7750·s³ + 2.0315·s⁵ for every singular value s: steep at
/// zero, so that five of them bring all but the smallest between 0.7 and 1.2.
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// The root mean square of AdamW's update, about; that of a matrix whose singular values are one is
/// 1/√max(rows, columns).
const RMS: f64 = 0.2;

/// Parts of names whose matrices are tables, not maps between hidden states: AdamW updates those.
const TABLES: [&str; 4] = ["tok_embeddings", "embed_tokens", "output", "lm_head"];

/// Whether Muon suits the parameter: a matrix, of more than one row and column, that is no table.
pub(crate) fn suits(name: &str, shape: &[usize]) -> bool {
    let owner = name.strip_suffix(".weight").unwrap_or(name).rsplit('.').next();
    let matrix = matches!(*shape, [rows, columns] if rows > 1 && columns > 1);
    matrix && !owner.is_some_and(|part| TABLES.contains(&part))
}

/// What a step with learning rate 1 would subtract for a momentum `m [rows, columns]`.
pub(crate) fn direction(m: &Tensor) -> Tensor {
    let longest = m.shape().iter().max().copied().unwrap_or(1);
    orthogonalized(m).affine((RMS * (longest as f64).sqrt()) as f32, 0.0)
}

/// The matrix with its singular values made about one.
fn orthogonalized(m: &Tensor) -> Tensor {
    let tall = m.dim(0) > m.dim(1);
    let m = if tall { m.t().contiguous() } else { m.clone() };
    // The Frobenius norm is not less than the largest singular value.
    let norm = (&m * &m).sum_all().sqrt().affine(1.0, 1e-7);
    let mut x = &m / &norm;
    let [a, b, c] = QUINTIC;
    for _ in 0..ITERATIONS {
        let square = x.matmul_transposed(&x);
        let even = &square.affine(b, 0.0) + &square.matmul(&square).affine(c, 0.0);
        x = &x.affine(a, 0.0) + &even.matmul(&x);
    }
    if tall { x.t() } else { x }
}
