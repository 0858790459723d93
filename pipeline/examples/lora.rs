//! One answer learnt by LoRA: `cargo run --release -p puyu --example lora -- MODEL OUT QUESTION ANSWER`; then
//! `puyu generate MODEL --adapter OUT -p QUESTION`. `puyu finetune` adds data, validation and checkpoints.

use puyu::data::{Batch, IGNORE};
use puyu::finetune::FirstAdapter;
use puyu::train::{Forward, Learner, NextToken};
use puyu_models::format::{self, OpenOptions, adapter, adapter::AdapterConfig};
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use puyu_models::{Config, Stored, build_adapted};
use puyu_nn::{Curve, Optimizer, Param, Schedule};
use puyu_tensor::{DType, Error, Result, ops};
use std::path::Path;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, question, answer] = &words[..] else {
        return Err(Error::invalid("give a model's folder, a folder to write, and two texts"));
    };
    println!("{:?}", lora(model, Path::new(out), question, answer)?);
    Ok(())
}

/// Teaches the model to go on after `question` with `answer`; gives the loss of every step.
pub fn lora(model: &str, out: &Path, question: &str, answer: &str) -> Result<Vec<f64>> {
    let checkpoint = format::open(Path::new(model), OpenOptions::default())?;
    let config = Config::from_json(&checkpoint.config()?)?;
    let mut rule = AdapterConfig::new(model, 8, 16.0, vec![]);
    // The weights stay as they are; beside each lies a new B·A, and only these are trained.
    let fresh = FirstAdapter { config: &rule, seed: 1 };
    let stored = Stored::new(checkpoint.source(), &|_, _| ());
    let model_with = build_adapted(&config, &stored, Some(DType::F32), Some(&fresh))?;
    let mut params: Vec<Param> = model_with.params;
    params.retain(|p| p.name().contains(".lora_"));
    // Each token predicts the next one; within the question that does not count.
    let tokenizer = Tokenizer::load(Path::new(model))?;
    let mut ids = tokenizer.encode(question, EncodeOptions { add_bos: true, parse_special: false });
    let asked = ids.len();
    ids.extend(tokenizer.encode(answer, EncodeOptions::default()));
    ids.extend(tokenizer.eos());
    let targets = [&vec![IGNORE; asked - 1], &ids[asked..]].concat();
    let mut batch = Batch::default();
    batch.push(&ids[..ids.len() - 1], &targets);
    let adamw = ops::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let (curve, steps) = (Curve::Cosine, 40);
    let mut learner = Learner {
        forward: Forward::new(model_with.model),
        objective: Box::new(NextToken),
        optimizer: Optimizer::new(adamw, params.clone())?,
        schedule: Schedule { curve, peak: 5e-3, floor: 0.0, warmup: 5, steps, decay: 0 },
        clip: 1.0,
    };
    let step = |i| Ok(learner.step(i, std::slice::from_ref(&batch))?.loss);
    let losses = (0..steps).map(step).collect();
    rule.name_targets(&params);
    adapter::save(out, &rule, &params)?;
    losses
}
