//! `metrics.jsonl`: one JSON object a line, appended as things happen. A killed process leaves at most
//! half a line at the end, which is cut off on resume together with the steps that will be done again.

use super::StepRecord;
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of the journal; its `kind` says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A step.
    Step(StepRecord),
    /// A validation.
    Valid {
        /// Steps done.
        step: u64,
        /// Mean loss in nats.
        #[serde(with = "super::finite")]
        loss: f64,
        /// e to the loss.
        #[serde(with = "super::finite")]
        perplexity: f64,
        /// What else was measured.
        metrics: BTreeMap<String, f64>,
    },
    /// A text by the model.
    Sample {
        /// Steps done.
        step: u64,
        /// What was given.
        prompt: String,
        /// What the model wrote.
        text: String,
    },
    /// Something worth a word.
    Event {
        /// Steps done.
        step: u64,
        /// What happened.
        text: String,
    },
}

impl Record {
    /// After how many steps it was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step(s) => s.step,
            Self::Valid { step, .. } | Self::Sample { step, .. } | Self::Event { step, .. } => {
                *step
            }
        }
    }

    fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("records have string keys only");
        json + "\n"
    }
}

/// The records in the journal at `path`; half a line at the end is left out.
///
/// # Errors
/// If the file cannot be read, or another line is no record; the message names the line.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).context(path.display())?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let lines = bytes[..whole].split(|b| *b == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    lines
        .map(|(i, line)| {
            serde_json::from_slice(line).map_err(|e| {
                let (path, n) = (path.display(), i + 1);
                Error::format(format!("{path}: line {n} is not a record of a run: {e}"))
            })
        })
        .collect()
}

/// The journal, open for appending.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// A new journal, or the old one cut back to what was written up to step `resumed_at`; and the
    /// records in it.
    pub fn open(path: &Path, resumed_at: Option<u64>) -> Result<(Self, Vec<Record>)> {
        let mut kept = match resumed_at {
            Some(_) if path.exists() => read(path)?,
            _ => Vec::new(),
        };
        kept.retain(|r| Some(r.step()) <= resumed_at);
        let mut file = AtomicFile::create(path)?;
        for record in &kept {
            file.write(record.line().as_bytes())?;
        }
        file.finish()?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.context(format_args!("cannot write {}", path.display()))?;
        Ok((Self { path: path.into(), file }, kept))
    }

    /// Writes one line, at once.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let line = record.line();
        let place = || format!("cannot write {}", self.path.display());
        self.file.write_all(line.as_bytes()).context(place())
    }

    /// Brings everything to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().context(format_args!("cannot write {}", self.path.display()))
    }
}
