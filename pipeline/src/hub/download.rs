//! One file from a hub into its blob: resumed where it stopped, checked, and only then given its name.
//!
//! Bytes go straight to `BLOB.incomplete`, so a killed process loses nothing; the hash runs along, so
//! that a checkpoint is not read a second time. A link that breaks is taken up again by Range.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as Io, Read, Write};
use std::path::{Path, PathBuf};

use indicatif::{DecimalBytes, ProgressBar};
use puyu_tensor::{Context as _, Error, Result};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::Hub;
use super::client::{Client, Failure, Retry, content_range};
use super::listing::{Checksum, RemoteFile, hex};

const CHUNK: usize = 256 << 10;

/// Where the bytes of `blob` gather until they are complete.
pub(super) fn partial(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    PathBuf::from(name)
}

/// Whether `blob` is there with all its bytes.
pub(super) fn is_complete(blob: &Path, size: u64) -> bool {
    blob.metadata().is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Fetches `file` into `blob`, while no other process does, and reports bytes to `bar`.
///
/// # Errors
/// The network fails for good, the disk is full, or what arrived has another hash than the listing.
pub(super) fn fetch(
    hub: &Hub,
    client: &Client,
    file: &RemoteFile,
    blob: &Path,
    lock: &Path,
    bar: &ProgressBar,
) -> Result<()> {
    let _held = acquire(lock, &file.path, bar)?;
    if is_complete(blob, file.size) {
        bar.inc(file.size);
        return Ok(());
    }
    let mut part = Part::open(file, partial(blob), bar)?;
    let mut retry = Retry::new(hub, bar);
    while part.have < file.size {
        let before = part.have;
        let outcome = part.receive(client, before);
        if part.have > before {
            retry.progress();
        }
        if let Err(failure) = outcome {
            retry.after(failure).context(&file.path)?;
        }
    }
    part.finish(blob)
}

/// Takes the lock that huggingface_hub takes for the same blob; the file is left behind as it does.
fn acquire(lock: &Path, name: &str, bar: &ProgressBar) -> Result<File> {
    let place = || format!("the lock {}", lock.display());
    if let Some(folder) = lock.parent() {
        std::fs::create_dir_all(folder).context(place())?;
    }
    let held = OpenOptions::new().create(true).append(true).open(lock).context(place())?;
    if let Err(std::fs::TryLockError::WouldBlock) = held.try_lock() {
        bar.suspend(|| eprintln!("waiting for another process that fetches {name}"));
        held.lock().context(place())?;
    }
    Ok(held)
}

/// The part of a file that is already on disk.
struct Part<'a> {
    file: &'a RemoteFile,
    path: PathBuf,
    out: File,
    have: u64,
    hash: Hash,
    bar: &'a ProgressBar,
}

impl<'a> Part<'a> {
    fn open(file: &'a RemoteFile, path: PathBuf, bar: &'a ProgressBar) -> Result<Self> {
        let mut out = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .context(path.display())?;
        let mut hash = Hash::new(file);
        let mut have = out.metadata().context(path.display())?.len();
        if have > file.size {
            out.set_len(0).context(path.display())?;
            have = 0;
        }
        let mut buffer = vec![0; CHUNK];
        let mut left = have;
        while left > 0 {
            let n = out.read(&mut buffer).context(path.display())?;
            if n == 0 {
                return Err(Error::format(format!("{} is shorter than it says", path.display())));
            }
            hash.update(&buffer[..n]);
            left = left.saturating_sub(n as u64);
        }
        bar.inc(have);
        Ok(Self { file, path, out, have, hash, bar })
    }

    fn restart(&mut self) -> Result<()> {
        self.out.set_len(0).context(self.path.display())?;
        self.bar.set_position(self.bar.position().saturating_sub(self.have));
        self.have = 0;
        self.hash = Hash::new(self.file);
        Ok(())
    }

    /// Asks for everything from byte `from` on and writes what comes until it ends or breaks.
    fn receive(&mut self, client: &Client, from: u64) -> Result<(), Failure> {
        let url = &self.file.url;
        let response = client.get(url, from)?;
        match response.status().as_u16() {
            200 if from > 0 => self.restart()?,
            200 => {}
            206 => match content_range(&response) {
                Some((start, total))
                    if start == from && total.is_none_or(|t| t == self.file.size) => {}
                other => {
                    return Err(Error::network(format!(
                        "{url}: asked for byte {from} of {} and got {other:?}",
                        self.file.size
                    ))
                    .into());
                }
            },
            416 if from > 0 => {
                self.restart()?;
                return Err(Failure::passing(format!("{url} does not go on from byte {from}")));
            }
            _ => return Err(client.refusal(&response, url)),
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        while self.have < self.file.size {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Err(self.cut("the connection ended")),
                Ok(n) => n,
                Err(e) if e.kind() == Io::Interrupted => continue,
                Err(e) => return Err(self.cut(&e.to_string())),
            };
            let n = n.min(usize::try_from(self.file.size - self.have).unwrap_or(n));
            self.write(&buffer[..n])?;
        }
        Ok(())
    }

    fn cut(&self, why: &str) -> Failure {
        let (have, size) = (DecimalBytes(self.have), DecimalBytes(self.file.size));
        Failure::passing(format!("{why} after {have} of {size}"))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.write_all(bytes);
        if let Err(e) = written {
            let full = matches!(e.kind(), Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge);
            return Err(if full {
                Error::resource(format!(
                    "the disk is full after {} of {} of {}: free some space and run the same command \
                     again to go on from here; the part is {}",
                    DecimalBytes(self.have),
                    DecimalBytes(self.file.size),
                    self.file.path,
                    self.path.display()
                ))
            } else {
                Error::from(e).context(self.path.display())
            });
        }
        self.hash.update(bytes);
        self.have += bytes.len() as u64;
        self.bar.inc(bytes.len() as u64);
        Ok(())
    }

    /// Holds the hash against the listing's and gives the blob its name.
    fn finish(self, blob: &Path) -> Result<()> {
        if let Some((expected, found)) = self.hash.mismatch(&self.file.checksum) {
            drop(self.out);
            std::fs::remove_file(&self.path).context(self.path.display())?;
            return Err(Error::format(format!(
                "{} arrived damaged: its hash is {found}, the hub states {expected}; the file was \
                 removed, run the same command again",
                self.file.path
            )));
        }
        self.out.sync_all().context(self.path.display())?;
        drop(self.out);
        std::fs::rename(&self.path, blob).context(blob.display())
    }
}

enum Hash {
    Sha256(Sha256),
    GitSha1(Sha1),
    None,
}

impl Hash {
    fn new(file: &RemoteFile) -> Self {
        match file.checksum {
            Checksum::Sha256(_) => Self::Sha256(Sha256::new()),
            Checksum::GitSha1(_) => {
                Self::GitSha1(Sha1::new().chain_update(format!("blob {}\0", file.size)))
            }
            Checksum::None => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::GitSha1(hash) => hash.update(bytes),
            Self::None => {}
        }
    }

    /// The expected and the found hash when they differ.
    fn mismatch(self, checksum: &Checksum) -> Option<(String, String)> {
        let found = match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::GitSha1(hash) => hex(&hash.finalize()),
            Self::None => return None,
        };
        match checksum {
            Checksum::Sha256(expected) | Checksum::GitSha1(expected) if *expected != found => {
                Some((expected.clone(), found))
            }
            _ => None,
        }
    }
}
