//! Held-out bits per byte beside PyTorch's: a model of InternLM2's shape with 4.9M parameters learns
//! bytes of English novels, Song ci and Dream of the Red Chamber for 2,000 steps, here and in PyTorch.
//! Both begin with the same weights and see the same batches at the same learning rates, so that only
//! the arithmetic differs. The last tenth of each text is held out. Exits with 1 if a text takes over 1 %
//! more bits here.
//!
//! PUYU_SHARED=../shared PUYU_PYTHON=python3 cargo bench --bench bits_per_byte
//! PUYU_STEPS sets the steps (default 2000), PUYU_THREADS the threads of both (default 2).

use puyu::data::{Batch, Sampler};
use puyu::train::config::ConfigText;
use puyu::train::{Learner, Parts, TrainConfig, Trainer, prepare};
use puyu_benches::{number, output, path, program};
use puyu_tensor::{Result, cpu::pool};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Rows of a step and bytes of a row.
const ROWS: usize = 8;
const LENGTH: usize = 128;

/// Rows of each text's end that are measured, at most.
const HELD_OUT: usize = 500;

/// How many bits more are too many, as a share.
const WITHIN: f64 = 0.01;

/// Each text's name and files, under data/train.
const TEXTS: [(&str, &[&str]); 3] = [
    ("english", &["en/war_and_peace.txt", "en/moby_dick.txt", "en/sherlock_holmes.txt"]),
    ("song_ci", &["zh/song_ci.txt"]),
    ("red_chamber", &["zh/honglou_meng.txt"]),
];

const CONFIG: &str = r#"
[model]
model_type = "internlm2"
hidden_size = 256
num_hidden_layers = 6
num_attention_heads = 8
num_key_value_heads = 4
intermediate_size = 768

[tokenizer]
path = "bytes"

[data]
seq_len = LENGTH
source = [{ path = "FOLDER/english" }, { path = "FOLDER/song_ci" }, { path = "FOLDER/red_chamber" }]

[optimizer]
lr = 1e-3

[schedule]
warmup = WARMUP
min_lr = 1e-4

[train]
steps = STEPS
batch = ROWS
seed = 1

[checkpoint]
every = 0
"#;

/// Divides a text's files, nine tenths to one, between `folder`/name and what is held out.
fn divide(folder: &Path, data: &Path, (name, files): (&str, &[&str])) -> std::io::Result<Vec<u8>> {
    let (mut train, mut held_out) = (String::new(), String::new());
    for file in files {
        let text = std::fs::read_to_string(data.join(file))?;
        let at = (text.len() * 9 / 10..).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        train.push_str(&text[..at]);
        held_out.push_str(&text[at..]);
    }
    // So that the last row is as long as the others: one byte more than inputs, its last target.
    let missing = (LENGTH + 1 - train.len() % LENGTH) % LENGTH;
    train.push_str(&"\n".repeat(missing));
    std::fs::create_dir(folder.join(name))?;
    std::fs::write(folder.join(name).join("train.txt"), train)?;
    let mut bytes = held_out.into_bytes();
    bytes.truncate((bytes.len() - 1).min(HELD_OUT * LENGTH) / LENGTH * LENGTH + 1);
    std::fs::write(folder.join(format!("{name}.bin")), &bytes)?;
    Ok(bytes)
}

/// Writes what PyTorch is to do: first weights, batches and learning rates.
fn tell(folder: &Path, parts: &Parts, threads: usize) -> Result<()> {
    let Parts { learner, data, train, about, .. } = parts;
    let (mut weights, mut parameters) = (Vec::new(), Vec::new());
    for param in learner.optimizer.params() {
        let value = param.get();
        parameters.push(json!([param.name(), value.shape()]));
        weights.extend(value.to_vec::<f32>()?.iter().flat_map(|w| w.to_le_bytes()));
    }
    std::fs::write(folder.join("first.bin"), weights)?;
    let mut sampler = Sampler::new(data, train.order, train.seed);
    let mut batches = Vec::new();
    for _ in 0..about.total_steps as usize * ROWS {
        let row = data.row(sampler.next(data))?;
        assert_eq!(row.lengths, [LENGTH], "a row of the data is no single piece");
        batches.extend(row.ids.iter().chain(row.targets.last()).map(|id| *id as u8));
    }
    std::fs::write(folder.join("batches.bin"), batches)?;
    let c = learner.forward.model.config();
    let rates: Vec<f64> = (0..about.total_steps).map(|s| learner.schedule.rate(s)).collect();
    let told = json!({
        "threads": threads, "rows": ROWS, "length": LENGTH, "layers": c.layers, "heads": c.heads,
        "groups": c.kv_heads, "eps": c.eps, "theta": 1e4, "decay": 0.1, "betas": [0.9, 0.95],
        "clip": learner.clip, "rates": rates, "parameters": parameters,
        "texts": TEXTS.map(|(name, _)| name),
    });
    Ok(std::fs::write(folder.join("run.json"), told.to_string())?)
}

