//! A vocabulary on its way from a file to a [`Tokenizer`]: every reader fills a [`Draft`], and what
//! they have in common, tables, checks, the roles of tokens, is done here once.

use puyu_tensor::{Error, Result};

use super::added::{Edges, Matcher};
use super::byte_bpe::{ByteBpe, bytes_of_piece, char_of_byte};
use super::hash::Map;
use super::merge::NO_PIECE;
use super::normal_form::NormalForm;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::{Order, Pieces, Prefix, SentencePiece, ranks_of_scores};
use super::{Encoder, TokenKind, Tokenizer};

/// Merges by the ids of their two sides: (rank, id of what they make).
pub(super) type Pairs = Map<(u32, u32), (u32, u32)>;

/// Pieces of InternLM-1 that end a turn. SentencePiece knows them as user-defined text; here they are
/// matched only in the program's own text, so that nobody ends the model's turn by typing one.
const TURN_ENDS: [&[u8]; 2] = [b"<eoh>", b"<eoa>"];

/// What the text model of a vocabulary is.
pub(super) enum Kind {
    /// SentencePiece, merged by score, or by pairs if there are any.
    SentencePiece { byte_fallback: bool, prefix: Prefix, pairs: Option<Pairs> },
    /// Byte-level BPE.
    ByteLevel { splitter: PreTokenizer, pairs: Pairs, ignore_merges: bool, add_prefix_space: bool },
}

/// The ids that have a part to play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Roles {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
}

/// Names, scores and kinds by id, and what else a file says.
#[derive(Default)]
pub(super) struct Draft {
    pub names: Vec<Box<[u8]>>,
    /// Empty where the file has none.
    pub scores: Vec<f32>,
    pub kinds: Vec<TokenKind>,
    /// Tokens matched in the raw text, before the model of the text sees it.
    pub added: Map<u32, Edges>,
    pub form: Option<NormalForm>,
    pub roles: Roles,
    pub add_bos: bool,
    pub add_eos: bool,
    /// Leading spaces that decoding drops.
    pub strip: u8,
    pub chat_template: Option<String>,
}

impl Draft {
    /// Adds the token `text` with `id`, which may rename a piece or follow the last one.
    ///
    /// # Errors
    /// An id that leaves a gap.
    pub fn add_token(&mut self, id: u64, text: &str, special: bool, edges: Edges) -> Result<()> {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let kind = if special { TokenKind::Control } else { TokenKind::UserDefined };
        if index == self.names.len() {
            self.names.push(text.as_bytes().into());
            self.kinds.push(kind);
            if !self.scores.is_empty() {
                self.scores.push(0.0);
            }
        } else if index < self.names.len() {
            self.names[index] = text.as_bytes().into();
            if self.kinds[index] != TokenKind::Unknown {
                self.kinds[index] = kind;
            }
        } else {
            return Err(Error::format(format!(
                "the added token `{text}` has id {id}, but the vocabulary ends at {}",
                self.names.len()
            )));
        }
        self.added.insert(index as u32, edges);
        Ok(())
    }

    /// Ids by name; of pieces with one name, the first.
    pub fn ids(&self) -> Map<Box<[u8]>, u32> {
        let mut ids = Map::default();
        for (id, name) in self.names.iter().enumerate() {
            ids.entry(name.clone()).or_insert(id as u32);
        }
        ids
    }

