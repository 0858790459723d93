//! `puyu perplexity`: how well a model predicts a text, by llama-perplexity's rule, so that the numbers
//! can be compared: the text is cut into chunks of `-c` tokens, each starts with the
//! beginning-of-sequence token where the model uses one, and the second half of each is scored.

use super::args::ModelArgs;
use super::output;
use crate::engine::Engine;
use clap::Args;
use puyu_nn::Ctx;
use puyu_tensor::{Context, Error, Result, Tensor};
use serde_json::json;
use std::path::PathBuf;

/// Measure the perplexity of a text
#[derive(Args, Clone, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text
    #[arg(short, long)]
    file: PathBuf,
    /// Tokens of a chunk
    #[arg(short, long = "ctx-size", default_value_t = 512)]
    ctx_size: usize,
    /// Score the last N tokens of windows that advance by N (0: chunks, second halves)
    #[arg(long, value_name = "N", default_value_t = 0)]
    ppl_stride: usize,
    /// Stop after this many chunks
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Print one JSON object: perplexity, its error, nll, tokens, chunks, rule
    #[arg(long)]
    json: bool,
}

/// Rows of logits held at once.
const ROWS: usize = 64;

/// Windows of tokens, and which of their predictions count.
struct Plan {
    window: usize,
    step: usize,
    /// The first position whose prediction (of the next token) is scored.
    first: usize,
    count: usize,
    rule: String,
}

impl PerplexityArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the model or the text cannot be read, or the text is too short.
    pub fn run(&self) -> Result<()> {
        let text = std::fs::read_to_string(&self.file).context(self.file.display())?;
        let engine = self.model.open()?;
        let ids = engine.encode(&text, false);
        let plan = self.plan(ids.len())?;
        eprintln!("{}", plan.rule);
        let bar = output::bar("scoring", plan.count as u64, "chunks");
        let (mut sum, mut squares, mut n) = (0.0f64, 0.0f64, 0usize);
        for chunk in 0..plan.count {
            let at = chunk * plan.step;
            for nll in score(&engine, &ids[at..at + plan.window], plan.first)? {
                sum += nll;
                squares += nll * nll;
                n += 1;
            }
            bar.inc(1);
            bar.set_message(format!("{:.4}", (sum / n as f64).exp()));
        }
        bar.finish_and_clear();
        let mean = sum / n as f64;
        let variance = (squares / n as f64 - mean * mean).max(0.0);
        let perplexity = mean.exp();
        let error = perplexity * (variance / (n.max(2) - 1) as f64).sqrt();
        if self.json {
            let object = json!({
                "perplexity": perplexity,
                "error": error,
                "nll": sum,
                "mean_nll": mean,
                "tokens": n,
                "chunks": plan.count,
                "rule": plan.rule,
            });
            return output::print(&format!("{object}\n"));
        }
        output::print(&format!("PPL = {perplexity:.4} +/- {error:.4} ({n} tokens scored)\n"))
    }

    fn plan(&self, tokens: usize) -> Result<Plan> {
        let stride = self.ppl_stride;
        let window = if stride > 0 { self.ctx_size + stride / 2 } else { self.ctx_size };
        if window < 4 || stride >= window {
            return Err(Error::invalid(format!(
                "-c {} with --ppl-stride {stride} leaves nothing to score",
                self.ctx_size
            )));
        }
        let (step, first, all, least) = match stride {
            0 => (window, window / 2, tokens / window, 2 * window),
            s => (s, window - s - 1, tokens.saturating_sub(window).div_ceil(s), window + 1),
        };
        // The last strided window may reach past the end.
        let whole = tokens.checked_sub(window).map_or(0, |rest| rest / step + 1);
        let count = all.min(whole).min(self.chunks.unwrap_or(usize::MAX));
        if tokens < least || count == 0 {
            return Err(Error::invalid(format!(
                "{}: {tokens} tokens are too few for -c {}; at least {least} are needed",
                self.file.display(),
                self.ctx_size
            )));
        }
        let scored = window - 1 - first;
        let rule = format!(
            "perplexity over {count} chunks of {window} tokens, {step} apart, the last {scored} \
             predictions of each scored"
        );
        Ok(Plan { window, step, first, count, rule })
    }
}

/// The negative log-likelihoods of the tokens after positions `first` and later.
fn score(engine: &Engine, window: &[u32], first: usize) -> Result<Vec<f64>> {
    let mut ids = window.to_vec();
    if let Some(bos) = engine.tokenizer.bos().filter(|_| engine.tokenizer.add_bos()) {
        ids[0] = bos;
    }
    let n = ids.len();
    let rows: Vec<u32> = (first as u32..n as u32 - 1).collect();
    let mut ctx = Ctx::packed(&[n]);
    ctx.compute = engine.options.compute;
    ctx.logit_rows = Some(Tensor::new(&rows, [rows.len()]));
    let hidden = engine.model.hidden(&Tensor::new(&ids, [n]), &mut ctx);
    let mut nll = Vec::with_capacity(rows.len());
    for (i, part) in rows.chunks(ROWS).enumerate() {
        let x = hidden.narrow(0, i * ROWS, part.len());
        let logits = engine.model.output().forward(&x, &ctx).to_vec::<f32>()?;
        let v = logits.len() / part.len();
        for (row, &position) in logits.chunks_exact(v).zip(part) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
            let target = window[position as usize + 1] as usize;
            nll.push(sum.ln() + f64::from(max) - f64::from(row[target]));
        }
    }
    Ok(nll)
}
