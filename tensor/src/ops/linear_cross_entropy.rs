//! The last linear layer and the loss as one op, so that the logits of a whole batch (tokens times
//! vocabulary, the largest tensor of a training step) never exist: they are made a few rows at a time,
//! and the gradients of these rows at once with them.

use super::NO_INDEX;
use super::cross_entropy::{CrossEntropy, CrossEntropyInto, some_ignored};
use super::matmul::{Matmul, MatmulAdd, MatmulTransposed};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Device, Spec, Tensor, apply, apply_to, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "linear_cross_entropy",
    cases: |[a, b, c, d]| {
        let case = |rows, dtype: DType, n: usize, targets| {
            let h = c.next_multiple_of(dtype.block_len());
            let x = [Arg::f32([n, h]), Arg::of([d, h], dtype), targets];
            Case::new(LinearCrossEntropy { rows, bf16: false }, x)
        };
        let x = [Arg::f32([b, c]), Arg::f32([d, c]), some_ignored(b, d)];
        vec![
            Case::new(LinearCrossEntropy { rows: 2, bf16: true }, x),
            case(2, DType::F32, b, some_ignored(b, d)),
            case(64, DType::F32, a, Arg::below([a], d)),
            case(3, DType::BF16, b, some_ignored(b, d)),
            case(4, DType::Q8_0, b, some_ignored(b, d)),
        ]
    },
    bad: || {
        let op = || LinearCrossEntropy { rows: 2, bf16: false };
        vec![
            Case::new(op(), [Arg::f32([2, 3]), Arg::f32([5, 4]), Arg::below([2], 5)]),
            Case::new(op(), [Arg::f32([2, 3]), Arg::f32([5, 3]), Arg::below([3], 5)]),
        ]
    },
};

/// Logits computed at a time, 32 MB of them.
const LOGITS: usize = 1 << 23;

/// How many rows of logits of a weight `[v, h]` are computed at a time. If the weight has a gradient, logits of a
/// quarter of its size add nothing to the memory that counts, and adding to it once per piece then costs little
/// beside the products.
pub fn rows_of_logits([v, h]: [usize; 2], trained: bool) -> usize {
    let least = if trained { h / 4 } else { 1 };
    (LOGITS / v.max(1)).max(least).next_multiple_of(16)
}

