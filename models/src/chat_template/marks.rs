//! Marks that stand for foreign text while a template runs.
//!
//! A mark is a number between two copies of a private-use character that nothing else in the
//! conversation holds. White space around a content stays outside its mark, so that a template that
//! trims contents does to the marked one what it does to the real one.

use std::collections::HashSet;

use puyu_tensor::{Error, Result};
use serde_json::Value;

use super::Part;

/// The marks of one rendering.
pub(super) struct Marks<'a> {
    /// The character that begins and ends a mark.
    fence: char,
    control_tokens: &'a [String],
    /// Mark contents as a whole, not only the control tokens in them.
    whole: bool,
    /// What each mark stands for.
    texts: Vec<String>,
}

impl<'a> Marks<'a> {
    /// Marks for a conversation that renders as `text`.
    ///
    /// # Errors
    /// A conversation that uses every private character there is.
    pub fn new(
        text: &str,
        messages: &Value,
        control_tokens: &'a [String],
        whole: bool,
    ) -> Result<Self> {
        let mut used = HashSet::new();
        let mut note = |text: &str| used.extend(text.chars().filter(|&c| c >= FENCES[0]));
        note(text);
        each_text(messages, &mut note);
        let fence = (FENCES[0]..=FENCES[1])
            .find(|c| !used.contains(c))
            .ok_or_else(|| Error::invalid("the messages use every private-use character"))?;
        Ok(Self { fence, control_tokens, whole, texts: Vec::new() })
    }

    /// A copy of `value` with every foreign text in it marked.
    pub fn mark(&mut self, value: &Value) -> Value {
        self.mark_under(value, "")
    }

    fn mark_under(&mut self, value: &Value, key: &str) -> Value {
        match value {
            Value::String(text) if self.whole && key == "content" => {
                let core = text.trim();
                let start = text.len() - text.trim_start().len();
                if core.is_empty() {
                    return value.clone();
                }
                let mark = self.add(core);
                [&text[..start], &mark, &text[start + core.len()..]].concat().into()
            }
            Value::String(text) => self.mark_tokens(text).into(),
            Value::Array(list) => {
                list.iter().map(|item| self.mark_under(item, "")).collect::<Vec<_>>().into()
            }
            Value::Object(map) => map
                .iter()
                .map(|(key, item)| (self.mark_tokens(key), self.mark_under(item, key)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    /// `text` with a mark for each control token it spells.
    fn mark_tokens(&mut self, text: &str) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let spelled = |token: &&String| !token.is_empty() && rest.starts_with(token.as_str());
            let longest = self.control_tokens.iter().filter(spelled).max_by_key(|x| x.len());
            let length = match longest {
                Some(token) => {
                    marked.push_str(&self.add(token));
                    token.len()
                }
                None => {
                    marked.push(first);
                    first.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        marked
    }

    fn add(&mut self, text: &str) -> String {
        self.texts.push(text.to_string());
        format!("{0}{1}{0}", self.fence, self.texts.len() - 1)
    }

    /// Cuts a rendered text at the marks and puts back what they stand for. What looks like a mark
    /// but is none stays as it is; the comparison with the real text will tell.
    pub fn split(&self, rendered: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut control = String::new();
        for (place, piece) in rendered.split(self.fence).enumerate() {
            let text = piece.parse::<usize>().ok().and_then(|number| self.texts.get(number));
            match text.filter(|_| place % 2 == 1) {
                Some(text) => {
                    if !control.is_empty() {
                        parts.push(Part::Control(std::mem::take(&mut control)));
                    }
                    parts.push(Part::Text(text.clone()));
                }
                None => control.push_str(piece),
            }
        }
        if !control.is_empty() {
            parts.push(Part::Control(control));
        }
        parts
    }
}

/// First and last character of the last private-use plane.
const FENCES: [char; 2] = ['\u{100000}', '\u{10FFFD}'];

fn each_text(value: &Value, note: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => note(text),
        Value::Array(list) => list.iter().for_each(|item| each_text(item, note)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            note(key);
            each_text(item, note);
        }),
        _ => {}
    }
}
