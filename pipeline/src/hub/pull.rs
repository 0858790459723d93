//! `puyu pull`: list, choose, compare with the disk, fetch, check, and only then show the snapshot.

use std::path::{Path, PathBuf};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use puyu_tensor::{Context as _, Error, Result};

use super::cache::Repo;
use super::client::Client;
use super::download::{fetch, is_complete, partial};
use super::listing::{self, RemoteFile};
use super::name::is_safe_path;
use super::{Hub, ModelName, resolve_in, select};

/// Fetches the model `name` at `revision` (the hub's default when none) into the cache, and returns its
/// GGUF file or snapshot folder. What is there already is not fetched again.
///
/// # Errors
/// The hub refuses or fails, the disk has too little room, or a file arrives damaged.
pub fn pull(hub: &Hub, name: &ModelName, revision: Option<&str>) -> Result<PathBuf> {
    let named = revision.unwrap_or(hub.kind.default_revision());
    if !is_safe_path(named) || named.contains(|c: char| c.is_whitespace()) {
        return Err(Error::invalid(format!(
            "`{named}` is no revision: a branch, tag or commit is meant"
        )));
    }
    if !name.repo().contains('/') {
        return Err(Error::invalid(format!(
            "`{name}` lacks the organization: a name is org/repo, as in internlm/{name}"
        )));
    }
    let client = Client::new(hub, name.repo())?;
    let listing = listing::list(hub, &client, name.repo(), named)?;
    let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
    let chosen = select(&paths, name.pick()).context(name.repo())?;
    if let (true, Some(quant)) = (chosen.by_default, &chosen.gguf) {
        eprintln!("{name} holds GGUF files only; taking {quant} (name another as {name}:QUANT)");
    }
    let files: Vec<&RemoteFile> = chosen.files.iter().map(|&index| &listing.files[index]).collect();
    let repo = Repo::new(&hub.cache, name);
    std::fs::create_dir_all(repo.blob("")).context(repo.folder.display())?;
    fetch_missing(hub, &client, name, &repo, &listing.commit, &files)?;
    for file in &files {
        repo.link(&listing.commit, &file.path, &repo.blob(&file.blob))?;
    }
    // The default branch is `main` to every other tool that reads this cache, whatever a hub calls it.
    repo.set_ref(revision.unwrap_or("main"), &listing.commit)?;
    resolve_in(&hub.cache, name, Some(&listing.commit))
}

fn fetch_missing(
    hub: &Hub,
    client: &Client,
    name: &ModelName,
    repo: &Repo,
    commit: &str,
    files: &[&RemoteFile],
) -> Result<()> {
    // Without symbolic links a file lies in the snapshot itself and has no blob.
    let is_here = |file: &&&RemoteFile| {
        is_complete(&repo.blob(&file.blob), file.size)
            || is_complete(&repo.snapshot(commit).join(&file.path), file.size)
    };
    let total = sum(files.iter().map(|file| file.size))?;
    let missing: Vec<&&RemoteFile> = files.iter().filter(|file| !is_here(file)).collect();
    let size = sum(missing.iter().map(|file| file.size))?;
    let there = missing.iter().map(|file| partial_size(repo, file)).sum::<u64>();
    let needed = size - there.min(size);
    let free = free_space(&hub.cache)?;
    let count = files.len();
    eprintln!(
        "{name}: {count} file{}, {}; {} to fetch, {} free in {}",
        if count == 1 { "" } else { "s" },
        DecimalBytes(total),
        DecimalBytes(needed),
        DecimalBytes(free),
        hub.cache.display()
    );
    if needed > free {
        return Err(Error::resource(format!(
            "{name} needs {} and {} has {} free: free {}, or set HF_HUB_CACHE to a folder on another disk",
            DecimalBytes(needed),
            hub.cache.display(),
            DecimalBytes(free),
            DecimalBytes(needed - free)
        )));
    }
    let bar = progress_bar(size);
    for file in missing {
        bar.set_message(file.path.clone());
        fetch(hub, client, file, &repo.blob(&file.blob), &repo.lock(&file.blob), &bar)
            .inspect_err(|_| bar.abandon())?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn partial_size(repo: &Repo, file: &RemoteFile) -> u64 {
    let size = partial(&repo.blob(&file.blob)).metadata().map_or(0, |found| found.len());
    if size > file.size { 0 } else { size }
}

fn sum(sizes: impl Iterator<Item = u64>) -> Result<u64> {
    sizes
        .into_iter()
        .try_fold(0u64, u64::checked_add)
        .ok_or_else(|| Error::format("the hub lists files larger than any disk"))
}

/// Bytes that this user may still write below `folder`.
fn free_space(folder: &Path) -> Result<u64> {
    fs4::available_space(folder).context(folder.display())
}

/// A bar on the terminal; indicatif draws none where standard error is no terminal.
fn progress_bar(size: u64) -> ProgressBar {
    let template =
        "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style)
}
