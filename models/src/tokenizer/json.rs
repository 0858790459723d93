//! `tokenizer.json`, the file of Hugging Face's fast tokenizers, as far as BPE goes.
//!
//! The file is a pipeline of named parts. Every part that changes ids is either understood here or
//! refused by name: leaving one out would give wrong ids without a word.

use puyu_tensor::{Context, Error, Result};
use serde_json::Value;

use super::draft::{Draft, Kind, byte_of_name, resolve_merges};
use super::folder::{Config, add_token};
use super::normal_form::NormalForm;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::Prefix;
use super::{TokenKind, Tokenizer};

/// What the normalizer, pre-tokenizer and decoder parts add up to.
#[derive(Default)]
struct Pipeline {
    splitter: PreTokenizer,
    byte_level: bool,
    add_prefix_space: bool,
    /// Spaces are written `▁`.
    escapes: bool,
    prefix: Option<Prefix>,
    form: Option<NormalForm>,
}

/// Builds the tokenizer of the file `bytes`.
///
/// # Errors
/// Bytes that are no such file, a part that is not supported, or ids, merges and added tokens that do
/// not fit together.
pub(super) fn build(bytes: &[u8], config: &Config) -> Result<Tokenizer> {
    let file: Value = serde_json::from_slice(bytes).map_err(|e| Error::format(e.to_string()))?;
    let model = &file["model"];
    if let Some(kind) = model["type"].as_str().filter(|&kind| kind != "BPE") {
        return unsupported("model", kind);
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[key].as_str().is_some_and(|x| !x.is_empty()) {
            return unsupported("model", key);
        }
    }
    if model["dropout"].as_f64().is_some_and(|x| x > 0.0) {
        return unsupported("model", "dropout");
    }
    let mut pipeline = Pipeline::default();
    each(&file["normalizer"], "normalizers", &mut |x| pipeline.normalizer(x))?;
    each(&file["pre_tokenizer"], "pretokenizers", &mut |x| pipeline.pre_tokenizer(x))?;
    let mut strip = 0;
    each(&file["decoder"], "decoders", &mut |x| decoder(x, &mut strip))?;
    let flag = |key: &str| model[key].as_bool().unwrap_or(false);
    let mut draft = vocabulary(model, flag("byte_fallback") && !pipeline.byte_level)?;
    let merges = merges(model)?;
    // Merges are written in the vocabulary's own names, which added tokens may replace.
    let pairs = resolve_merges(&draft.ids(), merges.into_iter())?;
    if let Some(unknown) = model["unk_token"].as_str() {
        draft.roles.unknown = draft.ids().get(unknown.as_bytes()).copied();
    }
    if let Some(added) = file["added_tokens"].as_array() {
        for token in added {
            let id =
                token["id"].as_u64().ok_or_else(|| Error::format("an added token has no id"))?;
            add_token(&mut draft, id, token)?;
        }
    }
    let mut ends = Ends::default();
    each(&file["post_processor"], "processors", &mut |x| ends.read(x))?;
    let ids = draft.ids();
    let id = |text: Option<String>| text.and_then(|x| ids.get(x.as_bytes()).copied());
    (draft.add_bos, draft.add_eos) = (ends.first.is_some(), ends.last.is_some());
    (draft.roles.bos, draft.roles.eos) = (id(ends.first), id(ends.last));
    config.apply(&mut draft)?;
    draft.form = pipeline.form;
    if pipeline.byte_level {
        if pipeline.escapes || pipeline.prefix.is_some() {
            return unsupported("normalizer", "▁ before a byte-level model");
        }
        return draft.finish(Kind::ByteLevel {
            splitter: pipeline.splitter,
            pairs,
            ignore_merges: flag("ignore_merges"),
            add_prefix_space: pipeline.add_prefix_space,
        });
    }
    if !pipeline.escapes {
        return unsupported("pre_tokenizer", "neither byte-level nor SentencePiece's");
    }
    draft.strip = strip;
    draft.finish(Kind::SentencePiece {
        byte_fallback: flag("byte_fallback"),
        prefix: pipeline.prefix.unwrap_or(Prefix::Never),
        pairs: Some(pairs),
    })
}

/// The error for a part that is not understood.
fn unsupported<T>(part: &str, what: &str) -> Result<T> {
    Err(Error::unsupported(format!("the {part} `{what}` is not supported")))
}

/// Calls `part` for `value`, or for each part of it if it is a sequence (which may not be nested).
fn each(value: &Value, list: &str, part: &mut dyn FnMut(&Value) -> Result<()>) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        _ if value["type"] == "Sequence" => match value[list].as_array() {
            Some(parts) => parts.iter().try_for_each(part),
            None => Err(Error::format(format!("a sequence without `{list}`"))),
        },
        _ => part(value),
    }
}

fn type_of(value: &Value) -> &str {
    value["type"].as_str().unwrap_or("without type")
}

impl Pipeline {
    fn normalizer(&mut self, part: &Value) -> Result<()> {
        let kind = type_of(part);
        if let Some(form) = NormalForm::named(kind) {
            // Text takes its form once, and before spaces are written `▁`.
            if self.form.replace(form).is_some() || self.escapes || self.prefix.is_some() {
                return unsupported("normalizer", &format!("{kind} after another"));
            }
            return Ok(());
        }
        match kind {
            "Replace" if part["pattern"]["String"] == " " && part["content"] == "▁" => {
                self.escapes = true;
                Ok(())
            }
            "Prepend" if part["prepend"] == "▁" => {
                self.prefix = Some(Prefix::Always);
                Ok(())
            }
            other => unsupported("normalizer", other),
        }
    }

