//! `puyu train` as a user runs it: the same bits on any number of threads, and after any kill; what is
//! refused, and how; runs that go bad, and disks that are full.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A model that takes milliseconds a step, on the bytes of a small text.
const CONFIG: &str = r#"
[model]
model_type = "internlm2"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
intermediate_size = 64
checkpointed = 1

[tokenizer]
path = "bytes"

[data]
seq_len = 32

[[data.source]]
path = "TEXT"

[data.valid]
[[data.valid.source]]
path = "TEXT"

[optimizer]
lr = 3e-3

[train]
steps = 40
batch = 2
accumulate = 2
seed = 7

[checkpoint]
every = 4
keep = 2

[valid]
every = 20
rows = 4

[sample]
every = 20
prompts = ["the "]
tokens = 8
"#;

struct Place(tempfile::TempDir);

impl Place {
    /// A folder with a text and a config.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line =
            |i: usize| format!("{i} the quick brown fox jumps over {} lazy dogs\n", i * 7 % 13);
        let text: String = (0..120).map(line).collect();
        std::fs::write(folder.path().join("text.txt"), text).unwrap();
        let place = Self(folder);
        place.config(|c| c);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes config.toml, changed.
    fn config(&self, change: impl Fn(String) -> String) {
        let text = self.path("text.txt");
        let config = CONFIG.replace("TEXT", &text.to_str().unwrap().replace('\\', "/"));
        std::fs::write(self.path("config.toml"), change(config)).unwrap();
    }

