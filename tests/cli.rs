//! The command `puyu` as a user runs it: what it prints, what it refuses, and its exit codes.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models")
}

fn golden(model: &str) -> Value {
    let text = std::fs::read_to_string(fixtures().join(model).join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Runs `puyu` with these arguments and nothing on standard input.
fn puyu(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puyu"));
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    command.args(args).output().expect("puyu starts")
}

/// Standard output of a run that succeeds.
fn ok(args: &[&str]) -> String {
    let out = puyu(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "puyu {args:?}: {stderr}");
    String::from_utf8(out.stdout).expect("output is UTF-8")
}

/// Standard error of a run that fails with `code`: one error, no panic.
fn fails(code: i32, args: &[&str]) -> String {
    let out = puyu(args);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "puyu {args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn ids(v: &Value) -> Vec<u64> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect()
}

/// The golden greedy ids, by way of the tokenizer, the cache and the sampler.
fn generates_the_golden(model: &Path, golden: &Value) {
    let text = golden["text"].as_str().unwrap();
    let model = model.to_str().unwrap();
    let exact = ["--compute", "exact", "--temp", "0", "-n", "32", "--ignore-eos", "--json"];
    let context = (ids(&golden["input_ids"]).len() + 32).to_string();
    let args = [&["generate", "-m", model, "-p", text, "-c", &context], &exact[..]].concat();
    let answer: Value = serde_json::from_str(&ok(&args)).unwrap();
    assert_eq!(ids(&answer["ids"]), ids(&golden["greedy_ids"]), "{model}");
    assert_eq!(answer["finish_reason"], "length");
}

#[test]
fn generate_gives_the_golden_ids_of_every_family() {
    // The dynamic ones go beyond their positions.
    for model in ["internlm1", "internlm2", "internlm2_ntk", "internlm3", "llama_tied"] {
        generates_the_golden(&fixtures().join(model), &golden(model));
    }
    for (file, model) in [("internlm2-f32", "internlm2"), ("internlm3-f32", "internlm3")] {
        generates_the_golden(&fixtures().join(format!("gguf/{file}.gguf")), &golden(model));
    }
}

#[test]
fn convert_and_quantize_keep_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let source = fixtures().join("internlm2");
    ok(&["convert", source.to_str().unwrap(), &path("a.gguf")]);
    generates_the_golden(Path::new(&path("a.gguf")), &golden("internlm2"));
    ok(&["convert", &path("a.gguf"), &path("back")]);
    generates_the_golden(Path::new(&path("back")), &golden("internlm2"));
    ok(&["quantize", &path("a.gguf"), &path("q.gguf"), "Q8_0"]);
    let about: Value = serde_json::from_str(&ok(&["inspect", &path("q.gguf"), "--json"])).unwrap();
    assert!(about["types"]["q8_0"]["tensors"].as_u64().unwrap() > 10, "{about}");
    let error = fails(1, &["convert", &path("a.gguf"), &path("b.gguf"), "--outtype", "q4_0"]);
    assert!(error.contains("puyu quantize"), "{error}");
    let error = fails(1, &["quantize", &path("a.gguf"), "/nonexistent/x.gguf", "Q8_0"]);
    assert!(error.contains("/nonexistent"), "{error}");
    let error = fails(2, &["quantize", "a", "b", "Q8_0", "--override-kv", "general.name=text:x"]);
    assert!(error.contains("text is none of int, float, bool, str"), "{error}");
    let error = fails(2, &["quantize", "a", "b", "Q8_0", "--override-kv", "general.name"]);
    assert!(error.contains("expected KEY=TYPE:VALUE"), "{error}");
}

/// `puyu chat` alone talks to the model in the program, which it keeps in the user's cache.
#[test]
fn a_model_comes_with_the_program() {
    let cache = tempfile::tempdir().unwrap();
    // A copy of the program beside the user is not the model.
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("puyu"), "no model").unwrap();
    let ask = |cache: &Path| {
        let question = "Tom is in the park. Leo has a blue kite. Who has a blue kite?";
        let mut command = Command::new(env!("CARGO_BIN_EXE_puyu"));
        command.current_dir(&here);
        command.env("XDG_CACHE_HOME", cache).env_remove("PUYU_MODEL").stdin(Stdio::null());
        command.args(["chat", "--prompt", question]).output().expect("puyu starts")
    };
    let answer = String::from_utf8(ask(cache.path()).stdout).unwrap();
    assert!(answer.contains("Answer: Leo"), "{answer}");
    let kept: Vec<_> = std::fs::read_dir(cache.path().join("puyu")).unwrap().collect();
    let [Ok(kept)] = &kept[..] else { panic!("one file in {kept:?}") };
    let whole = std::fs::read(kept.path()).unwrap();
    std::fs::write(kept.path(), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(String::from_utf8(ask(cache.path()).stdout).unwrap(), answer);
    assert_eq!(std::fs::read(kept.path()).unwrap(), whole, "half a file is written anew");
    let out = ask(Path::new("/dev/null"));
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{error}");
    assert!(error.contains("set XDG_CACHE_HOME to a folder that can be written to"), "{error}");
}

/// How to sample from a model goes where its weights go: from a GGUF file's metadata to a folder and back.
#[test]
fn recommended_sampling_stays_with_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let source = fixtures().join("internlm2");
    let temp = ["--override-kv", "general.sampling.temp=float:0"];
    let top = ["--override-kv", "general.sampling.top_k=int:7"];
    let quantize = ["quantize", source.to_str().unwrap(), &path("a.gguf"), "F32"];
    ok(&[&quantize[..], &temp, &top].concat());
    ok(&["convert", &path("a.gguf"), &path("back")]);
    let told = std::fs::read_to_string(path("back/generation_config.json")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["temperature"], &told["top_k"]), (&0.0.into(), &7.into()), "{told}");
    ok(&["convert", &path("back"), &path("b.gguf")]);
    for model in ["a.gguf", "back", "b.gguf"].map(path) {
        let settings = ["-p", "a b c", "-n", "12", "--ignore-eos"];
        let answer =
            |more: &[&str]| ok(&[&["generate", "-m", &model], &settings[..], more].concat());
        assert_eq!(answer(&["--seed", "1"]), answer(&["--temp", "0"]), "{model}");
        assert_ne!(answer(&["--seed", "1"]), answer(&["--temp", "5", "--seed", "1"]), "{model}");
    }
    let wrong = ["--override-kv", "general.sampling.temp=str:warm"];
    ok(&[&quantize[..], &wrong].concat());
    let error = fails(1, &["generate", "-m", &path("a.gguf"), "-p", "a"]);
    assert!(error.contains("general.sampling.temp` is no number"), "{error}");
}

