//! Whole models beside llama.cpp: `puyu bench` and `llama-bench` on the same files and threads, in
//! turns, because the machines are shared and only ratios of one interleaved run hold. Prints the
//! median tokens per second, tokens per CPU-second, and the median of the pairwise ratios.
//!
//! PUYU=target/release/puyu LLAMA_BENCH=llama-bench cargo bench --bench peers -- model.gguf...
//! PUYU_PAIRS sets the number of pairs (default 7), PUYU_THREADS the threads (default 2).

use puyu_benches::{from_root, number, output, program};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tokens per wall second and per CPU-second of one run.
#[derive(Clone, Copy)]
struct Speed {
    wall: f64,
    cpu: Option<f64>,
}

/// CPU-seconds that ended child processes of this one have used (Linux only).
fn children_cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the command name, which may hold spaces; cutime and cstime are 16 and 17.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(13)?.parse::<f64>().ok()? + fields.get(14)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Runs `command` with llama-bench's flags; `work` is the pair of flags for prefill or decode.
fn run(mut command: Command, model: &Path, work: &[&str], threads: usize, tokens: usize) -> Speed {
    let before = children_cpu_seconds();
    command.arg("-m").arg(model).args(work);
    let printed =
        output(command.args(["-t", &threads.to_string(), "-r", "1", "-o", "json"])).stdout;
    let cpu = before.zip(children_cpu_seconds()).map(|(a, b)| tokens as f64 / (b - a));
    let text = String::from_utf8_lossy(&printed);
    let rows: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let wall = rows[0]["avg_ts"].as_f64().unwrap_or_else(|| panic!("no avg_ts: {text}"));
    Speed { wall, cpu }
}

/// The middle value; NaN if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let models = std::env::args_os().skip(1).filter(|a| !a.as_encoded_bytes().starts_with(b"-"));
    let models: Vec<PathBuf> = models.map(from_root).collect();
    let (Some(peer), false) = (program("LLAMA_BENCH"), models.is_empty()) else {
        eprintln!("SKIPPED: set LLAMA_BENCH to llama.cpp's llama-bench and name GGUF files");
        return;
    };
    let puyu = program("PUYU").unwrap_or_else(|| "puyu".into());
    let (pairs, threads) = (number("PUYU_PAIRS", 7), number("PUYU_THREADS", 2));
    println!(
        "| model | test | puyu t/s | llama.cpp t/s | ratio | puyu t/CPU-s | llama.cpp t/CPU-s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for model in &models {
        for (test, work, tokens) in
            [("pp512", ["-p", "512", "-n", "0"], 512), ("tg128", ["-p", "0", "-n", "128"], 128)]
        {
            let both: Vec<[Speed; 2]> = (0..pairs)
                .map(|_| {
                    let mut ours = Command::new(&puyu);
                    ours.arg("bench");
                    let theirs = Command::new(&peer);
                    [ours, theirs].map(|c| run(c, model, &work, threads, tokens))
                })
                .collect();
            let wall = |i: usize| median(both.iter().map(|b| b[i].wall));
            let cpu = |i: usize| median(both.iter().filter_map(|b| b[i].cpu));
            println!(
                "| {} | {test} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} |",
                model.display(),
                wall(0),
                wall(1),
                median(both.iter().map(|[a, b]| a.wall / b.wall)),
                cpu(0),
                cpu(1),
            );
        }
    }
    println!(
        "{threads} threads, medians of {pairs} interleaved pairs; CPU-seconds include loading"
    );
}
