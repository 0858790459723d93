//! Vocabularies for the tests of tokenizers.

use std::path::Path;

use puyu_models::format::OpenOptions;
use puyu_models::format::gguf::Gguf;
use puyu_models::tokenizer::GgufVocab;

/// The vocabulary in the GGUF file at `path`.
///
/// # Panics
/// If there is none.
pub fn gguf_vocab(path: &Path) -> GgufVocab {
    let file = Gguf::open(path, OpenOptions { mmap: true }).expect("a GGUF file with a vocabulary");
    GgufVocab::read(&file.metadata).expect("a GGUF file with a vocabulary")
}

/// A byte-level vocabulary: the 256 bytes, some merges, one control token.
pub fn byte_vocab(pre: &str) -> GgufVocab {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    let (mut next, mut tokens) = (0x100, Vec::new());
    for byte in 0..=255u8 {
        let c = if printable(&byte) { u32::from(byte) } else { next };
        next += u32::from(!printable(&byte));
        tokens.push(char::from_u32(c).expect("a character").to_string());
    }
    let merges: Vec<String> =
        ["h e", "l l", "he ll", "Ġ a", "Ċ Ċ", "Ġ Ġ", "hell o"].map(String::from).to_vec();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.push("<|end|>".into());
    let mut token_type = vec![1; tokens.len()];
    token_type[tokens.len() - 1] = 3;
    GgufVocab {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        eos: Some(tokens.len() as u32 - 1),
        tokens: tokens.into_iter().map(String::into_bytes).collect(),
        token_type,
        merges,
        ..GgufVocab::default()
    }
}
