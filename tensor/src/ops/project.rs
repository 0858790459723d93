//! The products of one input with several weights: queries, keys and values, or gate and up. They are products
//! of their own, in one parallel region, which a single token's small weights would otherwise spend their
//! time entering and leaving. What comes before them row by row (a norm, a gated activation, rounding) is computed on
//! the way into them, once for all, and what they are added to on the way out: an op of one token takes longer to
//! start than to run.

use super::matmul::{dispatch, infer, transposed, work};
use super::rms_norm;
use super::round_rows::rounded;
use super::swiglu;
use crate::cpu::gemm;
use crate::cpu::pool::par_rows;
use crate::cpu::simd::versions;
use crate::kernels::Kernels;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::storage::Owned;
use crate::{DType, Device, Spec, Tensor, View, ViewMut, apply, quant};
use std::cell::Cell;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "project",
    cases: |[a, b, c, d]| {
        let of = |dtype: DType, other: DType| {
            let k = b.next_multiple_of(dtype.block_len()).next_multiple_of(other.block_len());
            let weights = [Arg::of([c, k], dtype), Arg::of([d * 16, k], other)];
            let case = move |op: Project, before: Vec<Arg>, weights: &[Arg]| {
                let x: Vec<Arg> = before.into_iter().chain(weights.iter().cloned()).collect();
                Case::new(op, x)
            };
            let x = || Arg::f32([a, k]);
            let all = move |round| {
                let onto = Arg::f32([a, c]);
                let op = |left, onto| Project { left, round, onto };
                [
                    case(op(Left::Plain, false), vec![x()], &weights),
                    case(op(Left::Normed { eps: 1e-5 }, false), vec![x(), Arg::f32([k])], &weights),
                    case(op(Left::Gated, false), vec![x(), x()], &weights),
                    case(op(Left::Plain, true), vec![x(), onto.clone()], &weights[..1]),
                    case(op(Left::Gated, true), vec![x(), x(), onto], &weights[..1]),
                ]
            };
            let dtypes = [dtype, other];
            let mut cases = Vec::from(all(None));
            if dtypes.iter().all(|dtype| dtype.has_integer_codes()) {
                cases.extend(all(Some(DType::I8Row)));
            }
            if dtypes == [DType::BF16; 2] {
                cases.extend(all(Some(DType::BF16)));
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
        let weight = |k| Arg::of([4, k], DType::Q8_0);
        let op = |left, round, onto| Project { left, round, onto };
        let x = || Arg::f32([2, 32]);
        let int8 = Some(DType::I8Row);
        let normed = Left::Normed { eps: 1e-5 };
        vec![
            Case::new(op(Left::Plain, None, false), [x(), weight(64)]),
            Case::new(op(Left::Plain, int8, false), [x(), weight(64)]),
            Case::new(op(normed, int8, false), [x(), Arg::f32([31]), weight(32)]),
            Case::new(op(Left::Gated, int8, false), [x(), Arg::f32([2, 31]), weight(32)]),
            Case::new(op(Left::Plain, int8, true), [x(), Arg::f32([2, 5]), weight(32)]),
        ]
    },
};

/// What the left operand is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Left {
    /// x
    Plain,
    /// x normalized, as [`Tensor::rms_norm`] does; the norm's weight follows x.
    Normed {
        /// ε under the root.
        eps: f32,
    },
    /// silu(x) · up, as [`Tensor::swiglu`]; up follows x.
    Gated,
}

/// `left [.., K] · wᵢ [Nᵢ, K]ᵀ` for each of the weights that follow the left operand's parts, and what the only
/// product is added to.
#[derive(Debug)]
pub struct Project {
    /// What is multiplied.
    pub left: Left,
    /// What that is rounded to first, as [`super::RoundRows`] does.
    pub round: Option<DType>,
    /// Whether the product is added to a tensor, which stands before its weight.
    pub onto: bool,
}

