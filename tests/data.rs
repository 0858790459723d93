//! Data: from files to rows, held to the layouts' rules and to golden files.

use puyu::data::{DataConfig, DataReport, Dataset, IGNORE, Order, Pack, Sampler, SourceConfig};
use puyu_models::chat_template::{CHATML, ChatTemplate};
use puyu_models::tokenizer::Tokenizer;
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