#[test]
fn tokenize_prints_the_golden_ids() {
    let golden = golden("internlm2");
    let model = fixtures().join("internlm2");
    let text = golden["text"].as_str().unwrap();
    let out = ok(&["tokenize", "-m", model.to_str().unwrap(), "-p", text, "--ids"]);
    let printed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(printed, golden["input_ids"]);
}

#[test]
fn logits_writes_what_can_be_compared() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let model = fixtures().join("llama_tied");
    let (model, file) = (model.to_str().unwrap(), out.to_str().unwrap());
    ok(&["logits", "--model", model, "--ids", "1,2,3", "--out", file]);
    let listed = ok(&["inspect", file, "--tensors"]);
    assert!(listed.contains("logits f32 [1, 3, 320]"), "{listed}");
    assert!(listed.contains("hidden.final_norm f32 [1, 3, 64]"), "{listed}");
    let error = fails(1, &["logits", "--model", model, "--ids", "320", "--out", file]);
    assert!(error.contains("320"), "{error}");
}

#[test]
fn perplexity_names_its_rule() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "the model reads the text again and again ".repeat(20)).unwrap();
    let model = fixtures().join("internlm2");
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    for more in [&[][..], &["--ppl-stride", "16"]] {
        let args = [&["perplexity", "-m", model, "-f", text, "-c", "64", "--json"], more].concat();
        let answer: Value = serde_json::from_str(&ok(&args)).unwrap();
        assert!(answer["perplexity"].as_f64().unwrap() > 1.0, "{answer}");
        assert!(answer["rule"].as_str().unwrap().contains("predictions"), "{answer}");
    }
    std::fs::write(text, "short").unwrap();
    let error = fails(1, &["perplexity", "-m", model, "-f", text]);
    assert!(error.contains("too few"), "{error}");
}

