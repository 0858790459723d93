//! A Hugging Face folder's tokenizer: `tokenizer.model` or `tokenizer.json`, and the configuration
//! beside it (added tokens, roles, chat template).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use puyu_tensor::{Context, Error, Result};
use serde_json::Value;

use super::added::Edges;
use super::draft::{Draft, Kind};
use super::sentencepiece::Prefix;
use super::{TokenKind, Tokenizer, json, sentencepiece_model};
use crate::format::json::{MAX_CONFIG_BYTES, read_config, read_text};

/// Vocabulary files are a few megabytes; one beyond this is not read.
const MAX_VOCABULARY: u64 = 256 << 20;
/// Pieces that InternLM2 reserves. They are never text: the official fast tokenizer spells them out.
const RESERVED: &[u8] = b"[UNUSED";

impl Tokenizer {
    /// The tokenizer of a model folder.
    ///
    /// # Errors
    /// No tokenizer in the folder, or files that are malformed, contradict each other, or ask for
    /// something that is not supported; the message names the file.
    pub fn load(folder: &Path) -> Result<Self> {
        let config = Config::load(folder)?;
        let spm = folder.join("tokenizer.model");
        let json = folder.join("tokenizer.json");
        let has = |path: &Path| path.is_file();
        // Llama 3 folders carry a tokenizer.model of another kind; their class says so.
        let fast_only = config.text("tokenizer_class").is_some_and(|class| {
            class.starts_with("PreTrainedTokenizer")
                || class.contains("GPT2")
                || class.contains("Qwen2")
        });
        if has(&spm) && !(fast_only && has(&json)) {
            from_sentencepiece(&read(&spm)?, &config).context(spm.display())
        } else if has(&json) {
            json::build(&read(&json)?, &config).context(json.display())
        } else {
            Err(Error::not_found(format!(
                "{}: neither tokenizer.model nor tokenizer.json is there",
                folder.display()
            )))
        }
    }

    /// A tokenizer from the bytes of a `tokenizer.model` alone, without configuration.
    ///
    /// # Errors
    /// Bytes that are no SentencePiece BPE model of a supported kind.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self> {
        from_sentencepiece(bytes, &Config::default())
    }

    /// A tokenizer from the bytes of a `tokenizer.json` alone, without configuration.
    ///
    /// # Errors
    /// Bytes that are no such file, or one with a part that is not supported; the message names it.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        json::build(bytes, &Config::default())
    }
}

/// Reads a vocabulary file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).context(path.display())?;
    file.take(MAX_VOCABULARY + 1).read_to_end(&mut bytes).context(path.display())?;
    if bytes.len() as u64 > MAX_VOCABULARY {
        return Err(Error::format(format!(
            "{}: over {} MB, this is no tokenizer file",
            path.display(),
            MAX_VOCABULARY >> 20
        )));
    }
    Ok(bytes)
}

/// `tokenizer_config.json`, with `special_tokens_map.json` for what it leaves out.
#[derive(Default)]
pub(super) struct Config {
    value: Value,
    chat_template: Option<String>,
}

impl Config {
    fn load(folder: &Path) -> Result<Self> {
        let object = |name: &str| -> Result<Value> {
            let path = folder.join(name);
            if !path.is_file() {
                return Ok(Value::Object(Default::default()));
            }
            let value = read_config(&path)?;
            if !value.is_object() {
                return Err(Error::format(format!("{}: not a JSON object", path.display())));
            }
            Ok(value)
        };
        let mut value = object("tokenizer_config.json")?;
        let special = object("special_tokens_map.json")?;
        if let (Value::Object(into), Value::Object(from)) = (&mut value, special) {
            for (key, token) in from {
                into.entry(key).or_insert(token);
            }
        }
        let file = folder.join("chat_template.jinja");
        let chat_template = if file.is_file() {
            Some(read_text(&file, MAX_CONFIG_BYTES)?)
        } else {
            template_of(&value["chat_template"])
        };
        Ok(Self { value, chat_template })
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.value[key].as_str()
    }

    /// A token's text, written as a string or as an object with `content`.
    fn token(&self, key: &str) -> Option<&str> {
        let token = &self.value[key];
        token.as_str().or_else(|| token["content"].as_str())
    }

