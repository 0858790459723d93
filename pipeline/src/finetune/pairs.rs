//! What losses over pairs share: the log-probability of each answer, and a loss from its slopes.

use crate::data::{Batch, IGNORE};
use crate::train::{Forward, Outcome};
use puyu_autograd::checkpoint;
use puyu_tensor::ops::rows_of_logits;
use puyu_tensor::{DType, Error, Result, Tensor};

/// A pair's loss and how it changes with the numbers of the chosen and the rejected answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slope {
    pub loss: f64,
    pub chosen: f64,
    pub rejected: f64,
}

/// Checks that `batch` is pairs in which every answer has tokens that count.
///
/// # Errors
/// If it is not.
pub(super) fn check(batch: &Batch) -> Result<()> {
    let mut at = 0;
    let mut empty = None;
    for (i, &n) in batch.lengths.iter().enumerate() {
        if batch.targets[at..at + n].iter().all(|t| *t == IGNORE) {
            empty = empty.or(Some(i));
        }
        at += n;
    }
    match (batch.lengths.len() % 2, empty) {
        (0, None) => Ok(()),
        (0, Some(i)) => Err(Error::invalid(format!(
            "an answer of pair {} of the batch has no token that counts; it may have been cut: give a \
             larger data.seq_len",
            i / 2
        ))),
        _ => Err(Error::invalid(
            "the data are no pairs of a chosen and a rejected answer, which this method needs",
        )),
    }
}

/// The summed log-probability of the counted targets of each sequence, `[S]`. Logits are made a few
/// rows at a time, and again in the backward pass, so a long batch never holds all of them. Without
/// `adapters` the model is the one that was adapted.
pub(super) fn log_probabilities(forward: &Forward, batch: &Batch, adapters: bool) -> Tensor {
    let hidden = forward.hidden_with(batch, adapters);
    let head = forward.model.output().weight().get();
    let sequences = batch.lengths.iter().zip(0u32..).flat_map(|(n, s)| std::iter::repeat_n(s, *n));
    let rows: Vec<(u32, u32, u32)> = (0u32..)
        .zip(sequences)
        .zip(&batch.targets)
        .filter(|(_, target)| **target != IGNORE)
        .map(|((row, sequence), target)| (row, sequence, *target))
        .collect();
    let bf16 = forward.ctx(batch).learns_in_bf16(&head);
    let at_once = rows_of_logits([head.dim(0), head.dim(1)], head.requires_grad());
    let parts = rows.chunks(at_once).map(|rows| {
        let list = |f: fn(&(u32, u32, u32)) -> u32| -> Tensor {
            Tensor::new(&rows.iter().map(f).collect::<Vec<_>>(), [rows.len()])
        };
        let targets = list(|r| r.2).reshape([rows.len(), 1]);
        let block = move |x: &[Tensor]| {
            let logits = match bf16 {
                true => x[0].matmul_transposed_bf16(&x[1], DType::F32),
                false => x[0].matmul_transposed(&x[1]),
            };
            vec![picked(&logits, &targets)]
        };
        let x = hidden.gather(&list(|r| r.0));
        let logs = checkpoint(block, &[&x, &head]).swap_remove(0); // [R, 1]
        logs.reshape([rows.len()]).scatter_add(&list(|r| r.1), batch.lengths.len())
    });
    parts.reduce(|a, b| &a + &b).unwrap_or_else(|| Tensor::full([batch.lengths.len()], 0.0))
}

/// The log-softmax of logits `[R, V]` at `targets` U32 `[R, 1]`, `[R, 1]`.
fn picked(logits: &Tensor, targets: &Tensor) -> Tensor {
    let most = logits.max(-1).detach();
    let total = (logits - &most).exp().sum(-1).log();
    &(&logits.take_along(targets) - &most) - &total
}

/// The loss of all pairs: a tensor with its value, whose gradient with respect to `numbers` `[S]` is the
/// slopes.
pub(super) fn outcome(
    numbers: &Tensor,
    slopes: &[Slope],
    metrics: Vec<(&'static str, f64)>,
) -> Result<Outcome> {
    let values = numbers.to_vec::<f32>()?;
    let weights: Vec<f32> =
        slopes.iter().flat_map(|s| [s.chosen as f32, s.rejected as f32]).collect();
    let linear: f64 = weights.iter().zip(&values).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum();
    let loss: f64 = slopes.iter().map(|s| s.loss).sum();
    let sum = (numbers * &Tensor::new(&weights, [weights.len()])).sum_all();
    // The value of the linear part is replaced by that of the loss.
    let loss = sum.affine(1.0, (loss - linear) as f32);
    Ok(Outcome { loss, metrics })
}

/// -ln σ(x) and its slope, without overflow.
pub(super) fn minus_log_sigmoid(x: f64) -> (f64, f64) {
    let small = (-x.abs()).exp();
    let slope = if x > 0.0 { -small / (1.0 + small) } else { -1.0 / (1.0 + small) };
    ((-x).max(0.0) + small.ln_1p(), slope)
}

/// Chosen and rejected numbers of each pair.
pub(super) fn of_pairs(numbers: &[f32]) -> impl Iterator<Item = [f64; 2]> {
    numbers.as_chunks::<2>().0.iter().map(|pair| pair.map(f64::from))
}
