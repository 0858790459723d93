//! Byte-level BPE (GPT-2, SmolLM2, Llama 3, Qwen 2): text is cut into words by patterns, and each
//! word's bytes are merged by a ranked list of pairs.
//!
//! Files write bytes as printable characters (`Ġ` for a space); here pieces are the bytes themselves.

use super::hash::Map;
use super::merge::{NO_PIECE, Symbol, merge};
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::Place;
use super::word_table::Shelf;

/// The encoder's tables.
pub(super) struct ByteBpe {
    /// Id of each single byte's piece, or [`NO_PIECE`].
    pub byte_ids: Box<[u32; 256]>,
    /// (left, right) -> (rank, id).
    pub pairs: Map<(u32, u32), (u32, u32)>,
    /// Pieces by their bytes, when a word that is a piece is taken whole, whatever the merges say.
    pub whole_words: Option<Map<Box<[u8]>, u32>>,
    pub splitter: PreTokenizer,
    /// A space is put in front of text that does not start with one.
    pub add_prefix_space: bool,
    pub unknown: Option<u32>,
    pub words: Shelf,
}

impl ByteBpe {
    /// Encodes one stretch of text that holds no added token.
    pub fn encode(&self, text: &str, place: Place, out: &mut Vec<u32>) {
        let owned;
        let prefixed = self.add_prefix_space && place != Place::Continued;
        let text = if prefixed && !text.is_empty() && !text.starts_with(' ') {
            owned = [" ", text].concat();
            &owned
        } else {
            text
        };
        self.words.with(|words| {
            let mut symbols = Vec::new();
            self.splitter.split(text, &mut |word| {
                let word = word.as_bytes();
                words.append(word, 0..word.len(), out, |_, out| {
                    self.encode_word(word, &mut symbols, out);
                    true
                });
            });
        });
    }

    fn encode_word(&self, word: &[u8], symbols: &mut Vec<Symbol>, out: &mut Vec<u32>) {
        if let Some(&id) = self.whole_words.as_ref().and_then(|words| words.get(word)) {
            out.push(id);
            return;
        }
        symbols.clear();
        symbols.extend(word.iter().enumerate().map(|(start, &byte)| Symbol {
            id: self.byte_ids[usize::from(byte)],
            start,
            end: start + 1,
        }));
        merge(symbols, |left, right| self.pairs.get(&(left.id, right.id)).copied());
        out.extend(symbols.iter().filter_map(|symbol| {
            if symbol.id == NO_PIECE { self.unknown } else { Some(symbol.id) }
        }));
    }
}

/// The character that stands for `byte` in a vocabulary file: itself where it is printable, else one
/// of the 68 from U+0100 on (Radford et al. 2019, GPT-2's `bytes_to_unicode`).
pub(super) fn char_of_byte(byte: u8) -> char {
    let moved = match byte {
        0..=0x20 => byte,
        0x7f..=0xa0 => byte - 0x7f + 0x21,
        0xad => 0x43,
        _ => return char::from(byte),
    };
    char::from_u32(0x100 + u32::from(moved)).expect("U+0100 to U+0143 are characters")
}

/// The bytes that `piece` spells, or `None` if it holds a character that stands for no byte.
pub(super) fn bytes_of_piece(piece: &str) -> Option<Vec<u8>> {
    piece
        .chars()
        .map(|c| match c as u32 {
            0x100..=0x120 => Some((c as u32 - 0x100) as u8),
            0x121..=0x142 => Some((c as u32 - 0x121) as u8 + 0x7f),
            0x143 => Some(0xad),
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(c as u8),
            _ => None,
        })
        .collect()
}
