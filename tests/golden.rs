//! Goldens made by the official implementations: every checkpoint folder found in `PUYU_FIXTURES`
//! (default: the copy beside this file), whatever its shape, within the tolerances of its README.

use puyu_autograd::backward;
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use puyu_models::{Loaded, format};
use puyu_nn::{Ctx, KvCache, Optimizer, OptimizerOptions, Param, Sequence, grad_norm};
use puyu_tensor::{DType, Tensor, ops};
use puyu_tests::{Golden, fixtures, worst};
use std::path::{Path, PathBuf};

/// Every folder with a golden.json and a config.json; `reward` says which kind is wanted.
fn folders(reward: bool) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(fixtures())
        .expect("the fixtures folder can be listed")
        .map(|e| e.expect("an entry of the fixtures folder").path())
        .filter(|p| p.join("golden.json").exists() && p.join("config.json").exists())
        .filter(|p| p.join("golden.safetensors").exists() != reward)
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no golden folders in {}", fixtures().display());
    found
}

fn load(folder: &Path) -> Loaded {
    puyu_models::load(folder, format::OpenOptions::default(), Some(DType::F32))
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

fn run(test: impl Fn(&Path, &Golden)) {
    for folder in folders(false) {
        eprintln!("{}", folder.display());
        test(&folder, &Golden::open(&folder));
    }
}

#[test]
fn golden_logits_and_hidden_states() {
    run(|folder, golden| {
        let model = load(folder).model;
        let ids = golden.ids("input_ids");
        let mut hidden = Vec::new();
        let mut observe =
            |name: &str, x: &Tensor| hidden.push((format!("hidden.{name}"), x.clone()));
        let mut ctx = Ctx::packed(&[ids.len()]);
        ctx.observer = Some(&mut observe);
        let logits = model.forward(&Tensor::new(&ids, [ids.len()]), &mut ctx);
        let error = worst(&logits.to_vec().unwrap(), &golden.f32("logits"));
        assert!(error <= 2e-4, "logits are off by {error}");
        assert_eq!(hidden.len(), model.config().layers + 2);
        for (name, x) in hidden {
            let error = worst(&x.to_vec().unwrap(), &golden.f32(&name));
            assert!(error <= 1e-4, "{name} is off by {error}");
        }
        if let Some(bf16) = golden.maybe_f32("logits_bf16_compute") {
            let error = worst(&logits.to_vec().unwrap(), &bf16);
            assert!(error <= 0.5, "logits are off by {error} from those computed in bf16");
        }
    });
}

#[test]
fn golden_cached_greedy_ids() {
    run(|folder, golden| {
        let model = load(folder).model;
        let c = model.config();
        let prompt = golden.ids("input_ids");
        let (want, step_logits) = (golden.ids("greedy.ids"), golden.f32("greedy.step_logits"));
        let tokens = prompt.len() + want.len();
        let mut cache = KvCache::new(c.layers, c.kv_heads, c.head_dim, tokens, DType::F32).unwrap();
        let mut sequence = Sequence::new(prompt.len());
        let mut next = prompt;
        for (i, &id) in want.iter().enumerate() {
            let n = next.len();
            let mut ctx = cache.step(&mut [&mut sequence], &[n]).unwrap();
            ctx.logit_rows = Some(Tensor::new(&[n as u32 - 1], [1]));
            let logits = model.forward(&Tensor::new(&next, [n]), &mut ctx);
            let v = logits.dim(-1);
            let error = worst(&logits.to_vec().unwrap(), &step_logits[i * v..(i + 1) * v]);
            assert!(error <= 2e-4, "step {i}: logits are off by {error}");
            let got = logits.argmax().to_vec::<u32>().unwrap()[0];
            assert_eq!(got, id, "step {i}");
            next = vec![id];
        }
    });
}

/// The same greedy ids without a cache, the whole sequence recomputed at each step.
#[test]
fn golden_uncached_greedy_ids() {
    run(|folder, golden| {
        let model = load(folder).model;
        let mut ids = golden.ids("input_ids");
        for want in golden.json_ids("greedy_ids_no_cache") {
            let mut ctx = Ctx::packed(&[ids.len()]);
            ctx.logit_rows = Some(Tensor::new(&[ids.len() as u32 - 1], [1]));
            let logits = model.forward(&Tensor::new(&ids, [ids.len()]), &mut ctx);
            assert_eq!(
                logits.argmax().to_vec::<u32>().unwrap()[0],
                want,
                "at length {}",
                ids.len()
            );
            ids.push(want);
        }
    });
}

/// The training batch: ids and, for each position, the label of the next one.
fn batch(golden: &Golden) -> (Tensor, Tensor, Vec<usize>) {
    let ids = golden.ids("train.input_ids");
    let labels = golden.labels("train.labels");
    let rows = golden.json["train"]["batch"].as_u64().unwrap() as usize;
    let t = ids.len() / rows;
    let shifted: Vec<u32> =
        labels.chunks(t).flat_map(|row| row[1..].iter().copied().chain([u32::MAX])).collect();
    (Tensor::new(&ids, [ids.len()]), Tensor::new(&shifted, [ids.len()]), vec![t; rows])
}

#[test]
fn golden_losses_gradients_and_adamw_steps() {
    run(|folder, golden| {
        let Loaded { model, params } = load(folder);
        let (ids, targets, lengths) = batch(golden);
        let before: Vec<Vec<f32>> = params.iter().map(|p| p.get().to_vec().unwrap()).collect();
        let op = ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let options = OptimizerOptions { decay_vectors: true, ..OptimizerOptions::from(op) };
        let mut optimizer = Optimizer::new(options, params.clone()).unwrap();
        let losses = golden.json["train"]["losses"].as_array().unwrap();
        for (step, want) in losses.iter().enumerate() {
            let loss = model.loss(&ids, &targets, &mut Ctx::packed(&lengths));
            let (got, want) = (loss.item().unwrap(), want.as_f64().unwrap() as f32);
            assert!((got - want).abs() <= 2e-5, "loss before step {step} is {got}, not {want}");
            if step + 1 == losses.len() {
                break;
            }
            let grads = backward(loss).unwrap();
            if step == 0 {
                check_gradients(golden, &params, &grads);
            }
            optimizer.step(grads, 1e-3, 1.0).unwrap();
        }
        for (param, before) in params.iter().zip(&before) {
            check_update(param, before, &golden.f32(&format!("adamw3.{}", param.name())));
        }
    });
}

fn check_gradients(golden: &Golden, params: &[Param], grads: &puyu_autograd::Grads) {
    for param in params {
        let name = param.name();
        let got: Vec<f32> = grads.get(&param.get()).unwrap().to_vec().unwrap();
        let want = golden.f32(&format!("grad.{name}"));
        let error = worst(&got, &want);
        assert!(error <= 5e-5, "gradient of {name} is off by {error}");
        let relative = relative_l2(&got, &want);
        assert!(relative <= 5e-5, "gradient of {name} is off by {relative} of its norm");
    }
    let want = golden.json["train"]["grad_global_norm"].as_f64().unwrap() as f32;
    let got = grad_norm(params, grads).unwrap();
    assert!((got - want).abs() <= 1e-4 * want, "the gradient's norm is {got}, not {want}");
}

/// |a - b| / |b|
fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = b.iter().map(|&b| square(b)).sum();
    if off == 0.0 { 0.0 } else { (off / norm).sqrt() }
}

