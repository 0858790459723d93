//! Data: from files to rows. No token is lost or doubled, boundaries are kept, orders are permutations,
//! and the cache and the number of threads change nothing.

use proptest::prelude::*;
use puyu::data::pack::Rows;
use puyu::data::{
    Batch, DataConfig, DataReport, Dataset, IGNORE, Order, PIECE, Pack, Sampler, SourceConfig,
    Split, ValidConfig, permute,
};
use puyu_models::chat_template::{CHATML, ChatTemplate};
use puyu_models::tokenizer::Tokenizer;
use puyu_tensor::cpu::pool;
use puyu_tests::byte_vocab;
use std::path::{Path, PathBuf};

/// Opens one source without a progress report.
fn open(config: &DataConfig, tokenizer: &Tokenizer) -> Result<(Dataset, DataReport), String> {
    let template = ChatTemplate::new(CHATML).unwrap();
    let opened = Dataset::open(config, tokenizer, Some(&template), &mut |_, _, _| true);
    opened.map_err(|e| e.to_string())
}

fn one(path: &Path) -> DataConfig {
    let source = SourceConfig { path: path.into(), ..SourceConfig::default() };
    DataConfig { source: vec![source], ..DataConfig::default() }
}

fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A byte-level vocabulary with ChatML's tokens after the bytes.
fn chatml() -> Tokenizer {
    let mut vocab = byte_vocab("gpt-2");
    vocab.tokens.truncate(256);
    vocab.token_type = vec![1; 256];
    vocab.merges.clear();
    for token in ["<s>", "<|im_start|>", "<|im_end|>"] {
        vocab.tokens.push(token.into());
        vocab.token_type.push(3);
    }
    vocab.bos = Some(256);
    vocab.eos = Some(258);
    vocab.add_bos = Some(true);
    Tokenizer::from_gguf(vocab).unwrap()
}

/// What is learnt in each sequence of a row, as text.
fn learnt(tokenizer: &Tokenizer, dataset: &Dataset, row: usize) -> Vec<String> {
    let batch = dataset.row(row).unwrap();
    let mut from = 0;
    let mut texts = Vec::new();
    for length in batch.lengths {
        let targets = &batch.targets[from..from + length];
        let ids: Vec<u32> = targets.iter().copied().filter(|t| *t != IGNORE).collect();
        texts.push(tokenizer.decode(&ids, false));
        from += length;
    }
    texts
}

/// Golden runs read a text's bytes in order: row i is bytes 64 i on, with the byte after each as target.
#[test]
fn bytes_in_order_are_rows_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..5000).map(|i| char::from(32 + (i * 7 % 90) as u8)).collect();
    let path = file(folder.path(), "text.txt", &text);
    let config = DataConfig { seq_len: 64, pack: Some(Pack::Documents), ..one(&path) };
    let (dataset, _) = open(&config, &Tokenizer::bytes().unwrap()).unwrap();
    assert_eq!(dataset.len(), 4999usize.div_ceil(64));
    let mut sampler = Sampler::new(&dataset, Order::Sequential, 0);
    let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
    for start in (0..4999).step_by(64) {
        let end = (start + 64).min(4999);
        let row = dataset.row(sampler.next(&dataset)).unwrap();
        assert_eq!(row.ids, bytes[start..end]);
        assert_eq!(row.targets, bytes[start + 1..end + 1]);
        assert_eq!(row.lengths, [end - start]);
    }
    assert_eq!(sampler.next(&dataset), 0, "the next epoch begins");
}

#[test]
fn only_what_the_assistant_says_is_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let line = r#"{"messages": [{"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."},
        {"role": "user", "content": "and?"}]}"#;
    let path = file(folder.path(), "a.jsonl", line.replace('\n', " "));
    let tokenizer = chatml();
    let (dataset, report) = open(&one(&path), &tokenizer).unwrap();
    assert_eq!(learnt(&tokenizer, &dataset, 0), ["Hello!<|im_end|>See you.<|im_end|>"]);
    let ids = dataset.row(0).unwrap().ids;
    assert_eq!(ids.iter().filter(|id| **id == 256).count(), 1, "one beginning of sequence");
    assert_eq!(ids[0], 256);
    // The user's <|im_end|> is text: three turns end before the last target.
    assert_eq!(ids.iter().filter(|id| **id == 258).count(), 4);
    let text = "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n\
                <|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n\
                <|im_start|>assistant\nSee you.";
    assert_eq!(tokenizer.decode(&ids, false), text);
    assert_eq!(report.sources[0].found.counted, 16);
}

