//! SentencePiece-style BPE: the whole text is one word, spaces are part of pieces.
//!
//! `▁` (U+2581) in a piece is a space; text and pieces are compared with real spaces, so nothing is
//! escaped. No piece holds most pairs of neighbouring characters, and no merge can cross such a seam:
//! the text is cut there first, which changes nothing but makes words short and repeatable.

use puyu_tensor::{Error, Result};
use std::ops::Range;

use super::TokenKind;
use super::added::Matcher;
use super::hash::Map;
use super::merge::{NO_PIECE, Symbol, merge};
use super::word_table::{Index, Shelf, Table};

/// When a space is put in front of a stretch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Never: InternLM 1 and 2.
    Never,
    /// Before every stretch between control tokens: Llama, InternLM3.
    Always,
    /// Only at the very beginning.
    First,
}

/// Where a stretch of text without control tokens stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the very beginning.
    Start,
    /// After a control token.
    AfterToken,
    /// In the middle of a text that was cut.
    Continued,
}

/// How two neighbours are ranked for merging.
pub(super) enum Order {
    /// By the score of the piece they make: `ranks[id]`, equal scores sharing a rank.
    Score(Vec<u32>),
    /// By the place of the pair in a list of merges: (left, right) -> (rank, id).
    Pairs(Map<(u32, u32), (u32, u32)>),
}

/// The encoder's tables.
pub(super) struct SentencePiece {
    /// Surface -> id of the pieces that text may become.
    index: Index,
    pub order: Order,
    /// Pieces matched before any merge, longest first.
    user_defined: Matcher,
    /// Pieces that merges may pass through but not end in.
    unused: Map<u32, ()>,
    seams: Seams,
    words: Shelf,
    /// Ids of the byte pieces, if unknown characters are spelled in bytes.
    byte_ids: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    pub prefix: Prefix,
}

/// The id of a character that was not looked up yet.
const LATER: u32 = NO_PIECE - 1;

/// What the encoder is built from, beside the order of its merges.
pub(super) struct Pieces<'a> {
    /// Decoded text of every piece, by id.
    pub surfaces: &'a [Box<[u8]>],
    /// Kinds by id.
    pub kinds: &'a [TokenKind],
    /// Whether unknown characters are spelled in byte pieces.
    pub byte_fallback: bool,
    /// The piece that stands for what cannot be spelled.
    pub unknown: Option<u32>,
    /// When a space is put in front.
    pub prefix: Prefix,
}

/// Ranks of pieces for [`Order::Score`]: the higher the score, the lower the rank.
pub(super) fn ranks_of_scores(scores: &[f32]) -> Vec<u32> {
    let mut by_score: Vec<u32> = (0..scores.len() as u32).collect();
    by_score.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
    let mut ranks = vec![0; scores.len()];
    let mut rank = 0;
    for pair in by_score.windows(2) {
        // -0.0 and 0.0 are one score, which the total order tells apart.
        rank += u32::from(scores[pair[0] as usize] != scores[pair[1] as usize]);
        ranks[pair[1] as usize] = rank;
    }
    ranks
}

impl SentencePiece {
    /// Builds the tables.
    ///
    /// # Errors
    /// Byte pieces that are incomplete, or text that could not be spelled at all.
    pub fn new(pieces: &Pieces, order: Order) -> Result<Self> {
        let mut index = Index::default();
        let mut user_defined = Matcher::default();
        let mut unused = Map::default();
        let mut seams = Seams::default();
        let mut byte_ids = Box::new([NO_PIECE; 256]);
        for (id, (surface, &kind)) in pieces.surfaces.iter().zip(pieces.kinds).enumerate() {
            let id = id as u32;
            match kind {
                TokenKind::Byte => byte_ids[usize::from(surface[0])] = id,
                TokenKind::Control | TokenKind::Unknown => continue,
                TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined => {
                    // SentencePiece itself never finds a piece that holds NUL: it spells the byte.
                    if surface.is_empty() || surface.contains(&0) {
                        continue;
                    }
                    index.insert(surface, id);
                    if kind == TokenKind::Unused {
                        unused.insert(id, ());
                    } else if kind == TokenKind::UserDefined {
                        user_defined.insert(surface, id, Default::default());
                    }
                    if let Ok(text) = std::str::from_utf8(surface) {
                        seams.allow(text);
                    }
                }
            }
        }
        let byte_ids = if pieces.byte_fallback {
            if let Some(byte) = byte_ids.iter().position(|&id| id == NO_PIECE) {
                return Err(Error::format(format!(
                    "the vocabulary spells unknown text in bytes but has no piece <0x{byte:02X}>"
                )));
            }
            Some(byte_ids)
        } else {
            None
        };
        if byte_ids.is_none() && pieces.unknown.is_none() {
            return Err(Error::format(
                "the vocabulary has neither byte pieces nor an unknown token",
            ));
        }
        let (unknown, prefix) = (pieces.unknown, pieces.prefix);
        let words = Shelf::default();
        Ok(Self { index, order, user_defined, unused, seams, words, byte_ids, unknown, prefix })
    }

    /// Encodes one stretch of text that holds no control token.
    pub fn encode(&self, text: &str, place: Place, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let prefixed = match self.prefix {
            Prefix::Never => false,
            Prefix::Always => place != Place::Continued,
            Prefix::First => place == Place::Start,
        };
        let owned;
        let text = if prefixed || text.contains('▁') {
            owned = [if prefixed { " " } else { "" }, &text.replace('▁', " ")].concat();
            &owned
        } else {
            text
        };
        self.words.with(|words| {
            let mut from = 0;
            while let Some((range, id)) = self.user_defined.find(text, from, |_, _| true) {
                self.encode_between(&text[from..range.start], words, out);
                out.push(id);
                from = range.end;
            }
            self.encode_between(&text[from..], words, out);
        });
    }

