//! A model of one's own from a text: `cargo run --release -p puyu --example train_text -- FILE [STEPS]`.
//! Bytes are the tokens. `puyu train` adds a tokenizer, validation, checkpoints and a report.

use puyu::data::Batch;
use puyu::train::{FirstWeights, Forward, Learner, NextToken};
use puyu_models::{Config, build};
use puyu_nn::{Ctx, Curve, Optimizer, Schedule};
use puyu_tensor::{Context, DType, Error, Result, Tensor, no_grad, ops};

const ROWS: usize = 8;
const TOKENS: usize = 64;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or_else(|| Error::invalid("give a text file"))?;
    let steps = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(300);
    println!("{}", train(&std::fs::read(&path).context(&path)?, steps)?.1);
    Ok(())
}

/// Trains on `text`; gives the loss of every step, and what the model writes after the text's beginning.
pub fn train(text: &[u8], steps: u64) -> Result<(Vec<f64>, String)> {
    let places = text.len().checked_sub(TOKENS + 1);
    let places = places.ok_or_else(|| Error::invalid("the text is shorter than a row"))? as f64;
    let config = Config::from_json(&serde_json::json!({ "model_type": "llama", "vocab_size": 256,
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 384 }))?;
    let first = FirstWeights { seed: 1, layers: 4, deviation: 0.09 };
    let model = build(&config, &first, Some(DType::F32))?;
    let adamw = ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let (curve, warmup) = (Curve::Cosine, steps / 10);
    let mut learner = Learner {
        forward: Forward::new(model.model),
        objective: Box::new(NextToken),
        optimizer: Optimizer::new(adamw, model.params)?,
        schedule: Schedule { curve, peak: 2e-3, floor: 1e-4, warmup, steps, decay: 0 },
        clip: 1.0,
    };
    let mut losses = Vec::new();
    for step in 0..steps {
        let mut batch = Batch::default();
        for row in 0..ROWS {
            // Multiples of the golden ratio, without their whole parts, lie evenly.
            let place = (0.618_033_988_75 * (step as usize * ROWS + row) as f64).fract();
            let ids = &text[(place * places) as usize..][..TOKENS + 1];
            let ids: Vec<u32> = ids.iter().map(|b| u32::from(*b)).collect();
            batch.push(&ids[..TOKENS], &ids[1..]);
        }
        losses.push(learner.step(step, &[batch])?.loss);
        println!("step {step}: loss {:.4}", losses[step as usize]);
    }
    let mut ids: Vec<u32> = text[..8].iter().map(|b| u32::from(*b)).collect();
    while ids.len() < TOKENS {
        let (x, mut ctx) = (Tensor::new(&ids, [ids.len()]), Ctx::packed(&[ids.len()]));
        let likely = no_grad(|| learner.forward.model.forward(&x, &mut ctx)).argmax();
        ids.extend(likely.to_vec::<u32>()?.last());
    }
    let written: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
    Ok((losses, String::from_utf8_lossy(&written).into_owned()))
}
