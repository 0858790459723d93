//! Learning a vocabulary: against SentencePiece's own trainer and encoder, against itself on other
//! numbers of threads, and on text that cannot be learned from.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use proptest::prelude::*;
use puyu_models::chat_template::{ChatTemplate, Message, RenderOptions};
use puyu_models::format::tokenizer_files;
use puyu_models::tokenizer::{
    EncodeOptions, INTERNLM2_CONTROL, TokenKind, Tokenizer, TrainOptions, Trained, Trainer,
};
use puyu_tensor::Result;
use puyu_tensor::cpu::pool;
use puyu_tests::shared;
use serde_json::{Value, json};

const PLAIN: EncodeOptions = EncodeOptions { add_bos: false, parse_special: false };
const OWN: EncodeOptions = EncodeOptions { add_bos: false, parse_special: true };

fn train(texts: &[&str], options: TrainOptions) -> Result<Trained> {
    let mut trainer = Trainer::new(options)?;
    for text in texts {
        trainer.read(text.as_bytes(), &mut |_| Ok(()))?;
    }
    trainer.train(&mut |_| Ok(()))
}

fn refusal(texts: &[&str], change: impl FnOnce(&mut TrainOptions)) -> String {
    let mut options = TrainOptions { vocab_size: 400, ..TrainOptions::default() };
    change(&mut options);
    train(texts, options).unwrap_err().to_string()
}

/// Our own documents, in English and in Chinese.
fn documents() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "docs/one_token.md"];
    files.map(|name| std::fs::read_to_string(root.join(name)).unwrap()).concat()
}

fn options(size: usize) -> TrainOptions {
    let user_defined_symbols = ["<tool>", "——", "▁x y"].map(String::from).to_vec();
    TrainOptions { vocab_size: size, user_defined_symbols, ..TrainOptions::default() }
}

static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| {
    let vocab = train(&[&documents()], options(2000)).unwrap().vocab;
    Tokenizer::from_gguf(vocab).unwrap()
});

/// Text that is easily encoded differently.
const ODD: [&str; 18] = [
    "",
    " ",
    "  two  spaces   three    ",
    "\ttab\tand\nnewline\r\n\n\n",
    "🐉 emoji 👩‍👩‍👧 and 𝄞",
    "2026-11-25, 3.14159 and １２３",
    "<|im_start|>user\n<|im_end|></s><s><unk>",
    "<tool>a<tool><tool> — —— ———",
    "<0x0A><0xFF> <0x0G>",
    "▁already▁escaped",
    "x y x y  x y",
    "don't won't I'd",
    "e\u{301}a\u{301} ñ n\u{303}",
    "林黛玉 said hello。「好」",
    "カタカナとひらがな、ー",
    "\u{feff}bom \u{200b}zero\u{a0}width",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "مرحبا שלום नमस्ते",
];

#[test]
fn a_folder_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let trained = train(&[&documents()], options(2000)).unwrap();
    tokenizer_files::save(folder.path(), &trained.vocab, "internlm2").unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 2000);
    let roles = [tokenizer.unk(), tokenizer.bos(), tokenizer.eos(), tokenizer.pad()];
    assert_eq!(roles, [Some(0), Some(1), Some(2), Some(2)]);
    assert!(tokenizer.add_bos());
    for (id, name) in (3..).zip(INTERNLM2_CONTROL) {
        assert_eq!(tokenizer.id_of(name), Some(id));
        assert_eq!(tokenizer.kind(id), Some(TokenKind::Control));
        assert_eq!(tokenizer.encode(name, OWN), [id]);
        assert!(!tokenizer.encode(name, PLAIN).contains(&id), "{name} typed by a user");
    }
    let end = tokenizer.id_of("<|im_end|>").unwrap();
    assert_eq!(tokenizer.eos_ids(), [2, end]);
    assert_eq!(tokenizer.encode("<tool>", PLAIN), [tokenizer.id_of("<tool>").unwrap()]);
    assert_eq!(tokenizer.encode("12", PLAIN).len(), 2, "digits stand alone");
    let template = ChatTemplate::of(&tokenizer).unwrap();
    let parts = template
        .render(&[Message::new("user", "Hi")], &RenderOptions::new(&tokenizer, true))
        .unwrap();
    let ids = tokenizer.encode_parts(&parts, true);
    assert_eq!((ids[0], ids[1]), (1, 3));
    for text in ODD {
        let own = TRAINED.encode(text, PLAIN);
        assert_eq!(tokenizer.encode(text, PLAIN), own, "{text:?}");
        assert_eq!(tokenizer.decode(&own, false), text.replace('▁', " "));
    }
}

