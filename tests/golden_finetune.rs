//! Fine-tuning against PyTorch: the golden LoRA run (`PUYU_TRAIN_FIXTURES`, `PUYU_TRAIN_DATA`), and that
//! a merged adapter is the adapter. Tolerances are those of the fixtures' README.

use puyu::train::{Forward, Learner, NextToken};
use puyu_models::{Config, Loaded, Stored, build_adapted, format};
use puyu_nn::{Adapter, Curve, Optimizer, Param, Schedule, Weights, lora_delta};
use puyu_tensor::{DType, Result, Tensor, no_grad, ops};
use puyu_tests::{TrainGolden, train_data, train_goldens, worst};
use std::path::{Path, PathBuf};

const TEXT: &str = "zh/song_ci.txt";

/// An adapter as the goldens store it: `<path>.weight.lora_A`.
struct Golden<'a>(&'a TrainGolden, &'a str);

/// The golden's name of a parameter.
fn stored(name: &str) -> String {
    let (path, part) = name.rsplit_once(".lora_").expect("an adapter's name");
    format!("{path}.weight.lora_{}", part.trim_end_matches(".weight"))
}

impl Weights for Golden<'_> {
    fn names(&self) -> Vec<String> {
        let file = format::open(&self.0.folder.join(self.1), Default::default()).unwrap();
        let named = |name: &str| format!("{}.weight", name.replace(".weight.lora_", ".lora_"));
        file.source().names().into_iter().map(named).collect()
    }
    fn get(&self, name: &str) -> Result<Tensor> {
        format::open(&self.0.folder.join(self.1), Default::default())?
            .source()
            .tensor(&stored(name))
    }
}

impl Adapter for Golden<'_> {
    fn rank(&self, path: &str) -> Option<(usize, f32)> {
        let hyper = |key| self.0.number(&["lora", "hyper", key]);
        let targets = self.0.value(&["lora", "hyper", "target"]).as_str().unwrap();
        let last = path.rsplit('.').next().unwrap();
        let wanted = targets.split(' ').any(|t| t == last);
        wanted.then(|| (hyper("r"), hyper("alpha") as f32 / hyper("r") as f32))
    }
}

/// The base of the golden LoRA run with the adapter of `file`, its parameters and those of the adapter.
fn adapted(golden: &TrainGolden, file: &str, dtype: DType) -> (Loaded, Vec<Param>) {
    let base = golden.value(&["lora", "hyper", "base"]).as_str().unwrap();
    let base = golden.folder.join(format!("{base}.safetensors"));
    let base = format::open(&base, Default::default()).unwrap();
    let config = Config::from_json(&golden.config()).unwrap();
    let weights = Stored::new(base.source(), &|_, _| ());
    let loaded =
        build_adapted(&config, &weights, Some(dtype), Some(&Golden(golden, file))).unwrap();
    let added = loaded.params.iter().filter(|p| p.name().contains(".lora_")).cloned().collect();
    (loaded, added)
}

