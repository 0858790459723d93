//! A run killed (SIGKILL) twenty times at random moments, resumed each time, beside one that nobody
//! disturbed: every file of their last checkpoints must be equal. Moments come from the clock, so each
//! call tries others; the checkpoints are many, so that writing them is hit too.
//!
//! PUYU=target/release/puyu cargo bench --bench kill_resume
//! PUYU_KILLS sets the number of kills (default 20).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CONFIG: &str = r#"
[model]
model_type = "internlm2"
hidden_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
intermediate_size = 128

[tokenizer]
path = "bytes"

[data]
seq_len = 64

[[data.source]]
path = "TEXT"

[train]
steps = 400
batch = 4
accumulate = 2

[checkpoint]
every = 5
keep = 2
"#;

/// A random number below `bound`, from the clock.
fn random(bound: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    ((now ^ now >> 17).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % bound.max(1)
}

/// `puyu train` of the config in `folder` with work folder `dir`.
fn train(puyu: &Path, folder: &Path, dir: &str) -> Command {
    let mut command = Command::new(puyu);
    command.arg("train").arg(folder.join("config.toml")).arg("--work-dir").arg(folder.join(dir));
    command.arg("--resume").stderr(Stdio::null());
    command
}

/// Files of the last checkpoint of a run, by name.
fn last(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("the work folder");
    let mut steps: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    steps.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")));
    steps.sort();
    let step = steps.pop().expect("a checkpoint");
    let entries = std::fs::read_dir(&step).expect("the checkpoint");
    let mut files: Vec<_> = entries
        .map(|e| e.expect("an entry").path())
        .map(|p| (p.strip_prefix(dir).expect("below it").into(), std::fs::read(p).expect("a file")))
        .collect();
    files.sort();
    files
}

fn main() {
    let Some(puyu) = puyu_benches::program("PUYU") else {
        eprintln!("SKIPPED: PUYU does not name the program, such as target/release/puyu");
        return;
    };
    let kills = puyu_benches::number("PUYU_KILLS", 20) as u64;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let line =
        |i: usize| format!("{i} times {} is {}; the next line is another.\n", i % 17, i * (i % 17));
    let text: String = (0..4000).map(line).collect();
    std::fs::write(folder.join("text.txt"), text).expect("a temporary file");
    let config = CONFIG.replace("TEXT", &folder.join("text.txt").to_string_lossy());
    std::fs::write(folder.join("config.toml"), config).expect("a temporary file");
    let began = std::time::Instant::now();
    let status = train(&puyu, folder, "whole").status().expect("puyu starts");
    assert!(status.success(), "the undisturbed run failed");
    // So that twenty kills are spread over the run, and each leaves something to do.
    let share = began.elapsed().as_millis() as u64 / kills.max(1) / 2;
    let mut done = 0;
    while done < kills {
        let mut child = train(&puyu, folder, "killed").spawn().expect("puyu starts");
        std::thread::sleep(Duration::from_millis(share / 2 + random(share.max(1) * 2)));
        if child.try_wait().expect("its state").is_some() {
            println!("the run ended before kill {}", done + 1);
            break;
        }
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
        done += 1;
    }
    let status = train(&puyu, folder, "killed").status().expect("puyu starts");
    assert!(status.success(), "the run could not go on after {done} kills");
    let (whole, killed) = (last(&folder.join("whole")), last(&folder.join("killed")));
    assert!(whole == killed, "the checkpoints differ after {done} kills");
    println!("{done} kills: all {} files of the last checkpoint are equal", whole.len());
    assert!(done == kills, "the run was too short for {kills} kills");
}
