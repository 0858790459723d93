//! One training step (forward, fused cross-entropy, backward, clip by global norm, AdamW; f32 or bf16) beside
//! PyTorch's eager step on the same shapes, batch and threads, in turns, each run in a process of its
//! own: so that only ratios of one interleaved run are compared, and peaks of memory are each its own.
//!
//! PUYU_SHARED=folder with tools/torch_train_step.py  PUYU_PYTHON=a Python that has torch (python3)
//! cargo bench --bench train_step -- [15m,8,256] [135m,2,256] [15m,8,256,bf16] ...
//! PUYU_PAIRS sets the number of pairs (default 5), PUYU_THREADS the threads (default 2); `--step 15m,8,256` runs our
//! steps alone, and shows their ops with PUYU_TRACE=sums.

use puyu::cli::memory;
use puyu_models::{Config, build};
use puyu_nn::{Compute, Ctx, Optimizer, Weights, clip_factor};
use puyu_tensor::cpu::{limits::Limits, pool, simd::Isa};
use puyu_tensor::{Result, Tensor, ops, trace_reset, trace_sums};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Steps that are timed; two before them warm up, as in the script.
const STEPS: usize = 5;

/// What is trained: the script's name of the model, sequences, and tokens of each.
#[derive(Clone)]
struct Work {
    size: String,
    batch: usize,
    seq: usize,
    bf16: bool,
}

/// What a run reports.
#[derive(Clone, Copy)]
struct Run {
    milliseconds: f64,
    megabytes: f64,
}

impl Work {
    fn parse(text: &str) -> Option<Self> {
        let (shape, bf16) = match text.strip_suffix(",bf16") {
            Some(shape) => (shape, true),
            None => (text, false),
        };
        let [size, batch, seq] = shape.split(',').collect::<Vec<_>>().try_into().ok()?;
        Some(Self { size: size.into(), batch: batch.parse().ok()?, seq: seq.parse().ok()?, bf16 })
    }

    /// What [`Work::parse`] reads.
    fn text(&self) -> String {
        let dtype = if self.bf16 { ",bf16" } else { "" };
        format!("{},{},{}{dtype}", self.size, self.batch, self.seq)
    }

    fn config(&self) -> Config {
        let [hidden, layers, heads, groups, inner, vocabulary] = match &*self.size {
            "15m" => [288, 6, 6, 6, 768, 32000],
            "135m" => [576, 30, 9, 3, 1536, 49152],
            other => panic!("no model is called {other}: 15m or 135m"),
        };
        let json = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": groups, "intermediate_size": inner, "vocab_size": vocabulary,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "max_position_embeddings": 2048,
        });
        Config::from_json(&json).expect("the config is one that puyu runs")
    }

    fn tokens(&self) -> usize {
        self.batch * self.seq
    }
}

/// Random weights, uniform within ±0.035 (a standard deviation of 0.02).
struct Random(Vec<(String, Vec<usize>)>);

impl Random {
    fn new(c: &Config) -> Self {
        let (h, f) = (c.hidden_size, c.intermediate_size);
        let mut names = vec![
            ("model.embed_tokens.weight".to_string(), vec![c.vocab_size, h]),
            ("model.norm.weight".to_string(), vec![h]),
        ];
        for i in 0..c.layers {
            let parts = [
                ("input_layernorm", vec![h]),
                ("post_attention_layernorm", vec![h]),
                ("self_attn.q_proj", vec![c.q_size(), h]),
                ("self_attn.k_proj", vec![c.kv_size(), h]),
                ("self_attn.v_proj", vec![c.kv_size(), h]),
                ("self_attn.o_proj", vec![h, c.q_size()]),
                ("mlp.gate_proj", vec![f, h]),
                ("mlp.up_proj", vec![f, h]),
                ("mlp.down_proj", vec![h, f]),
            ];
            let named = |(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape);
            names.extend(parts.into_iter().map(named));
        }
        Self(names)
    }

