//! The text in a data file of any format, for what reads plain text: a tokenizer's training.

use super::config::{Format, Split};
use super::detect::{format_of, layout_of};
use super::records::Records;
use super::sample::{Conversation, Sample, parse};
use puyu_tensor::{Context, Error, FileBytes, Result};
use std::path::Path;

/// Calls `each` with every text in the file at `path`: documents, or what is said in conversations, with
/// tools and calls as JSON. A file of plain text is one text.
///
/// # Errors
/// If the file cannot be read, is of no format or holds ids alone, a line is broken (it is named), or
/// `each` failed.
pub fn each_text(path: &Path, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (mapped, read);
    // A pipe has no length to map.
    let bytes = match std::fs::metadata(path).context(path.display())?.is_file() {
        true => {
            mapped = FileBytes::map(path)?;
            mapped.as_slice()
        }
        false => {
            read = std::fs::read(path).context(path.display())?;
            &read[..]
        }
    };
    let format = format_of(path, bytes).context(path.display())?;
    if format == Format::Text {
        return each(bytes).context(path.display());
    }
    for record in Records::new(bytes, layout_of(bytes, format, Split::File)) {
        let record = record.map_err(|(line, e)| e.context(place(path, line)))?;
        let sample = parse(&bytes[record.bytes], format);
        sample.and_then(|sample| said(&sample, each)).context(place(path, record.line))?;
    }
    Ok(())
}

fn place(path: &Path, line: u64) -> String {
    format!("{}:{line}", path.display())
}

fn said(sample: &Sample, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    match sample {
        Sample::Text(text) => each(text.as_bytes()),
        Sample::Tokens(_) => Err(Error::invalid("the file holds ids, and a tokenizer needs text")),
        Sample::Chat(chat) => conversation(chat, each),
        Sample::Pair(pair) => pair.iter().try_for_each(|chat| conversation(chat, each)),
    }
}

fn conversation(chat: &Conversation, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    if let Some(tools) = &chat.tools {
        each(tools.to_string().as_bytes())?;
    }
    for message in &chat.messages {
        each(message.content.as_bytes())?;
        if let Some(calls) = message.extra.get("tool_calls") {
            each(calls.to_string().as_bytes())?;
        }
    }
    Ok(())
}
