//! What a repository holds: its commit, and each file with size and hash, from either hub.
//!
//! The listing is the contract of a pull: sizes are added up before anything is fetched, and every
//! byte that arrives is held against the hash stated here.

use std::fmt::Write as _;

use puyu_tensor::{Error, Result};
use serde::Deserialize;
use sha1::{Digest as _, Sha1};

use super::client::{Client, encode_path};
use super::name::is_safe_path;
use super::{Hub, HubKind};

/// The hash a hub states for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256 of the content; how large files are named.
    Sha256(String),
    /// The git blob id: SHA-1 of `blob SIZE\0` and the content; how small files are named.
    GitSha1(String),
    /// The hub states none; only the size is checked.
    None,
}

/// One file of a repository, as the hub lists it.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    pub checksum: Checksum,
    /// Name of the file's blob in the cache, hexadecimal.
    pub blob: String,
    pub url: String,
}

/// A repository at one commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// 40 hexadecimal digits.
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

/// Lists `repo` at `revision` on `hub`.
///
/// # Errors
/// The hub refuses or fails, or its answer has a path or a hash that is none.
pub(super) fn list(hub: &Hub, client: &Client, repo: &str, revision: &str) -> Result<Listing> {
    match hub.kind {
        HubKind::HuggingFace => hugging_face(hub, client, repo, revision),
        HubKind::ModelScope => modelscope(hub, client, repo, revision),
    }
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

fn hugging_face(hub: &Hub, client: &Client, repo: &str, revision: &str) -> Result<Listing> {
    let api = format!("{}/api/models/{repo}", hub.endpoint);
    let revision = encode_path(revision).replace('/', "%2F");
    let (Revision { sha: commit }, _) = client.json(&format!("{api}/revision/{revision}"))?;
    if !is_hex(&commit, 40) {
        return Err(Error::format(format!("{api} states `{commit}` as commit, which is none")));
    }
    let entries: Vec<TreeEntry> = client.pages(format!("{api}/tree/{commit}?recursive=true"))?;
    let files = entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| {
        let (size, checksum, blob) = match entry.lfs {
            Some(Lfs { oid, size }) => (size, Checksum::Sha256(oid.clone()), oid),
            None => (entry.size, Checksum::GitSha1(entry.oid.clone()), entry.oid),
        };
        let url = format!("{}/{repo}/resolve/{commit}/{}", hub.endpoint, encode_path(&entry.path));
        checked(RemoteFile { path: entry.path, size, checksum, blob, url })
    });
    Ok(Listing { files: files.collect::<Result<_>>()?, commit })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    #[serde(default)]
    message: String,
    data: Option<Files>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Files {
    files: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileEntry {
    #[serde(rename = "Type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    sha256: Option<String>,
    revision: Option<String>,
}

fn modelscope(hub: &Hub, client: &Client, repo: &str, revision: &str) -> Result<Listing> {
    // InternLM's models are the same under the name of the laboratory that makes them.
    let repo = match repo.strip_prefix("internlm/") {
        Some(model) => format!("Shanghai_AI_Laboratory/{model}"),
        None => repo.to_string(),
    };
    let revision = encode_path(revision);
    let url = format!(
        "{}/api/v1/models/{repo}/repo/files?Revision={revision}&Recursive=true",
        hub.endpoint
    );
    let (Envelope { message, data }, _) = client.json(&url)?;
    let Some(Files { files }) = data else {
        return Err(Error::not_found(format!("{url} lists no files: {message}")));
    };
    let files = files.into_iter().filter(|entry| entry.kind != "tree").map(|entry| {
        let url = format!(
            "{}/models/{repo}/resolve/{revision}/{}",
            hub.endpoint,
            encode_path(&entry.path)
        );
        let sum = entry.sha256.filter(|sum| !sum.is_empty()).map(|sum| sum.to_ascii_lowercase());
        let (checksum, blob) = match sum {
            Some(sum) => (Checksum::Sha256(sum.clone()), sum),
            None => {
                let state = entry.revision.unwrap_or_default();
                (
                    Checksum::None,
                    sha1_hex(&format!("{repo}\0{}\0{state}\0{}", entry.path, entry.size)),
                )
            }
        };
        checked(RemoteFile { path: entry.path, size: entry.size, checksum, blob, url })
    });
    let files: Vec<RemoteFile> = files.collect::<Result<_>>()?;
    // This hub names no commit; the state of all files names itself, and changes when one of them does.
    let mut state: Vec<String> =
        files.iter().map(|f| format!("{}\0{}\n", f.path, f.blob)).collect();
    state.sort_unstable();
    Ok(Listing { commit: sha1_hex(&state.concat()), files })
}

fn checked(file: RemoteFile) -> Result<RemoteFile> {
    if !is_safe_path(&file.path) {
        return Err(Error::format(format!(
            "the hub lists a file `{}`, which lies outside of the model's folder; refused",
            file.path.escape_default()
        )));
    }
    let length = if matches!(file.checksum, Checksum::Sha256(_)) { 64 } else { 40 };
    if !is_hex(&file.blob, length) {
        return Err(Error::format(format!(
            "the hub states `{}` as hash of {}, which is none",
            file.blob.escape_default(),
            file.path
        )));
    }
    Ok(file)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn sha1_hex(text: &str) -> String {
    hex(&Sha1::digest(text.as_bytes()))
}

/// `bytes` in hexadecimal, lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