    fn parameters(&self) -> usize {
        self.0.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

impl Weights for Random {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }
    fn get(&self, name: &str) -> Result<Tensor> {
        let (at, (_, shape)) =
            self.0.iter().enumerate().find(|(_, (n, _))| n == name).expect("a name of this model");
        if shape.len() == 1 {
            return Ok(Tensor::full([shape[0]], 1.0));
        }
        let mut state = at as u32 + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.035
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        Ok(Tensor::new(&values, [shape[0], shape[1]]))
    }
}

/// Numbers below `bound` that look random.
fn ids(n: usize, bound: usize, seed: usize) -> Tensor {
    let ids: Vec<u32> = (0..n).map(|i| ((i * 7919 + seed * 104_729) % bound) as u32).collect();
    Tensor::new(&ids, [n])
}

/// Runs the steps in this process and prints the median milliseconds and the peak in MB.
fn train(work: &Work) -> Result<()> {
    let config = work.config();
    let loaded = build(&config, &Random::new(&config), None)?;
    let model = loaded.model;
    let op = ops::AdamW { beta2: 0.95, weight_decay: 0.1, ..ops::AdamW::default() };
    let mut adamw = Optimizer::new(op, loaded.params)?;
    let x = ids(work.tokens(), config.vocab_size, 1);
    let targets = ids(work.tokens(), config.vocab_size, 2);
    let mut times = Vec::new();
    for step in 0..STEPS + 2 {
        if step == 2 {
            trace_reset();
        }
        let start = Instant::now();
        let compute = if work.bf16 { Compute::Fast } else { Compute::Exact };
        let mut ctx = Ctx { compute, ..Ctx::packed(&vec![work.seq; work.batch]) };
        let hidden = model.hidden(&x, &mut ctx);
        let head = model.output().weight().get();
        let (loss, count) = hidden.linear_cross_entropy(&head, &targets, work.bf16);
        let (value, counted) = (loss.item()?, f64::from(count.item()?));
        drop((hidden, count, head));
        adamw.gather(loss, true)?;
        let norm = adamw.grad_norm()? / counted;
        adamw.apply(1e-4, clip_factor(norm, 1.0) / counted)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        eprintln!("loss {:.4}, {:.0} ms", f64::from(value) / counted, times[times.len() - 1]);
    }
    if let Some(sums) = trace_sums() {
        eprintln!("{sums}");
    }
    let peak = memory::peak().unwrap_or(0) as f64 / f64::from(1 << 20);
    println!("{} {peak}", median(times.into_iter().skip(2)));
    Ok(())
}

/// The middle value; NaN if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// What `command` prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// [`train`] in a process of its own.
fn puyu(work: &Work, threads: &str) -> Run {
    let program = std::env::current_exe().expect("this program has a path");
    let text =
        output(Command::new(program).args(["--step", &work.text()]).env("PUYU_THREADS", threads));
    let text = text.expect("the steps run");
    let values: Vec<f64> = text.split_whitespace().filter_map(|v| v.parse().ok()).collect();
    Run { milliseconds: values[0], megabytes: values[1] }
}

/// The script's figures for `work`; `None` if it does not run.
fn torch(python: &str, script: &Path, work: &Work, threads: &str, compile: bool) -> Option<Run> {
    let mut command = Command::new(python);
    command.arg(script).arg(&work.size).args([work.batch, work.seq].map(|n| n.to_string()));
    command.args(["--threads", threads, "--steps", &STEPS.to_string()]);
    if work.bf16 {
        command.arg("--bf16");
    }
    let text = output(if compile { command.arg("--compile") } else { &mut command })?;
    let before = |unit: &str| {
        let (head, _) = text.split_once(unit)?;
        head.split_whitespace().next_back()?.parse::<f64>().ok()
    };
    Some(Run { milliseconds: before("ms/step")?, megabytes: before("MB")? })
}

/// The table's lines for `work`.
fn compare(work: &Work, pairs: usize, threads: &str, peer: Option<(&str, &Path)>, limits: &Limits) {
    let n = Random::new(&work.config()).parameters();
    let flops = 6.0 * n as f64 * work.tokens() as f64;
    let dtype = if work.bf16 { "bf16" } else { "f32" };
    let name = format!("{} {}x{} {dtype}", work.size, work.batch, work.seq);
    let ceiling = if work.bf16 { limits.rounded_gflop_s() } else { limits.f32_gflop_s };
    println!(
        "{name}: {:.1}M parameters, {:.0} GFLOP a step by 6ND, {:.0} ms at the ceiling; AdamW moves \
         {:.0} MB",
        n as f64 / 1e6,
        flops / 1e9,
        flops / ceiling / 1e6,
        28.0 * n as f64 / 1e6,
    );
    let line = |who: &str, runs: &[Run], ratio: f64| {
        let ms = median(runs.iter().map(|r| r.milliseconds));
        let rate = flops / ms / 1e6;
        println!(
            "| {name} | {who} | {ms:.0} | {:.0} | {rate:.0} | {:.0} % | {:.0} | {ratio:.2} |",
            work.tokens() as f64 / ms * 1e3,
            100.0 * rate / ceiling,
            median(runs.iter().map(|r| r.megabytes)),
        );
    };
    let mut ours = Vec::new();
    let mut theirs = [Vec::new(), Vec::new()];
    let compiled = variable("PUYU_COMPILED").is_some();
    for _ in 0..pairs {
        ours.push(puyu(work, threads));
        for (runs, compile) in theirs.iter_mut().zip([false, true]) {
            let wanted = peer.filter(|_| !compile || compiled);
            runs.extend(wanted.and_then(|(py, script)| torch(py, script, work, threads, compile)));
        }
    }
    println!(
        "| shape | who | ms | tokens/s | GFLOP/s (6ND) | of the ceiling | peak MB | puyu / it |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    line("puyu", &ours, 1.0);
    for (who, runs) in ["PyTorch eager", "PyTorch compiled"].into_iter().zip(&theirs) {
        if runs.len() == ours.len() {
            let ratios = ours.iter().zip(runs).map(|(a, b)| b.milliseconds / a.milliseconds);
            line(who, runs, median(ratios));
        }
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|a| a == "--step") {
        let work = args.get(at + 1).and_then(|w| Work::parse(w)).expect("SIZE,BATCH,TOKENS");
        return train(&work);
    }
    let mut works: Vec<Work> = args.iter().filter_map(|a| Work::parse(a)).collect();
    if works.is_empty() {
        works.extend(
            ["15m,8,256", "135m,2,256", "15m,8,256,bf16", "135m,2,256,bf16"]
                .into_iter()
                .filter_map(Work::parse),
        );
    }
    let threads = variable("PUYU_THREADS").unwrap_or_else(|| "2".into());
    pool::set_threads(threads.parse().unwrap_or(2))?;
    let pairs = variable("PUYU_PAIRS").and_then(|v| v.parse().ok()).unwrap_or(5);
    let python = variable("PUYU_PYTHON").unwrap_or_else(|| "python3".into());
    let script = puyu_benches::path("PUYU_SHARED")
        .map(|dir| dir.join("tools/torch_train_step.py"))
        .filter(|path| path.exists());
    let has_torch = output(Command::new(&python).args(["-c", "import torch"])).is_some();
    let peer = script.as_deref().filter(|_| has_torch).map(|script| (&*python, script));
    if peer.is_none() {
        eprintln!("SKIPPED: PyTorch (PUYU_SHARED/tools/torch_train_step.py, PUYU_PYTHON)");
    }
    let limits = Limits::measure();
    println!(
        "{threads} threads, {}, multiply-adds: f32 {:.0} GFLOP/s, bf16 {:.0}",
        Isa::detect().name(),
        limits.f32_gflop_s,
        limits.rounded_gflop_s()
    );
    for work in &works {
        compare(work, pairs, &threads, peer, &limits);
    }
    println!(
        "medians of {pairs} interleaved runs of {STEPS} steps; a ratio above 1 means puyu is faster"
    );
    Ok(())
}
