//! The products of one input with several weights: queries, keys and values, or gate and up. They are products
//! of their own, in one parallel region, which a single token's small weights would otherwise spend their
//! time entering and leaving. The input may be rounded first, once for all of them.

use super::matmul::{dispatch, infer, transposed, work};
use super::round_rows::{round, rounded};
use crate::cpu::gemm;
use crate::kernels::Kernels;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::storage::Owned;
use crate::{DType, Spec, Tensor, View, ViewMut, apply};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "project",
    cases: |[a, b, c, d]| {
        let of = |dtype: DType, other: DType| {
            let k = b.next_multiple_of(dtype.block_len()).next_multiple_of(other.block_len());
            let weights = [Arg::of([c, k], dtype), Arg::of([d * 16, k], other)];
            let x: Vec<Arg> = [Arg::f32([a, k])].into_iter().chain(weights).collect();
            let product = |round| Case::new(Project { round }, x.clone());
            let dtypes = [dtype, other];
            let mut cases = vec![product(None)];
            if dtypes.iter().all(|dtype| dtype.has_integer_codes()) {
                cases.push(product(Some(DType::I8Row)));
            }
            if dtypes == [DType::BF16; 2] {
                cases.push(product(Some(DType::BF16)));
            }
            cases
        };
        [
            of(DType::F32, DType::F32),
            of(DType::F16, DType::Q8_0),
            of(DType::BF16, DType::BF16),
            of(DType::Q4_0, DType::Q4_0),
            of(DType::Q4K, DType::Q6K),
        ]
        .into_iter()
        .flatten()
        .collect()
    },
    bad: || {
        let bad = |round| {
            Case::new(Project { round }, [Arg::f32([2, 32]), Arg::of([4, 64], DType::Q8_0)])
        };
        vec![bad(None), bad(Some(DType::I8Row))]
    },
};

/// `x [.., K] · wᵢ [Nᵢ, K]ᵀ` for each of the weights that follow x.
#[derive(Debug)]
pub struct Project {
    /// What x is rounded to first, as [`super::RoundRows`] does.
    pub round: Option<DType>,
}

impl Project {
    /// The spec of the left operand.
    fn left(&self, x: &Spec) -> Spec {
        self.round.map_or(*x, |dtype| rounded("project_rounded", x, dtype))
    }
}

impl Op for Project {
    fn name(&self) -> &'static str {
        if self.round.is_some() { "project_rounded" } else { "project" }
    }
    fn packed(&self, i: usize) -> bool {
        i > 0
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let left = self.left(&x[0]);
        let output = |w: &Spec| infer(self.name(), &left, w, &transposed(w));
        Outs { outputs: x[1..].iter().map(output).collect(), saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let weights: Vec<View> =
            x[1..].iter().map(|w| View { spec: transposed(&w.spec), ..*w }).collect();
        match self.round {
            None => gemm::project(&x[0], &weights, y),
            Some(dtype) => {
                let spec = self.left(&x[0].spec);
                let mut memory = Owned::scratch(spec.bytes());
                round(&x[0], dtype, memory.bytes_mut());
                gemm::project(&View { spec, bytes: memory.bytes() }, &weights, y);
            }
        }
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        work(x, y)
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        if self.round.is_some() {
            return None;
        }
        let one = |(i, w): (usize, &Spec)| dispatch(x, &transposed(w), y, i);
        let dispatches: Option<Vec<_>> = x[1..].iter().enumerate().map(one).collect();
        Some(Kernels { dispatches: dispatches?, ..Kernels::default() })
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let left = self.round.map_or_else(|| x[0].clone(), |dtype| x[0].round_rows(dtype));
        Some(x[1..].iter().map(|w| left.matmul_transposed(w)).collect())
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Compose
    }
}

impl Tensor {
    /// `self [.., K] · wᵢ [Nᵢ, K]ᵀ -> [.., Nᵢ]` for each of `weights`, of any weight dtypes; with `round` of
    /// `self` rounded to it (I8Row for weights of block formats, or BF16), through which no gradient flows.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[track_caller]
    #[must_use]
    pub fn project<const N: usize>(&self, weights: [&Self; N], round: Option<DType>) -> [Self; N] {
        let x: Vec<&Self> = [self].into_iter().chain(weights).collect();
        apply(Project { round }, &x).try_into().expect("one output for each weight")
    }
}
