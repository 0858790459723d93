//! Writing GGUF version 3: the header from metadata and tensor descriptions, then each tensor as the
//! caller makes it, one at a time, so that a model is converted in the memory of its largest tensor.

use super::atomic::AtomicFile;
use super::cursor::quote;
use super::gguf::{DEFAULT_ALIGNMENT, Gguf, MAGIC};
use super::gguf_meta::{Metadata, write_string};
use super::gguf_type::GgmlType;
use puyu_tensor::{Dims, Error, Result};
use std::borrow::Cow;
use std::path::Path;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Out {
    /// Its GGUF name, shorter than 64 bytes.
    pub name: String,
    /// Sizes, outermost first; at most four.
    pub shape: Dims,
    /// How its elements are stored.
    pub kind: GgmlType,
}

impl Out {
    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        self.shape.numel() / self.kind.block_len * self.kind.block_bytes
    }
}

/// Writes a GGUF file. `bytes` is asked for each tensor's elements, in order.
///
/// # Errors
/// If a tensor does not fit the format, `bytes` fails or gives the wrong number of bytes, or the file
/// cannot be written; an old file of that name is then left as it was.
pub fn save<'a>(
    path: &Path,
    metadata: &Metadata,
    tensors: &[Out],
    mut bytes: impl FnMut(&Out) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let alignment = metadata.get_u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT) as usize;
    let header = header(metadata, tensors, alignment)?;
    let mut file = AtomicFile::create(path)?;
    file.write(&header)?;
    file.pad(alignment as u64)?;
    for out in tensors {
        let bytes = bytes(out)?;
        if bytes.len() != out.bytes() {
            return Err(Error::invalid(format!(
                "tensor {} came with {} bytes, its shape takes {}",
                quote(&out.name),
                bytes.len(),
                out.bytes()
            )));
        }
        file.write(&bytes)?;
        file.pad(alignment as u64)?;
    }
    file.finish()
}

/// Writes `gguf` as one file: the bytes it was read from, if that was one file of version 3.
///
/// # Errors
/// As [`save`].
pub fn save_copy(path: &Path, gguf: &Gguf) -> Result<()> {
    let mut outs = Vec::with_capacity(gguf.table.entries().len());
    for e in gguf.table.entries() {
        let kind = GgmlType::from_stored(e.stored).ok_or_else(|| {
            Error::unsupported(format!("tensor {} cannot be kept in GGUF", quote(&e.name)))
        })?;
        outs.push(Out { name: e.name.clone(), shape: e.shape, kind });
    }
    save(path, &gguf.metadata, &outs, |out| {
        Ok(Cow::Borrowed(gguf.table.raw(gguf.table.require(&out.name)?)))
    })
}

/// Everything before the first tensor, unpadded.
fn header(metadata: &Metadata, tensors: &[Out], alignment: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&3u32.to_le_bytes());
    out.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&(metadata.iter().len() as u64).to_le_bytes());
    metadata.write(&mut out);
    let mut offset = 0;
    for t in tensors {
        if t.name.len() > 63 || t.shape.len() > 4 {
            return Err(Error::unsupported(format!(
                "tensor {} of shape {} does not fit GGUF (names of 63 bytes, 4 dimensions)",
                quote(&t.name),
                t.shape
            )));
        }
        write_string(&t.name, &mut out);
        out.extend_from_slice(&(t.shape.len() as u32).to_le_bytes());
        for d in t.shape.iter().rev() {
            out.extend_from_slice(&(*d as u64).to_le_bytes());
        }
        out.extend_from_slice(&t.kind.id.to_le_bytes());
        out.extend_from_slice(&(offset as u64).to_le_bytes());
        offset = (offset + t.bytes()).next_multiple_of(alignment);
    }
    Ok(out)
}
