//! Tokens of a file, one layout in memory and in the cache: token words, the ends of documents, what
//! was found as JSON, and a footer with their sizes and a SHA-256 over everything, so that a damaged
//! cache is known as one. Little-endian throughout.

use super::report::Found;
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Error, FileBytes, Result};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Set in a token word that is not learnt when it is the next token.
pub const NO_LOSS: u32 = 1 << 31;

const MAGIC: [u8; 8] = *b"puyutok1";
/// Three sizes, the magic, and the digest.
const FOOTER: usize = 3 * 8 + MAGIC.len() + 32;

/// What one record became: token words, and where in them documents end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, with [`NO_LOSS`] where they are not learnt.
    pub words: Vec<u32>,
    /// Ends of documents in `words`, ascending.
    pub ends: Vec<usize>,
}

/// The tokens of a file.
#[derive(Debug)]
pub struct Tokens {
    bytes: Bytes,
    words: u64,
    documents: u64,
    /// What the file held.
    pub found: Found,
}

#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped(Arc<FileBytes>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(file) => file.as_slice(),
        }
    }
}

impl Tokens {
    /// Maps a file that [`Writer`] wrote.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn map(path: &Path) -> Result<Self> {
        Self::read(Bytes::Mapped(FileBytes::map(path)?))
    }

    fn read(bytes: Bytes) -> Result<Self> {
        let all = bytes.as_slice();
        let damaged = || Error::format("a damaged cache of tokens");
        let footer = all.len().checked_sub(FOOTER).ok_or_else(damaged)?;
        let number = |at: usize| {
            u64::from_le_bytes(all[at..at + 8].try_into().expect("a footer has eight bytes here"))
        };
        let [words, documents, json] = [0, 8, 16].map(|i| number(footer + i));
        let sizes = [(words, 4), (documents, 8), (json, 1)];
        let total =
            sizes.iter().try_fold(0u64, |sum, (n, size)| n.checked_mul(*size)?.checked_add(sum));
        let digest = all.len() - 32;
        let whole = total == Some(footer as u64)
            && all[footer + 24..digest] == MAGIC
            && Sha256::digest(&all[..digest])[..] == all[digest..];
        if !whole {
            return Err(damaged());
        }
        let found = serde_json::from_slice(&all[footer - json as usize..footer]);
        let found = found.map_err(|_| damaged())?;
        Ok(Self { words, documents, found, bytes })
    }

    /// How many documents there are.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Where the words of document `i` are.
    pub fn document(&self, i: u64) -> Range<u64> {
        let start = if i == 0 { 0 } else { self.end(i - 1) };
        start..self.end(i)
    }

    fn end(&self, i: u64) -> u64 {
        let at = (self.words * 4 + i * 8) as usize;
        let bytes = &self.bytes.as_slice()[at..at + 8];
        u64::from_le_bytes(bytes.try_into().expect("eight bytes were cut"))
    }

    /// The words of `range`.
    pub fn words(&self, range: Range<u64>) -> impl Iterator<Item = u32> {
        let bytes = &self.bytes.as_slice()[range.start as usize * 4..range.end as usize * 4];
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
    }
}

/// Collects tokens into memory, or into a file that appears when it is whole.
pub struct Writer {
    sink: Sink,
    digest: Sha256,
    words: u64,
    ends: Vec<u64>,
    counted: u64,
}

enum Sink {
    Memory(Vec<u8>),
    File(Box<AtomicFile>, PathBuf),
}

impl Writer {
    /// Begins in the file `path`, or in memory.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        let sink = match path {
            Some(path) => Sink::File(Box::new(AtomicFile::create(path)?), path.into()),
            None => Sink::Memory(Vec::new()),
        };
        Ok(Self { sink, digest: Sha256::new(), words: 0, ends: Vec::new(), counted: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        match &mut self.sink {
            Sink::Memory(all) => all.extend_from_slice(bytes),
            Sink::File(file, _) => file.write(bytes)?,
        }
        Ok(())
    }

    /// Appends what a record became.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn push(&mut self, encoded: &Encoded) -> Result<()> {
        let bytes: Vec<u8> = encoded.words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.write(&bytes)?;
        let learnt = |w: &&u32| **w & NO_LOSS == 0;
        self.counted += encoded.words.iter().filter(learnt).count() as u64;
        self.ends.extend(encoded.ends.iter().map(|end| self.words + *end as u64));
        self.words += encoded.words.len() as u64;
        Ok(())
    }

    /// Ends the file; `found` brings the broken lines, the counts are known here.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish(mut self, mut found: Found) -> Result<Tokens> {
        found.documents = self.ends.len() as u64;
        found.tokens = self.words;
        found.counted = self.counted;
        let ends: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        self.write(&ends)?;
        let json = serde_json::to_vec(&found).map_err(|e| Error::invalid(e.to_string()))?;
        self.write(&json)?;
        for n in [self.words, self.ends.len() as u64, json.len() as u64] {
            self.write(&n.to_le_bytes())?;
        }
        self.write(&MAGIC)?;
        let digest = std::mem::take(&mut self.digest).finalize();
        let (words, documents) = (self.words, self.ends.len() as u64);
        self.write(&digest)?;
        let bytes = match self.sink {
            Sink::Memory(all) => Bytes::Owned(all),
            Sink::File(file, path) => {
                file.finish()?;
                Bytes::Mapped(FileBytes::map(&path)?)
            }
        };
        Ok(Tokens { bytes, words, documents, found })
    }
}
