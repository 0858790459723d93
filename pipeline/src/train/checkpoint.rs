//! Checkpoints of a run: a folder for each, written under a temporary name, synced and renamed, so that
//! one that has its name is whole whatever kills the process or fills the disk. `trainer.json` holds the
//! length and sha256 of every other file, and with that the proof.

use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a folder of a checkpoint begins with; the step follows.
const PREFIX: &str = "step-";
/// What a folder that is being written or removed ends in.
const PART: &str = ".part";
/// The file that says what the run needs besides weights and optimizer.
const TRAINER: &str = "trainer.json";

/// The checkpoints of one run.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

/// A checkpoint whose files were found whole.
#[derive(Debug)]
pub struct Whole {
    /// Its folder.
    pub path: PathBuf,
    /// What the run wrote of itself.
    pub state: Value,
}

/// trainer.json
#[derive(Serialize, Deserialize)]
struct Trainer {
    state: Value,
    files: BTreeMap<String, FileProof>,
}

/// What a file must be.
#[derive(Serialize, Deserialize, PartialEq)]
struct FileProof {
    bytes: u64,
    sha256: String,
}

impl Checkpoints {
    /// The checkpoints in `dir`, which is made if it is missing; the newest `keep` are kept (0: all).
    /// What a killed run left half written is removed.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn new(dir: &Path, keep: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).context(format_args!("cannot make {}", dir.display()))?;
        for name in names(dir)? {
            if name.starts_with(&format!(".{PREFIX}")) && name.ends_with(PART) {
                let path = dir.join(name);
                std::fs::remove_dir_all(&path).context(path.display())?;
            }
        }
        Ok(Self { dir: dir.into(), keep })
    }

    /// Where the checkpoint after `step` steps lies.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{step:06}"))
    }

    /// Writes a checkpoint: `files(folder)` writes what it consists of, `state` is what the run needs
    /// besides. One of the same step is replaced.
    ///
    /// # Errors
    /// If the disk is full or fails; the checkpoints before are then as they were.
    pub fn write(
        &self,
        step: u64,
        state: &Value,
        files: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.path(step);
        let part = self.hidden(step, "");
        let written = self.write_part(&part, state, files).and_then(|()| self.put(step, &part));
        if let Err(e) = written {
            // The first error is the one to report; a leftover is removed by the next run.
            let _ = std::fs::remove_dir_all(&part);
            let what = format!("cannot write the checkpoint {}", path.display());
            return Err(e.context(format_args!("{what}; the ones before it are whole")));
        }
        self.remove_old()?;
        Ok(path)
    }

    fn hidden(&self, step: u64, what: &str) -> PathBuf {
        self.dir.join(format!(".{PREFIX}{step:06}{what}{PART}"))
    }

    fn write_part(
        &self,
        part: &Path,
        state: &Value,
        files: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        if part.exists() {
            std::fs::remove_dir_all(part)?;
        }
        std::fs::create_dir(part)?;
        files(part)?;
        let mut proofs = BTreeMap::new();
        for name in names(part)? {
            proofs.insert(name.clone(), proof(&part.join(&name))?);
        }
        let trainer = Trainer { state: state.clone(), files: proofs };
        let text =
            serde_json::to_string_pretty(&trainer).map_err(|e| Error::format(e.to_string()))?;
        let mut file = AtomicFile::create(&part.join(TRAINER))?;
        file.write(text.as_bytes())?;
        file.finish()?;
        sync_dir(part)
    }

    /// Gives a whole folder its name.
    fn put(&self, step: u64, part: &Path) -> Result<()> {
        let path = self.path(step);
        if path.exists() {
            self.remove(step)?;
        }
        std::fs::rename(part, &path)?;
        sync_dir(&self.dir)
    }

    /// Removes a checkpoint: first its name, so that half of one is never found.
    fn remove(&self, step: u64) -> Result<()> {
        let (path, gone) = (self.path(step), self.hidden(step, ".old"));
        std::fs::rename(&path, &gone).context(path.display())?;
        std::fs::remove_dir_all(&gone).context(gone.display())
    }

    fn remove_old(&self) -> Result<()> {
        let steps = self.steps()?;
        let old = if self.keep == 0 { 0 } else { steps.len().saturating_sub(self.keep) };
        steps[..old].iter().try_for_each(|step| self.remove(*step))
    }

    /// The steps of all checkpoints, ascending.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let step = |name: String| name.strip_prefix(PREFIX)?.parse().ok();
        let mut steps: Vec<u64> = names(&self.dir)?.into_iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest checkpoint that is whole; `warn` is told of each newer one that is not.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn newest(&self, warn: &mut dyn FnMut(&str)) -> Result<Option<Whole>> {
        for step in self.steps()?.into_iter().rev() {
            match Whole::open(&self.path(step)) {
                Ok(whole) => return Ok(Some(whole)),
                Err(e) => warn(&format!("a damaged checkpoint is passed over: {e}")),
            }
        }
        Ok(None)
    }
}

