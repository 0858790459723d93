//! The layout of the hub cache, and finding a pulled model in it.
//!
//! A snapshot holds links such as `../../blobs/<hash>`; `refs/main` holds the commit that `main` was
//! when it was last pulled. Other tools write here too, so nothing read from it is trusted to be whole.

use std::cmp::Reverse;
use std::fs;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use puyu_tensor::{Context as _, Error, Result};

use super::name::is_safe_path;
use super::shipped;
use super::{ModelName, cache_dir, select};

/// Folders deeper than this below a snapshot belong to no model.
const DEEPEST: usize = 8;

/// One repository's folder in the cache.
#[derive(Clone, Debug)]
pub(super) struct Repo {
    pub folder: PathBuf,
    locks: PathBuf,
}

/// A file of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    /// Relative to the snapshot, with `/`.
    pub path: String,
    /// Where it stands: a link to a blob, or the file itself.
    pub place: PathBuf,
    /// Size in bytes of what it leads to.
    pub size: u64,
}

impl Repo {
    pub(super) fn new(cache: &Path, name: &ModelName) -> Self {
        let folder = name.folder();
        Self { folder: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    pub(super) fn lock(&self, hash: &str) -> PathBuf {
        self.locks.join(format!("{hash}.lock"))
    }

    pub(super) fn locks(&self) -> &Path {
        &self.locks
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that `revision` is: itself when a snapshot is called so, else what the ref says.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if !is_safe_path(revision) {
            return None;
        }
        if !revision.contains('/') && self.snapshot(revision).is_dir() {
            return Some(revision.to_string());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        (is_safe_path(commit) && !commit.contains('/')).then(|| commit.to_string())
    }

    /// Notes that `revision` is `commit` now.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let file = self.folder.join("refs").join(revision);
        let place = || file.display().to_string();
        fs::create_dir_all(file.parent().unwrap_or(&self.folder)).context(place())?;
        fs::write(&file, commit).context(place())
    }

    /// All snapshots as (commit, folder), that of `main` first, then the newest.
    pub(super) fn snapshots(&self) -> Vec<(String, PathBuf)> {
        let main = self.commit("main");
        let mut found: Vec<_> = entries(&self.folder.join("snapshots"))
            .into_iter()
            .filter(|path| path.is_dir())
            .filter_map(|path| {
                let commit = path.file_name()?.to_str()?.to_string();
                let modified = path.metadata().and_then(|m| m.modified()).ok();
                Some((Some(&commit) == main.as_ref(), modified, commit, path))
            })
            .collect();
        found.sort_by_key(|&(main, modified, ..)| Reverse((main, modified)));
        found.into_iter().map(|(_, _, commit, path)| (commit, path)).collect()
    }

    /// Puts `path` into `commit`'s snapshot as a relative link to `blob`; where the system has no links
    /// the blob itself moves there, which is what huggingface_hub does.
    pub(super) fn link(&self, commit: &str, path: &str, blob: &Path) -> Result<()> {
        let place = self.snapshot(commit).join(path);
        let context = || place.display().to_string();
        let name = blob.file_name().unwrap_or_default();
        let depth = path.split('/').count() + 1;
        let target = Path::new(&"../".repeat(depth)).join("blobs").join(name);
        fs::create_dir_all(place.parent().unwrap_or(&self.folder)).context(context())?;
        match fs::symlink_metadata(&place) {
            Ok(_) if fs::read_link(&place).is_ok_and(|found| found == target) => return Ok(()),
            // Without links in the system, the blob moved here when it was fetched.
            Ok(found) if found.is_file() && !blob.exists() => return Ok(()),
            Ok(_) => fs::remove_file(&place).context(context())?,
            Err(e) if e.kind() == Io::NotFound => {}
            Err(e) => return Err(Error::from(e).context(context())),
        }
        match symlink(&target, &place) {
            Ok(()) => Ok(()),
            // Another process linked the same file in the same moment.
            Err(e) if e.kind() == Io::AlreadyExists => Ok(()),
            Err(_) => fs::rename(blob, &place).context(context()),
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, place: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(windows)]
fn symlink(target: &Path, place: &Path) -> std::io::Result<()> {
    let target = target.to_string_lossy().replace('/', "\\");
    std::os::windows::fs::symlink_file(target, place)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(Io::Unsupported.into())
}

/// The files below `snapshot` that exist, sorted; a link to nothing is no file.
pub(super) fn files(snapshot: &Path) -> Vec<Cached> {
    let mut found = Vec::new();
    walk(snapshot, "", DEEPEST, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<Cached>) {
    for place in entries(folder) {
        let Some(name) = place.file_name().and_then(|name| name.to_str()) else { continue };
        let path = format!("{prefix}{name}");
        // A link to a folder leads out of the cache; the hub's tools make none.
        let is_folder = fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir());
        match place.metadata() {
            Ok(_) if is_folder && depth > 0 => walk(&place, &format!("{path}/"), depth - 1, found),
            Ok(m) if m.is_file() => found.push(Cached { path, place, size: m.len() }),
            _ => {}
        }
    }
}

/// The paths in `folder`; none if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The file or folder that `-m NAME` means: the model that comes with puyu, whatever lies here under its name,
/// else a local path, else a model pulled before.
///
/// # Errors
/// There is none; the message says how to pull it.
pub fn resolve(name: &str) -> Result<PathBuf> {
    if name == shipped::NAME {
        return shipped::path();
    }
    if Path::new(name).exists() {
        return Ok(PathBuf::from(name));
    }
    let Ok(parsed) = ModelName::parse(name) else {
        return Err(Error::not_found(format!(
            "there is no file or folder `{name}`, and it is no model name either (org/repo or org/repo:QUANT)"
        )));
    };
    resolve_in(&cache_dir()?, &parsed, None)
}

/// The GGUF file or snapshot folder of a model pulled into `cache` before: of `revision`, or of `main`
/// and failing that of any other revision that has it.
///
/// # Errors
/// It is not there, or not all of it; the message says how to pull it.
pub fn resolve_in(cache: &Path, name: &ModelName, revision: Option<&str>) -> Result<PathBuf> {
    let repo = Repo::new(cache, name);
    let mut snapshots = repo.snapshots();
    if let Some(revision) = revision {
        let commit = repo.commit(revision);
        snapshots.retain(|(found, _)| Some(found) == commit.as_ref());
    }
    let mut first_error = None;
    for (_, snapshot) in &snapshots {
        match model_in(snapshot, name.pick()) {
            Ok(path) => return Ok(path),
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    let why = first_error.map_or(String::new(), |e| format!(" ({e})"));
    let at = revision.map_or(String::new(), |revision| format!(" --revision {revision}"));
    Err(Error::not_found(format!(
        "{name} is no local file and not among the models in {}{why}; get it with: puyu pull {name}{at}",
        cache.display()
    )))
}

fn model_in(snapshot: &Path, pick: Option<&str>) -> Result<PathBuf> {
    let files = files(snapshot);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let chosen = select(&paths, pick)?;
    if chosen.gguf.is_some() {
        return Ok(files[chosen.files[0]].place.clone());
    }
    let chosen: Vec<&Cached> = chosen.files.iter().map(|&index| &files[index]).collect();
    for index in chosen.iter().filter(|file| file.path.ends_with(".index.json")) {
        // An index of weights in the other format says nothing about those that are used.
        let kind = if index.path.contains(".safetensors") { ".safetensors" } else { ".bin" };
        if !chosen.iter().any(|file| file.path.ends_with(kind)) {
            continue;
        }
        let text = fs::read(&index.place).context(&index.path)?;
        let json: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| Error::format(format!("{}: {e}", index.path)))?;
        let mut shards = json["weight_map"].as_object().into_iter().flat_map(|map| map.values());
        let missing = shards.find(|shard| !chosen.iter().any(|file| **shard == *file.path));
        if let Some(missing) = missing {
            return Err(Error::not_found(format!("{missing} is missing")));
        }
    }
    Ok(snapshot.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_lies_in_the_snapshot_itself_stays() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let repo = Repo::new(cache.path(), &ModelName::parse("a/b").expect("a name"));
        let place = repo.snapshot("c").join("config.json");
        fs::create_dir_all(repo.snapshot("c")).expect("a folder");
        fs::write(&place, "{}").expect("a file");
        repo.link("c", "config.json", &repo.blob("x")).expect("nothing to do");
        assert_eq!(fs::read_to_string(&place).expect("still there"), "{}");
    }
}