#[test]
fn without_bytes_the_rest_is_unknown() {
    let text = "the cat sat on the mat\n".repeat(9);
    let options = TrainOptions {
        vocab_size: 25,
        byte_fallback: false,
        control_symbols: Vec::new(),
        add_dummy_prefix: true,
        ..TrainOptions::default()
    };
    let trained = train(&[&text], options).unwrap();
    assert_eq!(trained.vocab.chat_template, None);
    let tokenizer = Tokenizer::from_gguf(trained.vocab).unwrap();
    let the = tokenizer.id_of("▁the").unwrap();
    assert_eq!(tokenizer.encode("the", PLAIN), [the]);
    assert!(tokenizer.encode("猫", PLAIN).contains(&0));
}

#[test]
fn threads_and_the_order_of_lines_change_nothing() {
    let text = documents();
    let trained = |threads: usize, text: &str| {
        pool::with_threads(threads, || train(&[text], options(1500)).unwrap().vocab)
    };
    let one = trained(1, &text);
    assert_eq!(trained(2, &text), one);
    assert_eq!(trained(7, &text), one);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(trained(2, &lines.join("\n")), one);
}

#[test]
fn few_words_are_kept_when_memory_is_short() {
    let options = TrainOptions { vocab_size: 500, max_word_bytes: 4000, ..TrainOptions::default() };
    let trained =
        |threads| pool::with_threads(threads, || train(&[&documents()], options.clone()).unwrap());
    let (one, three) = (trained(1), trained(3));
    assert!(one.dropped_below > 0);
    assert_eq!(one.vocab, three.vocab);
}

