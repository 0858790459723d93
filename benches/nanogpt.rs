//! nanoGPT's run for a CPU: 2,000 steps on tinyshakespeare, whose validation loss its README gives as 1.88, beside
//! the same run in PyTorch, in turns. Prints losses, times and their ratio, and fails above that loss. The text is
//! cut 90 to 10, as nanoGPT does.
//!
//! PUYU=target/release/puyu PUYU_TRAIN_DATA=../shared/data/train PUYU_PYTHON=python3 cargo bench --bench nanogpt
//! PUYU_PAIRS sets the number of pairs (default 3), PUYU_THREADS the threads of both (default 2).

use puyu_benches::{number, output, path, program};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The validation loss to reach.
const WANTED: f64 = 1.88;

/// What a run ends with.
#[derive(Clone, Copy)]
struct Run {
    loss: f64,
    seconds: f64,
}

/// Trains in `folder`, which holds both parts of the text; the time is the whole process's.
fn puyu(folder: &Path, threads: usize) -> Run {
    let path = |name: &str| folder.join(name);
    let began = Instant::now();
    let mut train = Command::new(program("PUYU").unwrap_or_else(|| "puyu".into()));
    train.env("PUYU_THREADS", threads.to_string()).arg("train");
    train.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("nanogpt_cpu.toml"));
    train.arg("--work-dir").arg(path("run")).arg("--cfg-options");
    train.arg(format!("data.source.0.path={}", path("train.txt").display()));
    train.arg(format!("data.valid.source.0.path={}", path("valid.txt").display()));
    output(&mut train);
    let seconds = began.elapsed().as_secs_f64();
    let journal = std::fs::read_to_string(path("run/metrics.jsonl")).expect("the journal");
    let records = journal.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mut losses = records.filter(|r| r["kind"] == "valid").filter_map(|r| r["loss"].as_f64());
    // Measured once more at the end.
    let loss = losses.next_back().expect("a run of so many steps is measured");
    std::fs::remove_dir_all(path("run")).expect("what was made here can be removed");
    Run { loss, seconds }
}

/// The same in PyTorch; the time is that of the steps, without what Python takes to begin.
fn pytorch(folder: &Path, threads: usize) -> Run {
    let mut train = Command::new(program("PUYU_PYTHON").unwrap_or_else(|| "python3".into()));
    train.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("nanogpt.py"));
    train.args([folder.join("train.txt"), folder.join("valid.txt")]).arg(threads.to_string());
    let told: Value = serde_json::from_slice(&output(&mut train).stdout).expect("it prints JSON");
    let number = |key: &str| told[key].as_f64().unwrap_or(f64::NAN);
    Run { loss: number("loss"), seconds: number("seconds") }
}

fn main() {
    let Some(data) = path("PUYU_TRAIN_DATA") else {
        eprintln!("SKIPPED: PUYU_TRAIN_DATA does not name the folder with en/tinyshakespeare.txt");
        return;
    };
    let text = std::fs::read(data.join("en/tinyshakespeare.txt")).expect("tinyshakespeare.txt");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (train, valid) = text.split_at(text.len() * 9 / 10);
    std::fs::write(folder.path().join("train.txt"), train).expect("a temporary file");
    std::fs::write(folder.path().join("valid.txt"), valid).expect("a temporary file");
    let python = program("PUYU_PYTHON").unwrap_or_else(|| "python3".into());
    let torch = Command::new(&python).args(["-c", "import torch"]).output();
    let beside = torch.is_ok_and(|o| o.status.success());
    if !beside {
        eprintln!("SKIPPED: PyTorch, for `import torch` fails in {}", python.display());
    }
    let threads = number("PUYU_THREADS", 2);
    let (mut worst, mut ratios) = (0.0_f64, Vec::new());
    for _ in 0..number("PUYU_PAIRS", 3) {
        let ours = puyu(folder.path(), threads);
        worst = worst.max(ours.loss);
        println!("puyu: validation loss {:.4}, {:.0} s", ours.loss, ours.seconds);
        if beside {
            let theirs = pytorch(folder.path(), threads);
            println!("PyTorch: validation loss {:.4}, {:.0} s", theirs.loss, theirs.seconds);
            ratios.push(theirs.seconds / ours.seconds);
        }
    }
    ratios.sort_by(f64::total_cmp);
    if let Some(ratio) = ratios.get(ratios.len() / 2) {
        println!("puyu is {ratio:.2} times as fast, median of {} pairs", ratios.len());
    }
    assert!(worst <= WANTED, "the validation loss is {worst}, more than {WANTED}");
}
