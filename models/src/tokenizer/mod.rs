//! Tokenizers: text to ids and back, from `tokenizer.model`, `tokenizer.json` or GGUF metadata.
//!
//! What a user types and what the program writes are kept apart: a control token is recognised only
//! in text the caller marks as its own, so `<|im_end|>` typed by a user stays text. There are two
//! text models, SentencePiece-style and byte-level BPE, over one merge loop.

mod added;
mod byte_bpe;
mod bytes;
mod draft;
mod folder;
mod gguf;
mod gguf_keys;
mod hash;
mod json;
mod merge;
mod normal_form;
mod pre_tokenizer;
mod sentencepiece;
mod sentencepiece_model;
mod stream;
mod train;
mod word_table;

use std::borrow::Cow;
use std::ops::Range;

use puyu_tensor::{Error, Result};

use crate::chat_template::Part;
use added::Matcher;
use byte_bpe::ByteBpe;
use draft::Roles;
use hash::Map;
use normal_form::NormalForm;
use sentencepiece::{Place, SentencePiece};

pub use gguf::GgufVocab;
pub(crate) use pre_tokenizer::patterns_named;
pub use stream::DecodeStream;
pub use train::{INTERNLM2_CONTROL, Report, TrainOptions, TrainProgress, Trained, Trainer};

/// What a token is; the numbers are those of GGUF and of SentencePiece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TokenKind {
    /// A piece of text.
    Normal = 1,
    /// Stands for what cannot be spelled.
    Unknown = 2,
    /// Never text: begins, ends and separates.
    Control = 3,
    /// Text that is matched as a whole, before any merge.
    UserDefined = 4,
    /// Has an id but is never produced: its text is spelled out.
    Unused = 5,
    /// One byte of text.
    Byte = 6,
}

impl TokenKind {
    /// The kind with this number.
    ///
    /// # Errors
    /// A number that is no kind.
    pub(crate) fn from_number(number: u64) -> Result<Self> {
        Ok(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return Err(Error::format(format!("{number} is no kind of token"))),
        })
    }
}

/// How [`Tokenizer::encode`] treats a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put the beginning-of-sequence token in front, if there is one.
    pub add_bos: bool,
    /// Recognise control tokens in the text: only for text that the program wrote.
    pub parse_special: bool,
}

enum Encoder {
    SentencePiece(Box<SentencePiece>),
    ByteLevel(ByteBpe),
}

/// A vocabulary and how text becomes ids in it. It never changes, and may be shared by threads.
pub struct Tokenizer {
    /// Pieces as the file writes them, by id.
    names: Vec<Box<[u8]>>,
    /// What they decode to.
    surfaces: Vec<Box<[u8]>>,
    scores: Vec<f32>,
    kinds: Vec<TokenKind>,
    /// Tokens that are recognised only in the program's own text.
    guarded: Vec<bool>,
    ids: Map<Box<[u8]>, u32>,
    encoder: Encoder,
    added: Matcher,
    /// The form of Unicode in which text is encoded, if it matters.
    form: Option<NormalForm>,
    roles: Roles,
    add_bos: bool,
    add_eos: bool,
    strip: u8,
    chat_template: Option<String>,
}

/// Tokens that end an answer whatever the configuration calls the end: one list for all families.
const TURN_END_NAMES: [&str; 6] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<eoa>"];