/// Answers to preference pairs are learnt, and nothing of what both begin with.
#[test]
fn a_pair_is_two_sequences_that_differ_in_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let says = |role: &str, text: &str| format!(r#"{{"role": "{role}", "content": "{text}"}}"#);
    let ask = [says("user", "Hi"), says("assistant", "Hello"), says("user", "2+2?")].join(", ");
    let [four, five] = [says("assistant", "4"), says("assistant", "5, I think")];
    let whole = format!(r#"{{"chosen": [{ask}, {four}], "rejected": [{ask}, {five}]}}"#);
    let apart = format!(r#"{{"prompt": [{ask}], "chosen": [{four}], "rejected": {five}}}"#);
    let path = file(folder.path(), "pairs.jsonl", [whole, apart].join("\n"));
    let tokenizer = chatml();
    let (dataset, _) = open(&one(&path), &tokenizer).unwrap();
    assert_eq!(dataset.len(), 2);
    for row in 0..2 {
        assert_eq!(learnt(&tokenizer, &dataset, row), ["4<|im_end|>", "5, I think<|im_end|>"]);
    }
    assert_eq!(dataset.row(0).unwrap(), dataset.row(1).unwrap());
}

#[test]
fn a_template_that_changes_answers_later_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let turns = r#"{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}"#;
    let path = file(folder.path(), "a.jsonl", format!(r#"{{"messages": [{turns}, {turns}]}}"#));
    let forgets = "{% for m in messages %}<|im_start|>{% if loop.last or m.role == 'user' %}\
        {{ m.content }}{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}";
    let template = ChatTemplate::new(forgets).unwrap();
    let e =
        Dataset::open(&one(&path), &chatml(), Some(&template), &mut |_, _, _| true).unwrap_err();
    assert!(
        e.to_string().contains("line 1: the chat template renders message 2 differently"),
        "{e}"
    );
}

/// A mixed folder of texts, twice as long as a piece, with paragraphs and long lines.
fn texts(folder: &Path) -> DataConfig {
    let paragraphs: String =
        (0..4000).map(|i| format!("Paragraph {i} 说 {}.\n\n", i * i)).collect();
    let lines = format!("{}\n{}", "语".repeat(PIECE / 2), "word ".repeat(PIECE / 4));
    let source = |name: &str, text: &str, split| SourceConfig {
        path: file(folder, name, text),
        split,
        ..SourceConfig::default()
    };
    DataConfig {
        source: vec![
            source("a.txt", &paragraphs, Split::File),
            source("b.txt", &paragraphs, Split::Blank),
            source("c.txt", &lines, Split::Line),
        ],
        seq_len: 100,
        ..DataConfig::default()
    }
}

fn rows(dataset: &Dataset) -> Vec<Batch> {
    (0..dataset.len()).map(|i| dataset.row(i).unwrap()).collect()
}

#[test]
fn threads_and_the_cache_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = chatml();
    let config = texts(folder.path());
    let cached = DataConfig { cache: Some(folder.path().join("cache/tokens")), ..config.clone() };
    let open = |config: &DataConfig| {
        let (dataset, report) = open(config, &tokenizer).unwrap();
        (rows(&dataset), report)
    };
    let alone = pool::with_threads(1, || open(&config));
    assert_eq!(alone, pool::with_threads(2, || open(&config)));
    assert_eq!(alone, open(&cached));
    let kept = || {
        let files = std::fs::read_dir(cached.cache.as_ref().unwrap()).unwrap();
        let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
        files.sort();
        files
    };
    assert_eq!(kept().len(), 3);
    // Damaged caches are made again: one shortened, one with a byte changed, one empty.
    let whole: Vec<Vec<u8>> = kept().iter().map(|f| std::fs::read(f).unwrap()).collect();
    let [a, b, c] = &kept()[..] else { panic!() };
    std::fs::write(a, &whole[0][1..]).unwrap();
    let mut changed = whole[1].clone();
    changed[5] ^= 1;
    std::fs::write(b, changed).unwrap();
    std::fs::write(c, "").unwrap();
    assert_eq!(alone, open(&cached));
    assert_eq!(whole, kept().iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>());
    // Another content is another cache.
    file(folder.path(), "b.txt", "other");
    open(&cached);
    assert_eq!(kept().len(), 4);
}

/// A text in pieces has the tokens of the whole.
#[test]
fn a_long_text_is_encoded_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    assert!(text.len() > 3 * PIECE);
    let vocab = byte_vocab("gpt-2");
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    let config =
        DataConfig { pack: Some(Pack::Documents), ..one(&file(folder.path(), "a.txt", &text)) };
    let (dataset, report) = open(&config, &tokenizer).unwrap();
    let mut ids: Vec<u32> = rows(&dataset).iter().flat_map(|row| row.ids.clone()).collect();
    ids.push(tokenizer.eos().unwrap());
    let options = puyu_models::tokenizer::EncodeOptions::default();
    let whole = tokenizer.encode(&text, options);
    assert_eq!(ids[..ids.len() - 1], whole);
    assert_eq!(report.sources[0].found.documents, 1);
}

#[test]
fn truncation_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let line = |n: usize| format!("{{\"text\": \"{}\"}}\n", "x".repeat(n));
    let path = file(folder.path(), "a.jsonl", [line(5), line(11), line(12), line(40)].concat());
    let bytes = Tokenizer::bytes().unwrap();
    let config = DataConfig { pack: Some(Pack::Samples), seq_len: 10, ..one(&path) };
    let (_, report) = open(&config, &bytes).unwrap();
    let told = &report.sources[0];
    assert_eq!((told.truncated, told.lost, told.used), (2, 1 + 29, 4 + 10 + 10 + 10));
    let config = DataConfig { max_len: Some(4), pack: None, ..config };
    let (dataset, report) = open(&config, &bytes).unwrap();
    assert_eq!((report.sources[0].truncated, report.sources[0].lost), (4, 1 + 7 + 8 + 36));
    assert_eq!(dataset.tokens(), 12);
    // A conversation cut before its answer has nothing to learn.
    let chat = r#"{"instruction": "a long question", "output": "b"}"#;
    let path = file(folder.path(), "b.jsonl", [chat, "\n", chat].concat());
    let config = DataConfig { max_len: Some(20), ..one(&path) };
    let e = open(&config, &chatml()).unwrap_err();
    assert!(e.ends_with("there is nothing to learn in it"), "{e}");
}

