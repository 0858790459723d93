//! `puyu bench`: tokens per second of a model, with llama-bench's flags, table and JSON keys.

use super::args::{ComputeArg, dtype, one_type};
use super::output;
use crate::engine::{Crowd, Engine, LoadOptions, Session};
use crate::hub;
use crate::plan::Parameters;
use clap::{Args, ValueEnum};
use puyu_tensor::cpu::{limits::Limits, pool, simd::Isa};
use puyu_tensor::{DType, Result, trace_reset, trace_sums};
use serde_json::{Value, json};
use std::time::Instant;

/// Measure prefill and decode speed
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Models, separated by commas
    #[arg(short, long, value_delimiter = ',', required_unless_present = "limits")]
    model: Vec<String>,
    /// Prompt lengths; 0 is none
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Tokens to generate; 0 is none
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Tokens already in the context
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Sequences that generate together (-npl)
    #[arg(long, value_delimiter = ',', default_value = "1")]
    n_parallel: Vec<usize>,
    /// Threads
    #[arg(short, long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Repetitions
    #[arg(short, long, default_value_t = 5)]
    repetitions: usize,
    /// How weights are multiplied
    #[arg(long, value_enum, default_value_t = ComputeArg::Auto)]
    compute: ComputeArg,
    /// Element type of the KV cache
    #[arg(long, default_value = "f16", value_parser = dtype)]
    cache_type: Vec<DType>,
    /// Measure what this machine can do at most: memory read, f32, bf16 and int8 multiply-adds
    #[arg(long, conflicts_with = "model")]
    limits: bool,
    /// What to print
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output: Format,
    /// The same as --output json
    #[arg(long)]
    json: bool,
}

/// `--output`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Markdown table
    Md,
    /// A JSON list
    Json,
}

/// One row: what was measured and the time of each repetition, in nanoseconds.
struct Row<'e> {
    engine: &'e Engine,
    threads: usize,
    prompt: usize,
    generated: usize,
    /// Sequences that generate together.
    parallel: usize,
    depth: usize,
    samples: Vec<u64>,
    cpu_seconds: f64,
}

impl BenchArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If a model cannot be loaded, or a length does not fit its context.
    pub fn run(&self) -> Result<()> {
        let format = if self.json { Format::Json } else { self.output };
        if self.limits {
            return self.limits(format);
        }
        let mut rows = Vec::new();
        if format == Format::Md {
            output::print("| model | size | params | threads | test | t/s |\n")?;
            output::print("| --- | ---: | ---: | ---: | ---: | ---: |\n")?;
        }
        for name in &self.model {
            let options = LoadOptions {
                compute: self.compute.into(),
                cache: one_type(&self.cache_type, DType::F16)?,
                ..LoadOptions::default()
            };
            let engine = Engine::open(&hub::resolve(name)?, options, &|_, _| ())?;
            let threads = match self.threads.is_empty() {
                true => vec![pool::threads()],
                false => self.threads.clone(),
            };
            for &threads in &threads {
                pool::set_threads(threads)?;
                for &depth in &self.n_depth {
                    let prompts = self.n_prompt.iter().map(|&p| (p, 0, 1));
                    let together = |&g: &usize| self.n_parallel.iter().map(move |&n| (0, g, n));
                    let tests = prompts.chain(self.n_gen.iter().flat_map(together));
                    for (prompt, generated, parallel) in tests.filter(|t| (t.0 + t.1) * t.2 > 0) {
                        let (samples, cpu_seconds) = match parallel {
                            1 => self.measure(&engine, prompt, generated, depth)?,
                            n => self.measure_crowd(&engine, n, generated, depth)?,
                        };
                        let engine = &engine;
                        let row = Row {
                            engine,
                            threads,
                            prompt,
                            generated,
                            parallel,
                            depth,
                            samples,
                            cpu_seconds,
                        };
                        match format {
                            Format::Md => output::print(&row.markdown())?,
                            Format::Json => rows.push(row.json()),
                        }
                    }
                }
            }
        }
        match format {
            Format::Md => Ok(()),
            Format::Json => output::print(&format!("{:#}\n", Value::from(rows))),
        }
    }

    /// The machine's ceilings, with each number of threads.
    fn limits(&self, format: Format) -> Result<()> {
        let threads = match self.threads.is_empty() {
            true => vec![pool::threads()],
            false => self.threads.clone(),
        };
        let mut rows = Vec::new();
        for threads in threads {
            pool::set_threads(threads)?;
            rows.push(Limits::measure());
        }
        match format {
            Format::Md => {
                output::print(
                    "| threads | read GB/s | f32 GFLOP/s | bf16 GFLOP/s | int8 GOP/s |\n",
                )?;
                output::print("| ---: | ---: | ---: | ---: | ---: |\n")?;
                rows.iter().try_for_each(|l| {
                    let bf16 = l.bf16_gflop_s.map_or("-".into(), |v| format!("{v:.0}"));
                    output::print(&format!(
                        "| {} | {:.1} | {:.0} | {bf16} | {:.0} |\n",
                        l.threads, l.read_gb_s, l.f32_gflop_s, l.i8_gop_s
                    ))
                })
            }
            Format::Json => {
                let row = |l: &Limits| {
                    json!({
                        "n_threads": l.threads,
                        "isa": Isa::detect().name(),
                        "read_gb_s": l.read_gb_s,
                        "f32_gflop_s": l.f32_gflop_s,
                        "bf16_gflop_s": l.bf16_gflop_s,
                        "i8_gop_s": l.i8_gop_s,
                    })
                };
                let rows: Vec<Value> = rows.iter().map(row).collect();
                output::print(&format!("{:#}\n", Value::from(rows)))
            }
        }
    }

    /// Nanoseconds of each repetition of one sequence, and the processor time of all.
    fn measure(
        &self,
        engine: &Engine,
        prompt: usize,
        generated: usize,
        depth: usize,
    ) -> Result<(Vec<u64>, f64)> {
        let mut session = Session::new(engine, depth + prompt.max(generated) + 1)?;
        let ids: Vec<u32> = (0..depth + prompt.max(1)).map(|i| any_id(engine, i)).collect();
        if depth > 0 {
            session.feed(&ids[..depth], &mut |_, _| true)?;
        }
        self.repeat(generated, |generated| {
            session.truncate(depth);
            let start = Instant::now();
            if prompt > 0 {
                session.feed(&ids[depth..depth + prompt], &mut |_, _| true)?;
            }
            for i in 0..generated {
                session.push(any_id(engine, i))?;
            }
            Ok(start.elapsed().as_nanos() as u64)
        })
    }

    /// The same of `n` sequences that generate together.
    fn measure_crowd(
        &self,
        engine: &Engine,
        n: usize,
        generated: usize,
        depth: usize,
    ) -> Result<(Vec<u64>, f64)> {
        let mut crowd = Crowd::new(engine, n, depth + generated)?;
        // A step of a prompt for all of them is about as large as one of a single prompt.
        let ids: Vec<u32> = (0..depth).map(|i| any_id(engine, i)).collect();
        for ids in ids.chunks((512 / n).max(1)) {
            crowd.push(ids)?;
        }
        self.repeat(generated, |generated| {
            crowd.truncate(depth);
            let start = Instant::now();
            for i in 0..generated {
                crowd.push(&[any_id(engine, i)])?;
            }
            Ok(start.elapsed().as_nanos() as u64)
        })
    }

    fn repeat(
        &self,
        generated: usize,
        mut run: impl FnMut(usize) -> Result<u64>,
    ) -> Result<(Vec<u64>, f64)> {
        // To warm up, one token is enough, as it is for llama-bench.
        run(generated.min(1))?;
        trace_reset();
        let cpu = cpu_seconds();
        let samples = (0..self.repetitions.max(1)).map(|_| run(generated));
        let samples = samples.collect::<Result<Vec<_>>>()?;
        let cpu = cpu_seconds() - cpu;
        if let Some(sums) = trace_sums() {
            eprintln!("{sums}");
        }
        Ok((samples, cpu))
    }
}

