//! What lies in the cache (`puyu list`) and taking it out again (`puyu rm`).
//!
//! A blob may serve several snapshots, so it goes only with the last link to it; and nothing outside of
//! the repository's own folder is ever removed, wherever a link in it may lead.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use puyu_tensor::{Context as _, Error, Result};

use super::cache::{Cached, Repo, entries, files};
use super::{ModelName, gguf_models};

/// A model in the cache: one GGUF quantization, or one snapshot folder.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `org/repo`.
    pub name: String,
    /// The quantization of a GGUF file; `None` for a folder.
    pub quant: Option<String>,
    /// The branch or tag it was pulled as, else the commit.
    pub revision: String,
    /// Size in bytes.
    pub size: u64,
    /// When the newest of its files was written.
    pub modified: SystemTime,
    /// The GGUF file or the snapshot folder.
    pub path: PathBuf,
}

/// Lists the models in `cache`, by name, then quantization.
///
/// # Errors
/// The folder exists and cannot be read.
pub fn list(cache: &Path) -> Result<Vec<Entry>> {
    if !cache.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(cache).context(cache.display())?;
    let mut found = Vec::new();
    for folder in entries(cache) {
        let name = folder.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(ModelName::from_folder) else { continue };
        let repo = Repo::new(cache, &name);
        let refs = refs(&repo.folder.join("refs"), "");
        for (commit, snapshot) in repo.snapshots() {
            let revision = refs.iter().find(|r| repo.commit(r).as_ref() == Some(&commit));
            let revision = revision.unwrap_or(&commit);
            found.extend(models_in(name.repo(), revision, &snapshot));
        }
    }
    found.sort_by(|a, b| (&a.name, &a.quant, &a.revision).cmp(&(&b.name, &b.quant, &b.revision)));
    Ok(found)
}

fn models_in(name: &str, revision: &str, snapshot: &Path) -> Vec<Entry> {
    let files = files(snapshot);
    let entry = |quant: Option<String>, members: &[&Cached], path: PathBuf| {
        let times = members.iter().filter_map(|file| file.place.metadata().ok()?.modified().ok());
        Entry {
            name: name.to_string(),
            quant,
            revision: revision.to_string(),
            size: members.iter().map(|file| file.size).sum(),
            modified: times.max().unwrap_or(SystemTime::UNIX_EPOCH),
            path,
        }
    };
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut found: Vec<Entry> = gguf_models(&paths)
        .into_iter()
        .map(|model| {
            let members: Vec<&Cached> = model.files.iter().map(|&index| &files[index]).collect();
            entry(Some(model.quant), &members, members[0].place.clone())
        })
        .collect();
    let rest: Vec<&Cached> = files.iter().filter(|file| !file.path.ends_with(".gguf")).collect();
    if !rest.is_empty()
        && (found.is_empty() || rest.iter().any(|f| f.path.ends_with(".safetensors")))
    {
        found.push(entry(None, &rest, snapshot.to_path_buf()));
    }
    found
}

/// Names of all refs below `folder`, with `/` where they lie deeper.
fn refs(folder: &Path, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for path in entries(folder) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        if path.is_dir() && prefix.len() < 256 {
            names.extend(refs(&path, &format!("{name}/")));
        } else {
            names.push(name);
        }
    }
    names.sort_unstable();
    names
}

/// What [`remove`] took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many files of models.
    pub files: usize,
    /// How many bytes the disk has back; less than the files' sizes where others still use a blob.
    pub bytes: u64,
}

