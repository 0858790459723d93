//! `puyu finetune` from config to checkpoint: what moves and what is frozen, what a checkpoint holds,
//! resuming, and what is refused; and the real model (`PUYU_SMOLLM2`).

use puyu::data::Batch;
use puyu::engine::{Engine, LoadOptions};
use puyu::finetune::{FinetuneConfig, prepare};
use puyu::train::{Ended, Parts, Trainer};
use puyu_models::format::{self, OpenOptions};
use puyu_tensor::{DType, Result};
use puyu_tests::{fixtures, shared, smollm2};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SHARED: &str = r#"
[data]
seq_len = 64
[[data.source]]
path = "DATA"
[optimizer]
lr = 1e-2
weight_decay = 0.0
[train]
steps = 6
batch = 2
order = "sequential"
[checkpoint]
every = 3
"#;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let say = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
        let chat = |i: usize| {
            let messages = [say("user", &format!("{i}?")), say("assistant", "yes")];
            format!("{{\"messages\":[{}]}}\n", messages.join(","))
        };
        let pair = |i: usize| {
            let prompt = say("user", &format!("{i}?"));
            let (yes, no) = (say("assistant", "yes"), say("assistant", "no"));
            format!("{{\"prompt\":[{prompt}],\"chosen\":[{yes}],\"rejected\":[{no}]}}\n")
        };
        std::fs::write(folder.path().join("chat.jsonl"), (0..4).map(chat).collect::<String>())
            .unwrap();
        std::fs::write(folder.path().join("pairs.jsonl"), (0..4).map(pair).collect::<String>())
            .unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn parts(&self, dir: &str, model: &str, data: &str, more: &str) -> Result<Parts> {
        let shown = |path: PathBuf| path.to_str().unwrap().replace('\\', "/");
        let shared = SHARED.replace("DATA", &shown(self.path(data)));
        let model = shown(fixtures().join(model));
        let tokenizer = shown(fixtures().join("internlm2"));
        let text = format!(
            "model = {{ from = \"{model}\", checkpointed = 1 }}
tokenizer = {{ path = \"{tokenizer}\" }}\n{more}{shared}"
        );
        let config: FinetuneConfig = toml(&text);
        let prepared = prepare(&config, text, &self.path(dir), &mut |_, _, _| true)?;
        let mut parts = prepared.parts;
        parts.about.progress = false;
        Ok(parts)
    }

    /// Runs to the end; gives the loss of the first rows before and after.
    fn run(&self, dir: &str, model: &str, data: &str, more: &str) -> (f64, f64) {
        run(self.parts(dir, model, data, more).unwrap())
    }

    fn refused(&self, model: &str, data: &str, more: &str) -> String {
        match self.parts("refused", model, data, more) {
            Ok(_) => panic!("{more} was taken"),
            Err(e) => e.to_string(),
        }
    }
}

fn toml(text: &str) -> FinetuneConfig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let text = puyu::train::config::ConfigText::open(&path).unwrap();
    text.parse(&[]).unwrap_or_else(|e| panic!("{e}")).0
}

fn run(parts: Parts) -> (f64, f64) {
    let mut rows = Batch::default();
    rows.extend(&parts.data.row(0).unwrap());
    let before = parts.learner.evaluate(std::slice::from_ref(&rows)).unwrap().0;
    let (mut trainer, _) = Trainer::new(parts).unwrap();
    assert_eq!(trainer.run(&|| false).unwrap(), Ended::Finished);
    (before, trainer.learner().evaluate(&[rows]).unwrap().0)
}