/// Any ids will do; the time does not depend on them.
fn any_id(engine: &Engine, i: usize) -> u32 {
    let vocab = engine.config().vocab_size as u64;
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % vocab) as u32
}

/// Processor time of this process so far, in seconds (Linux; elsewhere 0).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    // Linux reports in hundredths of a second on every platform puyu runs on.
    ticks as f64 / 100.0
}

impl Row<'_> {
    fn tokens(&self) -> usize {
        self.prompt + self.generated * self.parallel
    }

    /// Tokens per second of each repetition.
    fn rates(&self) -> Vec<f64> {
        self.samples.iter().map(|&ns| self.tokens() as f64 * 1e9 / ns as f64).collect()
    }

    fn parameters(&self) -> u64 {
        Parameters::of(self.engine.config()).total()
    }

    fn markdown(&self) -> String {
        let (mean, deviation) = mean_and_deviation(&self.rates());
        let mut test = match self.generated {
            0 => format!("pp{}", self.prompt),
            n => format!("tg{n}"),
        };
        if self.parallel > 1 {
            test.push_str(&format!(" x {}", self.parallel));
        }
        if self.depth > 0 {
            test.push_str(&format!(" @ d{}", self.depth));
        }
        format!(
            "| {} | {:.2} MiB | {:.2} M | {} | {test} | {mean:.2} ± {deviation:.2} |\n",
            self.engine.config().model_type,
            self.engine.weight_bytes as f64 / (1 << 20) as f64,
            self.parameters() as f64 / 1e6,
            self.threads,
        )
    }

    fn json(&self) -> Value {
        let (avg_ts, stddev_ts) = mean_and_deviation(&self.rates());
        let ns: Vec<f64> = self.samples.iter().map(|&ns| ns as f64).collect();
        let (avg_ns, stddev_ns) = mean_and_deviation(&ns);
        json!({
            "build_commit": env!("CARGO_PKG_VERSION"),
            "model_filename": self.engine.path,
            "model_type": self.engine.config().model_type,
            "model_size": self.engine.weight_bytes,
            "model_n_params": self.parameters(),
            "n_threads": self.threads,
            "type_k": self.engine.options.cache.name(),
            "type_v": self.engine.options.cache.name(),
            "n_prompt": self.prompt,
            "n_gen": self.generated,
            "n_depth": self.depth,
            "n_parallel": self.parallel,
            "avg_ns": avg_ns as u64,
            "stddev_ns": stddev_ns as u64,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "samples_ns": self.samples,
            "samples_ts": self.rates(),
            "cpu_seconds": self.cpu_seconds,
        })
    }
}

fn mean_and_deviation(x: &[f64]) -> (f64, f64) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let squares: f64 = x.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (x.len().max(2) - 1) as f64).sqrt())
}
