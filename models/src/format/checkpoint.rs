//! Opening a model's files, whatever they are: a folder in Hugging Face layout, one safetensors or
//! `.bin` file, or GGUF. A file is known by its first bytes; its name decides nothing.

use super::gguf::{self, Gguf};
use super::gguf_config;
use super::gguf_names::Renamed;
use super::{Metadata, OpenOptions, Source, Table, json, pickle, safetensors, zip};
use crate::tokenizer::Tokenizer;
use puyu_tensor::{Context, Error, Result};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a checkpoint's tensors are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors, one file or sharded.
    Safetensors,
    /// GGUF, one file or split.
    Gguf,
    /// PyTorch `.bin`, one file or sharded.
    Pickle,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Pickle => "PyTorch .bin",
        })
    }
}

/// An opened checkpoint: its tensors and what describes them.
pub struct Checkpoint {
    /// What was opened.
    pub path: PathBuf,
    /// How its tensors are stored.
    pub format: Format,
    contents: Contents,
}

enum Contents {
    Table(Table),
    Gguf(Renamed),
}

impl Checkpoint {
    /// The tensors under the names that models use. A GGUF file of an architecture that puyu does not
    /// run keeps its own names.
    pub fn source(&self) -> &dyn Source {
        match &self.contents {
            Contents::Table(table) => table,
            Contents::Gguf(renamed) => renamed,
        }
    }

    /// The tensors as the files name and store them.
    pub fn table(&self) -> &Table {
        match &self.contents {
            Contents::Table(table) => table,
            Contents::Gguf(renamed) => &renamed.gguf().table,
        }
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.contents {
            Contents::Table(_) => None,
            Contents::Gguf(renamed) => Some(renamed.gguf()),
        }
    }

    /// The metadata of a GGUF file.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.gguf().map(|g| &g.metadata)
    }

    /// The folder in which config.json and the tokenizer's files lie; `None` for GGUF, which has
    /// them inside.
    pub fn folder(&self) -> Option<&Path> {
        match &self.contents {
            Contents::Gguf(_) => None,
            Contents::Table(_) if self.path.is_dir() => Some(&self.path),
            Contents::Table(_) => Some(self.path.parent().unwrap_or(Path::new(""))),
        }
    }

    /// The configuration as Hugging Face's config.json has it: read from that file, or made from
    /// GGUF metadata.
    ///
    /// # Errors
    /// If it is missing or wrong, or GGUF metadata describe something that puyu does not run.
    pub fn config(&self) -> Result<serde_json::Value> {
        match (&self.contents, self.folder()) {
            (Contents::Gguf(renamed), _) => {
                gguf_config::config(renamed.gguf()).context(self.path.display())
            }
            (_, folder) => json::read_config(&folder.unwrap_or(Path::new("")).join("config.json")),
        }
    }

    /// The tokenizer beside or in it.
    ///
    /// # Errors
    /// If there is none, or it is broken.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match (self.metadata(), self.folder()) {
            (Some(metadata), _) => Tokenizer::from_metadata(metadata).context(self.path.display()),
            (None, folder) => Tokenizer::load(folder.unwrap_or(&self.path)),
        }
    }

    /// What the user should know: types decoded in memory, metadata that is not understood.
    pub fn warnings(&self) -> Vec<String> {
        let Some(gguf) = self.gguf() else { return Vec::new() };
        let mut warnings = gguf.warnings();
        warnings.extend(gguf_config::warnings(gguf));
        warnings
    }
}

/// Opens the checkpoint at `path`: a folder or a file.
///
/// # Errors
/// If there is none, or it breaks its format; the message names the file.
pub fn open(path: &Path, options: OpenOptions) -> Result<Checkpoint> {
    if path.is_dir() {
        return open_folder(path, options);
    }
    open_file(path, path, options)
}

/// The files a folder may hold its tensors in, in the order they are looked for.
const FOLDER_FILES: [&str; 4] = [
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
];

fn open_folder(folder: &Path, options: OpenOptions) -> Result<Checkpoint> {
    for name in FOLDER_FILES {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let (format, table) = match name {
            "model.safetensors.index.json" => {
                (Format::Safetensors, safetensors::open_sharded(&path, options)?)
            }
            "pytorch_model.bin.index.json" => {
                (Format::Pickle, pickle::open_sharded(&path, options)?)
            }
            _ => return open_file(&path, folder, options),
        };
        return Ok(Checkpoint { path: folder.into(), format, contents: Contents::Table(table) });
    }
    match only_gguf(folder)? {
        Some(path) => open_file(&path, &path, options),
        None => Err(Error::not_found(format!(
            "{} holds no checkpoint: neither {}, nor one GGUF file",
            folder.display(),
            FOLDER_FILES.join(", ")
        ))),
    }
}

/// The one GGUF model in a folder, a split one counting as its first file.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>> {
    let place = || format!("cannot read {}", folder.display());
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).context(place())? {
        let path = item.context(place())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let later_part = name.contains("-of-") && !name.contains("-00001-of-");
        if name.ends_with(".gguf") && !later_part {
            found.push(path);
        }
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

/// Opens one file; the checkpoint's path is `shown`.
fn open_file(path: &Path, shown: &Path, options: OpenOptions) -> Result<Checkpoint> {
    let format = sniff(path)?;
    let contents = match format {
        Format::Gguf => Contents::Gguf(Renamed::new(Gguf::open(path, options)?)),
        Format::Pickle => Contents::Table(pickle::open(path, options)?),
        Format::Safetensors => Contents::Table(safetensors::open(path, options)?),
    };
    Ok(Checkpoint { path: shown.into(), format, contents })
}

/// The format a file's first bytes show.
fn sniff(path: &Path) -> Result<Format> {
    let place = || format!("cannot open {}", path.display());
    if !std::fs::metadata(path).context(place())?.is_file() {
        return Err(Error::invalid(format!("{} is not a regular file", path.display())));
    }
    let mut head = Vec::new();
    std::fs::File::open(path).context(place())?.take(9).read_to_end(&mut head).context(place())?;
    let wrong = |why: &str| Err(Error::format(format!("{}: {why}", path.display())));
    match head.as_slice() {
        [a, b, c, d, ..] if [*a, *b, *c, *d] == gguf::MAGIC => Ok(Format::Gguf),
        [a, b, c, d, ..] if [*a, *b, *c, *d] == zip::MAGIC => Ok(Format::Pickle),
        [0x80, 2..=5, ..] => Err(Error::unsupported(format!(
            "{}: a bare pickle, as PyTorch wrote before 1.6; save it again as safetensors",
            path.display()
        ))),
        [_, _, _, _, _, _, _, _, b'{'] => Ok(Format::Safetensors),
        short if short.len() < 9 => wrong("truncated header: the file is too short to be a model"),
        _ => wrong("not a model: neither safetensors, GGUF nor a PyTorch .bin file"),
    }
}
