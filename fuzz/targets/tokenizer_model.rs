//! Any bytes as a `tokenizer.model`.
#![no_main]

mod text;

use puyu_models::tokenizer::Tokenizer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_sentencepiece(bytes) {
        text::ask(&tokenizer);
    }
});
