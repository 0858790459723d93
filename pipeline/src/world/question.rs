//! The questions of a test file, as `write.rs` writes them.

use super::problem::{Kind, dont_know};
use super::words::Lang;
use puyu_models::chat_template::Message;
use puyu_tensor::{Context, Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A question that is answered freely, with what was said before it.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its name, unique in the file.
    pub id: String,
    /// What is asked.
    pub kind: Kind,
    /// How: a name of [`super::Form`], or `Call` and `CallRead` around the calculator.
    pub form: String,
    /// `en` or `zh`.
    pub lang: String,
    /// The conversation up to the user's question, or to the calculator's result.
    pub messages: Vec<Message>,
    /// Tools on offer.
    pub tools: Option<Value>,
    /// What is right.
    pub accepted: Vec<String>,
}

impl Question {
    fn of(record: &Value) -> Option<Self> {
        let text = |key: &str| Some(record[key].as_str()?.to_owned());
        let accepted: Vec<String> =
            record["answers"].as_array()?.iter().filter_map(|a| Some(a.as_str()?.into())).collect();
        accepted.first()?;
        Some(Self {
            id: text("id")?,
            kind: Kind::of(record["kind"].as_str()?)?,
            form: text("form")?,
            lang: text("lang")?,
            messages: serde_json::from_value(record["messages"].clone()).ok()?,
            tools: record.get("tools").filter(|t| !t.is_null()).cloned(),
            accepted,
        })
    }

    /// The questions in the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or a line is no question; file and line are named.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        lines(path, |record| {
            all.push(Self::of(record)?);
            Some(())
        })?;
        Ok(all)
    }

    /// Whether "I don't know" is what is right.
    pub fn is_unknown(&self) -> bool {
        Lang::ALL.iter().any(|lang| self.accepted[0] == dont_know(*lang))
    }

    /// Whether a call of the calculator is what is right.
    pub fn is_call(&self) -> bool {
        self.accepted[0].starts_with('{')
    }
}

/// Calls `take` with every line of a JSON lines file.
pub(super) fn lines(path: &Path, mut take: impl FnMut(&Value) -> Option<()>) -> Result<()> {
    let place = || format!("cannot read {}", path.display());
    let file = BufReader::new(File::open(path).context(place())?);
    for (number, line) in (1..).zip(file.lines()) {
        let line = line.context(place())?;
        let record = serde_json::from_str(&line).ok();
        record.as_ref().and_then(&mut take).ok_or_else(|| {
            let path = path.display();
            Error::invalid(format!(
                "{path}:{number} is not a record of a world; write it again with `puyu data world`"
            ))
        })?;
    }
    Ok(())
}
