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
///
/// An iteration is X ← Q·X with Q = a + b·G + c·G² and G = X·Xᵀ (of a tall X from the other side). All are
/// polynomials of the first G, so G ← Q·G·Q and the product of all Q are had without X, in matrices of the
/// shorter side.
fn orthogonalized(m: &Tensor) -> Tensor {
    // The Frobenius norm is not less than the largest singular value.
    let norm = (m * m).sum_all().sqrt().affine(1.0, 1e-7);
    let x = m / &norm;
    let tall = m.dim(0) > m.dim(1);
    let mut gram = if tall { x.t().matmul(&x) } else { x.matmul_transposed(&x) };
    let one = identity(gram.dim(0)).to_device(&m.device());
    let [a, b, c] = QUINTIC;
    let mut all = one.clone();
    for i in 1..=ITERATIONS {
        let square = gram.matmul(&gram);
        let q = &(&one.affine(a, 0.0) + &gram.affine(b, 0.0)) + &square.affine(c, 0.0);
        all = if i == 1 { q.clone() } else { q.matmul(&all) };
        if i < ITERATIONS {
            gram = q.matmul(&gram).matmul(&q);
        }
    }
    if tall { x.matmul(&all) } else { all.matmul(&x) }
}

fn identity(n: usize) -> Tensor {
    let mut one = vec![0.0f32; n * n];
    one.iter_mut().step_by(n + 1).for_each(|v| *v = 1.0);
    Tensor::new(&one, [n, n])
}