    fn command(&self, dir: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_puyu"));
        command.arg("train").arg(self.path("config.toml")).arg("--work-dir").arg(self.path(dir));
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn train(&self, dir: &str, more: &[&str]) -> Output {
        self.command(dir, more).output().expect("puyu starts")
    }

    fn ok(&self, dir: &str, more: &[&str]) -> String {
        let out = self.train(dir, more);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{more:?}: {stderr}");
        assert!(out.stdout.is_empty(), "something on standard output");
        stderr
    }

    /// Standard error of a run that fails with `code`: one error, no panic.
    fn fails(&self, code: i32, dir: &str, more: &[&str]) -> String {
        let out = self.train(dir, more);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{more:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }

    /// The error of a config that was changed.
    fn refused(&self, change: impl Fn(String) -> String) -> String {
        self.config(change);
        let stderr = self.fails(1, "refused", &[]);
        self.config(|c| c);
        let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{stderr}");
        errors[0].to_owned()
    }

    fn steps(&self, dir: &str) -> Vec<u64> {
        let Ok(entries) = std::fs::read_dir(self.path(dir)) else { return Vec::new() };
        let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name();
        let step = |n: std::ffi::OsString| n.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = entries.map(name).filter_map(step).collect();
        steps.sort_unstable();
        steps
    }

    /// Waits until the run has written a checkpoint of `step` or later.
    fn wait_for(&self, dir: &str, step: u64) {
        let began = Instant::now();
        while self.steps(dir).last().is_none_or(|last| *last < step) {
            assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint of step {step}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The bytes of every file of a checkpoint, by name.
fn bits(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    let entries =
        std::fs::read_dir(checkpoint).unwrap_or_else(|e| panic!("{}: {e}", checkpoint.display()));
    let mut files: Vec<_> = entries
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(p).unwrap()))
        .collect();
    files.sort();
    files
}

/// Losses by step, as the journal has them.
fn losses(dir: &Path) -> Vec<(u64, Value)> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let steps = records.filter(|r| r["kind"] == "step");
    steps.map(|r| (r["step"].as_u64().unwrap(), r["loss"].clone())).collect()
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let (a, b) = (bits(a), bits(b));
    let names = |x: &[(String, Vec<u8>)]| x.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{name} differs");
    }
}

#[test]
fn the_same_run_on_one_and_two_threads_ends_with_the_same_bits() {
    let place = Place::new();
    let said = place.ok("one", &["-t", "1"]);
    assert!(said.contains("parameters") && said.contains("work") || said.contains("one"), "{said}");
    place.ok("two", &["-t", "2"]);
    same(&place.path("one/step-000040"), &place.path("two/step-000040"));
    assert_eq!(place.steps("one"), [36, 40], "the newest two are kept");
    let losses = losses(&place.path("one"));
    assert_eq!(losses.len(), 40);
    let loss = |i: usize| losses[i].1.as_f64().unwrap();
    assert!(loss(39) < 0.9 * loss(0), "from {} to {}", loss(0), loss(39));
    let journal = std::fs::read_to_string(place.path("one/metrics.jsonl")).unwrap();
    let kinds = |kind: &str| journal.matches(&format!("\"kind\":\"{kind}\"")).count();
    assert_eq!((kinds("valid"), kinds("sample")), (2, 2), "{journal}");
    // Another seed is another run.
    place.ok("other", &["--cfg-options", "train.seed=8"]);
    assert!(bits(&place.path("one/step-000040")) != bits(&place.path("other/step-000040")));
}

#[test]
fn bf16_runs_go_on_from_their_f32_masters() {
    let place = Place::new();
    let bf16 = ["--cfg-options", "model.dtype=bf16", "checkpoint.keep=0"];
    place.ok("whole", &bf16);
    let middle = place.path("whole/step-000020");
    place.ok("again", &[&bf16[..], &["--resume", middle.to_str().unwrap()]].concat());
    same(&place.path("whole/step-000040"), &place.path("again/step-000040"));
    assert_eq!(losses(&place.path("again")).len(), 20);
    let config = std::fs::read_to_string(middle.join("config.json")).unwrap();
    assert!(config.contains("bfloat16"), "{config}");
    let size = |file: &str| std::fs::metadata(middle.join(file)).unwrap().len();
    assert!(size("model.safetensors") * 5 < size("optimizer.safetensors"));
}

#[test]
fn muon_runs_alike_on_any_threads_and_goes_on_but_not_from_another_optimizer_s_state() {
    let place = Place::new();
    for dtype in ["f32", "bf16"] {
        let dtype_is = format!("model.dtype={dtype}");
        let muon = ["--cfg-options", "optimizer.name=muon", "checkpoint.keep=0", &dtype_is];
        let [one, two, again] = ["one", "two", "again"].map(|name| format!("{name}-{dtype}"));
        place.ok(&one, &[&muon[..], &["-t", "1"]].concat());
        place.ok(&two, &[&muon[..], &["-t", "2"]].concat());
        let end = place.path(&one).join("step-000040");
        same(&end, &place.path(&two).join("step-000040"));
        let middle = place.path(&one).join("step-000020");
        place.ok(&again, &[&muon[..], &["--resume", middle.to_str().unwrap()]].concat());
        same(&end, &place.path(&again).join("step-000040"));
    }
    place.ok("plain", &[]);
    let last = |dir: &str| losses(&place.path(dir)).pop().unwrap();
    assert_ne!(last("one-f32"), last("plain"), "the optimizer's name changed nothing");
    let middle = place.path("one-f32/step-000020");
    let said = place.fails(1, "other", &["--resume", middle.to_str().unwrap()]);
    assert!(said.contains("another optimizer.name trained it"), "{said}");
    let said = place.fails(1, "bad", &["--cfg-options", "optimizer.momentum=0.9"]);
    assert!(said.contains("only the optimizer `muon` has one"), "{said}");
    let said = place.fails(1, "bad", &["--cfg-options", "optimizer.name=lion"]);
    assert!(said.contains("lion") && said.contains("muon"), "{said}");
}

/// Kills the run when it has reached some checkpoint and a little time has gone by.
fn kill(place: &Place, dir: &str, child: &mut Child, step: u64, later: Duration) {
    place.wait_for(dir, step);
    std::thread::sleep(later);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_killed_at_any_moment_and_resumed_ends_with_the_same_bits() {
    let place = Place::new();
    place.ok("whole", &[]);
    for (i, step) in [4, 12, 24].into_iter().enumerate() {
        let mut child = place.command("killed", &["--resume", "auto"]).spawn().unwrap();
        // Moments that no clock repeats: in a step, in a write, in a rename.
        let later =
            Duration::from_micros(std::process::id() as u64 * 7919 % 9000 + 3000 * i as u64);
        kill(&place, "killed", &mut child, step, later);
    }
    let said = place.ok("killed", &["--resume"]);
    assert!(said.contains("resumed from"), "{said}");
    same(&place.path("whole/step-000040"), &place.path("killed/step-000040"));
    // The journal shows each step once, with the same loss.
    assert_eq!(losses(&place.path("whole")), losses(&place.path("killed")));
    let left = std::fs::read_dir(place.path("killed")).unwrap();
    let hidden =
        left.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".step"));
    assert_eq!(hidden.count(), 0, "half a checkpoint was left");
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_finish_the_step_and_save() {
    let place = Place::new();
    place.ok("whole", &[]);
    let endless = ["--cfg-options", "train.steps=40", "checkpoint.every=4", "--resume"];
    for signal in ["INT", "TERM"] {
        let dir = signal.to_lowercase();
        let child = place.command(&dir, &endless).spawn().unwrap();
        place.wait_for(&dir, 4);
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        // A run that was already in its last step is done.
        if out.status.code() == Some(130) {
            assert!(said.contains("stopped and saved"), "{said}");
        } else {
            assert!(out.status.success(), "{said}");
        }
        place.ok(&dir, &endless);
        same(&place.path("whole/step-000040"), &place.path(&dir).join("step-000040"));
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_the_run_ends_with_the_same_bits() {
    let place = Place::new();
    place.ok("run", &[]);
    let last = place.path("run/step-000040");
    let wanted = bits(&last);
    let file = last.join("optimizer.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let said = place.ok("run", &["--resume"]);
    assert!(said.contains("warning") && said.contains("optimizer.safetensors"), "{said}");
    assert!(said.contains("at step 36"), "{said}");
    assert!(bits(&last) == wanted, "the bits differ");
    // A run is not begun over another one.
    let error = place.fails(1, "run", &[]);
    assert!(error.contains("--resume") && error.contains("step 40"), "{error}");
    // Nor resumed with other data, or another model.
    std::fs::write(place.path("text.txt"), "another text, much shorter. ".repeat(9)).unwrap();
    let error = place.fails(1, "run", &["--resume"]);
    assert!(error.contains("the data has changed"), "{error}");
}

/// A limit on the size of files is a disk that is full at that size.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_that_leaves_the_last_checkpoint_whole() {
    let place = Place::new();
    let few = ["--cfg-options", "train.steps=8", "schedule.warmup=0"];
    place.ok("run", &few);
    let wanted = bits(&place.path("run/step-000008"));
    let command = place.command("run", &["--resume"]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|w| format!("'{}'", w.to_str().unwrap()))
        .collect();
    // Blocks of 512 bytes: more than the journal needs, less than the optimizer's file.
    let script = format!("trap '' XFSZ; ulimit -f 400; exec {}", words.join(" "));
    let out = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the checkpoint") && said.contains("whole"), "{said}");
    assert_eq!(place.steps("run"), [4, 8]);
    assert!(bits(&place.path("run/step-000008")) == wanted, "the last checkpoint changed");
    place.ok("run", &["--resume"]);
    assert_eq!(place.steps("run"), [36, 40]);
}

#[test]
fn a_run_that_goes_bad_stops_and_names_the_tensor() {
    let place = Place::new();
    let wild = [
        "optimizer.lr=90",
        "optimizer.clip=0",
        "optimizer.beta2=0.0",
        "optimizer.weight_decay=0",
        "schedule.warmup=0",
        "schedule.curve=constant",
        "train.steps=400",
        "train.max_skipped=3",
        "valid.every=0",
        "sample.every=0",
        "checkpoint.every=0",
    ];
    let mut options = vec!["--cfg-options"];
    options.extend(wild);
    // Weights of 1e30 overflow on the first step.
    place.ok("seed", &["--cfg-options", "train.steps=1", "schedule.warmup=0"]);
    let model = place.path("seed/step-000001/model.safetensors");
    let mut bytes = std::fs::read(&model).unwrap();
    let tail = bytes.len() - 4;
    bytes[tail..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&model, bytes).unwrap();
    let from = place.path("seed/step-000001");
    place.config(|c| {
        let shape = c.find("[tokenizer]").unwrap();
        format!("[model]\nfrom = \"{}\"\n\n{}", from.display(), &c[shape..])
    });
    let error = place.fails(1, "bad", &options);
    assert!(error.contains("3 times in a row") && error.contains("the weight "), "{error}");
    let journal = std::fs::read_to_string(place.path("bad/metrics.jsonl")).unwrap();
    assert_eq!(journal.matches("\"skipped\":true").count(), 3, "{journal}");
}

/// `epochs` says how long a run is where `steps` does not: the curve ends there too.
#[test]
fn a_run_goes_over_the_data_as_often_as_it_is_told() {
    let place = Place::new();
    place.config(|c| c.replacen("steps = 40", "epochs = 0.1", 1));
    let said = place.ok("run", &[]);
    let line = said.lines().find(|l| l.contains(" epochs of ")).unwrap_or_else(|| panic!("{said}"));
    let number = |word: usize| line.split(' ').nth(word).unwrap().parse::<f64>().unwrap();
    let (steps, rows) = (number(0), number(8));
    assert_eq!(steps, (0.1 * rows / 4.0).ceil(), "{line}");
    let losses = losses(&place.path("run"));
    assert!(losses.len() as f64 == steps && steps > 1.0, "{line}");
    assert_eq!(place.steps("run").last(), Some(&(steps as u64)));
    let few = ["--cfg-options", "train.steps=1", "schedule.warmup=0"];
    assert!(place.ok("few", &few).contains("1 steps of 4 rows"));
}

#[test]
fn configs_that_are_wrong_are_refused_in_one_sentence() {
    let place = Place::new();
    let swap = |from: &'static str, to: &'static str| {
        move |c: String| {
            assert!(c.contains(from), "{from}");
            c.replacen(from, to, 1)
        }
    };
    for (from, to, wanted) in [
        ("steps = 40", "stesp = 40", "did you mean `steps`"),
        ("[optimizer]", "[optimiser]", "did you mean `optimizer`"),
        ("steps = 40", "steps = \"many\"", "config.toml:"),
        ("steps = 40", "steps = 0", "train.steps is 0"),
        ("steps = 40", "batches = 40", "unknown field `batches`"),
        ("lr = 3e-3", "lr = -1", "optimizer.lr is -1"),
        ("hidden_size = 32", "", "model.hidden_size is missing"),
        ("model_type = \"internlm2\"", "model_type = \"mamba\"", "mamba"),
        ("hidden_size = 32", "hidden_size = 33", "hidden_size 33"),
        ("hidden_size = 32", "hidden_size = 32\nfrom = \"x\"", "contradict"),
        ("hidden_size = 32", "hidden_size = 32\nvocab_size = 100", "vocab_size is 100"),
        ("hidden_size = 32", "hidden_size = 32\nmax_position_embeddings = 16", "seq_len is 32"),
        ("checkpointed = 1", "checkpointed = 1.5", "share from 0.0 to 1.0"),
        ("path = \"bytes\"", "path = \"/no/such/model\"", "/no/such/model"),
        ("path = \"bytes\"", "", "tokenizer.path is missing"),
        ("seed = 7", "seed = 7\n[schedule]\nwarmup = 50", "the run has 40"),
        ("[optimizer]", "[schedule]\nwarmup = 5000\n[optimizer]", "the run has 40"),
        ("steps = 40", "epochs = 0.0", "train.epochs is 0"),
        ("steps = 40", "", "give `steps`, or `epochs`"),
        ("seed = 7", "seed = 7\n[schedule]\ndecay = 5", "wsd"),
        ("seed = 7", "seed = 7\n[schedule]\ncurve = \"cosin\"", "did you mean `cosine`"),
        ("[train]", "[train", "config.toml:"),
        ("[train]", "[lora]\nrank = 4\n[train]", "is a section of configs for `puyu finetune`"),
    ] {
        let error = place.refused(swap(from, to));
        assert!(error.contains(wanted), "{to:?}: {error}");
    }
    for (option, wanted) in [
        ("train.stepps=3", "did you mean `steps`"),
        ("train.steps=x", "steps"),
        ("train.steps.deeper=1", "is no section"),
        ("data.source.3.path=x", "is no section"),
    ] {
        let error = place.fails(1, "refused", &["--cfg-options", option]);
        assert!(error.contains(wanted), "{option}: {error}");
    }
    let error = place.fails(2, "refused", &["--cfg-options", "steps"]);
    assert!(error.contains("KEY=VALUE"), "{error}");
    assert_eq!(place.steps("refused"), [0u64; 0]);
}

#[test]
fn foreign_configs_are_told_what_to_do() {
    let place = Place::new();
    for (name, wanted) in [
        ("internlm2_7b_qlora.py", "write the same fields as TOML"),
        ("train.parquet", "export it as JSONL"),
        ("missing.toml", "cannot read the config"),
    ] {
        if name != "missing.toml" {
            std::fs::write(place.path(name), "x = 1").unwrap();
        }
        let out = Command::new(env!("CARGO_BIN_EXE_puyu"))
            .args(["train", place.path(name).to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn a_checkpoint_is_a_model_to_generate_with_and_to_go_on_from() {
    let place = Place::new();
    place.ok("first", &[]);
    let model = place.path("first/step-000040");
    let out = Command::new(env!("CARGO_BIN_EXE_puyu"))
        .args(["generate", "-m", model.to_str().unwrap(), "-p", "the ", "-n", "8", "--temp", "0"])
        .args(["-c", "32"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("the "));
    place.config(|c| {
        let shape = c.find("[tokenizer]").unwrap();
        let rest = c[shape..].replace("path = \"bytes\"", "");
        format!("[model]\nfrom = \"{}\"\n\n{rest}", model.display())
    });
    place.ok("second", &["--cfg-options", "train.steps=8", "schedule.warmup=0"]);
    let (first, second) = (losses(&place.path("first")), losses(&place.path("second")));
    let loss = |l: &[(u64, Value)], i: usize| l[i].1.as_f64().unwrap();
    assert!(loss(&second, 0) < 0.9 * loss(&first, 0), "it did not go on");
}