versions! {
    fn add_to(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

thread_local! {
    /// A thread's room for a row before it is rounded.
    static ROW: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Project {
    /// Whether there is more to it than products: then its composition runs where it has no kernel.
    fn fused(&self) -> bool {
        self.onto || self.left != Left::Plain
    }

    /// Inputs that the left operand is made of.
    fn parts(&self) -> usize {
        if self.left == Left::Plain { 1 } else { 2 }
    }

    /// The index of the first weight.
    fn first(&self) -> usize {
        self.parts() + usize::from(self.onto)
    }

    /// The spec of the left operand.
    fn left(&self, x: &[Spec]) -> Spec {
        let floats = |x: &[Spec]| x.iter().all(|x| x.dtype == DType::F32);
        let fits = match self.left {
            Left::Plain => true,
            Left::Normed { .. } => floats(&x[..2]) && *x[1].shape == [x[0].last()],
            Left::Gated => floats(&x[..2]) && x[1].shape == x[0].shape,
        };
        let name = self.name();
        assert!(fits && x[0].rank() > 0, "{name}: {} and {} as {:?}", x[0], x[1], self.left);
        self.round.map_or(x[0], |dtype| rounded(name, &x[0], dtype))
    }

    /// Writes the left operand `[.., K]`, which is not x itself.
    fn write_left(&self, x: &[View], spec: &Spec, y: &mut [u8]) {
        let k = spec.last();
        let bytes = spec.dtype.bytes(k);
        if bytes == 0 {
            return;
        }
        par_rows(y, bytes, 4096 / k, |first, y| {
            let mut row = ROW.take();
            row.resize(k, 0.0);
            for (r, y) in y.chunks_exact_mut(bytes).enumerate() {
                let from = x[0].row(first + r);
                let from = match self.left {
                    Left::Plain => from,
                    Left::Normed { eps } => {
                        rms_norm::forward_row(from, x[1].data(), eps, &mut row);
                        &row
                    }
                    Left::Gated => {
                        swiglu::forward(from, x[1].row(first + r), &mut row);
                        &row
                    }
                };
                quant::encode_row(spec.dtype, from, y);
            }
            ROW.set(row);
        });
    }
}

impl Op for Project {
    fn name(&self) -> &'static str {
        if self.round.is_some() { "project_rounded" } else { "project" }
    }
    fn packed(&self, i: usize) -> bool {
        i >= self.first()
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let left = self.left(x);
        let output = |w: &Spec| infer(self.name(), &left, w, &transposed(w));
        let outputs: Vec<Spec> = x[self.first()..].iter().map(output).collect();
        if self.onto {
            let to = &x[self.parts()];
            let fits = outputs.len() == 1 && to.dtype == DType::F32 && to.shape == outputs[0].shape;
            assert!(fits, "{}: the product {} of {left} added to {to}", self.name(), outputs[0]);
        }
        Outs { outputs, saved: Vec::new() }
    }
    fn run(&self, x: &[&Tensor], _: bool) -> Option<Vec<Tensor>> {
        if x[0].device() == Device::Cpu || !self.fused() {
            return None;
        }
        self.compose(&x.iter().map(|x| (*x).clone()).collect::<Vec<_>>())
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let weights: Vec<View> =
            x[self.first()..].iter().map(|w| View { spec: transposed(&w.spec), ..*w }).collect();
        if self.left == Left::Plain && self.round.is_none() {
            gemm::project(&x[0], &weights, y);
        } else {
            let spec = Spec::new(x[0].spec.shape, self.round.unwrap_or(DType::F32));
            let mut memory = Owned::scratch(spec.bytes());
            self.write_left(x, &spec, memory.bytes_mut());
            gemm::project(&View { spec, bytes: memory.bytes() }, &weights, y);
        }
        if self.onto {
            let from = x[self.parts()].data::<f32>();
            par_rows(y[0].data(), 1, 4096, |first, y| add_to(&from[first..], y));
        }
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        Work { operands: self.round, ..work(x, y) }
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        if self.round.is_some() || self.fused() {
            return None;
        }
        let one = |(i, w): (usize, &Spec)| dispatch(x, &transposed(w), y, i);
        let dispatches: Option<Vec<_>> = x[1..].iter().enumerate().map(one).collect();
        Some(Kernels { dispatches: dispatches?, ..Kernels::default() })
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let left = match self.left {
            Left::Plain => x[0].clone(),
            Left::Normed { eps } => x[0].rms_norm(&x[1], eps),
            Left::Gated => x[0].swiglu(&x[1]),
        };
        let left = self.round.map_or_else(|| left.clone(), |dtype| left.round_rows(dtype));
        let product = |w: &Tensor| match self.onto {
            true => &x[self.parts()] + &left.matmul_transposed(w),
            false => left.matmul_transposed(w),
        };
        Some(x[self.first()..].iter().map(product).collect())
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Compose
    }
}

/// A left operand: a tensor, or what is computed from tensors on the way into products.
#[derive(Clone, Debug)]
pub enum Factor {
    /// x `[.., K]`
    Plain(Tensor),
    /// weight · x / √(mean(x²) + eps), x `[.., K]`, weight `[K]`.
    Normed {
        /// x
        x: Tensor,
        /// weight
        weight: Tensor,
        /// eps
        eps: f32,
    },
    /// silu(gate) · up, both `[.., K]`.
    Gated {
        /// gate
        gate: Tensor,
        /// up
        up: Tensor,
    },
}

impl From<&Tensor> for Factor {
    fn from(x: &Tensor) -> Self {
        Self::Plain(x.clone())
    }
}

impl Factor {
    /// Its tensors: x or gate first.
    pub fn parts(&self) -> (&Tensor, Option<&Tensor>) {
        match self {
            Self::Plain(x) => (x, None),
            Self::Normed { x, weight, .. } => (x, Some(weight)),
            Self::Gated { gate, up } => (gate, Some(up)),
        }
    }

    /// It alone.
    pub fn value(&self) -> Tensor {
        match self {
            Self::Plain(x) => x.clone(),
            Self::Normed { x, weight, eps } => x.rms_norm(weight, *eps),
            Self::Gated { gate, up } => gate.swiglu(up),
        }
    }

    /// `self [.., K] · wᵢ [Nᵢ, K]ᵀ -> [.., Nᵢ]` for each of `weights`, of any weight dtypes; with `round` of
    /// `self` rounded to it (I8Row for weights of block formats, or BF16), through which no gradient flows. A
    /// single product is added to `onto [.., N]`, if given.
    ///
    /// # Panics
    /// If the shapes do not fit, or several products are added to one tensor.
    #[track_caller]
    pub fn project<const N: usize>(
        &self,
        weights: [&Tensor; N],
        round: Option<DType>,
        onto: Option<&Tensor>,
    ) -> [Tensor; N] {
        let left = match self {
            Self::Plain(_) => Left::Plain,
            Self::Normed { eps, .. } => Left::Normed { eps: *eps },
            Self::Gated { .. } => Left::Gated,
        };
        let (first, second) = self.parts();
        let x = [Some(first), second, onto].into_iter().flatten().chain(weights);
        let y = apply(Project { left, round, onto: onto.is_some() }, &x.collect::<Vec<_>>());
        y.try_into().expect("one output for each weight")
    }
}