fn learner(golden: &TrainGolden, dtype: DType, checkpointed: usize) -> Learner {
    let (Loaded { model, .. }, added) = adapted(golden, "lora_init.safetensors", dtype);
    let hyper = |key| golden.float(&["lora", "hyper", key]);
    let op = ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: hyper("wd") as f32 };
    Learner {
        forward: Forward { checkpointed, ..Forward::new(model) },
        objective: Box::new(NextToken),
        optimizer: Optimizer::new(op, added).unwrap(),
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

fn each(test: impl Fn(&TrainGolden, &PathBuf)) {
    let Some(text) = train_data(TEXT) else { return };
    for golden in train_goldens() {
        eprintln!("{}", golden.folder.display());
        test(&golden, &text);
    }
}

/// The first rows of the text, whatever offset the full run has.
fn from_zero(golden: &TrainGolden, text: &Path, step: usize) -> puyu::data::Batch {
    let mut json = golden.json.clone();
    json["offset"] = 0.into();
    let golden = TrainGolden { folder: golden.folder.clone(), json };
    golden.rows(text, step, 0..golden.number(&["batch"]))
}

#[test]
fn golden_train_lora_run() {
    each(|golden, text| {
        for checkpointed in [0, 1] {
            let mut learner = learner(golden, DType::F32, checkpointed);
            let wanted = golden.value(&["lora", "fp32"]).as_array().unwrap();
            assert_eq!(wanted.len(), golden.number(&["lora", "hyper", "steps"]));
            let mut most = 0.0f64;
            for (step, want) in wanted.iter().enumerate() {
                let got = learner.step(step as u64, &[from_zero(golden, text, step)]).unwrap();
                let want = |key: &str| want[key].as_f64().unwrap();
                let off = (got.loss - want("loss")).abs();
                most = most.max(off);
                assert!(off <= 1e-4, "loss of step {step} is off by {off}");
                // The last step's norm moves by 5e-3 with the order of sums, in PyTorch too.
                let off = (got.grad_norm / want("grad_norm") - 1.0).abs();
                assert!(off <= 1e-2, "gradient norm of step {step} is off by {off} of itself");
                assert!((got.rate / want("lr") - 1.0).abs() <= 1e-9, "rate of step {step}");
            }
            eprintln!("largest difference of a loss: {most:.1e}");
            for param in learner.optimizer.params() {
                let want = golden.tensor("lora_step30.safetensors", &stored(param.name()));
                let error = worst(&param.get().to_vec().unwrap(), &want);
                assert!(error <= 2e-3, "{} is off by {error}", param.name());
            }
        }
    });
}

/// The adapter switched off is the base, also in checkpointed blocks; merged into the base's weights it
/// is the adapted model.
#[test]
fn golden_train_lora_merge_and_reference() {
    each(|golden, text| {
        let batch = from_zero(golden, text, 0);
        let (Loaded { model, params }, added) =
            adapted(golden, "lora_step30.safetensors", DType::F32);
        let mut forward = Forward { checkpointed: 1, ..Forward::new(model) };
        let hidden = |forward: &Forward, adapters| -> Vec<f32> {
            no_grad(|| forward.hidden_with(&batch, adapters)).to_vec().unwrap()
        };
        let (off, on) = (hidden(&forward, false), hidden(&forward, true));
        let rank = Golden(golden, "lora_step30.safetensors");
        for b in added.iter().filter(|p| p.name().ends_with("lora_B.weight")) {
            let path = b.name().trim_end_matches(".lora_B.weight");
            let of =
                |name: &str| params.iter().find(|p| p.name() == format!("{path}.{name}.weight"));
            let weight = params.iter().find(|p| p.name() == format!("{path}.weight")).unwrap();
            let (_, scale) = rank.rank(path).unwrap();
            let delta = lora_delta(&of("lora_A").unwrap().get(), &b.get(), scale);
            weight.set(&weight.get() + &delta);
        }
        let merged = hidden(&forward, false);
        assert!(worst(&on, &off) > 0.1, "the adapter does nothing");
        assert!(worst(&merged, &on) <= 1e-4, "merged is off by {}", worst(&merged, &on));
        let head = golden.load("full_step100.safetensors");
        forward.model = head.model.into();
        forward.checkpointed = 0;
        assert!(hidden(&forward, true) == off, "without its adapter the model is not the base");
    });
}

/// A frozen base in a block format gives no gradient, and the losses stay near those of the f32 base.
#[test]
fn golden_train_lora_over_a_quantized_base() {
    each(|golden, text| {
        let mut learner = learner(golden, DType::Q8_0, 1);
        let wanted = golden.value(&["lora", "fp32"]).as_array().unwrap();
        for (step, want) in wanted.iter().enumerate() {
            let got = learner.step(step as u64, &[from_zero(golden, text, step)]).unwrap();
            let off = (got.loss - want["loss"].as_f64().unwrap()).abs();
            assert!(off <= 0.1, "loss of step {step} is off by {off}");
        }
    });
}
