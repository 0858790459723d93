//! The products of one input with several weights: queries, keys and values, or gate and up. They are products
//! of their own, in one parallel region, which a single token's small weights would otherwise spend their
//! time entering and leaving.

use super::matmul::{dispatch, infer, transposed, work};
use crate::cpu::gemm;
use crate::kernels::Kernels;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::{DType, Spec, Tensor, View, ViewMut, apply};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "project",
    cases: |[a, b, c, d]| {
        let of = |dtype: DType, other: DType| {
            let k = b.next_multiple_of(dtype.block_len()).next_multiple_of(other.block_len());
            let weights = [Arg::of([c, k], dtype), Arg::of([d * 16, k], other)];
            let x = [Arg::f32([a, k])].into_iter().chain(weights);
            Case::new(Project, x.collect::<Vec<_>>())
        };
        vec![
            of(DType::F32, DType::F32),
            of(DType::F16, DType::Q8_0),
            of(DType::Q4_0, DType::Q4_0),
            of(DType::Q4K, DType::Q6K),
        ]
    },
    bad: || vec![Case::new(Project, [Arg::f32([2, 3]), Arg::f32([4, 3]), Arg::f32([4, 5])])],
};

/// `x [.., K] · wᵢ [Nᵢ, K]ᵀ` for each of the weights that follow x.
#[derive(Debug)]
pub struct Project;

impl Op for Project {
    fn name(&self) -> &'static str {
        "project"
    }
    fn packed(&self, i: usize) -> bool {
        i > 0
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let output = |w: &Spec| infer("project", &x[0], w, &transposed(w));
        Outs { outputs: x[1..].iter().map(output).collect(), saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let weights: Vec<View> =
            x[1..].iter().map(|w| View { spec: transposed(&w.spec), ..*w }).collect();
        gemm::project(&x[0], &weights, y);
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        work(x, y)
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let one = |(i, w): (usize, &Spec)| dispatch(x, &transposed(w), y, i);
        let dispatches: Option<Vec<_>> = x[1..].iter().enumerate().map(one).collect();
        Some(Kernels { dispatches: dispatches?, ..Kernels::default() })
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        Some(x[1..].iter().map(|w| x[0].matmul_transposed(w)).collect())
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Compose
    }
}

impl Tensor {
    /// `self [.., K] · wᵢ [Nᵢ, K]ᵀ -> [.., Nᵢ]` for each of `weights`, of any weight dtypes.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[track_caller]
    #[must_use]
    pub fn project<const N: usize>(&self, weights: [&Self; N]) -> [Self; N] {
        let x: Vec<&Self> = [self].into_iter().chain(weights).collect();
        apply(Project, &x).try_into().expect("one output for each weight")
    }
}
