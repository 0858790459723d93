//! Sums of squares over pieces of a fixed length: the norm of all gradients in one pass over memory
//! and without a second copy of them. Pieces do not depend on the number of threads, and so neither
//! does the norm.

use crate::cpu::pool::par_rows;
use crate::op::{Arg, Case, Entry, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "square_sums",
    cases: |[a, b, c, _]| {
        vec![
            Case::new(SquareSums { piece: 32 }, [Arg::f32([a, b])]),
            Case::new(SquareSums { piece: 7 }, [Arg::f32([a, b, c])]),
        ]
    },
    bad: || vec![Case::new(SquareSums { piece: 4 }, [Arg::below([2, 3], 4)])],
};

/// Elements of a piece of [`Tensor::norm`].
const PIECE: usize = 1 << 14;

/// y\[i\] = Σ x² over the i-th `piece` elements of F32 x, the last piece being what remains.
#[derive(Debug)]
pub struct SquareSums {
    /// Elements of a piece.
    pub piece: usize,
}

impl Op for SquareSums {
    fn name(&self) -> &'static str {
        "square_sums"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        assert!(x[0].dtype == DType::F32, "square_sums: {}", x[0]);
        Spec::f32([x[0].numel().div_ceil(self.piece)]).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let x = x[0].data::<f32>();
        par_rows(y[0].data::<f32>(), 1, 1, |first, y| {
            let pieces = x[first * self.piece..].chunks(self.piece);
            for (y, piece) in y.iter_mut().zip(pieces) {
                *y = sum_of_squares(piece) as f32;
            }
        });
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let n = x[0].spec().numel();
        let x = x[0].reshape([n]);
        let piece = |start: usize| {
            let part = x.narrow(0, start, self.piece.min(n - start));
            part.square().sum_all().reshape([1])
        };
        let pieces: Vec<Tensor> = (0..n).step_by(self.piece).map(piece).collect();
        Some(vec![Tensor::cat(&pieces.iter().collect::<Vec<_>>(), 0)])
    }
}

/// Σ x², in 8 lanes of F64 added in order.
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (l, &v) in lanes.iter_mut().zip(chunk) {
            *l += f64::from(v) * f64::from(v);
        }
    }
    for (l, &v) in lanes.iter_mut().zip(rest) {
        *l += f64::from(v) * f64::from(v);
    }
    lanes.into_iter().sum()
}

impl Tensor {
    /// The L2 norm of all elements, √Σ x²; not finite if an element is not. A sum of squares beyond
    /// F32 is infinite.
    ///
    /// # Errors
    /// The device's first error, if it failed.
    ///
    /// # Panics
    /// If the dtype is not F32.
    #[track_caller]
    pub fn norm(&self) -> crate::Result<f64> {
        Ok(self.square_sum()?.sqrt())
    }

    /// Σ x² over all elements, in one order whatever the number of threads.
    ///
    /// # Errors
    /// The device's first error, if it failed.
    ///
    /// # Panics
    /// If the dtype is not F32.
    #[track_caller]
    pub fn square_sum(&self) -> crate::Result<f64> {
        let sums = apply1(SquareSums { piece: PIECE }, &[&self.detach()]).to_vec::<f32>()?;
        Ok(sums.into_iter().map(f64::from).sum())
    }
}
