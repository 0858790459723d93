//! Fine-tuning against PyTorch: NF4 codes and values, and a DPO run, of the golden folders
//! (`PUYU_TRAIN_FIXTURES`, `PUYU_TRAIN_DATA`), within the tolerances of their README.

use puyu::data::{Batch, IGNORE};
use puyu::finetune::{Dpo, DpoLoss, Reference};
use puyu::train::{Forward, Learner};
use puyu_models::Loaded;
use puyu_nn::{Curve, Optimizer, Schedule};
use puyu_tensor::{DType, Tensor, ops};
use puyu_tests::{TrainGolden, train_data, train_goldens, worst};
use std::path::Path;

const BASE: &str = "full_step100.safetensors";
const NF4: &str = "nf4_layer0_w1.safetensors";

#[test]
fn golden_train_nf4_codes_and_values() {
    for golden in train_goldens() {
        let w = golden.tensor(BASE, "model.layers.0.feed_forward.w1.weight");
        let (codes, absmax) = (golden.bytes(NF4, "codes"), golden.tensor(NF4, "absmax"));
        let values = golden.tensor(NF4, "dequant");
        let nf4 = Tensor::new(&w, [w.len()]).to_dtype(DType::Nf4);
        for (i, block) in nf4.bytes().chunks_exact(DType::Nf4.block_bytes()).enumerate() {
            let scale = f32::from_le_bytes(block[..4].try_into().unwrap());
            assert_eq!(scale, absmax[i], "block {i}");
            for (j, want) in codes[i * 64..(i + 1) * 64].iter().enumerate() {
                // Byte j of 16 holds element j low and element j + 16 high.
                let byte = block[4 + j / 32 * 16 + j % 16];
                assert_eq!(byte >> (j % 32 / 16 * 4) & 15, *want, "block {i}, element {j}");
            }
        }
        let error = worst(&nf4.to_dtype(DType::F32).to_vec().unwrap(), &values);
        assert!(error <= 1e-6, "values are off by {error}");
        let bits = golden.float(&["nf4", "bits_per_weight_double_quant"]);
        let dq = Tensor::new(&w, [w.len()]).to_dtype(DType::Nf4Dq);
        assert!(dq.bytes().len() as f64 * 8.0 / w.len() as f64 <= bits);
    }
}

/// The first `count` pairs of the file: the prompt's bytes, then the answer's and a newline, which count.
fn pairs(file: &Path, count: usize) -> Batch {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut batch = Batch::default();
    for line in text.split('\n').filter(|l| !l.is_empty()).take(count) {
        let pair: serde_json::Value = serde_json::from_str(line).unwrap();
        let said = |v: &serde_json::Value| v[0]["content"].as_str().unwrap().to_owned();
        let prompt = said(&pair["prompt"]);
        for answer in ["chosen", "rejected"] {
            let all = format!("{prompt}{}\n", said(&pair[answer]));
            let ids: Vec<u32> = all.bytes().map(u32::from).collect();
            let mut targets = ids[1..].to_vec();
            targets[..prompt.len() - 1].fill(IGNORE);
            batch.push(&ids[..ids.len() - 1], &targets);
        }
    }
    batch
}

fn learner(golden: &TrainGolden) -> Learner {
    let hyper = |key| golden.float(&["dpo", "hyper", key]);
    let frozen = Forward::new(golden.load(BASE).model);
    let Loaded { model, params } = golden.load(BASE);
    let op = ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: hyper("wd") as f32 };
    Learner {
        forward: Forward::new(model),
        objective: Box::new(Dpo {
            beta: hyper("beta"),
            loss: DpoLoss::Sigmoid,
            label_smoothing: 0.0,
            reference: Reference::Frozen(frozen),
        }),
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

/// Trains all parameters against a frozen copy, in one batch and in several.
#[test]
fn golden_train_dpo() {
    let Some(file) = train_data("pref/song_ci_next_line_pref.jsonl") else { return };
    for golden in train_goldens() {
        eprintln!("{}", golden.folder.display());
        let batch = pairs(&file, golden.number(&["dpo", "hyper", "pairs"]));
        for checkpointed in [0, 1] {
            let mut learner = learner(&golden);
            learner.forward.checkpointed = checkpointed;
            for (step, want) in
                golden.value(&["dpo", "fp32"]).as_array().unwrap().iter().enumerate()
            {
                let got = learner.step(step as u64, std::slice::from_ref(&batch)).unwrap();
                let want = |key: &str| want[key].as_f64().unwrap();
                let off = (got.loss - want("loss")).abs();
                assert!(off <= 1e-4, "loss of step {step} is off by {off}");
                let off = (got.grad_norm / want("grad_norm") - 1.0).abs();
                assert!(off <= 1e-2, "gradient norm of step {step} is off by {off} of itself");
                let shown = |name| got.metrics.iter().find(|(n, _)| *n == name).unwrap().1;
                let off = (shown("reward_margin") - want("reward_margin")).abs();
                assert!(off <= 1e-3, "margin of step {step} is off by {off}");
                assert_eq!(shown("reward_accuracy"), want("accuracy"), "step {step}");
            }
        }
    }
}

/// The pairs of `batch` in `parts` batches.
fn split(batch: &Batch, parts: usize) -> Vec<Batch> {
    let sequences = batch.lengths.len() / parts;
    let mut at = 0;
    let part = |lengths: &[usize]| {
        let mut out = Batch::default();
        for &n in lengths {
            out.push(&batch.ids[at..at + n], &batch.targets[at..at + n]);
            at += n;
        }
        out
    };
    batch.lengths.chunks(sequences).map(part).collect()
}

#[test]
fn golden_train_dpo_accumulation_equals_the_large_batch() {
    let Some(file) = train_data("pref/song_ci_next_line_pref.jsonl") else { return };
    for golden in train_goldens() {
        let batch = pairs(&file, 8);
        let mut gradients = [1, 4, 8].map(|parts| {
            let mut learner = learner(&golden);
            for (i, part) in split(&batch, parts).iter().enumerate() {
                let loss = learner.objective.loss(&learner.forward, part).unwrap().loss;
                learner.optimizer.gather(&loss, i == 0).unwrap();
            }
            let grad = |p| learner.optimizer.grad(p).unwrap().to_vec::<f32>().unwrap();
            let all = learner.optimizer.params().flat_map(grad);
            all.map(|g| g / 8.0).collect::<Vec<f32>>()
        });
        let [whole, parts @ ..] = &mut gradients;
        let largest = whole.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        for part in parts {
            let error = worst(part, whole) / largest;
            assert!(error <= 1e-6, "gradients are off by {error} of the largest");
        }
    }
}
