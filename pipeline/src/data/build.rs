//! A file's tokens: from the cache, or made now by all threads. Records are read and written in order
//! by one thread and encoded in batches by all, so the result is the same on any number of them.

use super::config::{Format, OnError, SourceConfig};
use super::detect::{format_of, layout_of};
use super::encode::Encoder;
use super::files::refuse_foreign;
use super::internevo::check_meta;
use super::records::{Item, Records};
use super::report::Found;
use super::tokens::{Encoded, Tokens, Writer};
use puyu_models::chat_template::with_room;
use puyu_tensor::cpu::pool;
use puyu_tensor::{Context, Error, ErrorKind, FileBytes, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Records that a thread encodes before it looks for more.
const TOGETHER: usize = 32;
/// Bytes of records that are encoded together: enough work for all threads, little memory.
const BATCH: usize = 4 << 20;

/// What a progress report is given: the file, bytes done, bytes in all. False stops the work.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64) -> bool;

/// How files are read, beside what a source says.
pub struct Build<'a> {
    /// The source.
    pub source: &'a SourceConfig,
    /// How its records become tokens.
    pub encoder: &'a Encoder<'a>,
    /// What a broken line does.
    pub on_error: OnError,
    /// Where tokens are kept.
    pub cache: Option<&'a Path>,
}

impl Build<'_> {
    /// The tokens of the file `path`, and its format.
    ///
    /// # Errors
    /// If it cannot be read, is of no known format, or has a broken line that is not to be skipped.
    pub fn tokens(&self, path: &Path, progress: Progress) -> Result<(Tokens, Format)> {
        let file = FileBytes::map(path)?;
        self.tokens_of(path, file.as_slice(), progress).context(path.display())
    }

    fn tokens_of(&self, path: &Path, bytes: &[u8], progress: Progress) -> Result<(Tokens, Format)> {
        refuse_foreign(bytes)?;
        let format = match self.source.format {
            Some(format) => format,
            None => format_of(path, bytes)?,
        };
        self.encoder.check(format, self.source)?;
        if format == Format::Internevo {
            check_meta(path, bytes)?;
        }
        let kept = self.cache.map(|folder| self.place(folder, bytes, format)).transpose()?;
        let tokens = match kept.as_deref().and_then(|kept| Tokens::map(kept).ok()) {
            Some(tokens) => tokens,
            None => self.make(path, bytes, format, kept.as_deref(), progress)?,
        };
        match tokens.found.complaints.first() {
            Some(complaint) if self.on_error == OnError::Refuse => Err(refused(complaint)),
            _ => Ok((tokens, format)),
        }
    }

    /// Where the tokens of these bytes are kept.
    fn place(&self, folder: &Path, bytes: &[u8], format: Format) -> Result<PathBuf> {
        std::fs::create_dir_all(folder)
            .context(format_args!("cannot make the folder {}", folder.display()))?;
        let mut digest = Sha256::new();
        digest.update(format.name());
        digest.update(self.encoder.identity());
        digest.update(Sha256::digest(bytes));
        let name: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Ok(folder.join(name + ".tokens"))
    }

    fn make(
        &self,
        path: &Path,
        bytes: &[u8],
        format: Format,
        kept: Option<&Path>,
        progress: Progress,
    ) -> Result<Tokens> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let layout = layout_of(bytes, format, self.source.split);
        let mut records = Records::new(bytes, layout);
        let mut writer = Writer::new(kept)?;
        let mut found = Found::default();
        // A document is dropped whole if a piece of it is.
        let mut empty = true;
        loop {
            let start = records.position();
            if !progress(&name, start as u64, bytes.len() as u64) {
                return Err(Error::new(ErrorKind::Interrupted, "tokenizing was stopped"));
            }
            let mut batch = Vec::new();
            while records.position() - start < BATCH {
                let Some(record) = records.next() else { break };
                batch.push(record);
            }
            if batch.is_empty() {
                break;
            }
            empty = false;
            for (line, encoded) in self.encode(bytes, &batch, format) {
                match encoded {
                    Ok(encoded) => writer.push(&encoded)?,
                    Err(e) => {
                        let complaint = format!("line {line}: {e}");
                        if self.on_error == OnError::Refuse {
                            return Err(refused(&complaint));
                        }
                        found.complain(complaint);
                    }
                }
            }
        }
        if empty {
            let complaint = "line 1: there is nothing in the file";
            if self.on_error == OnError::Refuse {
                return Err(refused(complaint));
            }
            found.complain(complaint.into());
        }
        writer.finish(found)
    }

    /// Encodes a batch on all threads; each result with its line.
    fn encode(&self, bytes: &[u8], batch: &[Item], format: Format) -> Vec<(u64, Result<Encoded>)> {
        let mut results: Vec<Option<(u64, Result<Encoded>)>> = batch.iter().map(|_| None).collect();
        let line = |record: &Item| record.as_ref().map_or_else(|(line, _)| *line, |r| r.line);
        let some = |records: &[Item]| -> Result<Vec<_>> {
            let mut renderer = self.encoder.renderer()?;
            let mut one = |record: &Item| match record {
                Ok(record) => self.encoder.encode(&mut renderer, bytes, record, format),
                Err((_, e)) => Err(e.clone()),
            };
            Ok(records.iter().map(|record| (line(record), one(record))).collect())
        };
        pool::par_rows(&mut results, 1, TOGETHER, |first, rows| {
            let records = &batch[first..first + rows.len()];
            match with_room(|| some(records)).flatten() {
                Ok(all) => rows.iter_mut().zip(all).for_each(|(row, one)| *row = Some(one)),
                Err(e) => {
                    let failed = records.iter().map(|record| (line(record), Err(e.clone())));
                    rows.iter_mut().zip(failed).for_each(|(row, one)| *row = Some(one));
                }
            }
        });
        results.into_iter().flatten().collect()
    }
}

fn refused(complaint: &str) -> Error {
    Error::format(format!(
        "{complaint}; on_error = \"skip\" leaves broken lines out and counts them"
    ))
}
