//! The tokenizer without a vocabulary: a token is a byte, its id the byte's value. Byte-level models are
//! trained with it, and it needs no file.

use super::byte_bpe::char_of_byte;
use super::{GgufVocab, Tokenizer};
use puyu_tensor::Result;

impl Tokenizer {
    /// 256 tokens, the bytes; none of them begins, ends or separates anything.
    ///
    /// # Errors
    /// Never: the vocabulary is known.
    pub fn bytes() -> Result<Self> {
        let tokens: Vec<_> = (0..=255).map(|b| char_of_byte(b).to_string().into_bytes()).collect();
        Self::from_gguf(GgufVocab {
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            token_type: vec![1; tokens.len()],
            tokens,
            add_bos: Some(false),
            ..GgufVocab::default()
        })
    }
}
