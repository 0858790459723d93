//! A server on 127.0.0.1 that speaks both hubs' interfaces, with faults to be switched on.
//!
//! It listens twice: as the hub, and as the content network that large files are redirected to. All
//! requests are kept, so that a test can say what was asked where, and with which token.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::json;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// The commit that `main` is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the served repository.
#[derive(Clone)]
pub struct Served {
    pub path: String,
    pub bytes: Vec<u8>,
    /// Whether it is a large file: named by SHA-256 and handed out by the content network.
    pub large: bool,
}

impl Served {
    /// A small file.
    pub fn small(path: &str, bytes: &[u8]) -> Self {
        Self { path: path.to_string(), bytes: bytes.to_vec(), large: false }
    }

    /// A large file of `size` bytes, different for each `seed`.
    pub fn large(path: &str, size: usize, seed: usize) -> Self {
        let bytes = (0..size).map(|i| (i * 31 + i / 251 + seed * 7) as u8).collect();
        Self { path: path.to_string(), bytes, large: true }
    }

    /// The name of its blob in a Hugging Face cache.
    pub fn blob(&self) -> String {
        if self.large { sha256(&self.bytes) } else { git_sha1(&self.bytes) }
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The git blob id of `bytes`.
pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether the content network was asked, and not the hub.
    pub network: bool,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// What goes wrong, and the files served; a test changes it at any time.
#[derive(Default)]
pub struct State {
    pub files: Vec<Served>,
    /// Sizes that the listing states instead of the true ones.
    pub stated_size: Option<u64>,
    /// Hash that the listing states for every file.
    pub stated_hash: Option<String>,
    /// Answer to every download: status and `X-Error-Code`.
    pub refuse_files: Option<(u16, &'static str)>,
    /// Answer to every listing: status and `X-Error-Code`.
    pub refuse_listing: Option<(u16, &'static str)>,
    /// Statuses of the next answers of the hub, whatever is asked.
    pub next: VecDeque<u16>,
    /// Bytes after which the next answers of the content network are cut.
    pub cut: VecDeque<usize>,
    /// The content network hands out other bytes than the listing promises.
    pub damaged: bool,
    /// The content network answers a Range with the whole file.
    pub ignores_range: bool,
    /// The content network answers any Range with 416.
    pub refuses_range: bool,
    /// The content network goes silent after the first bytes of the next answer.
    pub stalls: bool,
    /// The content network takes this long for every 16 KiB.
    pub slow: Option<Duration>,
    /// The hub redirects every file to itself.
    pub circles: bool,
    log: Vec<Request>,
}

/// The running server; it ends with the process.
pub struct Server {
    /// Address of the hub.
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves `files` as internlm/tiny at [`COMMIT`].
    pub fn start(files: Vec<Served>) -> Self {
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let network = listen();
        let hub = listen();
        let network_url = format!("http://{}", network.local_addr().unwrap());
        let url = format!("http://{}", hub.local_addr().unwrap());
        for (listener, is_network) in [(network, true), (hub, false)] {
            let (state, network_url) = (state.clone(), network_url.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, network_url) = (state.clone(), network_url.clone());
                    std::thread::spawn(move || answer(stream, &state, is_network, &network_url));
                }
            });
        }
        Self { url, state }
    }

    /// The state, to be changed or read.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests so far; they are forgotten.
    pub fn log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, network: bool, network_url: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(mut request) = read_request(&mut reader, network) else { return };
    if let Some(target) = request.path.strip_prefix("CONNECT ") {
        // As a proxy this server is every host that anybody asks for.
        let target = target.to_string();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let Some(inner) = read_request(&mut reader, network) else { return };
        request = Request { path: inner.path, ..inner };
        state
            .lock()
            .unwrap()
            .log
            .push(Request { path: format!("CONNECT {target}"), ..request.clone() });
    }
    if let Some(rest) = request.path.strip_prefix("http://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        state
            .lock()
            .unwrap()
            .log
            .push(Request { path: format!("CONNECT {host}"), ..request.clone() });
        request.path = format!("/{path}");
    }
    state.lock().unwrap().log.push(request.clone());
    if network {
        content(&mut stream, state, &request);
        return;
    }
    let (status, headers, body) = hub(state, &request, network_url);
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(&body);
}

fn read_request(reader: &mut impl BufRead, network: bool) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let method = words.next()?;
    let path = words.next()?;
    let path = if method == "CONNECT" { format!("CONNECT {path}") } else { path.to_string() };
    let mut request = Request { network, path, range: None, token: None };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { return Some(request) };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_string()),
            "authorization" | "cookie" => request.token = Some(value.to_string()),
            _ => {}
        }
    }
}

type Answer = (u16, String, Vec<u8>);

fn plain(status: u16, code: &str) -> Answer {
    (status, format!("X-Error-Code: {code}\r\n"), b"no".to_vec())
}

fn ok(value: &serde_json::Value) -> Answer {
    (200, String::new(), value.to_string().into_bytes())
}