    /// Fills in what the configuration says of any vocabulary.
    ///
    /// # Errors
    /// Added tokens that are malformed or leave gaps, a begin or end token that does not exist.
    pub fn apply(&self, draft: &mut Draft) -> Result<()> {
        if let Some(added) = self.value["added_tokens_decoder"].as_object() {
            let mut tokens = Vec::with_capacity(added.len());
            for (id, token) in added {
                let id = id.parse().map_err(|_| {
                    Error::format(format!(
                        "tokenizer_config.json: added_tokens_decoder has the id `{id}`"
                    ))
                })?;
                tokens.push((id, token));
            }
            tokens.sort_by_key(|(id, _)| *id);
            for (id, token) in tokens {
                add_token(draft, id, token).context("tokenizer_config.json")?;
            }
        }
        let ids = draft.ids();
        let find = |key: &str| -> Result<Option<u32>> {
            let Some(text) = self.token(key) else { return Ok(None) };
            match ids.get(text.as_bytes()) {
                Some(&id) => Ok(Some(id)),
                None if key == "bos_token" || key == "eos_token" => Err(Error::format(format!(
                    "tokenizer_config.json: {key} is `{text}`, which the vocabulary has not"
                ))),
                None => Ok(None),
            }
        };
        let roles = &mut draft.roles;
        roles.bos = find("bos_token")?.or(roles.bos);
        roles.eos = find("eos_token")?.or(roles.eos);
        roles.unknown = find("unk_token")?.or(roles.unknown);
        roles.padding = find("pad_token")?.or(roles.padding);
        // What begins and ends a sequence is never text, even where nothing lists it as special.
        for id in [roles.bos, roles.eos].into_iter().flatten() {
            if draft.kinds[id as usize] == TokenKind::Normal {
                draft.kinds[id as usize] = TokenKind::Control;
            }
        }
        let flag = |key: &str| self.value[key].as_bool();
        draft.add_bos = flag("add_bos_token").unwrap_or(draft.add_bos);
        draft.add_eos = flag("add_eos_token").unwrap_or(draft.add_eos);
        draft.chat_template.clone_from(&self.chat_template);
        Ok(())
    }
}

/// A template, or the one called `default` of several.
fn template_of(value: &Value) -> Option<String> {
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|x| x["name"] == "default").or(list.first())?;
        default["template"].as_str().map(str::to_string)
    };
    value.as_str().map(str::to_string).or_else(|| value.as_array().and_then(named))
}

/// Adds one entry of `added_tokens_decoder` or `added_tokens`.
pub(super) fn add_token(draft: &mut Draft, id: u64, token: &Value) -> Result<()> {
    let text = token["content"]
        .as_str()
        .filter(|x| !x.is_empty())
        .ok_or_else(|| Error::format(format!("the added token {id} has no content")))?;
    let flag = |key: &str| token[key].as_bool().unwrap_or(false);
    let edges = Edges {
        left_strip: flag("lstrip"),
        right_strip: flag("rstrip"),
        single_word: flag("single_word"),
    };
    draft.add_token(id, text, flag("special"), edges)
}

fn from_sentencepiece(bytes: &[u8], config: &Config) -> Result<Tokenizer> {
    let model = sentencepiece_model::parse(bytes)?;
    let mut draft = Draft { add_bos: true, ..Draft::default() };
    for (text, score, kind) in model.pieces {
        let reserved = kind == TokenKind::UserDefined && text.starts_with(RESERVED);
        draft.kinds.push(if reserved { TokenKind::Unused } else { kind });
        draft.names.push(text);
        draft.scores.push(score);
    }
    let control = |name: &[u8]| {
        let place = draft.names.iter().position(|x| **x == *name);
        place.filter(|&id| draft.kinds[id] == TokenKind::Control).map(|id| id as u32)
    };
    let (bos, eos) = (control(b"<s>"), control(b"</s>"));
    (draft.roles.bos, draft.roles.eos) = (bos, eos);
    let unknown = draft.kinds.iter().position(|&kind| kind == TokenKind::Unknown);
    draft.roles.unknown = unknown.map(|id| id as u32);
    config.apply(&mut draft)?;
    let prefix = if model.add_dummy_prefix { Prefix::Always } else { Prefix::Never };
    draft.strip = match (prefix, config.text("tokenizer_class")) {
        (Prefix::Never, _) => 0,
        // The official class drops one space itself and lets SentencePiece drop another.
        (_, Some("InternLM3Tokenizer")) => 2,
        _ => 1,
    };
    draft.finish(Kind::SentencePiece { byte_fallback: model.byte_fallback, prefix, pairs: None })
}
