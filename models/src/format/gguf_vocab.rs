//! What an export does to a vocabulary for llama.cpp's sake: as many tokens as the embedding has rows,
//! and answers that end where a chat turn does.

use super::gguf_meta::{Metadata, Value};
use crate::tokenizer::{GgufVocab, TokenKind};
use puyu_tensor::{Error, Result};

/// Our key for the id that ended a text before the end of a chat turn took its place.
pub const TEXT_END: &str = "puyu.eos_token_id";

/// Brings a vocabulary to the `rows` of the embedding: models pad theirs, and llama.cpp wants as many
/// tokens as rows.
///
/// # Errors
/// If there are more tokens than rows.
pub fn pad(vocab: &mut GgufVocab, rows: usize) -> Result<()> {
    if vocab.tokens.len() > rows {
        return Err(Error::invalid(format!(
            "the tokenizer has {} tokens, the embedding only {rows} rows",
            vocab.tokens.len()
        )));
    }
    for id in vocab.tokens.len()..rows {
        vocab.tokens.push(format!("[PAD{id}]").into_bytes());
        vocab.token_type.push(TokenKind::Unused as u32);
        if !vocab.scores.is_empty() {
            vocab.scores.push(-1000.0);
        }
    }
    Ok(())
}

/// Lets an answer end where a chat turn does, as llama.cpp's converter does for InternLM2 and 3; the end
/// of a text stays under our own key.
pub fn end_at_turns(vocab: &mut GgufVocab, meta: &mut Metadata) {
    let turn = vocab.tokens.iter().position(|t| t == b"<|im_end|>");
    let control = |id: &usize| vocab.token_type.get(*id) == Some(&(TokenKind::Control as u32));
    let Some(turn) = turn.filter(control).map(|id| id as u32) else { return };
    if let Some(end) = vocab.eos.replace(turn).filter(|end| *end != turn) {
        meta.set(TEXT_END, Value::U32(end));
    }
}
