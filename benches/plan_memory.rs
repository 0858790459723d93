//! `puyu plan` beside real processes: each shape is trained for three steps by a process of its own,
//! whose peak resident memory stands beside the planned one. Exits with 1 if one is more than 10 % off.
//!
//! cargo bench --bench plan_memory [-- SHAPE...], by default those that take a few minutes.

use puyu::data::Batch;
use puyu::finetune::{Dpo, DpoLoss, Method as Goal, Orpo, Ranking, Reference, Reward};
use puyu::plan::{Memory, Method, Setting};
use puyu::train::{FirstWeights, Forward, Learner, NextToken, Objective};
use puyu_models::{Config, build};
use puyu_nn::{Compute, Curve, Optimizer, Schedule};
use puyu_tensor::{DType, ops};
use std::process::{Command, ExitCode};

/// A model and a batch.
struct Shape {
    name: &'static str,
    model_type: &'static str,
    /// Vocabulary, width, layers, heads, key heads, feed-forward width.
    sizes: [usize; 6],
    batch: usize,
    seq_len: usize,
    checkpointed: usize,
    compute: Compute,
    goal: Goal,
}

const fn shape(name: &'static str, sizes: [usize; 6], batch: usize, seq_len: usize) -> Shape {
    let (model_type, compute, goal) = ("llama", Compute::Exact, Goal::Sft);
    Shape { name, model_type, sizes, batch, seq_len, checkpointed: 0, compute, goal }
}

/// The last is left out unless it is named: it needs an hour and 16 GB.
const SHAPES: [Shape; 11] = [
    shape("0.9M", [256, 128, 4, 4, 4, 384], 12, 64),
    Shape { model_type: "internlm2", ..shape("6.5M", [8192, 256, 6, 8, 4, 704], 8, 256) },
    shape("15M", [32_000, 288, 6, 6, 6, 768], 8, 256),
    Shape { checkpointed: 6, ..shape("15M-checkpointed", [32_000, 288, 6, 6, 6, 768], 8, 256) },
    Shape { compute: Compute::Fast, ..shape("15M-bf16", [32_000, 288, 6, 6, 6, 768], 8, 256) },
    Shape { goal: Goal::Dpo, ..shape("15M-dpo", [32_000, 288, 6, 6, 6, 768], 4, 256) },
    Shape { goal: Goal::Orpo, ..shape("15M-orpo", [32_000, 288, 6, 6, 6, 768], 4, 256) },
    Shape {
        model_type: "internlm2",
        goal: Goal::Reward,
        ..shape("15M-reward", [32_000, 288, 6, 6, 6, 768], 4, 256)
    },
    Shape { goal: Goal::Dpo, ..shape("135M-dpo", [49_152, 576, 30, 9, 3, 1536], 1, 128) },
    shape("135M", [49_152, 576, 30, 9, 3, 1536], 1, 128),
    shape("135M-long", [49_152, 576, 30, 9, 3, 1536], 4, 512),
];

impl Shape {
    fn config(&self) -> Config {
        let [vocab, hidden, layers, heads, kv_heads, ffn] = self.sizes;
        let architecture = match self.goal {
            Goal::Reward => "InternLM2ForRewardModel",
            _ if self.model_type == "internlm2" => "InternLM2ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        let json = serde_json::json!({ "model_type": self.model_type, "vocab_size": vocab,
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": ffn, "bias": false,
            "tie_word_embeddings": vocab > 256, "architectures": [architecture] });
        Config::from_json(&json).expect("the shapes above are models")
    }

    fn setting(&self) -> Setting {
        let Self { batch, seq_len, checkpointed, goal, .. } = *self;
        let (method, muon, bf16) = (Method::Full, false, self.compute == Compute::Fast);
        Setting { method, goal, bf16, muon, batch, seq_len, checkpointed, ranks: 1, zero: 0 }
    }

    /// Trains three steps in this process, and prints its peak memory in bytes.
    fn train(&self) {
        let c = self.config();
        let first = FirstWeights { seed: 1, layers: c.layers, deviation: 0.02 };
        let begin = || build(&c, &first, Some(DType::F32)).expect("a new model");
        let loaded = begin();
        let op = ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let optimizer = Optimizer::new(op, loaded.params).expect("f32 parameters");
        let objective: Box<dyn Objective> = match self.goal {
            Goal::Sft => Box::new(NextToken),
            Goal::Orpo => Box::new(Orpo { lambda: 0.1 }),
            Goal::Reward => Box::new(Reward { ranking: Ranking::Focal, penalty: 0.0 }),
            Goal::Dpo => {
                let reference = Reference::Frozen(Forward::new(begin().model));
                Box::new(Dpo { beta: 0.1, loss: DpoLoss::Sigmoid, label_smoothing: 0.0, reference })
            }
        };
        let (peak, floor, steps) = (1e-4, 1e-5, 3);
        let mut learner = Learner {
            forward: Forward {
                checkpointed: self.checkpointed,
                compute: self.compute,
                ..Forward::new(loaded.model)
            },
            objective,
            optimizer,
            schedule: Schedule { curve: Curve::Constant, peak, floor, warmup: 0, steps, decay: 0 },
            clip: 1.0,
        };
        let mut batch = Batch::default();
        for row in 0..self.setting().tokens() / self.seq_len {
            let id = |i: usize| ((7 * i + 13 * row) % c.vocab_size) as u32;
            let ids: Vec<u32> = (0..=self.seq_len).map(id).collect();
            batch.push(&ids[..self.seq_len], &ids[1..]);
        }
        for step in 0..steps {
            learner.step(step, std::slice::from_ref(&batch)).expect("a step");
        }
        println!("{}", peak_memory().expect("this bench needs Linux"));
    }

    /// Trains in a process of its own, and gives its peak memory in bytes.
    fn measure(&self) -> f64 {
        let me = std::env::current_exe().expect("this program");
        let out = Command::new(me).env(CHILD, self.name).output().expect("this program runs");
        assert!(out.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().parse().expect("the child prints its peak")
    }
}

/// Names the shape that a child process is to train.
const CHILD: &str = "PUYU_PLAN_CHILD";

/// Peak resident memory of this process in bytes (Linux).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let Ok(child) = std::env::var(CHILD) {
        SHAPES.iter().filter(|s| s.name == child).for_each(Shape::train);
        return ExitCode::SUCCESS;
    }
    let taken = |s: &&Shape| match wanted.is_empty() {
        true => s.name != "135M-long",
        false => wanted.iter().any(|w| w == s.name),
    };
    println!("| shape | rows x tokens | planned MB | measured MB | planned / measured |");
    println!("|---|---|---|---|---|");
    let mut off = false;
    for shape in SHAPES.iter().filter(taken) {
        let planned = Memory::of(&shape.config(), &shape.setting()).total();
        let measured = shape.measure();
        let ratio = planned / measured;
        off |= !(0.9..=1.1).contains(&ratio);
        let (rows, tokens, mb) = (shape.batch, shape.seq_len, 1e6);
        let (a, b) = (planned / mb, measured / mb);
        println!("| {} | {rows} x {tokens} | {a:.0} | {b:.0} | {ratio:.3} |", shape.name);
    }
    ExitCode::from(u8::from(off))
}