    fn pre_tokenizer(&mut self, part: &Value) -> Result<()> {
        let flag = |key: &str, default| part[key].as_bool().unwrap_or(default);
        match type_of(part) {
            "ByteLevel" => {
                self.byte_level = true;
                self.add_prefix_space = flag("add_prefix_space", true);
                if flag("use_regex", true) { self.splitter.push_gpt2() } else { Ok(()) }
            }
            "Digits" => {
                let digits = if flag("individual_digits", false) { r"\p{N}" } else { r"\p{N}+" };
                self.splitter.push(digits, false)
            }
            "Split" => {
                let pattern = match (&part["pattern"]["Regex"], &part["pattern"]["String"]) {
                    (Value::String(regex), _) => regex.clone(),
                    (_, Value::String(text)) => fancy_regex::escape(text).into_owned(),
                    _ => return Err(Error::format("a Split pre-tokenizer without a pattern")),
                };
                match (part["behavior"].as_str(), flag("invert", false)) {
                    (Some("Isolated"), _) => self.splitter.push(&pattern, false),
                    (Some("Removed"), false) => self.splitter.push(&pattern, true),
                    (behavior, _) => {
                        unsupported("pre_tokenizer", &format!("Split {}", behavior.unwrap_or("?")))
                    }
                }
            }
            "Metaspace" => {
                if part["replacement"].as_str().is_some_and(|x| x != "▁") || flag("split", true) {
                    return unsupported("pre_tokenizer", "Metaspace that splits");
                }
                self.escapes = true;
                self.prefix = Some(match part["prepend_scheme"].as_str() {
                    Some("never") => Prefix::Never,
                    Some("first") => Prefix::First,
                    _ => Prefix::Always,
                });
                Ok(())
            }
            other => unsupported("pre_tokenizer", other),
        }
    }
}

/// Decoders say nothing that is not known already, but for the spaces they strip at the beginning.
fn decoder(part: &Value, strip: &mut u8) -> Result<()> {
    match type_of(part) {
        "ByteLevel" | "ByteFallback" | "Fuse" => {}
        "Replace" if part["pattern"]["String"] == "▁" && part["content"] == " " => {}
        "Metaspace" => {
            *strip = u8::from(part["prepend_scheme"].as_str().unwrap_or("always") != "never");
        }
        "Strip" if part["content"] == " " && part["stop"].as_u64().unwrap_or(0) == 0 => {
            *strip = part["start"].as_u64().unwrap_or(0).min(2) as u8;
        }
        other => return unsupported("decoder", other),
    }
    Ok(())
}

/// The pieces of `model.vocab`, in the order of their ids.
fn vocabulary(model: &Value, bytes: bool) -> Result<Draft> {
    let vocab =
        model["vocab"].as_object().ok_or_else(|| Error::format("model.vocab is missing"))?;
    let mut names: Vec<Option<&str>> = vec![None; vocab.len()];
    for (name, id) in vocab {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let place = id.and_then(|id| names.get_mut(id)).ok_or_else(|| {
            Error::format(format!(
                "the id of `{name}` is outside the vocabulary of {}",
                vocab.len()
            ))
        })?;
        if let Some(other) = place.replace(name) {
            return Err(Error::format(format!("`{other}` and `{name}` have the same id")));
        }
    }
    let mut draft = Draft::default();
    // As many ids as entries, none twice, none outside: every one is taken.
    for name in names.into_iter().flatten() {
        draft.names.push(name.as_bytes().into());
        let byte = bytes && byte_of_name(name.as_bytes()).is_some();
        draft.kinds.push(if byte { TokenKind::Byte } else { TokenKind::Normal });
    }
    Ok(draft)
}

/// The pairs of `model.merges`, written as `"a b"` or as `["a", "b"]`; `None` for anything else.
fn merges(model: &Value) -> Result<Vec<Option<(&str, &str)>>> {
    let list = model["merges"].as_array();
    let list = list.ok_or_else(|| Error::format("model.merges is missing"))?;
    Ok(list
        .iter()
        .map(|merge| match (merge.as_str(), merge.as_array().map(Vec::as_slice)) {
            (Some(text), _) => text.split_once(' '),
            (_, Some([left, right])) => left.as_str().zip(right.as_str()),
            _ => None,
        })
        .collect())
}

/// What the post-processor puts before and after a text.
#[derive(Default)]
struct Ends {
    first: Option<String>,
    last: Option<String>,
}

impl Ends {
    fn read(&mut self, part: &Value) -> Result<()> {
        match type_of(part) {
            "ByteLevel" => Ok(()),
            "TemplateProcessing" => self.template(part).context("post_processor"),
            other => unsupported("post_processor", other),
        }
    }

    fn template(&mut self, part: &Value) -> Result<()> {
        let single = part["single"]
            .as_array()
            .ok_or_else(|| Error::format("a template without `single`"))?;
        let text = single.iter().position(|x| x.get("Sequence").is_some());
        let text = text.ok_or_else(|| Error::format("a template without the text"))?;
        let special = |x: &Value| x["SpecialToken"]["id"].as_str().map(str::to_string);
        let (before, after) = (&single[..text], &single[text + 1..]);
        if before.len() > 1 || after.len() > 1 {
            return unsupported("template", "several tokens on one side");
        }
        self.first = before.first().and_then(special);
        self.last = after.first().and_then(special);
        Ok(())
    }
}
