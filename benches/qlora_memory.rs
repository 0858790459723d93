//! `puyu plan` beside QLoRA of InternLM2-1.8B: a checkpoint of that shape with random weights is written
//! (BF16, 3.8 GB in the temporary folder), and a process of its own tunes it for three steps, its
//! matrices frozen in NF4 with double quantization. Its peak resident memory, loading included, stands
//! beside the planned one. Exits with 1 if one is more than 10 % off.
//!
//! cargo bench --bench qlora_memory
//! PUYU_THREADS sets the threads (default 2).

use puyu::cli::memory;
use puyu::finetune::{FinetuneConfig, Method as Goal, prepare};
use puyu::plan::{Memory, Method, Setting};
use puyu::train::config::ConfigText;
use puyu::train::{TrainConfig, Trainer};
use puyu_benches::{number, output};
use puyu_models::format::{Source, hugging_face};
use puyu_models::{Config, build};
use puyu_nn::Weights;
use puyu_tensor::{DType, Error, Result, Spec, Tensor, cpu::pool};
use std::path::Path;
use std::process::{Command, ExitCode};

/// The shape, one of `puyu list-cfg`.
const SHAPE: &str = "internlm2-1_8b";
const RANK: usize = 16;

/// Tokens of the one row of a batch, and how many of the 24 layers are checkpointed.
const SETTINGS: [(usize, usize); 2] = [(256, 0), (512, 24)];

const CONFIG: &str = r#"
[model]
from = "MODEL"
checkpointed = CHECKPOINTED

[tokenizer]
path = "bytes"

[lora]
rank = RANK
base = "nf4_dq"

[data]
seq_len = LENGTH

[[data.source]]
path = "TEXT"

[train]
steps = 3
"#;

/// Names the config that a child process is to run.
const CHILD: &str = "PUYU_QLORA_CHILD";

/// Weights that are only a shape, to learn a model's names from.
struct Shapes;

impl Weights for Shapes {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
    fn get(&self, name: &str) -> Result<Tensor> {
        unreachable!("{name} was not among the names")
    }
    fn fresh(&self, _: &str, shape: &[usize]) -> Option<Tensor> {
        Some(Tensor::scalar(1.0).broadcast_to(shape))
    }
}

/// A checkpoint with random matrices, made when they are asked for.
struct Random(Vec<(String, Spec)>);

impl Source for Random {
    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
    fn spec(&self, name: &str) -> Option<Spec> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, spec)| *spec)
    }
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let at = self.0.iter().position(|(n, _)| n == name);
        let at = at.ok_or_else(|| Error::not_found(format!("no tensor {name}")))?;
        let spec = self.0[at].1;
        if spec.rank() < 2 {
            return Ok(Tensor::full(spec.shape, 1.0).to_dtype(spec.dtype));
        }
        let mut state = at as u32 + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.035
        };
        let values: Vec<f32> = (0..spec.numel()).map(|_| next()).collect();
        Ok(Tensor::new(&values, spec.shape).to_dtype(spec.dtype))
    }
}

/// Writes the checkpoint and gives its config.
fn write(folder: &Path) -> Result<Config> {
    let (shipped, _) = ConfigText::open(Path::new(SHAPE))?.parse::<TrainConfig>(&[])?;
    let json = shipped.model.fresh(1, shipped.data.seq_len)?;
    let config = Config::from_json(&json)?;
    let named = build(&config, &Shapes, None)?.params;
    let spec = |p: &puyu_nn::Param| Spec::new(p.get().spec().shape, DType::BF16);
    let random = Random(named.iter().map(|p| (p.name().to_owned(), spec(p))).collect());
    hugging_face::save(folder, &random, &json, None)?;
    Ok(config)
}

/// Tunes in this process, and prints its peak memory in bytes after loading and at the end.
fn tune(path: &Path) -> Result<()> {
    pool::set_threads(number("PUYU_THREADS", 2))?;
    let (config, _) = ConfigText::open(path)?.parse::<FinetuneConfig>(&[])?;
    let dir = path.with_extension("run");
    let prepared = prepare(&config, String::new(), &dir, &mut |_, _, _| true)?;
    let loaded = memory::peak().unwrap_or(0);
    let (mut trainer, _) = Trainer::new(prepared.parts)?;
    trainer.run(&|| false)?;
    println!("{loaded} {}", memory::peak().unwrap_or(0));
    Ok(())
}

fn main() -> ExitCode {
    if let Ok(child) = std::env::var(CHILD) {
        tune(Path::new(&child)).expect("three steps");
        return ExitCode::SUCCESS;
    }
    if memory::peak().is_none() {
        eprintln!("SKIPPED: only Linux tells a process its peak memory");
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let config = write(&at("model")).expect("the checkpoint is written");
    let text: String = (0..4000).map(|i| format!("{i} and {} are numbers.\n", i * 7)).collect();
    std::fs::write(at("text.txt"), text).expect("a temporary file");
    println!("QLoRA of {SHAPE} from BF16, rank {RANK}, matrices in nf4_dq, one row, three steps");
    println!(
        "| tokens | checkpointed | planned MB | loaded MB | measured MB | planned / measured |"
    );
    println!("|---|---|---|---|---|---|");
    let mut off = false;
    for (seq_len, checkpointed) in SETTINGS {
        let method = Method::qlora(RANK);
        let (goal, bf16, muon, batch) = (Goal::Sft, false, false, 1);
        let setting =
            Setting { method, goal, bf16, muon, batch, seq_len, checkpointed, ranks: 1, zero: 0 };
        let planned = Memory::of(&config, &setting);
        let text = CONFIG
            .replace("MODEL", &at("model").to_string_lossy())
            .replace("TEXT", &at("text.txt").to_string_lossy())
            .replace("RANK", &RANK.to_string())
            .replace("CHECKPOINTED", &checkpointed.to_string())
            .replace("LENGTH", &seq_len.to_string());
        let path = at(&format!("{seq_len}.toml"));
        std::fs::write(&path, text).expect("a temporary file");
        let me = std::env::current_exe().expect("this program");
        let printed = output(Command::new(me).env(CHILD, &path)).stdout;
        let printed = String::from_utf8_lossy(&printed);
        let peaks: Vec<f64> = printed.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [loaded, measured] = peaks[..] else { panic!("the child printed {printed:?}") };
        let ratio = planned.total() / measured;
        off |= !(0.9..=1.1).contains(&ratio);
        let [a, b, c] = [planned.total(), loaded, measured].map(|bytes| bytes / 1e6);
        println!("| {seq_len} | {checkpointed} | {a:.0} | {b:.0} | {c:.0} | {ratio:.3} |");
        if !(0.9..=1.1).contains(&ratio) {
            let rows = planned.rows().map(|(name, n)| format!("{name} {:.0}", n / 1e6));
            println!("planned, in MB: {}", rows.join(", "));
        }
    }
    ExitCode::from(u8::from(off))
}