/// Mean nats a byte of a text that is not learnt, in rows that do not see each other.
fn nats(learner: &Learner, text: &[u8]) -> Result<f64> {
    let ids: Vec<u32> = text.iter().map(|b| u32::from(*b)).collect();
    let (mut sum, mut count) = (0.0, 0.0);
    for rows in (0..ids.len() - 1).collect::<Vec<_>>().chunks(ROWS * LENGTH) {
        let mut batch = Batch::default();
        for start in rows.iter().step_by(LENGTH) {
            batch.push(&ids[*start..start + LENGTH], &ids[start + 1..start + LENGTH + 1]);
        }
        let (mean, counted) = learner.evaluate(&[batch])?;
        sum += mean * counted;
        count += counted;
    }
    Ok(sum / count)
}

fn main() -> ExitCode {
    let python = program("PUYU_PYTHON").unwrap_or_else(|| "python3".into());
    let torch = Command::new(&python).args(["-c", "import torch"]).output();
    let has_torch = torch.is_ok_and(|out| out.status.success());
    let Some(shared) = path("PUYU_SHARED").filter(|_| has_torch) else {
        eprintln!(
            "SKIPPED: PUYU_SHARED names the folder with data/train, PUYU_PYTHON a Python in which \
             `import torch` works: `python3 -m pip install torch`"
        );
        return ExitCode::SUCCESS;
    };
    let (steps, threads) = (number("PUYU_STEPS", 2000), number("PUYU_THREADS", 2));
    pool::set_threads(threads).expect("threads");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let data = shared.join("data/train");
    let texts = TEXTS.map(|text| divide(folder, &data, text).expect("the texts"));
    let config = CONFIG
        .replace("LENGTH", &LENGTH.to_string())
        .replace("FOLDER", &folder.to_string_lossy())
        .replace("WARMUP", &(steps / 20).to_string())
        .replace("STEPS", &steps.to_string())
        .replace("ROWS", &ROWS.to_string());
    let file = folder.join("config.toml");
    std::fs::write(&file, config).expect("a temporary file");
    let text = ConfigText::open(&file).expect("the config");
    let (config, _) = text.parse::<TrainConfig>(&[]).expect("the config is in order");
    let dir = folder.join("run");
    let parts = prepare(&config, String::new(), &dir, &mut |_, _, _| true).expect("a run").parts;
    tell(folder, &parts, threads).expect("temporary files");
    let parameters = parts.learner.optimizer.numel();
    let (mut trainer, _) = Trainer::new(parts).expect("a run");
    trainer.run(&|| false).expect("the run ends");
    let ours = texts.map(|text| nats(trainer.learner(), &text).expect("a loss"));

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bits_per_byte.py");
    let printed = output(Command::new(&python).arg(script).arg(folder)).stdout;
    let theirs: Value = serde_json::from_slice(&printed).expect("the script prints JSON");

    println!("{parameters} parameters, {steps} steps of {ROWS} x {LENGTH} bytes");
    println!("| held-out text | puyu, bits a byte | PyTorch | puyu / PyTorch |");
    println!("|---|---|---|---|");
    let mut more = false;
    for ((name, _), ours) in TEXTS.iter().zip(ours) {
        let theirs = theirs[name].as_f64().unwrap_or(f64::NAN);
        let (bits, ratio) = (std::f64::consts::LN_2.recip(), ours / theirs);
        more |= ratio.is_nan() || ratio > 1.0 + WITHIN;
        println!("| {name} | {:.4} | {:.4} | {ratio:.4} |", ours * bits, theirs * bits);
    }
    ExitCode::from(u8::from(more))
}