fn names(folder: &Path) -> Vec<String> {
    let name =
        |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

const ADAPTER: &str = "adapter_model.safetensors";

#[test]
fn an_adapter_run_trains_saves_and_resumes_the_adapter_alone() {
    let place = Place::new();
    for (model, lora, lower) in [
        ("internlm2", "[lora]\nrank = 4\ntargets = [\"wqkv\", \"w2\"]\n", 0.5),
        ("internlm2", "[lora]\nrank = 4\nmodules_to_save = [\"output\", \"norm\"]\n", 0.5),
        ("internlm2", "[lora]\nrank = 4\ndropout = 0.2\n", 0.5),
        ("llama_tied", "[lora]\nrank = 4\nbase = \"q8_0\"\n", 0.5),
        ("llama_tied", "[lora]\nrank = 4\nrslora = true\nbase = \"stored\"\n", 0.5),
    ] {
        let dir = tempfile::tempdir_in(place.0.path()).unwrap();
        let dir = dir.path().file_name().unwrap().to_str().unwrap();
        let (before, after) = place.run(dir, model, "chat.jsonl", lora);
        assert!(after < before - lower, "{model} {lora}: {before} to {after}");
        let saved = ["adapter_config.json", ADAPTER, "optimizer.safetensors", "trainer.json"];
        assert_eq!(names(&place.path(dir).join("step-000006")), saved);
        let whole = std::fs::read(place.path(dir).join("step-000006").join(ADAPTER)).unwrap();

        let mut parts = place.parts("resumed", model, "chat.jsonl", lora).unwrap();
        parts.checkpoint.resume = place.path(dir).join("step-000003").to_str().unwrap().into();
        run(parts);
        let resumed =
            std::fs::read(place.path("resumed").join("step-000006").join(ADAPTER)).unwrap();
        assert!(resumed == whole, "{model} {lora}: resumed, the adapter is another");
        std::fs::remove_dir_all(place.path("resumed")).unwrap();
    }
}

/// What is dropped is the same when a layer is run again in the backward pass, and nothing is in validation.
#[test]
fn an_adapter_drops_of_its_input_in_training_alone() {
    let place = Place::new();
    let dropping = "[lora]\nrank = 4\ndropout = 0.5\n";
    let [kept, again, whole] =
        [("kept", 0, dropping), ("again", 2, dropping), ("whole", 0, "[lora]\nrank = 4\n")].map(
            |(dir, checkpointed, lora)| {
                let mut parts = place.parts(dir, "internlm2", "chat.jsonl", lora).unwrap();
                parts.learner.forward.checkpointed = checkpointed;
                let losses = run(parts);
                let folder = place.path(dir).join("step-000006");
                let json = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
                assert_eq!(json.contains("\"lora_dropout\": 0.5"), lora == dropping, "{json}");
                (losses.0, std::fs::read(folder.join(ADAPTER)).unwrap())
            },
        );
    assert!(kept == again, "a checkpointed layer dropped something else");
    assert!(kept.1 != whole.1, "nothing was dropped");
    assert_eq!(kept.0, whole.0);
}

#[test]
fn a_frozen_base_is_held_as_the_config_says_and_only_the_adapter_moves() {
    let place = Place::new();
    let lora = "[lora]\nrank = 2\ntargets = [\"q_proj\"]\nbase = \"q4_0\"\n";
    let parts = place.parts("dir", "llama_tied", "chat.jsonl", lora).unwrap();
    let names: Vec<_> = parts.learner.optimizer.params().map(|p| p.name().to_owned()).collect();
    assert_eq!(names.len(), 6);
    assert!(names.iter().all(|n| n.contains("q_proj.lora_")), "{names:?}");
    let head = parts.learner.forward.model.output().weight().get();
    assert!(head.dtype() == DType::Q4_0 && !head.requires_grad());
    assert_eq!(parts.learner.optimizer.numel(), 3 * 2 * (64 + 64));
}

#[test]
fn chosen_parameters_move_and_the_others_stay() {
    let place = Place::new();
    let more = "[finetune]\nparameters = [\"model.layers.2.*\", \"output.weight\"]\n";
    let (before, after) = place.run("dir", "internlm2", "chat.jsonl", more);
    assert!(after < before - 0.5, "{before} to {after}");
    let open = |path: &Path| format::open(path, OpenOptions::default()).unwrap();
    let old = open(&fixtures().join("internlm2"));
    let new = open(&place.path("dir").join("step-000006"));
    for name in old.source().names() {
        let [a, b] =
            [&old, &new].map(|c| c.source().tensor(name).unwrap().to_vec::<f32>().unwrap());
        let moves = name.starts_with("model.layers.2.") || name == "output.weight";
        assert_eq!(a != b, moves, "{name}");
    }
}

#[test]
fn preference_methods_lower_their_losses() {
    let place = Place::new();
    let lora = "[lora]\nrank = 4\n";
    for (i, (model, more)) in [
        ("internlm2", format!("[finetune]\nmethod = \"dpo\"\n{lora}")),
        ("internlm2", "[finetune]\nmethod = \"dpo\"\nloss = \"ipo\"\n".into()),
        ("internlm2", format!("[finetune]\nmethod = \"dpo\"\nloss = \"nca_pair\"\n{lora}")),
        ("internlm2", format!("[finetune]\nmethod = \"dpo\"\nlabel_smoothing = 0.1\n{lora}")),
        ("llama_tied", format!("[finetune]\nmethod = \"orpo\"\n{lora}")),
        ("internlm2_reward", "[finetune]\nmethod = \"reward\"\nranking = \"logistic\"\n".into()),
        ("internlm2", "[finetune]\nmethod = \"reward\"\n".into()),
        ("internlm2", format!("[finetune]\nmethod = \"reward\"\n{lora}base = \"nf4_dq\"\n")),
    ]
    .iter()
    .enumerate()
    {
        let (before, after) = place.run(&format!("dir{i}"), model, "pairs.jsonl", more);
        assert!(after < before, "{more}: {before} to {after}");
        if i == 0 {
            assert!((before - 2f64.ln()).abs() < 1e-5, "the first DPO loss is {before}, not ln 2");
        }
    }
}

#[test]
fn a_language_model_becomes_a_reward_model() {
    let place = Place::new();
    let reward = "[finetune]\nmethod = \"reward\"\n";
    place.run("dir", "internlm2", "pairs.jsonl", reward);
    let saved = format::open(&place.path("dir").join("step-000006"), OpenOptions::default());
    let saved = saved.unwrap();
    assert_eq!(saved.config().unwrap()["architectures"][0], "InternLM2ForRewardModel");
    let names = saved.source().names();
    assert!(names.contains(&"v_head.weight") && !names.contains(&"output.weight"), "{names:?}");
    let loaded =
        puyu_models::load(&place.path("dir").join("step-000006"), OpenOptions::default(), None);
    assert_eq!(loaded.unwrap().model.output().weight().get().shape(), [1, 64]);

    let llama = place.refused("llama_tied", "pairs.jsonl", reward);
    assert!(llama.contains("model_type `llama`"), "{llama}");
}

/// Beside an adapter the new head is a module of the adapter, and the merge is a reward model.
#[test]
fn an_adapter_makes_a_reward_model() {
    let place = Place::new();
    let more = "[finetune]\nmethod = \"reward\"\n[lora]\nrank = 2\n";
    place.run("dir", "internlm2", "pairs.jsonl", more);
    let adapter = place.path("dir").join("step-000006");
    let config = std::fs::read(adapter.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["modules_to_save"], serde_json::json!(["v_head"]));
    assert!(!config["target_modules"].to_string().contains("v_head"), "{config}");
    assert_eq!(config["task_type"], "FEATURE_EXTRACTION");

    let base = fixtures().join("internlm2");
    let open = |path: &Path| format::open(path, OpenOptions::default()).unwrap();
    let out = place.path("merged");
    format::convert::merge(&open(&base), &adapter, &out, None).unwrap();
    let merged = open(&out);
    assert_eq!(merged.config().unwrap()["architectures"][0], "InternLM2ForRewardModel");
    let trained = open(&adapter.join(ADAPTER));
    let head = |c: &format::Checkpoint, name: &str| {
        c.source().tensor(name).unwrap().to_vec::<f32>().unwrap()
    };
    let there = head(&trained, "base_model.model.v_head.weight");
    assert_eq!(head(&merged, "v_head.weight"), there);
    assert!(there.len() == 64 && there.iter().any(|x| *x != 0.0));
    assert!(!merged.source().names().contains(&"output.weight"));
    let loaded = puyu_models::load(&out, OpenOptions::default(), None).unwrap();
    assert_eq!(loaded.model.output().weight().get().shape(), [1, 64]);

    let gguf = format::convert::merge(&open(&base), &adapter, &place.path("m.gguf"), None);
    assert!(gguf.unwrap_err().to_string().contains("reward model"));
    let silent = |path: &Path, adapter| {
        let engine = Engine::open_adapted(path, adapter, LoadOptions::default(), &|_, _| ());
        engine.err().unwrap().to_string()
    };
    for error in [silent(&base, Some(&adapter)), silent(&out, None)] {
        assert!(error.contains("is of a reward model, which gives a score"), "{error}");
    }
}

#[test]
fn contradictions_are_refused_by_name() {
    let place = Place::new();
    for (data, more, wanted) in [
        ("chat.jsonl", "[lora]\n[finetune]\nparameters = [\"*\"]\n", "finetune.parameters"),
        ("chat.jsonl", "[finetune]\nparameters = [\"model.layers.9.*\"]\n", "model.layers.9.*"),
        ("chat.jsonl", "[finetune]\nmethod = \"dpo\"\n", "preference pairs"),
        ("pairs.jsonl", "", "finetune.method is sft"),
        ("chat.jsonl", "[lora]\ntargets = [\"wqkv\", \"q_proj\"]\n", "q_proj"),
        ("chat.jsonl", "[lora]\ntargets = [\"output\"]\n", "head"),
        ("chat.jsonl", "[lora]\nmodules_to_save = [\"lm_head\"]\n", "names `lm_head`"),
        (
            "pairs.jsonl",
            "[lora]\nmodules_to_save = [\"output\"]\n[finetune]\nmethod = \"dpo\"\n",
            "lora.modules_to_save and dpo",
        ),
        ("chat.jsonl", "[lora]\nbase = \"int3\"\n", "lora.base"),
        ("chat.jsonl", "[lora]\nbase = \"q4_k\"\n", "q4_k"),
        ("chat.jsonl", "[lora]\nrank = 0\n", "lora.rank"),
        ("chat.jsonl", "[lora]\nalpha = -1\n", "lora.alpha"),
        ("chat.jsonl", "[lora]\ndropout = 1.0\n", "lora.dropout is 1, expected 0 to less than 1"),
        ("chat.jsonl", "[finetune]\nbeta = 0.0\n", "beta"),
        ("pairs.jsonl", "[finetune]\nlabel_smoothing = 0.5\n", "label_smoothing is 0.5"),
    ] {
        let error = place.refused("internlm2", data, more);
        assert!(error.contains(wanted), "{more}: {error}");
    }
}

/// Tunes the real model for `steps` steps of 1 x 128 tokens, row after row of the first `rows`; gives the
/// mean losses of the first and of the last time that it sees them.
fn real(steps: usize, rows: usize, more: &str) -> Option<(f64, f64)> {
    let (model, data) = (smollm2()?, shared("data/train/sft")?);
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (model.display(), data.display());
    let text = format!(
        "model = {{ from = \"{model}\" }}\n{more}
[data]\nseq_len = 128\n[[data.source]]\npath = \"{data}/self_instruct_human_alpaca.json\"
[schedule]\ncurve = \"constant\"\nwarmup = 0
[train]\nsteps = {steps}\n[checkpoint]\nevery = 0\n"
    );
    let prepared = prepare(&toml(&text), text, folder.path(), &mut |_, _, _| true).unwrap();
    let mut parts = prepared.parts;
    let rows: Vec<Batch> = (0..rows).map(|i| parts.data.row(i).unwrap()).collect();
    let step = |step| {
        let row = &rows[step % rows.len()..][..1];
        parts.learner.step(step as u64, row).unwrap().loss / rows.len() as f64
    };
    let losses: Vec<f64> = (0..steps).map(step).collect();
    let [first, last] = [0, steps - rows.len()].map(|at| losses[at..at + rows.len()].iter().sum());
    Some((first, last))
}

const REAL: [&str; 3] = [
    "[optimizer]\nlr = 5e-4\n[lora]\nrank = 8\n",
    "[optimizer]\nlr = 5e-4\n[lora]\nrank = 8\nbase = \"nf4_dq\"\n",
    "[optimizer]\nlr = 2e-5\n",
];

#[test]
fn the_real_model_learns_a_row_by_lora_qlora_and_in_full() {
    for more in REAL {
        let Some((first, last)) = real(3, 1, more) else { return };
        eprintln!("{more}: {first:.3} to {last:.3}");
        assert!(last < first, "{more}: {first} to {last}");
    }
}

#[test]
#[ignore = "three to five minutes: fifty steps three times"]
fn the_real_model_learns_in_fifty_steps() {
    for more in REAL {
        let Some((first, last)) = real(50, 5, more) else { return };
        eprintln!("{more}: {first:.3} to {last:.3}");
        assert!(last < first, "{more}: {first} to {last}");
    }
}