impl Tokenizer {
    /// The ids of `text`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        if options.add_bos {
            ids.extend(self.roles.bos);
        }
        self.encode_where(text, Place::Start, |_| options.parse_special, &mut ids);
        ids
    }

    /// The ids of a rendered chat: control tokens are recognised inside [`Part::Control`] only, and
    /// otherwise the text is encoded as the one text it is, merges crossing from part to part. With
    /// `add_bos`, the beginning-of-sequence token is put in front unless the template wrote it.
    pub fn encode_parts(&self, parts: &[Part], add_bos: bool) -> Vec<u32> {
        let mut ids = self.encode_stretch(parts, Place::Start);
        if let Some(bos) = self.roles.bos.filter(|bos| add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// The ids of parts that go on after others: nothing is put in front of them.
    pub fn encode_parts_after(&self, parts: &[Part]) -> Vec<u32> {
        self.encode_stretch(parts, Place::Continued)
    }

    fn encode_stretch(&self, parts: &[Part], place: Place) -> Vec<u32> {
        let mut text = String::new();
        let mut own: Vec<Range<usize>> = Vec::new();
        for part in parts {
            let start = text.len();
            text.push_str(part.text());
            if let Part::Control(_) = part {
                own.push(start..text.len());
            }
        }
        let trusted = |found: &Range<usize>| {
            let place = own.partition_point(|range| range.end < found.end);
            own.get(place).is_some_and(|r| r.start <= found.start && found.end <= r.end)
        };
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_where(&text, place, trusted, &mut ids);
        ids
    }

    /// Encodes `text`, recognising a guarded token only where `trusted` says so; `place` is where
    /// it begins.
    fn encode_where(
        &self,
        text: &str,
        mut place: Place,
        trusted: impl Fn(&Range<usize>) -> bool,
        ids: &mut Vec<u32>,
    ) {
        let accept = |range: &Range<usize>, id: u32| !self.guarded[id as usize] || trusted(range);
        let mut from = 0;
        while let Some((range, id)) = self.added.find(text, from, accept) {
            self.encode_plain(&text[from..range.start], place, ids);
            ids.push(id);
            place = Place::AfterToken;
            from = range.end;
        }
        self.encode_plain(&text[from..], place, ids);
    }

    fn encode_plain(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        let text = self.form.map_or(Cow::Borrowed(text), |form| form.apply(text));
        match &self.encoder {
            Encoder::SentencePiece(model) => model.encode(&text, place, ids),
            Encoder::ByteLevel(model) => model.encode(&text, place, ids),
        }
    }

    /// The text of `ids`. `skip_special` leaves control tokens out. Bytes that are no UTF-8 become
    /// U+FFFD; ids outside the vocabulary have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = DecodeStream::new(self, skip_special);
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            stream.append(self, id, &mut bytes);
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// The bytes that token `id` adds to a text; empty outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.surfaces.get(id as usize).map_or(&[], |x| x)
    }

    /// The piece as its file writes it (`▁the`, `Ġthe`, `<0x0A>`); empty outside the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.names.get(id as usize).map_or(&[], |x| x)
    }

    /// The id of the piece that its file writes as `piece`.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece.as_bytes()).copied()
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.names.len()
    }

    /// What token `id` is.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Whether `id` is a control token (or the unknown one), which `skip_special` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The end-of-sequence token that the files name.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// The unknown token.
    pub fn unk(&self) -> Option<u32> {
        self.roles.unknown
    }

    /// The padding token.
    pub fn pad(&self) -> Option<u32> {
        self.roles.padding
    }

    /// Ids that end an answer: the end-of-sequence token, then the ends of a turn that this
    /// vocabulary has. `generation_config.json` may name more.
    pub fn eos_ids(&self) -> Vec<u32> {
        let named = TURN_END_NAMES.iter().filter_map(|name| self.id_of(name));
        let mut ids: Vec<u32> = self.roles.eos.into_iter().collect();
        for id in named.filter(|&id| self.guarded[id as usize]) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Whether the model expects the beginning-of-sequence token before a text.
    pub fn add_bos(&self) -> bool {
        self.add_bos && self.roles.bos.is_some()
    }

    /// The chat template that came with the vocabulary.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The text of every token that is recognised only in the program's own text.
    pub fn control_tokens(&self) -> Vec<String> {
        let ids = (0..self.names.len() as u32).filter(|&id| self.guarded[id as usize]);
        ids.map(|id| self.token_text(id)).collect()
    }

    /// The text of the token with `id`, for a template's `bos_token` and its like.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let model = match &self.encoder {
            Encoder::SentencePiece(_) => "SentencePiece",
            Encoder::ByteLevel(_) => "byte-level",
        };
        write!(f, "Tokenizer({model} BPE, {} tokens)", self.names.len())
    }
}