fn hub(state: &Mutex<State>, request: &Request, network_url: &str) -> Answer {
    let mut state = state.lock().unwrap();
    if let Some(status) = state.next.pop_front() {
        return plain(status, "");
    }
    let path = request.path.as_str();
    let modelscope = "/api/v1/models/Shanghai_AI_Laboratory/tiny/repo/files?";
    let is_listing = path.starts_with("/api/");
    if let (true, Some((status, code))) = (is_listing, state.refuse_listing) {
        return plain(status, code);
    }
    if let (false, Some((status, code))) = (is_listing, state.refuse_files) {
        return plain(status, code);
    }
    if let Some(revision) = path.strip_prefix("/api/models/internlm/tiny/revision/") {
        return match revision {
            "main" | COMMIT | "refs%2Fpr%2F1" => ok(&json!({"sha": COMMIT, "id": "internlm/tiny"})),
            _ => plain(404, "RevisionNotFound"),
        };
    }
    if let Some(query) = path.strip_prefix(&format!("/api/models/internlm/tiny/tree/{COMMIT}?")) {
        // The listing comes in two pages, as long ones do.
        let half = state.files.len() / 2;
        let second = query.contains("cursor");
        let page = if second { &state.files[half..] } else { &state.files[..half] };
        let mut entries: Vec<_> = page.iter().map(|file| tree_entry(file, &state)).collect();
        entries.push(json!({"type": "directory", "oid": "00", "size": 0, "path": "folder"}));
        let (status, mut headers, body) = ok(&json!(entries));
        if !second {
            // A mirror hands through the original's address, which its users cannot reach.
            headers = format!("Link: <https://original.invalid{path}&cursor=2>; rel=\"next\"\r\n");
        }
        return (status, headers, body);
    }
    if path.starts_with(modelscope) && path.contains("Revision=master&Recursive=true") {
        let mut files: Vec<_> = state.files.iter().map(|file| {
            json!({"Name": file.path, "Path": file.path, "Type": "blob", "Size": file.bytes.len(),
                   "Sha256": sha256(&file.bytes), "IsLFS": file.large, "Revision": COMMIT})
        }).collect();
        files.push(
            json!({"Name": "folder", "Path": "folder", "Type": "tree", "Size": 0, "Sha256": ""}),
        );
        return ok(&json!({"Code": 200, "Success": true, "Message": "", "Data": {"Files": files}}));
    }
    let file = [
        format!("/internlm/tiny/resolve/{COMMIT}/"),
        "/models/Shanghai_AI_Laboratory/tiny/resolve/master/".to_string(),
    ]
    .iter()
    .find_map(|prefix| path.strip_prefix(prefix.as_str()))
    .and_then(|name| state.files.iter().find(|file| file.path.replace(' ', "%20") == name));
    match file {
        Some(_) if state.circles => (302, format!("Location: {path}\r\n"), Vec::new()),
        Some(file) if file.large => {
            let sum = sha256(&file.bytes);
            let headers = format!(
                "Location: {network_url}/{sum}?signature=x\r\nX-Linked-Etag: \"{sum}\"\r\n\
                 X-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\n",
                file.bytes.len()
            );
            (302, headers, Vec::new())
        }
        Some(file) => (200, format!("ETag: \"{}\"\r\n", file.blob()), file.bytes.clone()),
        None => plain(404, if is_listing { "RepoNotFound" } else { "EntryNotFound" }),
    }
}

fn tree_entry(file: &Served, state: &State) -> serde_json::Value {
    let size = state.stated_size.unwrap_or(file.bytes.len() as u64);
    let hash = state.stated_hash.clone().unwrap_or_else(|| file.blob());
    if file.large {
        let lfs = json!({"oid": hash, "size": size, "pointerSize": 134});
        json!({"type": "file", "oid": git_sha1(b"pointer"), "size": size, "path": file.path, "lfs": lfs})
    } else {
        json!({"type": "file", "oid": hash, "size": size, "path": file.path})
    }
}

/// The content network: a large file or its end, with whatever fault is on.
fn content(stream: &mut TcpStream, state: &Mutex<State>, request: &Request) {
    let mut guard = state.lock().unwrap();
    let name = request.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let Some(file) = guard.files.iter().find(|file| sha256(&file.bytes) == name) else {
        let _ = stream.write_all(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
        return;
    };
    let mut bytes = file.bytes.clone();
    if guard.damaged {
        bytes[0] ^= 1;
    }
    let size = bytes.len();
    let from = request.range.as_ref().map(|range| {
        range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
    });
    if from.is_some_and(|from| guard.refuses_range || from >= size) {
        let _ = write!(
            stream,
            "HTTP/1.1 416 X\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n"
        );
        return;
    }
    let from = from.filter(|_| !guard.ignores_range);
    let rest = &bytes[from.unwrap_or(0)..];
    let status = match from {
        Some(from) => format!("206 X\r\nContent-Range: bytes {from}-{}/{size}", size - 1),
        None => "200 X".to_string(),
    };
    let cut = guard.cut.pop_front().unwrap_or(rest.len()).min(rest.len());
    let stalls = std::mem::take(&mut guard.stalls);
    let slow = guard.slow;
    drop(guard);
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        rest.len()
    );
    for chunk in rest[..cut].chunks(16 << 10) {
        if stream.write_all(chunk).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if stalls {
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        if let Some(pause) = slow {
            std::thread::sleep(pause);
        }
    }
}