impl Whole {
    /// The checkpoint in the folder `path`, every file of it checked.
    ///
    /// # Errors
    /// If it is no checkpoint of a run, or a file is missing or damaged; the message names it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(TRAINER);
        let text = std::fs::read(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(format!(
                "{} has no {TRAINER}, so it is no checkpoint that a run can resume",
                path.display()
            )),
            _ => Error::from(e).context(file.display()),
        })?;
        let trainer: Trainer = serde_json::from_slice(&text)
            .map_err(|e| Error::format(format!("{} is damaged: {e}", file.display())))?;
        for (name, wanted) in &trainer.files {
            let file = path.join(name);
            let found = proof(&file).map_err(|e| {
                Error::new(ErrorKind::Format, format!("{} is damaged: {e}", file.display()))
            })?;
            if found != *wanted {
                return Err(Error::format(format!(
                    "{} is damaged: it is not the {} bytes that were written",
                    file.display(),
                    wanted.bytes
                )));
            }
        }
        Ok(Self { path: path.into(), state: trainer.state })
    }
}

/// The names in a folder, sorted.
fn names(dir: &Path) -> Result<Vec<String>> {
    let place = || format!("cannot read the folder {}", dir.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).context(place())? {
        names.push(entry.context(place())?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The length and hash of a file.
fn proof(path: &Path) -> Result<FileProof> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok(FileProof { bytes, sha256: hex(&hash.finalize()) })
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Brings a folder's names to the disk, where a system can do that.
fn sync_dir(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(checkpoints: &Checkpoints, step: u64) -> PathBuf {
        let files = &mut |folder: &Path| Ok(std::fs::write(folder.join("w"), step.to_string())?);
        checkpoints.write(step, &json!({ "step": step }), files).unwrap()
    }

    fn newest(checkpoints: &Checkpoints) -> (Option<u64>, usize) {
        let mut warnings = 0;
        let whole = checkpoints.newest(&mut |_| warnings += 1).unwrap();
        (whole.map(|w| w.state["step"].as_u64().unwrap()), warnings)
    }

    #[test]
    fn the_newest_are_kept_and_the_newest_whole_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 3).unwrap();
        assert_eq!(newest(&checkpoints), (None, 0));
        let paths: Vec<_> = [5, 10, 9, 11].map(|step| write(&checkpoints, step)).into();
        assert_eq!(checkpoints.steps().unwrap(), [9, 10, 11]);
        assert_eq!(newest(&checkpoints), (Some(11), 0));
        std::fs::write(paths[3].join("w"), "12").unwrap();
        assert_eq!(newest(&checkpoints), (Some(10), 1));
        std::fs::remove_file(paths[1].join(TRAINER)).unwrap();
        assert_eq!(newest(&checkpoints), (Some(9), 2));
        std::fs::remove_file(paths[2].join("w")).unwrap();
        assert_eq!(newest(&checkpoints), (None, 3));
        write(&checkpoints, 11);
        assert_eq!(newest(&checkpoints), (Some(11), 0));
    }

    #[test]
    fn a_write_that_fails_leaves_the_others_and_nothing_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 1).unwrap();
        write(&checkpoints, 1);
        let files = &mut |folder: &Path| {
            std::fs::write(folder.join("w"), "half")?;
            Err(Error::resource("no space left"))
        };
        let error = checkpoints.write(2, &json!({}), files).unwrap_err().to_string();
        assert!(error.contains("step-000002") && error.contains("no space left"), "{error}");
        assert_eq!(newest(&checkpoints), (Some(1), 0));
        assert_eq!(names(dir.path()).unwrap(), ["step-000001"]);
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".step-000007.part")).unwrap();
        std::fs::create_dir(dir.path().join("mine")).unwrap();
        Checkpoints::new(dir.path(), 1).unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["mine"]);
    }
}
