//! A merged model beside llama.cpp: SmolLM2-135M-Instruct is tuned with LoRA for 50 steps, merged and
//! written as an F32 GGUF, and llama.cpp reads that file. The log-likelihood of a text must agree within
//! 1 %, and greedy tokens must be equal up to the first that puyu itself hardly prefers.
//!
//! PUYU=target/release/puyu PUYU_SMOLLM2=SmolLM2-135M-Instruct.Q4_1.gguf PUYU_SHARED=../shared
//! PUYU_LLAMA_CPP=llama.cpp/build/bin cargo bench --bench merged_gguf
//! PUYU_THREADS sets the threads of both (default 2).

use puyu::engine::{Engine, LoadOptions, Session};
use puyu_benches::{number, output, path, program};
use puyu_models::chat_template::Message;
use puyu_nn::Compute;
use puyu_tensor::{DType, cpu::pool};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode};

/// How the model is tuned.
const CONFIG: &str = r#"
[model]
from = "MODEL"

[lora]
rank = 16
alpha = 32

[data]
seq_len = 256

[[data.source]]
path = "CONVERSATIONS"

[optimizer]
lr = 1e-3
weight_decay = 0.0

[schedule]
warmup = 5

[train]
steps = 50
batch = 2

[checkpoint]
every = 0
"#;

/// Tokens of a chunk of the text, and how many chunks are measured.
const CHUNK: usize = 512;
const CHUNKS: usize = 8;

/// The largest relative difference between the log-likelihoods.
const WITHIN: f64 = 0.01;

/// Tokens generated after each question.
const TOKENS: usize = 64;

/// A token is clear if its logit is this far above the next.
const CLEAR: f32 = 0.1;

const QUESTIONS: [&str; 4] = [
    "A baker has 24 rolls and sells a third of them. How many rolls are left?",
    "Tom reads 12 pages a day. How many pages does he read in two weeks?",
    "A train goes 60 miles in an hour. How far does it go in 3 hours and a half?",
    "Ann has 5 boxes with 8 pens in each, and gives 10 pens away. How many pens has she now?",
];

/// A generated token and how far its logit was above the next.
struct Token {
    id: u32,
    margin: f32,
}

/// puyu's greedy answer to `prompt`; the token that ends it is the last.
fn answer(engine: &Engine, prompt: &[u32]) -> Vec<Token> {
    let mut session = Session::new(engine, prompt.len() + TOKENS).expect("a session");
    let mut logits = session.feed(prompt, &mut |_, _| true).expect("the prompt fits");
    let mut out = Vec::new();
    while out.len() < TOKENS {
        let best = |but: Option<usize>| {
            let ids = (0..logits.len()).filter(|i| Some(*i) != but);
            ids.max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary")
        };
        let first = best(None);
        let margin = logits[first] - logits[best(Some(first))];
        out.push(Token { id: first as u32, margin });
        if engine.generation.eos.contains(&(first as u32)) {
            break;
        }
        logits = session.push(first as u32).expect("a step").expect("the context has room");
    }
    out
}

/// What is compared of an answer: ids up to where it ends, of which every way is the same.
fn until_end(engine: &Engine, ids: impl Iterator<Item = u32>) -> Vec<Option<u32>> {
    ids.map(|id| Some(id).filter(|id| !engine.generation.eos.contains(id))).collect()
}

/// Two answers beside each other.
struct Compared {
    /// Tokens that are equal, from the first on.
    equal: usize,
    /// Tokens of puyu's answer.
    all: usize,
    /// What is wrong, if anything.
    wrong: Option<String>,
}

/// Compares the answers to `question`.
fn compare(engine: &Engine, llama: &Path, file: &Path, question: &str) -> Compared {
    let prompt = engine.encode_chat(&[Message::new("user", question)]).expect("a prompt");
    let text = engine.tokenizer.decode(&prompt, false);
    assert_eq!(engine.encode(&text, true), prompt, "the prompt's text has other tokens");
    let ours = answer(engine, &prompt);
    let mut command = Command::new(llama.join("llama-simple"));
    command.arg("-m").arg(file).args(["-ngl", "0", "-n", &TOKENS.to_string(), &text]);
    let printed = output(&mut command).stdout;
    let printed = String::from_utf8_lossy(&printed);
    let Some(written) = printed.trim_start().strip_prefix(&text) else {
        panic!("llama-simple does not begin with the prompt: {printed:?}");
    };
    // It prints text, and a newline after the last token: the tokens are those that this text has.
    let written = written.strip_suffix('\n').unwrap_or(written);
    let again = |text: &str| engine.encode(text, true).split_off(prompt.len());
    let mut theirs = until_end(engine, again(&format!("{text}{written}")).into_iter());
    if theirs.len() < TOKENS {
        theirs.push(None);
    }
    let ids: Vec<u32> = ours.iter().map(|t| t.id).collect();
    let wanted = until_end(engine, ids.iter().copied());
    let equal = wanted.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let all = ours.len();
    let Some(token) = ours.get(equal) else { return Compared { equal, all, wrong: None } };
    let [a, b] = [Some(token.id), theirs.get(equal).copied().flatten()]
        .map(|id| id.map_or("the end".into(), |id| engine.tokenizer.token_text(id)));
    println!("token {equal}: {a:?} here, {b:?} there, margin {:.3}", token.margin);
    let wrong = format!("token {equal} is {b:?} instead of {a:?} after {question:?}");
    Compared { equal, all, wrong: Some(wrong).filter(|_| token.margin > CLEAR) }
}

