//! A text that the model writes in the midst of training, to be looked at beside the loss.

use super::config::SampleConfig;
use crate::engine::{Sampler, Sampling};
use puyu_models::Model;
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use puyu_nn::{KvCache, Sequence};
use puyu_tensor::{DType, Result, Tensor, no_grad};

/// What `model` writes after `prompt`: at most `wanted.tokens` tokens, fewer where its text ends or its
/// positions do.
///
/// # Errors
/// If the device failed.
pub fn write(
    model: &dyn Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    wanted: &SampleConfig,
    seed: u64,
) -> Result<String> {
    let config = model.config();
    let options = EncodeOptions { add_bos: tokenizer.add_bos(), parse_special: true };
    let mut next = tokenizer.encode(prompt, options);
    if next.is_empty() {
        next.push(tokenizer.bos().or(tokenizer.eos()).unwrap_or(0));
    }
    let most = config.max_positions.saturating_sub(next.len()).min(wanted.tokens);
    let room = next.len() + most;
    let mut cache =
        KvCache::new(config.layers, config.kv_heads, config.head_dim, room, DType::F32)?;
    let mut sequence = Sequence::new(next.len());
    let sampling = Sampling { temperature: wanted.temp, seed, ..Sampling::default() };
    let mut sampler = Sampler::new(sampling);
    let ends = tokenizer.eos_ids();
    let (mut history, mut written) = (next.clone(), Vec::new());
    for _ in 0..most {
        let n = next.len();
        let logits = no_grad(|| {
            let mut ctx = cache.step(&mut [&mut sequence], &[n])?;
            ctx.logit_rows = Some(Tensor::new(&[n as u32 - 1], [1]));
            model.forward(&Tensor::new(&next, [n]), &mut ctx).to_vec::<f32>()
        });
        let mut logits = logits?;
        logits.truncate(tokenizer.vocab_size());
        let id = sampler.sample(&mut logits, &history);
        if ends.contains(&id) {
            break;
        }
        history.push(id);
        written.push(id);
        next = vec![id];
    }
    Ok(tokenizer.decode(&written, true))
}
