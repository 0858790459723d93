//! Checkpoints as they lie on disk: safetensors, GGUF and PyTorch `.bin`, told apart by their content.
//! Opening one reads headers only; tensors are views into the mapped files, made when they are asked
//! for.

pub mod adapter;
pub mod atomic;
mod check;
mod checkpoint;
pub mod convert;
mod cursor;
pub mod gguf;
pub mod gguf_config;
pub mod gguf_export;
mod gguf_meta;
pub mod gguf_names;
pub mod gguf_type;
pub mod gguf_vocab;
pub mod gguf_write;
pub mod hugging_face;
pub mod json;
mod merge;
pub mod pickle;
pub mod recode;
pub mod safetensors;
pub mod safetensors_write;
pub mod sampling;
mod table;
pub mod tokenizer_files;
mod zip;

pub use check::check_tensors;
pub use checkpoint::{Checkpoint, Format, open};
pub use gguf_meta::{Metadata, Value};
pub use merge::Merged;
pub use table::{Entry, Stored, Table};

use cursor::quote;
use puyu_tensor::{Context, Error, FileBytes, Result, Spec, Tensor};
use std::path::Path;
use std::sync::Arc;

/// Named tensors from somewhere: a file, several files, or a view of them under other names.
pub trait Source: Send + Sync {
    /// The name of every tensor, in the order of the files.
    fn names(&self) -> Vec<&str>;

    /// The spec of the tensor called `name`; `None` if there is none, or puyu does not compute with
    /// its type.
    fn spec(&self, name: &str) -> Option<Spec>;

    /// The tensor called `name`, made now: a view of the file wherever that is possible.
    ///
    /// # Errors
    /// If there is no such tensor, or it cannot be loaded.
    fn tensor(&self, name: &str) -> Result<Tensor>;
}

/// How files are opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Map files into memory; otherwise they are read, which is safe against files that change.
    pub mmap: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { mmap: true }
    }
}

impl OpenOptions {
    /// The bytes of the file `path`.
    ///
    /// # Errors
    /// If it cannot be read or is no regular file.
    fn bytes(self, path: &Path) -> Result<Arc<FileBytes>> {
        let about =
            std::fs::metadata(path).context(format_args!("cannot open {}", path.display()))?;
        if !about.is_file() {
            return Err(Error::invalid(format!("{} is not a regular file", path.display())));
        }
        if self.mmap { FileBytes::map(path) } else { FileBytes::read(path) }
    }
}

/// `name`, if it is a file's name and no path: what an index may point at.
fn plain_file_name(name: &str) -> Result<&str> {
    let plain =
        !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0']);
    if plain {
        Ok(name)
    } else {
        Err(Error::invalid(format!("{} is no plain file name", quote(name))))
    }
}

/// The rows of a tensor of `spec`, one after the other.
fn gather<'a>(rows: impl Iterator<Item = &'a [u8]>, spec: &Spec) -> Vec<u8> {
    let mut out = Vec::with_capacity(spec.bytes());
    rows.for_each(|row| out.extend_from_slice(row));
    out
}
