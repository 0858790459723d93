//! Ids back to text, whole or while they are generated.
//!
//! A character may be spread over several tokens (byte pieces); a stream gives it out when it is
//! whole. The text of a stream, joined, is the text of the whole decode, to the byte.

use super::{TokenKind, Tokenizer};

/// The state of one text that is being decoded token by token.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    skip_special: bool,
    /// Leading spaces still to be dropped.
    strip: u8,
    /// Bytes of a character that is not complete yet.
    pending: Vec<u8>,
}

impl DecodeStream {
    /// A stream at the beginning of a text; `skip_special` leaves control tokens out.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        // A control token in the text starts a new stretch, with one added space of its own.
        let strip = if skip_special { tokenizer.strip } else { tokenizer.strip.min(1) };
        Self { skip_special, strip, pending: Vec::new() }
    }

    /// A stream that goes on after other text, as an answer does after its prompt: a leading space is
    /// the model's own and stays.
    pub fn continuing(skip_special: bool) -> Self {
        Self { skip_special, strip: 0, pending: Vec::new() }
    }

    /// Takes the next token and gives the characters that are complete now. An id outside the
    /// vocabulary (models pad their embedding) has no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let mut bytes = std::mem::take(&mut self.pending);
        self.append(tokenizer, id, &mut bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&bytes) {
                Ok(all) => {
                    text.push_str(all);
                    return text;
                }
                Err(error) => {
                    let (whole, rest) = bytes.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(whole));
                    let Some(wrong) = error.error_len() else {
                        self.pending = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    bytes = rest[wrong..].to_vec();
                }
            }
        }
    }

    /// What is left at the end: empty, or U+FFFD for a character that was never completed.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    /// Appends the bytes of one token.
    pub(super) fn append(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut Vec<u8>) {
        let Some(&kind) = tokenizer.kinds.get(id as usize) else { return };
        let mut text = &*tokenizer.surfaces[id as usize];
        match kind {
            TokenKind::Control | TokenKind::Unknown if self.skip_special => return,
            TokenKind::Control | TokenKind::Unknown => self.strip = tokenizer.strip.min(1),
            TokenKind::Byte => self.strip = 0,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => {
                while self.strip > 0 {
                    match text {
                        [b' ', rest @ ..] => {
                            text = rest;
                            self.strip -= 1;
                        }
                        [] => break,
                        _ => self.strip = 0,
                    }
                }
            }
        }
        out.extend_from_slice(text);
    }
}