#[test]
fn sources_are_drawn_by_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    let source = |name: &str, n: usize, weight| SourceConfig {
        path: file(folder.path(), name, "0123456789\n".repeat(n)),
        split: Split::Line,
        weight,
        ..SourceConfig::default()
    };
    let config = |weights: [Option<f64>; 2]| DataConfig {
        source: vec![source("a.txt", 10, weights[0]), source("b.txt", 30, weights[1])],
        pack: Some(Pack::None),
        ..DataConfig::default()
    };
    let bytes = Tokenizer::bytes().unwrap();
    let (dataset, _) = open(&config([Some(3.0), Some(1.0)]), &bytes).unwrap();
    let mut sampler = Sampler::new(&dataset, Order::Shuffled, 7);
    for n in 1..=200u32 {
        let row = sampler.next(&dataset);
        assert!(row < 40);
        let drawn = serde_json::to_value(&sampler).unwrap();
        let first = drawn["sources"][0]["drawn"].as_u64().unwrap() as f64;
        assert!((first - 0.75 * f64::from(n)).abs() <= 1.0, "{first} of {n}");
    }
    // Without weights every row comes once an epoch.
    let (dataset, _) = open(&config([None, None]), &bytes).unwrap();
    let mut sampler = Sampler::new(&dataset, Order::Shuffled, 7);
    let mut epochs: Vec<Vec<usize>> =
        (0..3).map(|_| (0..40).map(|_| sampler.next(&dataset)).collect()).collect();
    assert_eq!(sampler.epoch(), 3.0);
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    for epoch in &mut epochs {
        epoch.sort_unstable();
        assert_eq!(*epoch, (0..40).collect::<Vec<_>>());
    }
}

