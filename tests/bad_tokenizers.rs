//! Tokenizer files that are cut, changed or contradict themselves: one clear error, never a panic.

use std::path::PathBuf;

use proptest::prelude::*;
use puyu_models::tokenizer::{EncodeOptions, GgufVocab, Tokenizer};
use puyu_tests::{byte_vocab, fixtures, gguf_vocab};
use serde_json::{Value, json};

proptest! {
    #[test]
    fn mutated_json_gives_errors_not_panics(at in 0usize..100_000, byte: u8, cut: bool) {
        let path = fixtures().join("internlm2/tokenizer.json");
        let mut bytes = std::fs::read(path).unwrap();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes) {
            tokenizer.decode(&tokenizer.encode("Hello 世界 <|im_end|>", EncodeOptions { add_bos: true, parse_special: true }), true);
        }
    }
}

#[test]
fn cut_sentencepiece_files_are_errors() {
    let bytes = std::fs::read(fixtures().join("internlm3/tokenizer.model")).unwrap();
    for end in 0..bytes.len() {
        let _ = Tokenizer::from_sentencepiece(&bytes[..end]).err();
        let mut changed = bytes.clone();
        changed[end] ^= 0x55;
        let _ = Tokenizer::from_sentencepiece(&changed).err();
    }
    // What says BPE stands behind the pieces, so nothing shorter can be taken for a model.
    assert!(Tokenizer::from_sentencepiece(&bytes[..bytes.len() / 2]).is_err());
    for (bytes, says) in [
        (&b""[..], "no pieces"),
        (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "longer than the file"),
        (&[0xff; 20], "64 bits"),
        (&[0x0b], "wire type 3"),
    ] {
        let error = Tokenizer::from_sentencepiece(bytes).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// The message of the error that `change` to the byte-level vocabulary leads to.
fn refusal(change: impl FnOnce(&mut GgufVocab)) -> String {
    let mut vocab = byte_vocab("gpt-2");
    change(&mut vocab);
    Tokenizer::from_gguf(vocab).unwrap_err().to_string()
}

#[test]
fn bad_gguf_vocabularies_are_named() {
    let merge = |merge: &'static str| refusal(move |v| v.merges.push(merge.into()));
    assert!(merge("h e").contains("repeats"));
    assert!(merge("he nope").contains("`nope`"));
    assert!(merge("a b").contains("`ab`"));
    assert!(merge("ab").contains("not a pair"));
    assert!(refusal(|v| v.pre = Some("fancy".into())).contains("`fancy`"));
    assert!(refusal(|v| v.model = "rwkv".into()).contains("`rwkv`"));
    assert!(refusal(|v| v.bos = Some(9999)).contains("9999"));
    assert!(refusal(|v| v.token_type[3] = 7).contains('7'));
    assert!(refusal(|v| v.token_type.truncate(3)).contains("3 entries"));
    assert!(refusal(|v| v.tokens.clear()).contains("empty"));
    assert!(refusal(|v| v.model = "llama".into()).contains("scores"));
    let spm = |name: &str| {
        let name = name.as_bytes().to_vec();
        refusal(move |v| {
            *v = gguf_vocab(&fixtures().join("gguf/internlm2-f32.gguf"));
            v.tokens[5] = name;
        })
    };
    assert!(spm("<0x-1>").contains("`<0x-1>`"));
    assert!(spm("<0x03>").contains("<0x02>"));
    let mut invalid = byte_vocab("gpt-2");
    invalid.tokens[260] = vec![0xff, b'a'];
    invalid.merges.truncate(3);
    let tokenizer = Tokenizer::from_gguf(invalid).unwrap();
    assert_eq!(tokenizer.token_bytes(260), [0xff, b'a']);
}

#[test]
fn bad_json_vocabularies_are_named() {
    let path = fixtures().join("internlm2/tokenizer.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let refusal = |place: &str, value: Value| {
        let mut file = good.clone();
        *file.pointer_mut(place).unwrap() = value;
        Tokenizer::from_json(file.to_string().as_bytes()).unwrap_err().to_string()
    };
    assert!(refusal("/pre_tokenizer", json!({"type": "Magic"})).contains("`Magic`"));
    assert!(refusal("/normalizer", json!({"type": "Lowercase"})).contains("`Lowercase`"));
    let twice = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]});
    assert!(refusal("/normalizer", twice).contains("`NFKC after another`"));
    assert!(refusal("/decoder", json!({"type": "WordPiece"})).contains("`WordPiece`"));
    assert!(refusal("/post_processor", json!({"type": "Bert"})).contains("`Bert`"));
    assert!(refusal("/model/type", json!("Unigram")).contains("`Unigram`"));
    assert!(refusal("/model/vocab/<s>", json!(99999)).contains("`<s>`"));
    assert!(refusal("/model/vocab/<s>", json!(-1)).contains("`<s>`"));
    assert!(refusal("/model/vocab/<s>", json!(2)).contains("same id"));
    assert!(refusal("/added_tokens/3/id", json!(5000)).contains("5000"));
    assert!(refusal("/model/merges", json!(null)).contains("merges"));
    let merges = good["model"]["merges"].as_array().unwrap();
    let twice = [merges.as_slice(), &merges[..1]].concat();
    assert!(refusal("/model/merges", json!(twice)).contains("repeats"));
    let deep = "[".repeat(100_000);
    assert!(Tokenizer::from_json(deep.as_bytes()).is_err());
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("neither tokenizer.model nor tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("vocab"), "{error}");
    let copy: PathBuf = folder.path().join("tokenizer_config.json");
    std::fs::write(copy, r#"{"bos_token": "<nowhere>"}"#).unwrap();
    let source = fixtures().join("internlm2/tokenizer.model");
    std::fs::copy(source, folder.path().join("tokenizer.model")).unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("<nowhere>"), "{error}");
}
