//! Reading a config: TOML from a file, fields overridden by `--cfg-options`, and errors of one
//! sentence that name the line, the field, and the one that was probably meant.

use super::shipped::Shipped;
use puyu_tensor::{Context, Error, Result};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A config's text, and where it is from.
pub struct ConfigText {
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// `KEY=VALUE` of `--cfg-options`: a dotted key and a TOML value. A word that is no TOML value is a
/// string.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The parts of the key.
    pub key: Vec<String>,
    /// The value.
    pub value: toml::Value,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("expected KEY=VALUE, such as train.steps=100")?;
        let key: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        if key.iter().any(String::is_empty) {
            return Err(format!(
                "`{text}` has no key; expected KEY=VALUE, such as train.steps=100"
            ));
        }
        let parsed = toml::from_str::<toml::Table>(&format!("x = {value}")).ok();
        let parsed = parsed.filter(|t| t.len() == 1).and_then(|mut t| t.remove("x"));
        Ok(Self { key, value: parsed.unwrap_or_else(|| toml::Value::String(value.into())) })
    }
}

impl Override {
    /// Puts the value into `table`.
    ///
    /// # Errors
    /// If a part of the key is no section, or no place of a list.
    fn apply(&self, table: &mut toml::Table) -> Result<()> {
        let wrong = |part: &str| {
            Error::invalid(format!("--cfg-options {}: `{part}` is no section", self.key.join(".")))
        };
        let (last, sections) = self.key.split_last().ok_or_else(|| wrong(""))?;
        let mut place = None::<&mut toml::Value>;
        let mut root = Some(table);
        for part in sections {
            let next = match (root.take(), place.take()) {
                (Some(table), _) | (None, Some(toml::Value::Table(table))) => {
                    table.entry(part.clone()).or_insert_with(|| toml::Table::new().into())
                }
                (None, Some(toml::Value::Array(list))) => {
                    let index = part.parse::<usize>().ok();
                    index.and_then(|i| list.get_mut(i)).ok_or_else(|| wrong(part))?
                }
                _ => return Err(wrong(part)),
            };
            place = Some(next);
        }
        match (root, place) {
            (Some(table), _) | (None, Some(toml::Value::Table(table))) => {
                table.insert(last.clone(), self.value.clone());
                Ok(())
            }
            (None, Some(toml::Value::Array(list))) => {
                let index = last.parse::<usize>().ok();
                let item = index.and_then(|i| list.get_mut(i)).ok_or_else(|| wrong(last))?;
                *item = self.value.clone();
                Ok(())
            }
            _ => Err(wrong(sections.last().map_or("", String::as_str))),
        }
    }
}

impl ConfigText {
    /// Reads the file at `path`; if there is none, the config of that name that comes with puyu.
    ///
    /// # Errors
    /// If it cannot be read, or is a Python config or a Parquet file: then with what to do.
    pub fn open(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let shown = path.display();
        if ending.eq_ignore_ascii_case("py") {
            return Err(Error::unsupported(format!(
                "{shown} is a Python config, which puyu does not run: write the same fields as TOML \
                 (`puyu list-cfg` shows configs to begin with, `puyu copy-cfg` copies one)"
            )));
        }
        if ending.eq_ignore_ascii_case("parquet") {
            return Err(Error::unsupported(format!(
                "{shown} is a Parquet file, no config: export it as JSONL, and name that under \
                 [[data.source]]"
            )));
        }
        let shipped = path.to_str().filter(|_| !path.exists()).and_then(Shipped::find);
        if let Some(shipped) = shipped {
            return Ok(Self { path: path.into(), text: shipped.text.into() });
        }
        let bytes = std::fs::read(path).context(format_args!("cannot read the config {shown}"))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::format(format!("{shown} is not UTF-8, so it is no TOML config")))?;
        Ok(Self { path: path.into(), text })
    }

    /// The config with `overrides` in place, and as the TOML table that is in force.
    ///
    /// # Errors
    /// One sentence with file, line and field: broken TOML, an unknown field, a wrong type.
    pub fn parse<T: DeserializeOwned>(&self, overrides: &[Override]) -> Result<(T, toml::Table)> {
        let mut table: toml::Table = toml::from_str(&self.text).map_err(|e| self.error(&e))?;
        for o in overrides {
            o.apply(&mut table)?;
        }
        match table.clone().try_into() {
            Ok(config) => Ok((config, table)),
            // The text has lines; a table made by overrides has none.
            Err(changed) => Err(match toml::from_str::<T>(&self.text) {
                Err(e) if e.message() == changed.message() => self.error(&e),
                _ if overrides.is_empty() => self.error(&changed),
                _ => self.error(&changed).context("with --cfg-options"),
            }),
        }
    }

    fn error(&self, e: &toml::de::Error) -> Error {
        let line =
            e.span().map(|s| self.text[..s.start.min(self.text.len())].matches('\n').count() + 1);
        let line = line.map_or(String::new(), |n| format!(":{n}"));
        let message = e.message().trim().replace('\n', " ");
        // Where there is no line, the error still knows the field.
        let shown = e.to_string();
        let field = shown.lines().find(|l| l.starts_with("in `")).filter(|_| line.is_empty());
        let field = field.map_or(String::new(), |f| format!(" {f}"));
        Error::invalid(format!("{}{line}: {}{field}", self.path.display(), shorter(&message)))
    }
}

/// An error about an unknown field with the near name only, if one is near.
fn shorter(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = names.split_first().filter(|_| message.starts_with("unknown "))
    else {
        return message.into();
    };
    if ["lora", "finetune"].contains(unknown) && known.contains(&"model") {
        return format!("[{unknown}] is a section of configs for `puyu finetune`");
    }
    let what = message.split('`').next().unwrap_or_default().trim_end();
    match known.iter().map(|k| (distance(unknown, k), k)).min() {
        Some((d, near)) if d <= 1 + unknown.len() / 3 => {
            format!("{what} `{unknown}`; did you mean `{near}`?")
        }
        _ => message.into(),
    }
}

/// The number of insertions, deletions and replacements from one word to another (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let replaced = corner + usize::from(a != *b);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
