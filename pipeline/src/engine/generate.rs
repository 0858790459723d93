//! The generate loop: prompt, then token by token until something ends it.

use super::{Sampler, Sampling, Session, StopText};
use puyu_models::tokenizer::DecodeStream;
use puyu_tensor::Result;
use std::time::{Duration, Instant};

/// What ends an answer.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Texts that end it, of any number of tokens.
    pub stop: Vec<String>,
    /// Do not stop at the model's own end of text.
    pub ignore_eos: bool,
    /// Show control tokens.
    pub special: bool,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string.
    Stop,
    /// The most tokens were generated.
    Length,
    /// The context is full.
    Context,
    /// The caller ended it.
    Interrupted,
}

/// An answer and what it took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The generated ids; one that ended the answer is the last.
    pub ids: Vec<u32>,
    /// Their text, up to a stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt that were run.
    pub prompt_tokens: usize,
    /// Time of the prompt.
    pub prompt_time: Duration,
    /// Time of the rest.
    pub decode_time: Duration,
}

/// Answers the prompt `ids`, which becomes the whole sequence of `session` (what it already has is
/// not run again). `show(text)` receives whole characters and may end the answer by returning false.
///
/// # Errors
/// If the prompt does not fit the context, or the device failed.
pub fn generate(
    session: &mut Session,
    ids: &[u32],
    sampling: &Sampling,
    limits: &Limits,
    show: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    let engine = session.engine();
    let eos = &engine.generation.eos;
    let mut sampler = Sampler::new(sampling.clone());
    let mut stream = DecodeStream::continuing(!limits.special);
    let mut stop = StopText::new(limits.stop.clone());
    let started = Instant::now();
    let mut run = 0;
    let mut logits = session.replace(ids, &mut |_, total| {
        run = total;
        show("")
    })?;
    let prompt_time = started.elapsed();
    let decoding = Instant::now();
    let (mut out, mut text) = (Vec::new(), String::new());
    let finish = loop {
        if out.len() >= limits.max_tokens {
            break Finish::Length;
        }
        let id = sampler.sample(&mut logits, session.tokens());
        out.push(id);
        if !limits.ignore_eos && eos.contains(&id) {
            break Finish::Stop;
        }
        let piece = stop.push(&stream.push(&engine.tokenizer, id));
        text.push_str(&piece);
        let go_on = show(&piece);
        if stop.found() {
            break Finish::Stop;
        }
        if !go_on {
            break Finish::Interrupted;
        }
        if out.len() == limits.max_tokens {
            break Finish::Length;
        }
        match session.push(id)? {
            Some(next) => logits = next,
            None => break Finish::Context,
        }
    };
    let mut rest = if stop.found() { String::new() } else { stop.push(&stream.finish()) };
    rest.push_str(&stop.finish());
    show(&rest);
    text.push_str(&rest);
    Ok(Generated {
        ids: out,
        text,
        finish,
        prompt_tokens: run,
        prompt_time,
        decode_time: decoding.elapsed(),
    })
}
