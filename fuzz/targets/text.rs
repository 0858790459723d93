//! What the tokenizer targets do with a tokenizer that was accepted.

use puyu_models::tokenizer::{EncodeOptions, Tokenizer};

/// Encodes and decodes a few texts: ids must lie in the vocabulary.
pub fn ask(tokenizer: &Tokenizer) {
    for text in
        ["", "the then  \n2024", "浦语 🐉\0<|im_end|></s>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]
    {
        for parse_special in [false, true] {
            let ids = tokenizer.encode(text, EncodeOptions { add_bos: true, parse_special });
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids, parse_special);
        }
    }
}
