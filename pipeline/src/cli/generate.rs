//! `puyu generate`: a text continued.

use super::args::ModelArgs;
use super::settings::SamplingArgs;
use super::{interrupt, memory, output};
use crate::engine::{Engine, Finish, Generated, Limits, Session, generate};
use clap::Args;
use puyu_tensor::{Context, Error, Result};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;

/// Continue a text
#[derive(Args, Clone, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; `-` or none of both reads standard input
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the text from a file
    #[arg(short, long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    answer: AnswerArgs,
    /// Do not repeat the prompt before the continuation
    #[arg(long)]
    no_display_prompt: bool,
    /// Print one JSON object: prompt, text, ids, finish, counts and times
    #[arg(long)]
    json: bool,
}

/// What bounds an answer.
#[derive(Args, Clone, Debug)]
pub struct AnswerArgs {
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Most tokens to generate, -1 until the context is full [default: 512]
    #[arg(short = 'n', long = "predict", aliases = ["n-predict", "max-new-tokens"], allow_negative_numbers = true, env = "PUYU_PREDICT")]
    predict: Option<i64>,
    /// Context in tokens, 0 for all the model was trained for [default: 4096 at most]
    #[arg(short, long = "ctx-size", alias = "session-len", env = "PUYU_CTX_SIZE")]
    ctx_size: Option<usize>,
    /// End at this text; may be repeated
    #[arg(short = 'r', long = "stop", alias = "reverse-prompt")]
    stop: Vec<String>,
    /// Do not end at the model's end of text
    #[arg(long)]
    ignore_eos: bool,
    /// Show control tokens, and recognise them in the prompt
    #[arg(long)]
    pub special: bool,
}

impl AnswerArgs {
    /// The limits they set, with `default` tokens if none were asked for.
    pub fn limits(&self, default: usize) -> Limits {
        let max_tokens = self.predict.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Limits {
            max_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            special: self.special,
        }
    }

    /// The size of the context for `engine`.
    ///
    /// # Errors
    /// If it is larger than the model can use.
    pub fn context(&self, engine: &Engine) -> Result<usize> {
        let c = engine.config();
        let most = match c.rope.scaling {
            puyu_tensor::ops::Scaling::Dynamic { .. } => usize::MAX,
            _ => c.max_positions,
        };
        match self.ctx_size {
            None => Ok(c.max_positions.min(4096)),
            Some(0) => Ok(c.max_positions),
            Some(n) if n <= most => Ok(n),
            Some(n) => Err(Error::invalid(format!(
                "--ctx-size {n} is more than the {most} positions this model was trained for"
            ))),
        }
    }
}

impl GenerateArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the model cannot be loaded or the prompt does not fit.
    pub fn run(&self) -> Result<()> {
        let prompt = self.text()?;
        let engine = self.model.open()?;
        let sampling = self.answer.sampling.resolve(&engine.generation)?;
        let mut session = Session::new(&engine, self.answer.context(&engine)?)?;
        let ids = engine.encode(&prompt, self.answer.special);
        let stream = !self.json;
        if stream && !self.no_display_prompt {
            output::print(&prompt)?;
        }
        let mut closed = None;
        interrupt::start();
        let mut show = |text: &str| {
            if stream && !text.is_empty() {
                closed = output::print(text).err();
            }
            closed.is_none() && !interrupt::asked()
        };
        let limits = self.answer.limits(512);
        let result = generate(&mut session, &ids, &sampling, &limits, &mut show);
        let stopped = interrupt::finish();
        if let Some(e) = closed {
            return Err(e);
        }
        let answer = result?;
        if self.json {
            output::print(&format!("{}\n", json_of(&prompt, &answer)))?;
        } else {
            output::print("\n")?;
        }
        report(&answer);
        if stopped {
            return Err(Error::new(puyu_tensor::ErrorKind::Interrupted, "interrupted"));
        }
        Ok(())
    }

    fn text(&self) -> Result<String> {
        if let Some(path) = &self.file {
            return std::fs::read_to_string(path).context(path.display());
        }
        match self.prompt.as_deref() {
            Some("-") | None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input")?;
                Ok(text)
            }
            Some(text) => Ok(text.to_owned()),
        }
    }
}

/// The word for why an answer ended.
pub fn finish_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Context => "context",
        Finish::Interrupted => "interrupted",
    }
}

fn json_of(prompt: &str, a: &Generated) -> serde_json::Value {
    json!({
        "prompt": prompt,
        "text": a.text,
        "ids": a.ids,
        "finish_reason": finish_word(a.finish),
        "prompt_tokens": a.prompt_tokens,
        "completion_tokens": a.ids.len(),
        "prompt_ms": a.prompt_time.as_secs_f64() * 1e3,
        "decode_ms": a.decode_time.as_secs_f64() * 1e3,
        "peak_memory_bytes": memory::peak(),
    })
}

/// Prints speed and memory on standard error.
pub fn report(a: &Generated) {
    let peak =
        memory::peak().map_or(String::new(), |b| format!(", peak memory {} MB", b / 1_000_000));
    eprintln!(
        "[prefill {} tokens, {:.1} tokens/s; decode {} tokens, {:.1} tokens/s{peak}]",
        a.prompt_tokens,
        output::rate(a.prompt_tokens, a.prompt_time),
        a.ids.len(),
        output::rate(a.ids.len(), a.decode_time),
    );
}
