//! What every test of the hub begins with.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use puyu::hub::{self, Hub, HubKind, ModelName};
use tempfile::TempDir;

use crate::server::{Served, Server};

/// The served repository.
pub const REPO: &str = "internlm/tiny";
/// The variable with a child's command line, one argument a line.
pub const CHILD: &str = "PUYU_TEST_HUB_ARGUMENTS";

/// A server, a hub that names it, and an empty cache.
pub struct Setup {
    pub server: Server,
    pub hub: Hub,
    _folder: TempDir,
}

impl Setup {
    pub fn new(files: Vec<Served>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(files);
        let hub = Hub {
            kind: HubKind::HuggingFace,
            endpoint: server.url.clone(),
            token: None,
            cache: folder.path().join("hub"),
            retries: 2,
            first_wait: Duration::from_millis(1),
            stall: Duration::from_secs(10),
        };
        fs::create_dir(&hub.cache).unwrap();
        Self { server, hub, _folder: folder }
    }

    /// A repository with safetensors weights in two shards.
    pub fn folder() -> Self {
        let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        Self::new(vec![
            Served::small("config.json", b"{}"),
            Served::small("added tokens.json", b"[]"),
            Served::large("model-00001-of-00002.safetensors", 50_000, 1),
            Served::large("model-00002-of-00002.safetensors", 70_000, 2),
            Served::small("model.safetensors.index.json", index),
            Served::large("tokenizer.model", 3_000, 3),
            Served::small("README.md", b"# tiny"),
            Served::small("empty.txt", b""),
        ])
    }

    /// A repository with one GGUF file of `size` bytes.
    pub fn one(size: usize) -> Self {
        Self::new(vec![Served::large("tiny-q8_0.gguf", size, 5)])
    }

    /// A repository with several quantizations, one of them split, one ambiguous.
    pub fn quants() -> Self {
        Self::new(vec![
            Served::large("tiny-q8_0-00001-of-00002.gguf", 500, 1),
            Served::large("tiny-q8_0-00002-of-00002.gguf", 600, 2),
            Served::large("tiny-q4_k_m.gguf", 700, 3),
            Served::large("tiny-q5_0.gguf", 800, 4),
            Served::large("other-q5_0.gguf", 900, 5),
        ])
    }

    pub fn pull(&self, name: &str) -> puyu_tensor::Result<PathBuf> {
        hub::pull(&self.hub, &ModelName::parse(name).unwrap(), None)
    }

    pub fn refused(&self, name: &str) -> String {
        self.pull(name).unwrap_err().to_string()
    }

    pub fn repo(&self) -> PathBuf {
        self.hub.cache.join("models--internlm--tiny")
    }

    pub fn blob(&self, file: usize) -> PathBuf {
        self.repo().join("blobs").join(self.server.state().files[file].blob())
    }

    pub fn partial(&self, file: usize) -> PathBuf {
        self.blob(file).with_extension("incomplete")
    }

    /// The ranges that the content network was asked for since the last look.
    pub fn ranges(&self) -> Vec<Option<String>> {
        self.server.log().into_iter().filter(|r| r.network).map(|r| r.range).collect()
    }

    /// The command line `arguments` in a process of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture"]);
        for name in
            ["HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "PUYU_HUB", "XDG_CACHE_HOME", "HF_TOKEN_PATH"]
        {
            command.env_remove(name);
        }
        for name in [
            "http_proxy",
            "HTTP_PROXY",
            "https_proxy",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "all_proxy",
            "no_proxy",
            "NO_PROXY",
            "SSL_CERT_FILE",
        ] {
            command.env_remove(name);
        }
        command
            .env(CHILD, arguments.join("\n"))
            .env("HF_ENDPOINT", &self.server.url)
            .env("MODELSCOPE_ENDPOINT", &self.server.url)
            .env("HF_HUB_CACHE", &self.hub.cache)
            .env("HOME", self.hub.cache.parent().unwrap())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        said(&self.command(arguments).output().unwrap())
    }
}

/// Whether a child ended well, and all it said.
pub fn said(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Asserts that `text` has all of `parts`.
#[track_caller]
pub fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}