#[test]
fn a_sampler_goes_on_where_it_was_and_knows_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = Tokenizer::bytes().unwrap();
    let config = texts(folder.path());
    let (dataset, _) = open(&config, &bytes).unwrap();
    let mut sampler = Sampler::new(&dataset, Order::Shuffled, 3);
    for _ in 0..777 {
        sampler.next(&dataset);
    }
    let state = serde_json::to_string(&sampler).unwrap();
    let mut again: Sampler = serde_json::from_str(&state).unwrap();
    again.check(&dataset).unwrap();
    assert_eq!(again, sampler);
    (0..2000).for_each(|_| assert_eq!(again.next(&dataset), sampler.next(&dataset)));
    let other = Sampler::new(&dataset, Order::Shuffled, 4).next(&dataset);
    assert_ne!(other, Sampler::new(&dataset, Order::Shuffled, 3).next(&dataset));
    let (smaller, _) = open(&DataConfig { seq_len: 90, ..config }, &bytes).unwrap();
    let e = again.check(&smaller).unwrap_err().to_string();
    assert!(
        e.starts_with("the data has changed since the checkpoint: rows by source were ["),
        "{e}"
    );
}

#[test]
fn a_config_is_read_from_toml_and_written_back() {
    let text = r#"
seq_len = 128
pack = "samples"
on_error = "skip"
cache = "tokens"
[[source]]
path = "a/*.txt"
format = "wanjuan_text"
weight = 2.5
split = "blank"
eos = false
[[source]]
path = "b"
weight = 1.0
[valid]
source = [{ path = "c" }]
"#;
    let config: DataConfig = toml::from_str(text).unwrap();
    assert_eq!(config.source[0].eos, Some(false));
    let valid = config.validation().unwrap();
    let source = SourceConfig { path: "c".into(), ..SourceConfig::default() };
    assert_eq!(config.valid, Some(ValidConfig { source: vec![source.clone()] }));
    assert_eq!(valid, DataConfig { source: vec![source], valid: None, ..config.clone() });
    assert_eq!(toml::from_str::<DataConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    let e = toml::from_str::<DataConfig>("seq_length = 5").unwrap_err().to_string();
    assert!(e.contains("unknown field `seq_length`"), "{e}");
}

/// All pieces of all rows.
fn pieces(rows: &Rows, lengths: &[u64]) -> Vec<(usize, u64, u64)> {
    let all = (0..rows.len()).flat_map(|i| rows.row(i, |sample| lengths[sample]));
    all.map(|p| (p.sample, p.inputs.start, p.inputs.end)).collect()
}

proptest! {
    #[test]
    fn packing_loses_and_doubles_nothing(
        lengths in prop::collection::vec(1u64..60, 1..200),
        seq_len in 60usize..150,
    ) {
        let best = Rows::best_fit(&lengths, seq_len);
        let mut whole = pieces(&best, &lengths);
        whole.sort_unstable();
        let all: Vec<_> = lengths.iter().enumerate().map(|(i, n)| (i, 0, *n)).collect();
        prop_assert_eq!(&whole, &all);
        let size = |rows: &Rows, i| {
            rows.row(i, |s| lengths[s]).iter().map(|p| p.inputs.end - p.inputs.start).sum::<u64>()
        };
        let sizes: Vec<u64> = (0..best.len()).map(|i| size(&best, i)).collect();
        prop_assert!(sizes.iter().all(|n| *n > 0 && *n <= seq_len as u64));
        // Two rows that fit into one would have been one.
        let mut sorted = sizes.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.len() < 2 || sorted[0] + sorted[1] > seq_len as u64);

        let cut = Rows::cut(lengths.iter().copied(), seq_len);
        let full = (0..cut.len() - 1).all(|i| size(&cut, i) == seq_len as u64);
        prop_assert!(full);
        let mut next = (0, 0);
        for (sample, start, end) in pieces(&cut, &lengths) {
            prop_assert_eq!((sample, start), next);
            prop_assert!(start < end);
            next = if end == lengths[sample] { (sample + 1, 0) } else { (sample, end) };
        }
        prop_assert_eq!(next, (lengths.len(), 0));
    }

    #[test]
    fn permutations_are_permutations(key: u64, count in 1u64..3000) {
        let mut places: Vec<u64> = (0..count).map(|i| permute(key, i, count)).collect();
        let moved = places.iter().enumerate().filter(|(i, p)| *i as u64 != **p).count() as u64;
        prop_assert!(count < 100 || moved > count * 9 / 10, "{moved} of {count} moved");
        places.sort_unstable();
        prop_assert_eq!(places, (0..count).collect::<Vec<_>>());
    }
}