#[test]
fn inspect_says_why_a_model_cannot_run() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixtures().join("llama_tied");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let config = config.replace("\"llama\"", "\"mamba\"");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let out = ok(&["inspect", folder.path().to_str().unwrap()]);
    assert!(out.contains("cannot run it") && out.contains("mamba"), "{out}");
    assert!(out.contains("parameters"), "{out}");
    let error = fails(1, &["generate", "-m", folder.path().to_str().unwrap(), "-p", "x"]);
    assert!(error.contains("mamba"), "{error}");
}

#[test]
fn wrong_use_is_told_apart_from_failure() {
    assert!(ok(&["tour", "--help"]).contains("whole chain"));
    assert!(ok(&["--help"]).contains("perplexity"));
    assert!(ok(&["completions", "bash"]).contains("puyu"));
    assert!(fails(2, &["generate", "--tmep", "0"]).contains("--temp"));
    assert!(fails(2, &["chat", "-m", "x", "--cache-type", "q9"]).contains("f16"));
    let error = fails(1, &["generate", "-m", "/no/such/model", "-p", "x"]);
    assert!(error.contains("/no/such/model"), "{error}");
    let model = fixtures().join("internlm2");
    let error = fails(1, &["generate", "-m", model.to_str().unwrap(), "-p", "x", "--top-p", "2"]);
    assert!(error.contains("--top-p"), "{error}");
    let error = fails(1, &["generate", "-m", model.to_str().unwrap(), "-p", "x", "-c", "1"]);
    assert!(error.contains("context of 1"), "{error}");
    // llama.cpp's two flags for one thing: both may be given, and must say the same.
    let run = ["generate", "-m", model.to_str().unwrap(), "-p", "x", "-n", "1", "-ctk", "f16"];
    ok(&[&run[..], &["-ctv", "f16"]].concat());
    let error = fails(1, &[&run[..], &["-ctv", "f32"]].concat());
    assert!(error.contains("f16 and f32"), "{error}");
}