/// Takes `name` out of `cache`: all of the repository, or with a quantization or a revision only that,
/// with the blobs that nothing else uses.
///
/// # Errors
/// It is not there, or something cannot be removed.
pub fn remove(cache: &Path, name: &ModelName, revision: Option<&str>) -> Result<Removed> {
    let repo = Repo::new(cache, name);
    let absent = |what: &str| {
        Error::not_found(format!(
            "{what} is not among the models in {}; see puyu list",
            cache.display()
        ))
    };
    match fs::symlink_metadata(&repo.folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(Error::invalid(format!(
                "{} is a link to another place, which puyu does not touch; remove it by hand",
                repo.folder.display()
            )));
        }
        Err(_) => return Err(absent(name.repo())),
    }
    let wanted = match revision {
        None => None,
        Some(revision) => {
            Some(repo.commit(revision).ok_or_else(|| absent(&format!("{name} at {revision}")))?)
        }
    };
    if name.pick().is_none() && wanted.is_none() {
        return remove_repo(&repo);
    }
    let mut removed = Removed::default();
    for (commit, snapshot) in repo.snapshots() {
        if wanted.as_ref().is_some_and(|wanted| *wanted != commit) {
            continue;
        }
        for place in doomed(&snapshot, name.pick()) {
            removed.bytes += remove_file(&repo, &place)?;
            removed.files += 1;
            prune(&place, &repo.folder.join("snapshots"));
        }
    }
    if removed.files == 0 {
        return Err(absent(&name.to_string()));
    }
    if repo.snapshots().is_empty() {
        let rest = remove_repo(&repo)?;
        return Ok(Removed { files: removed.files, bytes: removed.bytes + rest.bytes });
    }
    for name in refs(&repo.folder.join("refs"), "") {
        if repo.commit(&name).is_none_or(|commit| !repo.snapshot(&commit).is_dir()) {
            let file = repo.folder.join("refs").join(name);
            fs::remove_file(&file).context(file.display())?;
        }
    }
    Ok(removed)
}

/// The files of `snapshot` that go: those of the quantization `pick`, or all.
fn doomed(snapshot: &Path, pick: Option<&str>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let Some(pick) = pick else {
        all_below(snapshot, &mut places);
        return places;
    };
    let files = files(snapshot);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for model in gguf_models(&paths) {
        if model.is(pick, &paths) {
            places.extend(model.files.iter().map(|&index| files[index].place.clone()));
        }
    }
    places
}

/// Every file and link below `folder`, following no link.
fn all_below(folder: &Path, places: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => all_below(&path, places),
            _ => places.push(path),
        }
    }
}

/// Removes one file of a snapshot, and its blob when this was the last link; the bytes freed.
fn remove_file(repo: &Repo, place: &Path) -> Result<u64> {
    let blob = blob_of(repo, place);
    let own = size_of(place);
    fs::remove_file(place).context(place.display())?;
    let Some(blob) = blob else { return Ok(own) };
    let mut others = Vec::new();
    all_below(&repo.folder.join("snapshots"), &mut others);
    let used: HashSet<PathBuf> = others.iter().filter_map(|other| blob_of(repo, other)).collect();
    if used.contains(&blob) {
        return Ok(0);
    }
    let size = size_of(&blob);
    fs::remove_file(&blob).context(blob.display())?;
    Ok(size)
}

/// The blob of `repo` that the link `place` leads to; `None` for a file, or a link to anywhere else.
fn blob_of(repo: &Repo, place: &Path) -> Option<PathBuf> {
    let target = fs::read_link(place).ok()?;
    let folder = place.parent()?.join(target.parent()?).canonicalize().ok()?;
    let blobs = repo.folder.join("blobs");
    let blob = blobs.join(target.file_name()?);
    let inside = folder == blobs.canonicalize().ok()?;
    (inside && fs::symlink_metadata(&blob).is_ok()).then_some(blob)
}

/// Bytes of a file itself; a link has none worth counting.
fn size_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| if found.is_file() { found.len() } else { 0 })
}

/// Removes the folders that `place` leaves empty, up to but without `root`.
fn prune(place: &Path, root: &Path) {
    for folder in place.ancestors().skip(1).take_while(|&folder| folder != root) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

fn remove_repo(repo: &Repo) -> Result<Removed> {
    let mut links = Vec::new();
    all_below(&repo.folder.join("snapshots"), &mut links);
    let mut all = Vec::new();
    all_below(&repo.folder, &mut all);
    let bytes = all.iter().map(|path| size_of(path)).sum();
    fs::remove_dir_all(&repo.folder).context(repo.folder.display())?;
    match fs::symlink_metadata(repo.locks()) {
        Ok(found) if found.is_dir() => {
            fs::remove_dir_all(repo.locks()).context(repo.locks().display())?
        }
        _ => {}
    }
    Ok(Removed { files: links.len(), bytes })
}
