//! Whole models beside llama.cpp: `puyu bench` and `llama-bench` on the same files and threads, in
//! turns, because the machines are shared and only ratios of one interleaved run hold. Prints the
//! median tokens per second, tokens per CPU-second, and the median of the pairwise ratios.
//!
//! PUYU=target/release/puyu LLAMA_BENCH=llama-bench cargo bench --bench peers -- model.gguf...
//! PUYU_PAIRS sets the number of pairs (default 7), PUYU_THREADS the threads (default 2).

use serde_json::Value;
use std::process::Command;

/// Tokens per wall second and per CPU-second of one run.
#[derive(Clone, Copy)]
struct Speed {
    wall: f64,
    cpu: Option<f64>,
}

fn variable(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// CPU-seconds that ended child processes of this one have used (Linux only).
fn children_cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the command name, which may hold spaces; cutime and cstime are 16 and 17.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(13)?.parse::<f64>().ok()? + fields.get(14)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Runs `program` with llama-bench's flags; `work` is the pair of flags for prefill or decode.
fn run(program: &str, model: &str, work: &[&str], threads: usize, tokens: usize) -> Speed {
    let before = children_cpu_seconds();
    let output = Command::new(program)
        .args(if program.contains("llama") { &[][..] } else { &["bench"] })
        .args(["-m", model, "-t", &threads.to_string(), "-r", "1", "-o", "json"])
        .args(work)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    let cpu = before.zip(children_cpu_seconds()).map(|(a, b)| tokens as f64 / (b - a));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{program}: {e}"));
    let wall = rows[0]["avg_ts"].as_f64().unwrap_or_else(|| panic!("{program}: no avg_ts"));
    Speed { wall, cpu }
}

/// The middle value; NaN if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let models: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (Ok(peer), false) = (std::env::var("LLAMA_BENCH"), models.is_empty()) else {
        eprintln!("SKIPPED: set LLAMA_BENCH to llama.cpp's llama-bench and name GGUF files");
        return;
    };
    let puyu = std::env::var("PUYU").unwrap_or_else(|_| "puyu".into());
    let (pairs, threads) = (variable("PUYU_PAIRS", 7), variable("PUYU_THREADS", 2));
    println!(
        "| model | test | puyu t/s | llama.cpp t/s | ratio | puyu t/CPU-s | llama.cpp t/CPU-s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for model in &models {
        for (test, work, tokens) in
            [("pp512", ["-p", "512", "-n", "0"], 512), ("tg128", ["-p", "0", "-n", "128"], 128)]
        {
            let both: Vec<[Speed; 2]> = (0..pairs)
                .map(|_| [&puyu, &peer].map(|p| run(p, model, &work, threads, tokens)))
                .collect();
            let wall = |i: usize| median(both.iter().map(|b| b[i].wall));
            let cpu = |i: usize| median(both.iter().filter_map(|b| b[i].cpu));
            println!(
                "| {model} | {test} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} |",
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