fn check_update(param: &Param, before: &[f32], want: &[f32]) {
    let name = param.name();
    let after: Vec<f32> = param.get().to_vec().unwrap();
    let moved = |x: &[f32]| -> Vec<f32> { x.iter().zip(before).map(|(a, b)| a - b).collect() };
    let relative = relative_l2(&moved(&after), &moved(want));
    assert!(relative <= 1e-2, "{name}: three steps moved it {relative} too far");
    let far = after.iter().zip(want).filter(|(a, b)| (**a - **b).abs() > 5e-5).count();
    assert!(far <= 5, "{name}: {far} elements are off by more than 5e-5");
    let error = worst(&after, want);
    assert!(error <= 3.1e-3, "{name} is off by {error}");
}

/// Every file in `gguf/` against the golden of the folder it was made from: the same ids for the same
/// text, and logits as far off as its type rounds the weights.
#[test]
fn golden_gguf_files() {
    let entries =
        std::fs::read_dir(fixtures().join("gguf")).expect("the folder gguf can be listed");
    let paths = entries.map(|e| e.expect("an entry of the folder gguf").path());
    let mut files = 0;
    for path in paths.filter(|p| p.extension().is_some_and(|e| e == "gguf")) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (model, dtype) = stem.rsplit_once('-').expect("MODEL-TYPE.gguf");
        let golden = Golden::open(&fixtures().join(model));
        let tolerance = match dtype {
            "f16" => 0.05,
            "q8_0" => 0.5,
            _ => 2e-4,
        };
        let file = format::open(&path, format::OpenOptions::default()).unwrap();
        let tokenizer = Tokenizer::from_metadata(file.metadata().unwrap()).unwrap();
        let options = EncodeOptions { add_bos: tokenizer.add_bos(), parse_special: true };
        let ids = tokenizer.encode(golden.json["text"].as_str().unwrap(), options);
        assert_eq!(ids, golden.ids("input_ids"), "{stem}");
        let model = load(&path).model;
        let mut ctx = Ctx::packed(&[ids.len()]);
        let logits = model.forward(&Tensor::new(&ids, [ids.len()]), &mut ctx);
        let error = worst(&logits.to_vec().unwrap(), &golden.f32("logits"));
        assert!(error <= tolerance, "{stem}: logits are off by {error}");
        files += 1;
    }
    assert!(files > 0, "no files in {}", fixtures().join("gguf").display());
}

#[test]
fn golden_reward_scores() {
    for folder in folders(true) {
        let golden = Golden::open(&folder);
        let model = load(&folder).model;
        let rows = golden.json["input_ids"].as_array().unwrap();
        let masks = golden.json["attention_mask"].as_array().unwrap();
        let scores = golden.json["scores"].as_array().unwrap();
        let mut texts = Vec::new();
        for (row, mask) in rows.iter().zip(masks) {
            let ids = row.as_array().unwrap().iter().zip(mask.as_array().unwrap());
            let kept = ids.filter(|(_, m)| m.as_u64() == Some(1));
            texts.push(kept.map(|(id, _)| id.as_u64().unwrap() as u32).collect::<Vec<_>>());
        }
        // All texts packed into one step: scores must not depend on the neighbours.
        let lengths: Vec<_> = texts.iter().map(Vec::len).collect();
        let all = texts.concat();
        let mut ctx = Ctx::packed(&lengths);
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end as u32 - 1)
        });
        let ends: Vec<u32> = ends.collect();
        ctx.logit_rows = Some(Tensor::new(&ends, [ends.len()]));
        let got = model.forward(&Tensor::new(&all, [all.len()]), &mut ctx).to_vec::<f32>().unwrap();
        for (got, want) in got.iter().zip(scores) {
            let want = want.as_f64().unwrap() as f32;
            assert!((got - want).abs() <= 1e-4, "score {got}, not {want}");
        }
    }
}
