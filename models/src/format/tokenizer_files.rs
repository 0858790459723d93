//! A vocabulary from GGUF metadata as the files a Hugging Face folder has: `tokenizer.model` for
//! SentencePiece, `tokenizer.json` for byte-level BPE, and `tokenizer_config.json`.
//! SentencePiece's file is protobuf; field numbers: google/sentencepiece, `sentencepiece_model.proto`.

use super::atomic::AtomicFile;
use super::hugging_face::write_json;
use crate::tokenizer::{GgufVocab, TokenKind, patterns_named};
use puyu_tensor::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// llama.cpp's stand-in for the piece that is a NUL character.
const NUL_STAND_IN: &[u8] = "🐉".as_bytes();

/// Writes the tokenizer's files into `folder`.
///
/// # Errors
/// If the vocabulary has no such form, or a file cannot be written.
pub fn save(folder: &Path, vocab: &GgufVocab, model_type: &str) -> Result<()> {
    match vocab.model.as_str() {
        "llama" => save_sentencepiece(&folder.join("tokenizer.model"), vocab)?,
        "gpt2" => write_json(&folder.join("tokenizer.json"), &byte_level(vocab)?)?,
        other => {
            return Err(Error::unsupported(format!("a tokenizer of model `{other}`")));
        }
    }
    write_json(&folder.join("tokenizer_config.json"), &config(vocab, model_type)?)
}

/// Writes a SentencePiece vocabulary as `path`, the file that its own library reads.
///
/// # Errors
/// If a token is not UTF-8, or the file cannot be written.
pub fn save_sentencepiece(path: &Path, vocab: &GgufVocab) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write(&sentencepiece(vocab)?)?;
    file.finish()
}

/// The kind of token `id`.
fn kind(vocab: &GgufVocab, id: usize) -> u32 {
    vocab.token_type.get(id).copied().unwrap_or(TokenKind::Normal as u32)
}

/// The text of token `id`.
fn text(vocab: &GgufVocab, id: usize) -> Result<&str> {
    let bytes = vocab.tokens.get(id).map_or(&b""[..], |t| t);
    std::str::from_utf8(bytes).map_err(|_| Error::unsupported(format!("token {id} is not UTF-8")))
}

/// Protobuf's variable-length integer.
fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A protobuf field of bytes.
fn field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A protobuf field with an integer.
fn number(field: u64, value: u64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(value, out);
}

/// `tokenizer.model`: the pieces, a BPE trainer's settings, and no normalization but the prefix.
fn sentencepiece(vocab: &GgufVocab) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for id in 0..vocab.tokens.len() {
        let unused = kind(vocab, id) == TokenKind::Unused as u32;
        let nul = unused && vocab.tokens[id] == NUL_STAND_IN;
        let (name, kind) = if nul {
            ("\0", TokenKind::Normal as u32)
        } else {
            (text(vocab, id)?, kind(vocab, id))
        };
        let mut piece = Vec::new();
        field(1, name.as_bytes(), &mut piece);
        varint(2 << 3 | 5, &mut piece);
        let score = vocab.scores.get(id).copied().unwrap_or(0.0);
        piece.extend_from_slice(&score.to_le_bytes());
        number(3, kind.into(), &mut piece);
        field(1, &piece, &mut out);
    }
    let mut trainer = Vec::new();
    let byte_fallback = (0..vocab.tokens.len()).any(|i| kind(vocab, i) == TokenKind::Byte as u32);
    const BPE: u64 = 2;
    number(3, BPE, &mut trainer);
    number(4, vocab.tokens.len() as u64, &mut trainer);
    number(35, byte_fallback.into(), &mut trainer);
    field(2, &trainer, &mut out);
    let mut normalizer = Vec::new();
    field(1, b"identity", &mut normalizer);
    number(3, vocab.add_space_prefix.unwrap_or(true).into(), &mut normalizer);
    number(4, 0, &mut normalizer);
    number(5, 1, &mut normalizer);
    field(3, &normalizer, &mut out);
    Ok(out)
}

/// The tokens that are matched as wholes before the model of the text sees it, with their ids and
/// whether they are special. SentencePiece's model itself matches what users define.
fn added(vocab: &GgufVocab) -> impl Iterator<Item = (usize, bool)> {
    let special = |k: u32| k == TokenKind::Control as u32 || k == TokenKind::Unknown as u32;
    let own = vocab.model == "llama";
    (0..vocab.tokens.len()).filter_map(move |id| {
        let k = kind(vocab, id);
        (special(k) || (k == TokenKind::UserDefined as u32 && !own)).then(|| (id, special(k)))
    })
}

fn added_token(vocab: &GgufVocab, id: usize, special: bool) -> Result<Value> {
    Ok(json!({
        "content": text(vocab, id)?,
        "lstrip": false,
        "normalized": false,
        "rstrip": false,
        "single_word": false,
        "special": special,
    }))
}

/// `tokenizer.json` of a byte-level BPE vocabulary.
fn byte_level(vocab: &GgufVocab) -> Result<Value> {
    let mut added_tokens = Vec::new();
    for (id, special) in added(vocab) {
        let mut token = added_token(vocab, id, special)?;
        token["id"] = json!(id);
        added_tokens.push(token);
    }
    let mut ids = Map::new();
    for id in 0..vocab.tokens.len() {
        ids.insert(text(vocab, id)?.into(), json!(id));
    }
    let pre = vocab.pre.as_deref().unwrap_or("default");
    let patterns = patterns_named(pre)?.iter();
    let mut parts: Vec<Value> = patterns
        .map(|p| {
            let pattern = json!({ "Regex": p });
            json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false })
        })
        .collect();
    let byte_level = |add_prefix_space: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": false,
        })
    };
    parts.push(byte_level(vocab.add_space_prefix.unwrap_or(false)));
    Ok(json!({
        "version": "1.0",
        "added_tokens": added_tokens,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": parts },
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "ignore_merges": matches!(pre, "llama-bpe" | "llama3" | "llama-v3"),
            "vocab": ids,
            "merges": vocab.merges,
        },
    }))
}

/// `tokenizer_config.json`: roles, added tokens, chat template.
fn config(vocab: &GgufVocab, model_type: &str) -> Result<Value> {
    let class = match (vocab.model.as_str(), model_type) {
        ("gpt2", _) => "PreTrainedTokenizerFast",
        (_, "internlm") => "InternLMTokenizer",
        (_, "internlm2") => "InternLM2Tokenizer",
        (_, "internlm3") => "InternLM3Tokenizer",
        _ => "LlamaTokenizer",
    };
    let mut out = json!({ "tokenizer_class": class, "clean_up_tokenization_spaces": false });
    let roles = [
        ("bos_token", vocab.bos),
        ("eos_token", vocab.eos),
        ("unk_token", vocab.unk),
        ("pad_token", vocab.pad),
    ];
    for (role, id) in roles {
        if let Some(id) = id {
            out[role] = json!(text(vocab, id as usize)?);
        }
    }
    if let Some(add) = vocab.add_bos {
        out["add_bos_token"] = json!(add);
    }
    if let Some(add) = vocab.add_eos {
        out["add_eos_token"] = json!(add);
    }
    let mut decoder = Map::new();
    for (id, special) in added(vocab) {
        decoder.insert(id.to_string(), added_token(vocab, id, special)?);
    }
    out["added_tokens_decoder"] = Value::Object(decoder);
    if let Some(template) = &vocab.chat_template {
        out["chat_template"] = json!(template);
    }
    Ok(out)
}
