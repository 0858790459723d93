//! Training against PyTorch: losses, gradient norms, learning rates, gradients and final weights of the
//! golden runs (`PUYU_TRAIN_FIXTURES`, `PUYU_TRAIN_DATA`), and that neither accumulation nor packing
//! changes what is learned. Tolerances are those of the fixtures' README.

use puyu::data::{Batch, IGNORE};
use puyu::train::{Forward, Learner, NextToken};
use puyu_models::Loaded;
use puyu_nn::{Compute, Curve, Optimizer, Schedule};
use puyu_tensor::{DType, ops};
use puyu_tests::{TrainGolden, train_data, train_goldens, worst};
use std::path::Path;

const TEXT: &str = "en/tinyshakespeare.txt";

/// Runs `test` on every golden folder with its text.
fn each(test: impl Fn(&TrainGolden, &Path)) {
    let Some(text) = train_data(TEXT) else { return };
    for golden in train_goldens() {
        eprintln!("{}", golden.folder.display());
        test(&golden, &text);
    }
}

fn learner(golden: &TrainGolden, compute: Compute, checkpointed: usize) -> Learner {
    let Loaded { model, params } = golden.load("init.safetensors");
    let hyper = |key| golden.float(&["full", "hyper", key]);
    let op = ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: hyper("wd") as f32 };
    Learner {
        forward: Forward { checkpointed, compute, ..Forward::new(model) },
        objective: Box::new(NextToken),
        optimizer: Optimizer::new(op, params).unwrap(),
        schedule: Schedule {
            curve: Curve::Cosine,
            peak: hyper("peak"),
            floor: hyper("low"),
            warmup: hyper("warm") as u64,
            steps: hyper("steps") as u64,
            decay: 0,
        },
        clip: hyper("clip"),
    }
}

/// The batch of one step in `parts` micro-batches.
fn batches(golden: &TrainGolden, text: &Path, step: usize, parts: usize) -> Vec<Batch> {
    let rows = golden.number(&["batch"]);
    let part = rows / parts;
    (0..parts).map(|i| golden.rows(text, step, i * part..(i + 1) * part)).collect()
}

#[test]
fn golden_train_full_run_in_f32() {
    each(|golden, text| {
        let mut learner = learner(golden, Compute::Exact, 0);
        let wanted = golden.value(&["full", "fp32"]).as_array().unwrap();
        assert_eq!(wanted.len(), golden.number(&["full", "hyper", "steps"]));
        let mut worst_loss = 0.0f64;
        for (step, want) in wanted.iter().enumerate() {
            let got = learner.step(step as u64, &batches(golden, text, step, 1)).unwrap();
            let want = |key: &str| want[key].as_f64().unwrap();
            let off = (got.loss - want("loss")).abs();
            worst_loss = worst_loss.max(off);
            assert!(off <= 1e-4, "loss of step {step} is off by {off}");
            let off = (got.grad_norm / want("grad_norm") - 1.0).abs();
            assert!(off <= 1e-3, "gradient norm of step {step} is off by {off} of itself");
            let off = (got.rate / want("lr") - 1.0).abs();
            assert!(off <= 1e-9, "learning rate of step {step} is off by {off} of itself");
        }
        eprintln!("largest difference of a loss: {worst_loss:.1e}");
        for param in learner.optimizer.params() {
            let want = golden.tensor("full_step100.safetensors", param.name());
            let error = worst(&param.get().to_vec().unwrap(), &want);
            assert!(error <= 2e-3, "{} is off by {error}", param.name());
        }
    });
}

#[test]
fn golden_train_gradients_of_the_first_step() {
    each(|golden, text| {
        for checkpointed in [0, golden.number(&["config", "layers"])] {
            let mut learner = learner(golden, Compute::Exact, checkpointed);
            let rows = golden.rows(text, 0, 0..golden.number(&["batch"]));
            let loss = learner.objective.loss(&learner.forward, &rows).unwrap().loss;
            learner.optimizer.gather(&loss, true).unwrap();
            for param in learner.optimizer.params() {
                let want = golden.tensor("grad_step0.safetensors", param.name());
                let got = learner.optimizer.grad(param).unwrap().to_vec::<f32>().unwrap();
                for (got, want) in got.iter().zip(&want) {
                    let got = got / rows.counted() as f32;
                    let near = (got - want).abs() <= 1e-6 + 1e-4 * want.abs();
                    assert!(near, "gradient of {}: {got}, not {want}", param.name());
                }
            }
        }
    });
}