    /// Encodes text without user-defined pieces: cut at seams, words that were met before taken as they
    /// were.
    fn encode_between(&self, text: &str, words: &mut Table, out: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        self.seams.split(text, |range| {
            let encode = |range, out: &mut _| self.encode_word(text, range, &mut symbols, out);
            words.append(text.as_bytes(), range, out, encode);
        });
    }

    /// Encodes the word `range` of `text`; false if its ids depend on those before it.
    fn encode_word(
        &self,
        text: &str,
        range: Range<usize>,
        symbols: &mut Vec<Symbol>,
        out: &mut Vec<u32>,
    ) -> bool {
        let bytes = text.as_bytes();
        // What a character is alone matters if merges go by ids, or if it may be unknown; else only in
        // the end, and most characters are merged by then.
        let later = matches!(self.order, Order::Score(_)) && self.byte_ids.is_some();
        symbols.clear();
        symbols.extend(text[range.clone()].char_indices().map(|(at, c)| {
            let start = range.start + at;
            let end = start + c.len_utf8();
            let id = if later { LATER } else { self.lookup(bytes, start..end) };
            Symbol { id, start, end }
        }));
        // How a merge through an unused piece came about, to be undone at the end.
        let mut splits: Map<u32, (Symbol, Symbol)> = Map::default();
        match &self.order {
            Order::Score(ranks) => merge(symbols, |left, right| {
                let id = self.lookup(bytes, left.start..right.end);
                if id == NO_PIECE {
                    return None;
                }
                if self.unused.contains_key(&id) {
                    splits.insert(id, (*left, *right));
                }
                Some((ranks[id as usize], id))
            }),
            Order::Pairs(pairs) => merge(symbols, |l, r| pairs.get(&(l.id, r.id)).copied()),
        }
        // A run of unknown characters is one unknown token, and may have begun before this word.
        let everywhere =
            self.byte_ids.is_some() || symbols.iter().all(|symbol| symbol.id != NO_PIECE);
        if splits.is_empty() {
            symbols.iter().for_each(|symbol| self.emit(*symbol, bytes, out));
            return everywhere;
        }
        let mut stack = Vec::new();
        for &symbol in symbols.iter() {
            stack.push(symbol);
            while let Some(symbol) = stack.pop() {
                match splits.get(&symbol.id) {
                    Some(&(left, right)) => stack.extend([right, left]),
                    None => self.emit(symbol, bytes, out),
                }
            }
        }
        everywhere
    }

    fn emit(&self, mut symbol: Symbol, bytes: &[u8], out: &mut Vec<u32>) {
        if symbol.id == LATER {
            symbol.id = self.lookup(bytes, symbol.start..symbol.end);
        }
        if symbol.id != NO_PIECE {
            out.push(symbol.id);
        } else if let Some(byte_ids) = &self.byte_ids {
            let text = &bytes[symbol.start..symbol.end];
            out.extend(text.iter().map(|&byte| byte_ids[usize::from(byte)]));
        } else if out.last() != self.unknown.as_ref() {
            out.extend(self.unknown);
        }
    }

    fn lookup(&self, text: &[u8], piece: Range<usize>) -> u32 {
        self.index.get(text, piece).unwrap_or(NO_PIECE)
    }
}

/// The pairs of neighbouring characters that stand inside some piece.
#[derive(Default)]
struct Seams {
    /// Pairs of ASCII characters: one bit for each second character.
    ascii: Vec<u128>,
    /// Other pairs, one bit for all that share a place: a pair that is taken for another is only not cut.
    other: Vec<u64>,
}

impl Seams {
    /// Bits for the pairs that are not ASCII: some twenty times the pairs of a large vocabulary.
    const BITS: u32 = 21;

    fn allow(&mut self, piece: &str) {
        self.ascii.resize(128, 0);
        self.other.resize(1 << (Self::BITS - 6), 0);
        for (a, b) in piece.chars().zip(piece.chars().skip(1)) {
            if a.is_ascii() && b.is_ascii() {
                self.ascii[a as usize] |= 1 << (b as u32);
            } else {
                let place = Self::place(a, b);
                self.other[place / 64] |= 1 << (place % 64);
            }
        }
    }

    /// The bit of a pair, spread by a multiplication.
    fn place(a: char, b: char) -> usize {
        let pair = u64::from(a) << 32 | u64::from(b);
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS)) as usize
    }

    fn joins(&self, a: char, b: char) -> bool {
        if a.is_ascii() && b.is_ascii() {
            self.ascii.get(a as usize).is_some_and(|row| row >> (b as u32) & 1 == 1)
        } else {
            let place = Self::place(a, b);
            self.other.get(place / 64).is_some_and(|bits| bits >> (place % 64) & 1 == 1)
        }
    }

    /// Calls `word` with every stretch of `text` that merges cannot leave.
    fn split(&self, text: &str, mut word: impl FnMut(Range<usize>)) {
        let mut start = 0;
        let mut chars = text.char_indices();
        let Some((_, mut last)) = chars.next() else { return };
        for (place, c) in chars {
            if !self.joins(last, c) {
                word(start..place);
                start = place;
            }
            last = c;
        }
        word(start..text.len());
    }
}