    /// Builds the tokenizer.
    ///
    /// # Errors
    /// A role whose id is outside the vocabulary, byte pieces that are wrong or missing.
    pub fn finish(self, kind: Kind) -> Result<Tokenizer> {
        if self.names.len() >= NO_PIECE as usize {
            return Err(Error::format("the vocabulary has more than 2^32 - 2 tokens"));
        }
        let Roles { bos, eos, unknown, padding } = self.roles;
        for (role, id) in [("bos", bos), ("eos", eos), ("unknown", unknown), ("padding", padding)] {
            if let Some(id) = id.filter(|&id| id as usize >= self.names.len()) {
                return Err(Error::format(format!(
                    "the {role} token id {id} is outside the vocabulary of {} tokens",
                    self.names.len()
                )));
            }
        }
        let ids = self.ids();
        let byte_level = matches!(kind, Kind::ByteLevel { .. });
        let surfaces = self.surfaces(byte_level)?;
        let mut added = Matcher::default();
        let mut guarded = vec![false; self.names.len()];
        let mut text_kinds = self.kinds.clone();
        for (id, name) in self.names.iter().enumerate() {
            let kind = self.kinds[id];
            let turn_end = kind == TokenKind::UserDefined && TURN_ENDS.contains(&&**name);
            guarded[id] = turn_end || matches!(kind, TokenKind::Control | TokenKind::Unknown);
            if turn_end {
                text_kinds[id] = TokenKind::Control;
            }
            let edges = self.added.get(&(id as u32)).copied();
            let in_text = byte_level && kind == TokenKind::UserDefined;
            if guarded[id] || in_text || edges.is_some() {
                added.insert(name, id as u32, edges.unwrap_or_default());
            }
        }
        let encoder = match kind {
            Kind::SentencePiece { byte_fallback, prefix, pairs } => {
                let order = match pairs {
                    Some(pairs) => Order::Pairs(pairs),
                    None => Order::Score(ranks_of_scores(&self.scores)),
                };
                let (surfaces, kinds) = (surfaces.as_slice(), text_kinds.as_slice());
                let pieces = Pieces { surfaces, kinds, byte_fallback, unknown, prefix };
                Encoder::SentencePiece(Box::new(SentencePiece::new(&pieces, order)?))
            }
            Kind::ByteLevel { splitter, pairs, ignore_merges, add_prefix_space } => {
                let mut byte_ids = Box::new([NO_PIECE; 256]);
                for byte in 0..=255 {
                    let name = char_of_byte(byte).to_string();
                    if let Some(&id) = ids.get(name.as_bytes()) {
                        byte_ids[usize::from(byte)] = id;
                    }
                }
                let whole_words = ignore_merges.then(|| {
                    let normal = |id: &usize| self.kinds[*id] == TokenKind::Normal;
                    let all = (0..surfaces.len()).filter(normal);
                    all.map(|id| (surfaces[id].clone(), id as u32)).collect()
                });
                Encoder::ByteLevel(ByteBpe {
                    byte_ids,
                    pairs,
                    whole_words,
                    splitter,
                    add_prefix_space,
                    unknown,
                    words: Default::default(),
                })
            }
        };
        Ok(Tokenizer {
            names: self.names,
            surfaces,
            scores: self.scores,
            kinds: self.kinds,
            guarded,
            ids,
            encoder,
            added,
            form: self.form,
            roles: self.roles,
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            strip: self.strip,
            chat_template: self.chat_template,
        })
    }

    /// The text every token decodes to.
    fn surfaces(&self, byte_level: bool) -> Result<Vec<Box<[u8]>>> {
        let mut surfaces = Vec::with_capacity(self.names.len());
        for (id, (name, &kind)) in self.names.iter().zip(&self.kinds).enumerate() {
            let written = matches!(kind, TokenKind::Control | TokenKind::Unknown)
                || self.added.contains_key(&(id as u32));
            let text = std::str::from_utf8(name).ok().filter(|_| !written);
            surfaces.push(match (kind, text) {
                (TokenKind::Byte, _) => {
                    let byte = byte_of_name(name).ok_or_else(|| {
                        Error::format(format!(
                            "token {id} is of the byte kind but is written `{}`, not `<0x00>` to `<0xFF>`",
                            String::from_utf8_lossy(name)
                        ))
                    })?;
                    [byte].into()
                }
                (TokenKind::UserDefined, _) if byte_level => name.clone(),
                (_, Some(text)) if byte_level => {
                    bytes_of_piece(text).map_or_else(|| name.clone(), Vec::into_boxed_slice)
                }
                (_, Some(text)) if text.contains('▁') => {
                    text.replace('▁', " ").into_bytes().into_boxed_slice()
                }
                _ => name.clone(),
            });
        }
        Ok(surfaces)
    }
}

/// The byte that a piece like `<0x0A>` stands for.
pub(super) fn byte_of_name(name: &[u8]) -> Option<u8> {
    let digits = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let hex = digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| hex)?;
    u8::from_str_radix(digits, 16).ok()
}

/// Resolves a list of merges, most wanted first.
///
/// # Errors
/// A merge that repeats another, or whose sides or result are no pieces. Each merge makes a longer
/// piece of two, so a list that passes cannot run in circles.
pub(super) fn resolve_merges<'a>(
    ids: &Map<Box<[u8]>, u32>,
    merges: impl Iterator<Item = Option<(&'a str, &'a str)>>,
) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    let mut made = Vec::new();
    for (rank, merge) in merges.enumerate() {
        let (left, right) =
            merge.ok_or_else(|| Error::format(format!("merge {rank} is not a pair of pieces")))?;
        made.clear();
        made.extend_from_slice(left.as_bytes());
        made.extend_from_slice(right.as_bytes());
        let find = |piece: &[u8]| {
            ids.get(piece).copied().ok_or_else(|| {
                Error::format(format!(
                    "merge {rank} (`{left}` with `{right}`) needs the piece `{}`, which the vocabulary has not",
                    String::from_utf8_lossy(piece)
                ))
            })
        };
        let pair = (find(left.as_bytes())?, find(right.as_bytes())?);
        if pairs.insert(pair, (rank as u32, find(&made)?)).is_some() {
            return Err(Error::format(format!(
                "merge {rank} (`{left}` with `{right}`) repeats an earlier one"
            )));
        }
    }
    Ok(pairs)
}