/// Sum and count of the cross-entropy of x·wᵀ against targets, as [`CrossEntropy`] gives them.
#[derive(Debug)]
pub struct LinearCrossEntropy {
    /// How many rows of logits exist at a time.
    pub rows: usize,
    /// Whether operands are rounded, as for [`Matmul::bf16`].
    pub bf16: bool,
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        if self.bf16 { "linear_cross_entropy_bf16" } else { "linear_cross_entropy" }
    }
    fn packed(&self, i: usize) -> bool {
        i == 1 && !self.bf16
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let (x, w, targets) = (&x[0], &x[1], &x[2]);
        let types = x.dtype == DType::F32
            && DType::WEIGHTS.contains(&w.dtype)
            && (w.dtype == DType::F32 || !self.bf16)
            && targets.dtype == DType::U32;
        let fits = types
            && x.rank() > 0
            && w.rank() == 2
            && x.last() == w.last()
            && x.shape[..x.rank() - 1] == *targets.shape;
        assert!(fits, "{}: {x} by {w} with targets {targets}", self.name());
        Outs { outputs: vec![Spec::f32([]); 2], saved: Vec::new() }
    }
    fn run(&self, x: &[&Tensor], keep: bool) -> Option<Vec<Tensor>> {
        let (w, targets) = (x[1], x[2].reshape([x[2].spec().numel()]));
        let (bf16, dtype) = (self.bf16, self.bf16.then_some(DType::F32));
        let product = |x: &Tensor, w: &Tensor| apply1(Matmul { bf16: dtype }, &[x, w]);
        let (keep_dx, keep_dw) = (keep && x[0].requires_grad(), keep && w.requires_grad());
        let all = x[0].rows(); // [R, H]
        // What is not to be predicted adds nothing: of a conversation, most rows.
        let learnt = learnt(&targets);
        let (input, targets) = match &learnt {
            Some(rows) => (all.gather(rows), targets.gather(rows)),
            None => (all.clone(), targets),
        };
        let mut totals = Tensor::zeros([2], DType::F32).to_device(&x[0].device());
        let (mut dx, mut dw): (Vec<Tensor>, Option<Tensor>) = (Vec::new(), None);
        // Pieces of nearly one size: a last one of a few rows would pass over the whole gradient, too.
        let n = input.dim(0);
        let even = n.div_ceil(n.div_ceil(self.rows).max(1)).next_multiple_of(16).min(self.rows);
        for start in (0..n).step_by(even.max(1)) {
            let len = even.min(n - start);
            let input = input.narrow(0, start, len);
            let targets = targets.narrow(0, start, len);
            let mut logits = apply1(MatmulTransposed { bf16: dtype }, &[&input, w]); // [len, V]
            if !keep_dx && !keep_dw {
                let loss = apply(CrossEntropy, &[&logits, &targets]);
                let loss = [&loss[0].reshape([1]), &loss[1].reshape([1])];
                totals = &totals + &Tensor::cat(&loss, 0);
                continue;
            }
            apply_to(CrossEntropyInto, &mut [&mut logits, &mut totals], &[&targets]);
            dx.extend(keep_dx.then(|| product(&logits, w)));
            match &mut dw {
                Some(dw) => apply_to(MatmulAdd { bf16 }, &mut [dw], &[&logits.t(), &input]),
                None => dw = keep_dw.then(|| product(&logits.t(), &input)), // [V, H]
            }
        }
        let total = |i| totals.narrow(0, i, 1).reshape([]);
        let mut y = vec![total(0), total(1)];
        if keep_dx {
            let mut dx = Tensor::cat(&dx.iter().collect::<Vec<_>>(), 0);
            if let Some(rows) = &learnt {
                dx = dx.scatter_add(rows, all.dim(0));
            }
            y.push(dx.reshape(x[0].spec().shape));
        }
        y.extend(dw);
        Some(y)
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let logits =
            apply1(MatmulTransposed { bf16: self.bf16.then_some(DType::F32) }, &[&x[0], &x[1]]);
        Some(apply(CrossEntropy, &[&logits, &x[2]]))
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], saved: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let mut saved = saved.iter();
        // A loss that is not scaled needs no pass over what may be hundreds of megabytes.
        let one = |dy: &Tensor| dy.device() == Device::Cpu && dy.data::<f32>() == [1.0];
        let mut next = |x: &Tensor| {
            let d = x.requires_grad().then(|| saved.next()).flatten();
            d.zip(dy[0].as_ref()).map(|(d, dy)| if one(dy) { d.clone() } else { d * dy })
        };
        Grad::Inputs(vec![next(&x[0]), next(&x[1]), None])
    }
}

/// The rows that have a target, if some have none and it is known where they are.
fn learnt(targets: &Tensor) -> Option<Tensor> {
    if targets.device() != Device::Cpu {
        return None;
    }
    let targets = targets.contiguous();
    let all = targets.data::<u32>();
    let rows: Vec<u32> =
        (0..).zip(all).filter(|(_, t)| **t != NO_INDEX).map(|(row, _)| row).collect();
    let some = !rows.is_empty() && rows.len() < all.len();
    some.then(|| Tensor::new(&rows, [rows.len()]))
}

impl Tensor {
    /// The summed cross-entropy of the logits `self [.., H] · w [V, H]ᵀ` against `targets` U32
    /// `[..]`, and the number of targets behind it, as [`Tensor::cross_entropy_sum`]; the logits are
    /// never held whole, and what is kept for the backward pass are the gradients. With `bf16` the operands of
    /// products are rounded ([`Matmul::bf16`]).
    ///
    /// # Panics
    /// If the shapes do not fit, or a target is neither below V nor [`super::NO_INDEX`].
    #[track_caller]
    #[must_use]
    pub fn linear_cross_entropy(&self, w: &Self, targets: &Self, bf16: bool) -> (Self, Self) {
        let rows = rows_of_logits([w.dim(0), w.dim(-1)], w.requires_grad());
        super::pair(apply(LinearCrossEntropy { rows, bf16 }, &[self, w, targets]))
    }
}
