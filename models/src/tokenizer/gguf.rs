//! The vocabulary of a GGUF file (`tokenizer.ggml.*`), read and written.
//!
//! Reading and writing the file is the format's business; this is the plain data in between. The file
//! cannot hold a NUL character, so llama.cpp's converter writes that piece as a dragon.

use puyu_tensor::{Error, Result};

use super::draft::{Draft, Kind, Roles, resolve_merges};
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::{Order, Prefix};
use super::{Encoder, TokenKind, Tokenizer};

/// The piece that stands for NUL in converted files.
const NUL_STAND_IN: &[u8] = "🐉".as_bytes();

/// The values of the `tokenizer.ggml.*` keys; what is absent in the file is `None` or empty here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `model`: `llama` (SentencePiece) or `gpt2` (byte-level BPE).
    pub model: String,
    /// `pre`: the pre-tokenizer of a byte-level vocabulary.
    pub pre: Option<String>,
    /// `tokens`, by id; bytes, since files with invalid UTF-8 exist.
    pub tokens: Vec<Vec<u8>>,
    /// `scores`, by id; needed by `llama`.
    pub scores: Vec<f32>,
    /// `token_type`, by id: the numbers of [`TokenKind`].
    pub token_type: Vec<u32>,
    /// `merges`: pairs of pieces with a space between, most wanted first; needed by `gpt2`.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// A model or pre-tokenizer that is not known, arrays of different lengths, token types, byte
    /// pieces or merges that are wrong, ids outside the vocabulary.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self> {
        let count = vocab.tokens.len();
        if count == 0 {
            return Err(Error::format("tokenizer.ggml.tokens is empty"));
        }
        for (key, length) in
            [("scores", vocab.scores.len()), ("token_type", vocab.token_type.len())]
        {
            if length != 0 && length != count {
                return Err(Error::format(format!(
                    "tokenizer.ggml.{key} has {length} entries for {count} tokens"
                )));
            }
        }
        if let Some(id) = vocab.scores.iter().position(|x| x.is_nan()) {
            return Err(Error::format(format!("tokenizer.ggml.scores[{id}] is not a number")));
        }
        let mut kinds = vec![TokenKind::Normal; count];
        for (kind, &number) in kinds.iter_mut().zip(&vocab.token_type) {
            // Old converters write 0 for a type they do not know; it is text.
            *kind = TokenKind::from_number(u64::from(number.max(1)))?;
        }
        let spm = match vocab.model.as_str() {
            "llama" => true,
            "gpt2" => false,
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer.ggml.model `{other}` is not supported (`llama` and `gpt2` are)"
                )));
            }
        };
        if spm && vocab.scores.is_empty() {
            return Err(Error::format("tokenizer.ggml.scores is missing, `llama` needs it"));
        }
        let mut names: Vec<Box<[u8]>> =
            vocab.tokens.into_iter().map(Vec::into_boxed_slice).collect();
        if spm {
            for (name, &kind) in names.iter_mut().zip(&kinds) {
                if kind == TokenKind::Unused && **name == *NUL_STAND_IN {
                    *name = [0].into();
                }
            }
        }
        let unknown =
            vocab.unk.or(kinds.iter().position(|&x| x == TokenKind::Unknown).map(|x| x as u32));
        let pre = vocab.pre.as_deref().unwrap_or("default");
        let llama3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
        let space = spm && vocab.add_space_prefix.unwrap_or(true);
        let draft = Draft {
            names,
            scores: vocab.scores,
            kinds,
            roles: Roles { bos: vocab.bos, eos: vocab.eos, unknown, padding: vocab.pad },
            add_bos: vocab.add_bos.unwrap_or(spm || llama3),
            add_eos: vocab.add_eos.unwrap_or(false),
            strip: u8::from(space),
            chat_template: vocab.chat_template,
            ..Draft::default()
        };
        let kind = if spm {
            let byte_fallback = draft.kinds.contains(&TokenKind::Byte);
            let prefix = if space { Prefix::Always } else { Prefix::Never };
            Kind::SentencePiece { byte_fallback, prefix, pairs: None }
        } else {
            let merges = vocab.merges.iter().map(|merge| {
                // A piece may be a space itself in files that do not map bytes to characters.
                let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
                Some((&merge[..cut], &merge[cut + 1..]))
            });
            Kind::ByteLevel {
                splitter: PreTokenizer::named(pre)?,
                pairs: resolve_merges(&draft.ids(), merges)?,
                ignore_merges: llama3,
                add_prefix_space: vocab.add_space_prefix.unwrap_or(false),
            }
        };
        draft.finish(kind)
    }

    /// What a GGUF file says of this tokenizer; [`Tokenizer::from_gguf`] undoes it.
    ///
    /// # Errors
    /// A vocabulary that GGUF has no form for: byte-level with patterns of its own,
    /// SentencePiece-style with a list of merges instead of scores, or one that normalizes its text.
    pub fn to_gguf(&self) -> Result<GgufVocab> {
        if let Some(form) = self.form {
            return Err(Error::unsupported(format!(
                "GGUF cannot say that this vocabulary normalizes its text ({form:?})"
            )));
        }
        let mut vocab = GgufVocab {
            tokens: self.names.iter().map(|name| name.to_vec()).collect(),
            scores: self.scores.clone(),
            token_type: self.kinds.iter().map(|&kind| kind as u32).collect(),
            bos: self.roles.bos,
            eos: self.roles.eos,
            unk: self.roles.unknown,
            pad: self.roles.padding,
            add_bos: Some(self.add_bos),
            add_eos: Some(self.add_eos),
            chat_template: self.chat_template.clone(),
            ..GgufVocab::default()
        };
        match &self.encoder {
            Encoder::SentencePiece(model) => {
                if let Order::Pairs(_) = model.order {
                    return Err(Error::unsupported(
                        "GGUF needs the scores of a SentencePiece vocabulary; \
                         put its tokenizer.model beside tokenizer.json",
                    ));
                }
                vocab.model = "llama".into();
                vocab.pre = Some("default".into());
                vocab.add_space_prefix = Some(model.prefix != Prefix::Never);
                for (token, kind) in vocab.tokens.iter_mut().zip(&mut vocab.token_type) {
                    if *token == [0] {
                        *token = NUL_STAND_IN.to_vec();
                        *kind = TokenKind::Unused as u32;
                    }
                }
            }
            Encoder::ByteLevel(model) => {
                vocab.model = "gpt2".into();
                vocab.pre = Some(
                    model
                        .splitter
                        .name()
                        .ok_or_else(|| {
                            Error::unsupported(
                                "GGUF has no name for this vocabulary's pre-tokenizer",
                            )
                        })?
                        .into(),
                );
                vocab.add_space_prefix = Some(model.add_prefix_space);
                let mut merges: Vec<_> = model.pairs.iter().collect();
                merges.sort_by_key(|(_, (rank, _))| *rank);
                let name = |id: u32| String::from_utf8_lossy(self.piece(id));
                vocab.merges = merges
                    .into_iter()
                    .map(|(&(left, right), _)| format!("{} {}", name(left), name(right)))
                    .collect();
            }
        }
        Ok(vocab)
    }
}