/// puyu's log-likelihood of the text, and how many tokens that is.
fn ours(puyu: &Path, model: &Path, text: &Path, threads: &str) -> (f64, f64) {
    let mut command = Command::new(puyu);
    command.arg("perplexity").arg("-m").arg(model).arg("-f").arg(text);
    command.args(["-c", &CHUNK.to_string(), "--chunks", &CHUNKS.to_string()]);
    command.args(["--compute", "exact", "--json", "-t", threads]);
    let json: Value = serde_json::from_slice(&output(&mut command).stdout).expect("JSON");
    let field = |name: &str| json[name].as_f64().unwrap_or_else(|| panic!("no {name}"));
    (-field("nll"), field("tokens"))
}

/// llama.cpp's perplexity of the text.
fn theirs(llama: &Path, model: &Path, text: &Path, threads: &str) -> f64 {
    let mut command = Command::new(llama.join("llama-perplexity"));
    command.arg("-m").arg(model).arg("-f").arg(text);
    command.args(["-c", &CHUNK.to_string(), "-b", &CHUNK.to_string()]);
    command.args(["--chunks", &CHUNKS.to_string(), "-t", threads, "-ngl", "0", "-fa", "off"]);
    command.args(["--cache-type-k", "f32", "--cache-type-v", "f32"]);
    let out = output(&mut command);
    let said = [out.stdout, out.stderr].map(|o| String::from_utf8_lossy(&o).into_owned()).concat();
    let value = said.split("PPL = ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let value = value.and_then(|v| v.parse().ok());
    value.unwrap_or_else(|| panic!("llama-perplexity says no `PPL = `:\n{said}"))
}

fn main() -> ExitCode {
    let named = ["PUYU_SMOLLM2", "PUYU_SHARED", "PUYU_LLAMA_CPP"].map(path);
    let [Some(model), Some(shared), Some(llama)] = named else {
        eprintln!(
            "SKIPPED: PUYU_SMOLLM2 names SmolLM2-135M-Instruct.Q4_1.gguf (README.md says where it is), \
             PUYU_SHARED the folder with data/train, PUYU_LLAMA_CPP the folder with llama.cpp's \
             llama-perplexity and llama-simple: in its source tree, `cmake -B build` and `cmake --build \
             build --target llama-perplexity llama-simple` make build/bin"
        );
        return ExitCode::SUCCESS;
    };
    let puyu = program("PUYU").unwrap_or_else(|| "puyu".into());
    let threads = number("PUYU_THREADS", 2);
    pool::set_threads(threads).expect("threads");
    let threads = threads.to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let data = shared.join("data/train");
    let config = CONFIG
        .replace("MODEL", &model.to_string_lossy())
        .replace("CONVERSATIONS", &data.join("sft/gsm8k_openai_messages.jsonl").to_string_lossy());
    std::fs::write(at("lora.toml"), config).expect("a temporary file");
    let mut command = Command::new(&puyu);
    command.arg("finetune").arg(at("lora.toml")).arg("--work-dir").arg(at("run"));
    output(command.args(["-t", &threads]));
    let merged = at("merged.gguf");
    let mut command = Command::new(&puyu);
    command.arg("merge").arg(&model).arg(at("run/step-000050")).arg(&merged);
    output(command.args(["--outtype", "f32"]));

    let text = data.join("en/sherlock_holmes.txt");
    let (before, _) = ours(&puyu, &model, &text, &threads);
    let (here, tokens) = ours(&puyu, &merged, &text, &threads);
    let there = -tokens * theirs(&llama, &merged, &text, &threads).ln();
    let difference = (here - there).abs() / there.abs();
    println!("log-likelihood of {tokens} tokens of sherlock_holmes.txt, exact products:");
    println!("  puyu, before tuning  {before:.2}");
    println!("  puyu, merged         {here:.2}");
    println!("  llama.cpp, merged    {there:.2}");
    println!("  relative difference  {difference:.1e} (at most {WITHIN})");

    let cache = DType::F32;
    let options = LoadOptions { compute: Compute::Exact, cache, ..LoadOptions::default() };
    let engine = Engine::open(&merged, options, &|_, _| ()).expect("the merged model loads");
    let results = QUESTIONS.map(|question| compare(&engine, &llama, &merged, question));
    let equal: usize = results.iter().map(|r| r.equal).sum();
    let all: usize = results.iter().map(|r| r.all).sum();
    println!("greedy tokens equal: {equal} of {all}, in answers to {} questions", QUESTIONS.len());
    let wrong: Vec<&String> = results.iter().filter_map(|r| r.wrong.as_ref()).collect();
    for wrong in &wrong {
        println!("FAILED: {wrong}, although the margin is clear");
    }
    let far = difference.is_nan() || difference > WITHIN;
    if far {
        println!("FAILED: the log-likelihoods differ by more than {WITHIN}");
    }
    ExitCode::from(u8::from(far || !wrong.is_empty()))
}
