//! Cross-entropy of logits against target ids, with ignored targets.
//!
//! The loss comes as a sum and a count, since batches that accumulate are divided by the total count.
//! The gradient computes the softmax again from the logits: that is cheap beside the matmul that made
//! them, and nothing of their size is kept twice.

use super::along::NO_INDEX;
use super::reduce::{max_of, sum_of};
use crate::cpu::panel::LANES;
use crate::cpu::simd::versions;
use crate::cpu::{math::exp, pool::par_each, pool::par_rows};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "cross_entropy",
    cases: |[a, b, c, _]| {
        let x = || Arg::f32([a, b, c]);
        vec![
            Case::new(CrossEntropy, [x(), Arg::below([a, b], c)]),
            Case::new(CrossEntropy, [Arg::f32([b, c]), some_ignored(b, c)]),
            Case::new(CrossEntropyGrad, [x(), Arg::below([a, b], c), Arg::f32([])]),
            Case::new(CrossEntropyGrad, [Arg::f32([b, c]), some_ignored(b, c), Arg::f32([])]),
            Case::in_place(CrossEntropyInto, [x(), Arg::f32([2])], [Arg::below([a, b], c)]),
        ]
    },
    bad: || {
        vec![
            Case::new(CrossEntropy, [Arg::f32([2, 3]), Arg::below([3], 3)]),
            Case::new(CrossEntropy, [Arg::f32([2, 3]), Arg::f32([2])]),
            Case::new(CrossEntropy, [Arg::f32([2, 3]), Arg::exact([2, 3])]),
            Case::new(CrossEntropyGrad, [Arg::f32([2, 3]), Arg::exact([2, 3]), Arg::f32([])]),
            Case::new(CrossEntropyGrad, [Arg::f32([2, 3]), Arg::exact([2, 1]), Arg::f32([2])]),
            Case::in_place(
                CrossEntropyInto,
                [Arg::f32([2, 3]), Arg::f32([2])],
                [Arg::below([3], 3)],
            ),
        ]
    },
};

/// `n` targets below `bound`, every third of them ignored.
pub(super) fn some_ignored(n: usize, bound: usize) -> Arg {
    let target = |i: usize| if i % 3 == 1 { NO_INDEX } else { (i * 7 % bound) as u32 };
    Arg::exact((0..n).map(target))
}

#[track_caller]
fn check(name: &str, x: &Spec, targets: &Spec) {
    let types = x.dtype == DType::F32 && targets.dtype == DType::U32;
    let fits = types && x.rank() > 0 && x.shape[..x.rank() - 1] == *targets.shape;
    assert!(fits, "{name}: logits {x} with targets {targets}");
}

/// Checks that every target is one of the classes of `x`, or [`NO_INDEX`].
#[track_caller]
fn check_targets(name: &str, targets: &View, x: &Spec) {
    let classes = x.last();
    let bad = |&&t: &&u32| t != NO_INDEX && t as usize >= classes;
    if let Some(t) = targets.data::<u32>().iter().find(bad) {
        panic!("{name}: target {t} of targets {} for logits {x}", targets.spec);
    }
}

/// The loss's sum over the targets that are not [`NO_INDEX`], and their number, both F32 scalars:
/// Σ (ln Σ eˣ − x\[target\]).
#[derive(Debug)]
pub struct CrossEntropy;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("cross_entropy", &x[0], &x[1]);
        Outs { outputs: vec![Spec::f32([]); 2], saved: Vec::new() }
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, targets) = (x[0], x[1]);
        check_targets("cross_entropy", &targets, &x.spec);
        let targets = targets.data::<u32>();
        let mut losses = vec![0.0f32; targets.len()];
        par_rows(&mut losses, 1, 1024 / x.spec.last().max(1), |first, losses| {
            for (r, loss) in losses.iter_mut().enumerate() {
                if let Some(target) = class(targets[first + r]) {
                    let row = x.row::<f32>(first + r);
                    let max = max_of(row);
                    *loss = sum_of(row, |x| exp(x - max)).ln() + (max - row[target]);
                }
            }
        });
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let count = targets.iter().filter(|&&t| class(t).is_some()).count();
        y[0].data::<f32>()[0] = sum as f32;
        y[1].data::<f32>()[0] = count as f32;
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let targets = column(&x[1]);
        let shifted = &x[0] - &x[0].max(-1);
        let log_probability = &shifted - &shifted.exp().sum(-1).log();
        let ones = Tensor::scalar(1.0).to_device(&x[0].device()).broadcast_to(x[0].spec().shape);
        let sum = log_probability.take_along(&targets).sum_all().neg();
        Some(vec![sum, ones.take_along(&targets).sum_all()])
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let dx = dy[0].as_ref().map(|dy| apply1(CrossEntropyGrad, &[&x[0], &x[1], dy]));
        Grad::Inputs(vec![dx, None])
    }
}

/// The class that a target names, if it is not ignored.
fn class(target: u32) -> Option<usize> {
    (target != NO_INDEX).then_some(target as usize)
}