#[test]
fn tokenizer_train_writes_a_folder_that_tokenizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = "the cat sat on the mat, the dog on the log\n你好，世界\n".repeat(20);
    std::fs::write(path("a.txt"), &text).unwrap();
    std::fs::write(path("b.txt"), "the end\n").unwrap();
    let (a, b, out) = (path("a.txt"), path("b.txt"), path("model"));
    let symbols = ["--user-defined-symbols", "<a>,<b>"];
    let train = ["tokenizer", "train", &a, &b, "--out", &out, "--vocab-size", "300"];
    assert_eq!(ok(&[&train[..], &symbols].concat()), "");
    let ids = |model: &str| ok(&["tokenize", model, "-p", "the cat<a>", "--ids", "--no-bos"]);
    assert!(ids(&out).ends_with(", 9]\n"), "{}", ids(&out));
    // As spm_train spells it.
    let inputs = format!("--input={a},{b}");
    let prefix = format!("--model_prefix={}", path("again"));
    let spelled = [&inputs, &prefix, "--vocab_size=300", "--byte_fallback=true"];
    ok(&[&["tokenizer", "train"], &spelled[..], &symbols].concat());
    let model = |name: &str| std::fs::read(path(name)).unwrap();
    assert!(model("again.model") == model("model/tokenizer.model"));

    // What conversations say is text too.
    let said = |role: &str, text: &str| format!(r#"{{"role": "{role}", "content": "{text}"}}"#);
    let line = |_| {
        let messages = [said("user", "the cat"), said("assistant", "the mat")];
        format!("{{\"messages\": [{}]}}\n", messages.join(","))
    };
    std::fs::write(path("c.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
    let (c, chats) = (path("c.jsonl"), path("chats"));
    ok(&["tokenizer", "train", &c, "--out", &chats, "--vocab-size", "275"]);
    let pieces = ok(&["tokenize", &chats, "-p", "the cat", "--no-bos"]);
    assert!(pieces.contains("\"the\""), "{pieces}");
    let keys = ok(&["tokenize", &chats, "-p", "role", "--no-bos"]);
    assert!(!keys.contains("\"role\""), "{keys}");

    std::fs::write(path("bad.txt"), b"fine\nb\xffd\n").unwrap();
    let bad = path("bad.txt");
    let error = fails(1, &["tokenizer", "train", &a, &bad, "--out", &path("none")]);
    assert!(error.contains("bad.txt: line 2 is not UTF-8 at its byte 2"), "{error}");
    let error = fails(1, &["tokenizer", "train", &path("gone.txt"), "--out", &path("none")]);
    assert!(error.contains("gone.txt"), "{error}");
    let error = fails(1, &["tokenizer", "train", &a, "--out", &path("none"), "--vocab-size", "9"]);
    assert!(error.contains("9 is too small"), "{error}");
    assert!(!Path::new(&path("none")).exists());
    assert!(fails(2, &["tokenizer", "train", &a]).contains("--out"));
}

/// The real model's file, or `None` with a loud line.
fn smollm2() -> Option<String> {
    let file = std::env::var("PUYU_SMOLLM2").ok();
    if file.is_none() {
        eprintln!("SKIPPED: PUYU_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    file
}

#[test]
fn chat_answers_piped_input_in_one_turn() {
    let Some(model) = smollm2() else { return };
    let mut child = Command::new(env!("CARGO_BIN_EXE_puyu"))
        .args(["chat", "-m", &model, "--temp", "0", "--compute", "exact", "-n", "16"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"What is the capital of France?\n").unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "The capital of France is Paris.\n");
    assert!(String::from_utf8_lossy(&out.stderr).contains("tokens/s"));
}

/// A shape alone is enough for a plan; the claim is XTuner's, QLoRA of 7B in 8 GB.
#[test]
fn plan_says_what_fits_without_weights() {
    let device = ["--device", "a100-80g", "--memory", "8GB", "--seq-len", "512"];
    let text = ok(&[&["plan", "internlm2-7b"], &device[..]].concat());
    assert!(text.starts_with("internlm2, 32 layers: 7.74G parameters"), "{text}");
    let line = |start: &str| text.lines().find(|l| l.trim_start().starts_with(start)).unwrap();
    assert!(line("QLoRA of rank 16, nf4, checkpointed").ends_with(char::is_numeric), "{text}");
    assert!(line("LoRA of rank 16, bf16, checkpointed").ends_with("does not fit"), "{text}");
    assert!(line("all weights, checkpointed").ends_with("does not fit"), "{text}");
    let model = fixtures().join("internlm2/config.json");
    let text =
        ok(&["plan", model.to_str().unwrap(), "--batch", "4", "--ranks", "2", "--zero", "1"]);
    assert!(
        text.contains("4 rows x 2048 tokens") && text.contains("2 processes, ZeRO 1"),
        "{text}"
    );
    assert!(
        fails(2, &["plan", "nano", "--memory", "much"]).contains("expected a size such as 8GB")
    );
    assert!(fails(1, &["plan", "nano", "--device", "abacus"]).contains("no device abacus"));
}

#[test]
fn bench_runs_sequences_together_and_traces_sum_up_ops() {
    let model = fixtures().join("internlm2");
    let out = Command::new(env!("CARGO_BIN_EXE_puyu"))
        .args(["bench", "-m", model.to_str().unwrap(), "-p", "0", "-n", "3", "-npl", "1,4"])
        .args(["-d", "5", "-r", "2", "-t", "1", "--json"])
        .env("PUYU_TRACE", "sums")
        .output()
        .unwrap();
    let (text, said) = [out.stdout, out.stderr].map(|b| String::from_utf8(b).unwrap()).into();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&rows[0]["n_parallel"], &rows[1]["n_parallel"]), (&1.into(), &4.into()), "{text}");
    for row in rows.as_array().unwrap() {
        let tokens = 3.0 * row["n_parallel"].as_f64().unwrap();
        let rate = tokens * 1e9 / row["samples_ns"][0].as_f64().unwrap();
        assert!((row["samples_ts"][0].as_f64().unwrap() / rate - 1.0).abs() < 1e-9, "{text}");
    }
    for wanted in ["| project f32 |", "| paged_attention |", "| between ops |", "GB/s"] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
    assert!(!said.contains(" us "), "{said}");
}

#[test]
fn plan_reads_configs_of_fine_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("lora.toml");
    let model = fixtures().join("internlm2");
    let text = format!(
        "model = {{ from = {model:?} }}\n[lora]\nrank = 4\n[data]\nseq_len = 64\n\
         [[data.source]]\npath = \"none.jsonl\"\n[train]\nsteps = 1\nbatch = 3\n"
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let text = ok(&["plan", config]);
    assert!(text.contains("\nLoRA of rank 4, f32 at 3 rows x 64 tokens"), "{text}");
    let text = ok(&["plan", config, "--cfg-options", "lora.base=nf4_dq"]);
    assert!(text.contains("\nQLoRA of rank 4, 4.125 bits a weight at"), "{text}");
    let text = ok(&["plan", config, "--cfg-options", "lora.base=stored"]);
    assert!(text.contains("\nLoRA of rank 4, f32 at"), "{text}");
    for (method, named) in [("dpo", "DPO"), ("orpo", "ORPO")] {
        let text = ok(&["plan", config, "--cfg-options", &format!("finetune.method={method}")]);
        let wanted = format!("\nLoRA of rank 4, f32 for {named} at 3 pairs of 2 x 64 tokens");
        assert!(text.contains(&wanted) && text.contains("pairs that fit"), "{text}");
    }
    let shipped = ["plan", "internlm2_5-7b-chat-qlora", "--device", "a100-80g", "--cfg-options"];
    let text = ok(&[&shipped[..], &["model.from=internlm2_5-7b"]].concat());
    assert!(text.contains("\nQLoRA of rank 64, 4.125 bits a weight at 1 rows x 1024"), "{text}");
    let said = fails(1, &[&shipped[..], &["model.from=none/such"]].concat());
    assert!(said.contains("model.from=internlm2_5-7b"), "{said}");
    let reward = ["plan", config, "--cfg-options", "finetune.method=reward"];
    let text = ok(&reward);
    assert!(text.contains("\nLoRA of rank 4, f32 for a reward model at"), "{text}");
    let text = std::fs::read_to_string(config).unwrap().replace("[lora]\nrank = 4\n", "");
    std::fs::write(config, text).unwrap();
    let text = ok(&reward);
    assert!(
        text.contains("\nall weights for a reward model at 3 pairs of 2 x 64 tokens"),
        "{text}"
    );
}

#[test]
fn configs_that_come_with_puyu_are_listed_and_copied() {
    let list = ok(&["list-cfg", "-p", "internlm2_5-7b"]);
    assert!(list.lines().count() == 4 && list.contains("internlm2_5-7b-chat-qlora"), "{list}");
    assert!(fails(1, &["list-cfg", "-p", "gpt"]).contains("no config's name holds `gpt`"));
    let folder = tempfile::tempdir().unwrap();
    let copy = ["copy-cfg", "nano", folder.path().to_str().unwrap()];
    let path = ok(&copy);
    let text = std::fs::read_to_string(path.trim()).unwrap();
    assert!(text.contains("[[data.source]]"), "{text}");
    assert!(fails(1, &copy).contains("exists"));
    assert!(fails(1, &["copy-cfg", "huge"]).contains("`puyu list-cfg` lists them"));
}

/// llama-perplexity (llama-cpp-python 0.3.36) on the same file and text, `-c 512 --chunks 8`.
const LLAMA_PERPLEXITY: f64 = 26.8643;

#[test]
fn perplexity_is_within_a_percent_of_llama_perplexity() {
    let Some(model) = smollm2() else { return };
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("PUYU_SHARED").map_or(default, PathBuf::from);
    let text = shared.join("data/train/en/sherlock_holmes.txt");
    if !text.exists() {
        eprintln!("SKIPPED: {} does not exist; set PUYU_SHARED", text.display());
        return;
    }
    let args =
        ["perplexity", "-m", &model, "-f", text.to_str().unwrap(), "--chunks", "8", "--json"];
    let answer: Value = serde_json::from_str(&ok(&args)).unwrap();
    let got = answer["perplexity"].as_f64().unwrap();
    assert!((got / LLAMA_PERPLEXITY - 1.0).abs() < 0.01, "{got}, not {LLAMA_PERPLEXITY}");
}

/// An adapter beside its model generates what the two merged generate, from a folder and from GGUF.
#[test]
fn an_adapter_generates_what_its_merge_does() {
    use puyu_models::format::adapter::{AdapterConfig, save};
    use puyu_nn::Param;
    let model = fixtures().join("internlm2");
    let dir = tempfile::tempdir().unwrap();
    let config = puyu_models::format::json::read_config(&model.join("config.json")).unwrap();
    let hidden = config["hidden_size"].as_u64().unwrap() as usize;
    let param = |part: &str, shape: [usize; 2]| {
        let name = format!("model.layers.0.attention.wo.{part}.weight");
        Param::new(&name, puyu::train::normal(3, &name, &shape, 1.0))
    };
    let params = [param("lora_A", [4, hidden]), param("lora_B", [hidden, 4])];
    let rule = AdapterConfig::new("internlm2", 4, 8.0, vec!["layers.0.attention.wo".into()]);
    save(&dir.path().join("adapter"), &rule, &params).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, adapter) = (model.to_str().unwrap(), path("adapter"));
    ok(&["merge", model, &adapter, &path("a.gguf"), "--outtype", "f32"]);
    ok(&["convert", "merge", model, &adapter, &path("folder"), "--outtype", "f32"]);
    let flags =
        ["-p", "a b c", "--compute", "exact", "--temp", "0", "-n", "16", "--ignore-eos", "--json"];
    let generate = |more: &[&str]| -> Vec<u64> {
        let answer = ok(&[&["generate"], more, &flags[..]].concat());
        ids(&serde_json::from_str::<Value>(&answer).unwrap()["ids"])
    };
    let adapted = generate(&["-m", model, "--adapter", &adapter]);
    assert_ne!(adapted, generate(&["-m", model]));
    assert_eq!(adapted, generate(&["-m", &path("a.gguf")]));
    assert_eq!(adapted, generate(&["-m", &path("folder")]));
    fails(1, &["generate", "-m", model, "--lora", model, "-p", "a"]);
    fails(1, &["convert", "merge", model, &adapter, &path("x.gguf"), "--outtype", "q4_0"]);
    fails(2, &["convert", "merge", model]);
}

/// `puyu` alone: every step runs, the model learns to write its world's texts and to answer in its form,
/// and 4 bits cost it little.
#[test]
#[ignore = "two minutes"]
fn the_tour_runs_the_whole_chain() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_puyu"));
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    let out = command.current_dir(folder.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    let text = String::from_utf8(out.stdout).unwrap();
    let exams = text.lines().filter(|line| line.starts_with("| mean |")).count();
    assert_eq!(exams, 2, "{text}");
    let told = stderr.lines().filter_map(|line| line.split_once("perplexity ")?.1.parse().ok());
    let learnt: Vec<f64> = told.collect();
    assert!(learnt.last().is_some_and(|p| *p < 1.7), "{stderr}");
    let measured = text.lines().filter_map(|line| line.strip_prefix("PPL = ")?.split(' ').next());
    let measured: Vec<f64> = measured.map(|number| number.parse().unwrap()).collect();
    let [whole, quantized] = measured[..] else { panic!("two perplexities in {text}") };
    assert!(quantized < 1.2 * whole, "{text}");
    let chats: Vec<&str> = text.split("$ puyu chat").collect();
    let [_, own, shipped] = chats[..] else { panic!("two chats in {text}") };
    assert!(own.contains("Answer: ") && own.contains("Saturday"), "{text}");
    assert!(shipped.contains("Answer: Leo"), "{text}");
}
