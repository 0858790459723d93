//! A file that appears whole or not at all: written under another name in the same folder, synced,
//! then renamed. A full disk or a killed process leaves the old file as it was.

use puyu_tensor::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file under a temporary name until [`AtomicFile::finish`]; removed if dropped before.
pub struct AtomicFile {
    path: PathBuf,
    temporary: PathBuf,
    /// `None` once finished.
    writer: Option<BufWriter<File>>,
    written: u64,
}

impl AtomicFile {
    /// Begins a file that will be `path`.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary);
        let file = file.context(format_args!("cannot write {}", path.display()))?;
        let writer = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { path: path.into(), temporary, writer, written: 0 })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let writer = self.writer.as_mut().expect("a finished file is consumed");
        writer.write_all(bytes).context(format_args!("cannot write {}", self.path.display()))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Appends zero bytes up to a multiple of `alignment`.
    ///
    /// # Errors
    /// As [`AtomicFile::write`].
    pub fn pad(&mut self, alignment: u64) -> Result<()> {
        const ZEROS: [u8; 256] = [0; 256];
        let mut missing = self.written.next_multiple_of(alignment) - self.written;
        while missing > 0 {
            let n = missing.min(ZEROS.len() as u64);
            self.write(&ZEROS[..n as usize])?;
            missing -= n;
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Brings everything to the disk and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or fails; the old file then still stands.
    pub fn finish(mut self) -> Result<()> {
        let place = format!("cannot write {}", self.path.display());
        let mut writer = self.writer.take().expect("a finished file is consumed");
        let synced = writer.flush().and_then(|()| writer.get_ref().sync_all());
        drop(writer);
        let renamed = synced.and_then(|()| std::fs::rename(&self.temporary, &self.path));
        if renamed.is_err() {
            // The first error is the one to report; a leftover is the lesser harm.
            let _ = std::fs::remove_file(&self.temporary);
        }
        renamed.context(place)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            // Nobody can be told of a failure here, and the name is not one that is ever read.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
