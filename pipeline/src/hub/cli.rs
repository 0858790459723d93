//! The commands `puyu pull`, `puyu list` and `puyu rm`.
//!
//! Paths and tables go to standard output, so that scripts can use them; everything else to standard
//! error.

use std::io::{Write as _, stdout};
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::FalseyValueParser;
use indicatif::{DecimalBytes, HumanDuration};
use puyu_tensor::{Error, Result};
use serde_json::json;

use super::{Hub, HubKind, ModelName, cache_dir, list, pull, remove, resolve_in};

/// Fetch a model into the Hugging Face cache, and print where it lies
#[derive(Args, Clone, Debug)]
pub struct PullArgs {
    /// org/repo, or org/repo:QUANT for one GGUF file, such as internlm/internlm2_5-7b-chat-gguf:Q4_K_M
    pub name: String,
    /// Branch, tag or commit [default: main; master on ModelScope]
    #[arg(long)]
    pub revision: Option<String>,
    /// Where to fetch from; mirrors are set by HF_ENDPOINT
    #[arg(long, value_enum, default_value_t, env = "PUYU_HUB")]
    pub hub: HubKind,
    /// Use no network: only say where the model lies, if it is there
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,
}

impl PullArgs {
    /// Pulls the model and prints its path.
    ///
    /// # Errors
    /// As [`pull`]; offline, when the model is not in the cache.
    pub fn run(&self) -> Result<()> {
        let name = ModelName::parse(&self.name)?;
        let path = if self.offline {
            let found = resolve_in(&cache_dir()?, &name, self.revision.as_deref());
            found.map_err(|e| e.context("offline, so nothing is fetched"))?
        } else {
            pull(&Hub::from_env(self.hub)?, &name, self.revision.as_deref())?
        };
        print(&format!("{}\n", path.display()))
    }
}

/// List the models in the Hugging Face cache
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Print JSON: name, quant, revision, size in bytes, modified in seconds since 1970, path
    #[arg(long)]
    pub json: bool,
}

impl ListArgs {
    /// Prints the models.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn run(&self) -> Result<()> {
        let cache = cache_dir()?;
        let models = list(&cache)?;
        if self.json {
            let rows: Vec<_> = models
                .iter()
                .map(|model| {
                    let modified = model.modified.duration_since(SystemTime::UNIX_EPOCH);
                    json!({
                        "name": model.name,
                        "quant": model.quant,
                        "revision": model.revision,
                        "size": model.size,
                        "modified": modified.unwrap_or_default().as_secs(),
                        "path": model.path.to_string_lossy(),
                    })
                })
                .collect();
            return print(&format!("{:#}\n", serde_json::Value::from(rows)));
        }
        if models.is_empty() {
            eprintln!("no models in {}; get one with: puyu pull org/repo", cache.display());
            return Ok(());
        }
        let header = ["NAME", "QUANT", "REVISION", "SIZE", "MODIFIED", "PATH"].map(str::to_string);
        let rows: Vec<[String; 6]> = std::iter::once(header)
            .chain(models.into_iter().map(|model| {
                [
                    model.name,
                    model.quant.unwrap_or("-".to_string()),
                    short(&model.revision),
                    DecimalBytes(model.size).to_string(),
                    age(model.modified),
                    model.path.display().to_string(),
                ]
            }))
            .collect();
        print(&table(&rows))
    }
}

/// Remove a model from the Hugging Face cache, without asking
#[derive(Args, Clone, Debug)]
pub struct RmArgs {
    /// org/repo for all of it, org/repo:QUANT for one GGUF file
    pub name: String,
    /// Only this branch, tag or commit
    #[arg(long)]
    pub revision: Option<String>,
}

impl RmArgs {
    /// Removes the model and says what was freed.
    ///
    /// # Errors
    /// As [`remove`].
    pub fn run(&self) -> Result<()> {
        let name = ModelName::parse(&self.name)?;
        let removed = remove(&cache_dir()?, &name, self.revision.as_deref())?;
        eprintln!(
            "removed {name}: {} file{}, {} freed",
            removed.files,
            if removed.files == 1 { "" } else { "s" },
            DecimalBytes(removed.bytes)
        );
        Ok(())
    }
}

fn print(text: &str) -> Result<()> {
    stdout().write_all(text.as_bytes()).map_err(Error::from)
}

/// A commit as people write it; other revisions as they are.
fn short(revision: &str) -> String {
    let is_commit = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    if is_commit { revision[..12].to_string() } else { revision.to_string() }
}

fn age(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    format!("{} ago", HumanDuration(Duration::from_secs(seconds)))
}

/// Columns as wide as their widest cell, two spaces between.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