#[test]
fn golden_train_full_run_in_bf16() {
    each(|golden, text| {
        let mut learner = learner(golden, Compute::Fast, 0);
        let wanted = golden.value(&["full", "fp32"]).as_array().unwrap();
        let (mut sum, mut most) = (0.0, 0.0f64);
        for (step, want) in wanted.iter().enumerate() {
            let got = learner.step(step as u64, &batches(golden, text, step, 1)).unwrap();
            let off = (got.loss - want["loss"].as_f64().unwrap()).abs();
            most = most.max(off);
            sum += off;
        }
        let mean = sum / wanted.len() as f64;
        assert!(
            most <= 2e-2 && mean <= 5e-3,
            "losses are off by {most} at most, {mean} on average"
        );
        assert!(most > 0.0, "the weights were not rounded");
        let row = &batches(golden, text, 0, 1)[0];
        let forward = &learner.forward;
        let logits = forward.model.forward(&row.ids(), &mut forward.ctx(row));
        assert_eq!(logits.dtype(), DType::F32);
    });
}

/// The mean gradient of each parameter.
fn gradients(learner: &mut Learner, batches: &[Batch]) -> Vec<(String, Vec<f32>)> {
    let mut weight = 0.0;
    for (i, batch) in batches.iter().enumerate() {
        let loss = learner.objective.loss(&learner.forward, batch).unwrap().loss;
        learner.optimizer.gather(&loss, i == 0).unwrap();
        weight += learner.objective.weight(batch) as f32;
    }
    let mean = |p: &puyu_nn::Param| {
        let g = learner.optimizer.grad(p).unwrap().to_vec::<f32>().unwrap();
        (p.name().to_owned(), g.iter().map(|g| g / weight).collect())
    };
    learner.optimizer.params().map(mean).collect()
}

#[test]
fn golden_train_accumulation_equals_the_large_batch() {
    each(|golden, text| {
        let mut learner = learner(golden, Compute::Exact, 0);
        let rows = golden.number(&["batch"]);
        // Masked unevenly, as conversations are: a mean of means would be off.
        let uneven = |mut parts: Vec<Batch>| {
            let mut seen = 0;
            for target in parts.iter_mut().flat_map(|b| &mut b.targets) {
                seen += 1;
                if seen * seen % 7 > seen % 5 {
                    *target = IGNORE;
                }
            }
            parts
        };
        for masked in [false, true] {
            let make = |parts| {
                let parts = batches(golden, text, 0, parts);
                if masked { uneven(parts) } else { parts }
            };
            let whole = gradients(&mut learner, &make(1));
            for parts in [rows, rows / 2, 2] {
                for ((name, got), (_, want)) in
                    gradients(&mut learner, &make(parts)).iter().zip(&whole)
                {
                    let error = worst(got, want);
                    assert!(error <= 1e-6, "{name} in {parts} parts is off by {error}");
                }
            }
        }
    });
}

#[test]
fn golden_train_packing_equals_texts_alone() {
    each(|golden, text| {
        let bytes = std::fs::read(text).unwrap();
        let learner = learner(golden, Compute::Exact, 0);
        let lengths = golden.value(&["packing", "lengths"]).as_array().unwrap();
        let (mut packed, mut alone, mut at) = (Batch::default(), Vec::new(), 0);
        for length in lengths {
            let n = length.as_u64().unwrap() as usize;
            let ids: Vec<u32> = bytes[at..at + n + 1].iter().map(|b| u32::from(*b)).collect();
            let mut single = Batch::default();
            single.push(&ids[..n], &ids[1..]);
            packed.extend(&single);
            alone.push(single);
            at += n;
        }
        let logits = |batch: &Batch| -> Vec<f32> {
            let mut ctx = batch.ctx();
            learner.forward.model.forward(&batch.ids(), &mut ctx).to_vec().unwrap()
        };
        let error = worst(&logits(&packed), &alone.iter().flat_map(logits).collect::<Vec<_>>());
        assert!(error <= 1e-5, "packed logits are off by {error}");
        // One sequence instead of several leaks, and must be seen to.
        let leaking = Batch { lengths: vec![packed.tokens()], ..packed.clone() };
        assert!(worst(&logits(&leaking), &logits(&packed)) > 0.1);
    });
}
