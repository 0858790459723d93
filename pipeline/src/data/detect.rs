//! What a file holds, seen from its first bytes and the keys of its first sample.

use super::config::{Format, Split};
use super::records::{Layout, Records};
use puyu_tensor::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// How many broken records are passed over in search of one that says what the file is.
const LOOK: usize = 100;

/// The format of a file called `path`: as its first sample looks; a text if it is no JSON.
///
/// # Errors
/// JSON whose keys are those of no format.
pub fn format_of(path: &Path, bytes: &[u8]) -> Result<Format> {
    let layout = layout_of(bytes, Format::Jsonl, Split::File);
    let json = path.extension().is_some_and(|e| e == "json" || e == "jsonl" || e == "bin");
    let looks = matches!(start(bytes), Some(b'{' | b'['));
    if !json && !looks {
        return Ok(Format::Text);
    }
    let mut broken = None;
    for record in Records::new(bytes, layout).take(LOOK) {
        let Ok(record) = record else { continue };
        match serde_json::from_slice::<Value>(&bytes[record.bytes.clone()]) {
            Ok(Value::Object(object)) => return by_keys(&object),
            _ => broken = broken.or(Some(record.line)),
        }
    }
    match broken {
        Some(line) if json => Err(Error::format(format!(
            "line {line}: broken JSON, and no later line says what the file holds; write `format` in \
             the source"
        ))),
        None if json => Err(Error::format("the file is empty")),
        _ => Ok(Format::Text),
    }
}

/// How a file of `format` is cut into records.
pub fn layout_of(bytes: &[u8], format: Format, split: Split) -> Layout {
    match format {
        Format::Text => Layout::Text(split),
        Format::Internevo => Layout::Lines,
        _ if start(bytes) == Some(b'[') => Layout::List,
        _ => Layout::Lines,
    }
}

/// The first byte that is no white space.
fn start(bytes: &[u8]) -> Option<u8> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.iter().find(|b| !b.is_ascii_whitespace()).copied()
}

fn by_keys(object: &Map<String, Value>) -> Result<Format> {
    let has = |key: &str| object.contains_key(key);
    Ok(if has("chosen") || has("rejected") {
        if has("conversations") { Format::PreferenceSharegpt } else { Format::PreferenceOpenai }
    } else if has("tokens") {
        Format::Internevo
    } else if has("messages") {
        Format::Openai
    } else if has("conversations") {
        Format::Sharegpt
    } else if has("conversation") {
        Format::Xtuner
    } else if has("instruction") {
        Format::Alpaca
    } else if has("q_main") {
        Format::WanjuanExam
    } else if has("img_list") {
        return Err(Error::unsupported(
            "the samples hold pictures (img_list); puyu learns from text, and format = \
             \"wanjuan_text\" takes their text alone",
        ));
    } else if has("content") {
        Format::WanjuanText
    } else if has("text") {
        Format::Jsonl
    } else {
        let keys: Vec<&str> = object.keys().map(String::as_str).take(12).collect();
        return Err(Error::unsupported(format!(
            "samples with the fields {} are of no known format; `puyu list-dataset-format` shows \
             those there are",
            keys.join(", ")
        )));
    })
}
