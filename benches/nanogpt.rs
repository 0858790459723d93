//! nanoGPT's run for a CPU: 2,000 steps on tinyshakespeare, whose validation loss its README gives as
//! 1.88. Prints the loss, the time and the tokens a second, and fails above that loss. The text is cut
//! 90 to 10, as nanoGPT does.
//!
//! PUYU=target/release/puyu PUYU_TRAIN_DATA=../shared/data/train cargo bench --bench nanogpt

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The validation loss to reach.
const WANTED: f64 = 1.88;

fn main() {
    let Some(data) = puyu_benches::path("PUYU_TRAIN_DATA") else {
        eprintln!("SKIPPED: PUYU_TRAIN_DATA does not name the folder with en/tinyshakespeare.txt");
        return;
    };
    let puyu = puyu_benches::program("PUYU").unwrap_or_else(|| "puyu".into());
    let text = std::fs::read(data.join("en/tinyshakespeare.txt")).expect("tinyshakespeare.txt");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let (train, valid) = text.split_at(text.len() * 9 / 10);
    std::fs::write(path("train.txt"), train).expect("a temporary file");
    std::fs::write(path("valid.txt"), valid).expect("a temporary file");
    let began = Instant::now();
    let status = Command::new(&puyu)
        .arg("train")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("nanogpt_cpu.toml"))
        .arg("--work-dir")
        .arg(path("run"))
        .arg("--cfg-options")
        .arg(format!("data.source.0.path={}", path("train.txt").display()))
        .arg(format!("data.valid.source.0.path={}", path("valid.txt").display()))
        .status()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", puyu.display()));
    assert!(status.success(), "{} train failed", puyu.display());
    let seconds = began.elapsed().as_secs_f64();
    let journal = std::fs::read_to_string(path("run/metrics.jsonl")).expect("the journal");
    let records = journal.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let (mut loss, mut tokens) = (f64::NAN, 0.0);
    for record in records {
        match record["kind"].as_str() {
            Some("valid") => loss = record["loss"].as_f64().unwrap_or(f64::NAN),
            Some("step") => tokens += record["tokens"].as_f64().unwrap_or(0.0),
            _ => (),
        }
    }
    println!("validation loss {loss:.4}, {seconds:.0} s, {:.0} tokens/s", tokens / seconds);
    assert!(loss <= WANTED, "the validation loss is {loss}, more than {WANTED}");
}