/// Targets `[..]` as `[.., 1]`.
fn column(targets: &Tensor) -> Tensor {
    targets.reshape(targets.shape().iter().copied().chain([1]).collect::<crate::Dims>())
}

/// dx = (softmax(x) − onehot(target))·dy, and 0 where the target is [`NO_INDEX`]: the gradient of
/// [`CrossEntropy`]'s sum, from logits, targets and the scalar dy.
#[derive(Debug)]
pub struct CrossEntropyGrad;

impl Op for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross_entropy_grad"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        check("cross_entropy_grad", &x[0], &x[1]);
        let scalar = x[2] == Spec::f32([]);
        assert!(scalar, "cross_entropy_grad: dy {} for logits {} {}", x[2], x[0], x[1]);
        Spec::f32(x[0].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, targets, dy) = (x[0], x[1], x[2].data::<f32>()[0]);
        check_targets("cross_entropy_grad", &targets, &x.spec);
        let (targets, n) = (targets.data::<u32>(), x.spec.last());
        par_rows(y[0].data::<f32>(), n, 1024 / n.max(1), |first, y| {
            for (r, y) in y.chunks_exact_mut(n).enumerate() {
                let Some(target) = class(targets[first + r]) else {
                    y.fill(0.0);
                    continue;
                };
                let row = x.row::<f32>(first + r);
                let max = max_of(row);
                for (y, &x) in y.iter_mut().zip(row) {
                    *y = exp(x - max);
                }
                let scale = dy / sum_of(y, |y| y);
                y.iter_mut().for_each(|y| *y *= scale);
                y[target] -= dy;
            }
        });
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let targets = column(&x[1]);
        let ones = Tensor::scalar(1.0).to_device(&x[0].device()).broadcast_to(targets.spec().shape);
        let onehot = ones.put_along(&targets, x[0].spec().last());
        let counted = &x[0].softmax() * &onehot.sum(-1);
        Some(vec![&(&counted - &onehot) * &x[2]])
    }
}

/// Loss and gradient in one pass, for logits that nobody needs afterwards: they become their gradient
/// for dy = 1, and to totals `[2]` are added the sum and the count of [`CrossEntropy`].
#[derive(Debug)]
pub struct CrossEntropyInto;

versions! {
    /// Turns a row of logits into softmax − onehot(target) and returns the loss.
    fn row_into(x: &mut [f32], target: usize) -> f32 {
        let mut most = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (m, &x) in most.iter_mut().zip(chunk) {
                *m = if x > *m { x } else { *m };
            }
        }
        let max = most.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let at_target = x[target];
        let mut sums = [0.0; LANES];
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(*x - max);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *x = exp(*x - max);
            *sum += *x;
        }
        let sum: f32 = sums.into_iter().sum();
        let scale = 1.0 / sum;
        x.iter_mut().for_each(|x| *x *= scale);
        x[target] -= 1.0;
        sum.ln() + (max - at_target)
    }
}

impl Op for CrossEntropyInto {
    fn name(&self) -> &'static str {
        "cross_entropy_into"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        panic!("cross_entropy_into: works in place, and was asked for a new tensor for {}", x[0]);
    }
    fn check_to(&self, y: &[Spec], x: &[Spec]) {
        check("cross_entropy_into", &y[0], &x[0]);
        let fits = y[1] == Spec::f32([2]);
        assert!(fits, "cross_entropy_into: totals {} for logits {} {}", y[1], y[0], x[0]);
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [logits, totals] = y else { unreachable!("check_to saw two") };
        check_targets("cross_entropy_into", &x[0], &logits.spec);
        let (targets, n) = (x[0].data::<u32>(), logits.spec.last().max(1));
        let mut losses = vec![0.0f32; targets.len()];
        let rows = logits.data::<f32>().chunks_exact_mut(n).zip(targets).zip(&mut losses);
        par_each(rows, |((row, &target), loss)| match class(target) {
            Some(target) => *loss = row_into(row, target),
            None => row.fill(0.0),
        });
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let count = targets.iter().filter(|&&t| class(t).is_some()).count();
        let totals = totals.data::<f32>();
        totals[0] += sum as f32;
        totals[1] += count as f32;
    }
}

impl Tensor {
    /// The mean cross-entropy of these logits `[.., V]` against `targets` U32 `[..]`, over the
    /// targets that are not [`NO_INDEX`]: a scalar; NaN if there is none, as in PyTorch.
    ///
    /// # Panics
    /// If the shapes do not fit, or a target is neither below V nor [`NO_INDEX`].
    #[track_caller]
    #[must_use]
    pub fn cross_entropy(&self, targets: &Self) -> Self {
        let (sum, count) = self.cross_entropy_sum(targets);
        &sum / &count
    }

    /// The summed cross-entropy and the number of targets behind it, both scalars: what batches that
    /// accumulate add up before they divide.
    ///
    /// # Panics
    /// As [`Tensor::cross_entropy`].
    #[track_caller]
    #[must_use]
    pub fn cross_entropy_sum(&self, targets: &Self) -> (Self, Self) {
        super::pair(apply(CrossEntropy, &[self, targets]))
    }
}
