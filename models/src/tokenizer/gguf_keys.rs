//! The vocabulary's keys in a GGUF file's metadata, from the file and to it.

use puyu_tensor::{Error, Result};

use super::{GgufVocab, Tokenizer};
use crate::format::Metadata;
use crate::format::gguf::{Array, Value, required};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";

impl GgufVocab {
    /// What `metadata` says.
    ///
    /// # Errors
    /// A key that is missing or of the wrong type, merges that are not UTF-8.
    pub fn read(metadata: &Metadata) -> Result<Self> {
        let tokens = required(TOKENS, metadata.get_strings(TOKENS)?)?;
        let mut merges = Vec::new();
        for merge in metadata.get_strings(MERGES)?.unwrap_or_default() {
            let text = std::str::from_utf8(merge);
            merges.push(text.map_err(|e| Error::format(format!("{MERGES}: {e}")))?.to_string());
        }
        let mut token_type = Vec::new();
        for number in metadata.get_i32s(TOKEN_TYPE)?.unwrap_or_default() {
            token_type.push(u32::try_from(number).map_err(|_| {
                Error::format(format!("{TOKEN_TYPE} holds {number}, which is no kind of token"))
            })?);
        }
        let text = |key| Ok::<_, Error>(metadata.get_str(key)?.map(str::to_string));
        Ok(Self {
            model: required(MODEL, text(MODEL)?)?,
            pre: text(PRE)?,
            tokens: tokens.into_iter().map(<[u8]>::to_vec).collect(),
            scores: metadata.get_f32s(SCORES)?.unwrap_or_default(),
            token_type,
            merges,
            bos: metadata.get_u32(BOS)?,
            eos: metadata.get_u32(EOS)?,
            unk: metadata.get_u32(UNKNOWN)?,
            pad: metadata.get_u32(PADDING)?,
            add_bos: metadata.get_bool(ADD_BOS)?,
            add_eos: metadata.get_bool(ADD_EOS)?,
            add_space_prefix: metadata.get_bool(ADD_SPACE)?,
            chat_template: text(TEMPLATE)?,
        })
    }

    /// Sets the keys in `metadata`.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.set(MODEL, Value::String(self.model.clone()));
        metadata.set(TOKENS, Value::Array(Array::strings(&self.tokens)));
        if !self.scores.is_empty() {
            metadata.set(SCORES, Value::Array(Array::f32(&self.scores)));
        }
        let numbers: Vec<i32> = self.token_type.iter().map(|&number| number as i32).collect();
        metadata.set(TOKEN_TYPE, Value::Array(Array::i32(&numbers)));
        if !self.merges.is_empty() {
            metadata.set(MERGES, Value::Array(Array::strings(&self.merges)));
        }
        let texts = [(PRE, &self.pre), (TEMPLATE, &self.chat_template)];
        let ids = [(BOS, self.bos), (EOS, self.eos), (UNKNOWN, self.unk), (PADDING, self.pad)];
        let flags =
            [(ADD_BOS, self.add_bos), (ADD_EOS, self.add_eos), (ADD_SPACE, self.add_space_prefix)];
        let texts = texts.into_iter().filter_map(|(k, x)| Some((k, Value::String(x.clone()?))));
        let ids = ids.into_iter().filter_map(|(k, x)| Some((k, Value::U32(x?))));
        let flags = flags.into_iter().filter_map(|(k, x)| Some((k, Value::Bool(x?))));
        for (key, value) in texts.chain(ids).chain(flags) {
            metadata.set(key, value);
        }
    }
}

impl Tokenizer {
    /// The tokenizer in a GGUF file's metadata.
    ///
    /// # Errors
    /// As [`GgufVocab::read`] and [`Tokenizer::from_gguf`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        Self::from_gguf(GgufVocab::read(metadata)?)
    }
}