#[test]
fn bad_text_is_named() {
    let learn = |bytes: &[u8]| {
        let mut trainer = Trainer::new(TrainOptions::default()).unwrap();
        trainer.read(bytes, &mut |_| Ok(())).unwrap_err().to_string()
    };
    let error = learn(b"fine\n\nab\xff\xfe\n");
    assert!(error.contains("line 3") && error.contains("byte 3"), "{error}");
    let error = learn(b"\xe6\x9e");
    assert!(error.contains("line 1") && error.contains("byte 1"), "{error}");
    for empty in [&[][..], &[""], &["\n\n", "\n"]] {
        let error = refusal(empty, |_| {});
        assert!(error.contains("no text"), "{error}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_numbers() {
    let text = documents();
    let error = refusal(&[&text], |o| o.vocab_size = 300);
    assert!(error.contains("300 is too small") && error.contains("265 special"), "{error}");
    let error = refusal(&["abcabc"], |o| o.vocab_size = 1000);
    assert!(error.contains("1000 is too large"), "{error}");
    let most: usize =
        error.split("makes ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let fits = TrainOptions { vocab_size: most, ..TrainOptions::default() };
    assert_eq!(train(&["abcabc"], fits).unwrap().vocab.tokens.len(), most);
}

#[test]
fn symbols_that_cannot_be_are_refused() {
    let symbols = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|x| x.to_string()).collect();
        refusal(&["text"], |o| o.user_defined_symbols = list)
    };
    assert!(symbols(&["a", "a"]).contains("twice"));
    assert!(symbols(&["</s>"]).contains("twice"));
    assert!(symbols(&["<|im_end|>"]).contains("twice"));
    assert!(symbols(&[""]).contains("cannot be a symbol"));
    assert!(symbols(&["<0x41>"]).contains("cannot be a symbol"));
    assert!(refusal(&["text"], |o| o.character_coverage = 0.5).contains("0.98"));
    assert!(refusal(&["text"], |o| o.character_coverage = f32::NAN).contains("0.98"));
}

#[test]
fn long_lines_are_counted_and_skipped() {
    let long = "z".repeat(5000);
    let text = format!("ab ab ab\n{long}\ncd cd cd\n{}", "ab".repeat(2096));
    let options = TrainOptions { vocab_size: 272, ..TrainOptions::default() };
    let trained = train(&[&text], options).unwrap();
    assert_eq!(trained.skipped_lines, 1);
    assert!(!trained.vocab.tokens.contains(&b"z".to_vec()));
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(text in "(\\PC|[ \\n\\t\\x00a-z0-9]|<tool>|</s>|——){0,60}") {
        let ids = TRAINED.encode(&text, PLAIN);
        prop_assert_eq!(TRAINED.decode(&ids, false), text.replace('▁', " "));
    }
}

/// Trains SentencePiece's own model beside ours, and gives its pieces and the ids of both.
const REFERENCE: &str = r#"
import json, sys, io
import sentencepiece as spm
task = json.load(sys.stdin)
model = io.BytesIO()
spm.SentencePieceTrainer.train(
    sentence_iterator=iter(task["lines"]), model_writer=model, model_type="bpe",
    normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    num_threads=2, **task["options"])
reference = spm.SentencePieceProcessor(model_proto=model.getvalue())
ours = spm.SentencePieceProcessor(model_file=task["model"])
json.dump({
    "pieces": [reference.id_to_piece(i) for i in range(reference.vocab_size())],
    "scores": [reference.get_score(i) for i in range(reference.vocab_size())],
    "ours": [ours.encode(text) for text in task["texts"]],
    "theirs": [len(reference.encode(text)) for text in task["texts"]],
}, sys.stdout)
"#;

/// What SentencePiece says, or `None` with a loud line where it is not installed.
fn reference(task: &Value) -> Option<Value> {
    let python = std::env::var_os("PUYU_PYTHON").unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", "import sentencepiece"]).output();
    if !has.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: {python:?} has no package sentencepiece; set PUYU_PYTHON");
        return None;
    }
    let mut child = Command::new(&python)
        .args(["-c", REFERENCE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "SentencePiece failed");
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

/// Learns from `learn`, lets SentencePiece do the same, and compares pieces, ids and compression on
/// `held_out` and the odd strings.
fn compare(what: &str, learn: &str, held_out: &[&str], size: usize, dummy_prefix: bool) {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { add_dummy_prefix: dummy_prefix, ..options(size) };
    let trained = train(&[learn], options.clone()).unwrap();
    tokenizer_files::save(folder.path(), &trained.vocab, "internlm2").unwrap();
    let texts: Vec<&str> = held_out.iter().chain(&ODD).copied().collect();
    let escaped: Vec<String> =
        options.user_defined_symbols.iter().map(|s| s.replace(' ', "▁")).collect();
    let task = json!({
        "lines": learn.split('\n').collect::<Vec<_>>(),
        "model": folder.path().join("tokenizer.model"),
        "texts": texts,
        "options": {
            "vocab_size": size,
            "character_coverage": options.character_coverage,
            "control_symbols": options.control_symbols,
            "user_defined_symbols": escaped,
            "byte_fallback": true,
            "split_digits": true,
            "allow_whitespace_only_pieces": true,
            "add_dummy_prefix": dummy_prefix,
        },
    });
    let Some(answer) = reference(&task) else { return };
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let (mut ours, mut theirs) = (0, 0);
    for (i, text) in texts.iter().enumerate() {
        let ids: Vec<u32> = serde_json::from_value(answer["ours"][i].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, PLAIN), ids, "{what}: {text:?}");
        if i < held_out.len() {
            ours += ids.len();
            theirs += answer["theirs"][i].as_u64().unwrap() as usize;
        }
    }
    let pieces: Vec<String> = serde_json::from_value(answer["pieces"].clone()).unwrap();
    let own: Vec<&str> =
        trained.vocab.tokens.iter().map(|t| std::str::from_utf8(t).unwrap()).collect();
    let shared: HashSet<&str> = pieces.iter().map(String::as_str).collect();
    let both = own.iter().filter(|piece| shared.contains(*piece)).count();
    eprintln!("{what}: {both} of {size} pieces are SentencePiece's; {ours} tokens to its {theirs}");
    assert!(both * 100 >= size * 99, "{what}: only {both} of {size} pieces");
    assert!((ours as f64 / theirs as f64 - 1.0).abs() <= 0.01, "{what}: {ours} to {theirs}");
}

#[test]
fn the_reference_learns_the_same_and_encodes_alike() {
    let text = documents();
    let held_out = "A token is the smallest unit that a model reads. 模型一次读一个词元。";
    compare("documents", &text, &[held_out], 2000, false);
    compare("documents, space in front", &text, &[held_out], 1200, true);
}

#[test]
fn the_reference_learns_the_same_from_books() {
    let books = ["en/sherlock_holmes.txt", "zh/honglou_meng.txt"];
    let read = |book: &str| {
        let path = shared(&format!("data/train/{book}"))?;
        std::fs::read_to_string(path).ok()
    };
    let Some(books) = books.map(read).into_iter().collect::<Option<Vec<_>>>() else { return };
    let cut = |text: &str, share: f64| {
        let mut place = (text.len() as f64 * share) as usize;
        while !text.is_char_boundary(place) {
            place += 1;
        }
        place
    };
    let learn: String = books.iter().map(|b| &b[..cut(b, 0.7)]).collect();
    let held_out: Vec<&str> = books.iter().map(|b| &b[cut(b, 0.7)..]).collect();
    compare("books", &learn, &held_out, 8000, false);
}
