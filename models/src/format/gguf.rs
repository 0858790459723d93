//! Reading GGUF, ggml's container: a header of typed metadata and tensor descriptions, then the tensors,
//! each padded to an alignment. Versions 2 and 3, one file or several. Every limit of ggml's own loader
//! holds here too, and nothing is allocated that the file's size does not bound.
//! Format: github.com/ggml-org/ggml, `docs/gguf.md`.

use super::OpenOptions;
use super::cursor::{Cursor, quote};
use super::gguf_meta::{Metadata, string};
use super::gguf_type::GgmlType;
use super::table::{Entry, Stored, Table, checked_shape};
use puyu_tensor::{Context, Error, FileBytes, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::gguf_meta::{Array, Value, ValueType, required};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Where tensors begin when the metadata does not say.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// The largest alignment accepted; real files use 32.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// The longest tensor name, in bytes (ggml keeps 64 with the final NUL).
const MAX_TENSOR_NAME: usize = 63;

/// The most dimensions of a tensor.
const MAX_TENSOR_DIMS: u32 = 4;

/// The most files a model is split into: the names have five digits.
const MAX_SPLITS: u16 = 9_999;

/// An opened GGUF file, or all files of a split one.
pub struct Gguf {
    /// The metadata of the (first) file.
    pub metadata: Metadata,
    /// The tensors, under their GGUF names.
    pub table: Table,
}

/// What one file's header says.
pub struct Header {
    /// The version of the container, 2 or 3.
    pub version: u32,
    /// Typed values under dotted keys.
    pub metadata: Metadata,
    /// What tensors are padded to, in bytes.
    pub alignment: u32,
    /// The tensors, checked to lie within the file.
    pub entries: Vec<Entry>,
}

impl Gguf {
    /// Opens `path`, and with it the other files of a split model.
    ///
    /// # Errors
    /// If a file cannot be read or breaks the format, or files of a split are missing or do not
    /// belong together.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        let file = options.bytes(path)?;
        let first = parse(file.as_slice(), 0).context(path.display())?;
        let count = first.metadata.get_u16("split.count").context(path.display())?.unwrap_or(1);
        let (mut files, mut entries) = (vec![file], first.entries);
        if count > 1 {
            for (i, other) in split_paths(path, &first.metadata, count)?.iter().enumerate() {
                let (file, more) = open_split(other, options, i as u16 + 1, count)?;
                files.push(file);
                entries.extend(more);
            }
            check_split_total(&first.metadata, entries.len()).context(path.display())?;
        }
        let table = Table::new(files, entries).context(path.display())?;
        Ok(Self { metadata: first.metadata, table })
    }

    /// One sentence for each tensor type that is decoded to F16 because puyu has no kernels for it.
    pub fn warnings(&self) -> Vec<String> {
        let imported = GgmlType::ALL.into_iter().filter(|t| matches!(t.stored, Stored::Import(_)));
        let warning = |t: GgmlType| {
            let tensors = self.table.entries().iter().filter(|e| e.stored == t.stored).count();
            (tensors > 0).then(|| {
                format!("{tensors} tensors of type {} are decoded to F16 in memory", t.name)
            })
        };
        imported.filter_map(warning).collect()
    }
}

/// Reads the header of a GGUF file; `file` is its index in the table to be.
///
/// # Errors
/// If `bytes` is not a whole, well-formed GGUF file of version 2 or 3.
pub fn parse(bytes: &[u8], file: usize) -> Result<Header> {
    let mut c = Cursor::new(bytes);
    let magic = c.array::<4>()?;
    if magic != MAGIC {
        return Err(Error::format(format!(
            "not a GGUF file: it begins with {}, not `GGUF`",
            quote(&String::from_utf8_lossy(&magic))
        )));
    }
    let version = c.u32()?;
    match version {
        2 | 3 => {}
        1 => {
            return Err(Error::unsupported(
                "GGUF version 1 was withdrawn in 2023; convert the model again from its source",
            ));
        }
        v if v.swap_bytes() <= 0xff && v > 0xff => {
            return Err(Error::unsupported(
                "this GGUF file is big-endian; puyu reads little-endian",
            ));
        }
        v => return Err(Error::unsupported(format!("GGUF version {v} (puyu reads 2 and 3)"))),
    }
    // A tensor takes a name's length, a count, a type and an offset; a pair a length, a type, a byte.
    let tensors = c.count("tensors", 24)?;
    let pairs = c.count("metadata pairs", 13)?;
    let metadata = Metadata::read(&mut c, pairs)?;
    let alignment = alignment(&metadata)?;
    let mut entries = Vec::new();
    let mut expected = 0;
    for i in 0..tensors {
        let entry = tensor(&mut c, i, file, &mut expected, alignment)?;
        entries.push(entry);
    }
    place(&mut entries, c.position().next_multiple_of(alignment as usize), bytes.len())?;
    Ok(Header { version, metadata, alignment, entries })
}

/// `general.alignment`, which must be a power of two.
fn alignment(metadata: &Metadata) -> Result<u32> {
    let n = metadata.get_u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !n.is_power_of_two() || n > MAX_ALIGNMENT {
        return Err(Error::format(format!(
            "metadata key `general.alignment` is {n}, not a power of two of at most {MAX_ALIGNMENT}"
        )));
    }
    Ok(n)
}

/// Reads tensor description `i`; its offset is relative to the data. `expected` is the offset it must
/// have, and becomes that of the next.
fn tensor(
    c: &mut Cursor<'_>,
    i: usize,
    file: usize,
    expected: &mut usize,
    alignment: u32,
) -> Result<Entry> {
    let name = string(c, u64::MAX).context(format_args!("the name of tensor {i}"))?;
    let place = format!("tensor {}", quote(&name));
    if name.len() > MAX_TENSOR_NAME {
        return Err(Error::format(format!(
            "the name of {place} has {} bytes, the most is {MAX_TENSOR_NAME}",
            name.len()
        )));
    }
    let dims = c.u32().context(&place)?;
    if dims > MAX_TENSOR_DIMS {
        return Err(Error::format(format!(
            "{place} has {dims} dimensions, the most is {MAX_TENSOR_DIMS}"
        )));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(c.u64().context(&place)?);
    }
    // ggml lists the row length first.
    shape.reverse();
    let shape = checked_shape(&shape).context(&place)?;
    let id = c.u32().context(&place)?;
    let t = GgmlType::from_id(id).ok_or_else(|| {
        Error::unsupported(format!("{place} is of type number {id}, which no GGUF file may hold"))
    })?;
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(t.block_len) {
        return Err(Error::format(format!(
            "{place} has rows of {row} elements, not a multiple of the {} in a block of {}",
            t.block_len, t.name
        )));
    }
    // No overflow: `checked_shape` leaves room for 8 bytes an element, and a block takes fewer.
    let len = shape.numel() / t.block_len * t.block_bytes;
    let offset = c.u64().context(&place)?;
    if offset != *expected as u64 {
        return Err(Error::format(format!(
            "{place} has the offset {offset}, expected {expected} (right after the tensor before)"
        )));
    }
    let offset = *expected;
    *expected = offset
        .checked_add(len)
        .and_then(|end| end.checked_next_multiple_of(alignment as usize))
        .ok_or_else(|| Error::format(format!("{place} ends beyond any file")))?;
    Ok(Entry { name, file, offset, len, shape, strides: None, stored: t.stored })
}

/// Turns offsets relative to `data` into offsets in the file, and checks that it holds them.
fn place(entries: &mut [Entry], data: usize, len: usize) -> Result<()> {
    for e in entries {
        let end = e.offset.checked_add(e.len).and_then(|end| end.checked_add(data));
        if end.is_none_or(|end| end > len) {
            return Err(Error::format(format!(
                "tensor {} is {} bytes at {} of the data, beyond the end of the file of {len} bytes \
                 (is the file cut off?)",
                quote(&e.name),
                e.len,
                e.offset
            )));
        }
        e.offset += data;
    }
    Ok(())
}

/// The paths of the files after the first of a split model, from the first one's.
fn split_paths(path: &Path, metadata: &Metadata, count: u16) -> Result<Vec<PathBuf>> {
    let wrong = |why: String| Error::invalid(format!("{}: {why}", path.display()));
    if count > MAX_SPLITS {
        return Err(wrong(format!("split.count is {count}, the most is {MAX_SPLITS}")));
    }
    let number = metadata.get_u16("split.no").context(path.display())?.unwrap_or(0);
    if number != 0 {
        let n = number.saturating_add(1);
        return Err(wrong(format!("this is part {n} of {count}; open the first part")));
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(&format!("-00001-of-{count:05}.gguf")).ok_or_else(|| {
        wrong(format!("the first of {count} files must be named `...-00001-of-{count:05}.gguf`"))
    })?;
    Ok((2..=count).map(|i| path.with_file_name(split_name(stem, i, count))).collect())
}

/// The name of part `i` (from 1) of `count`.
pub(crate) fn split_name(stem: &str, i: u16, count: u16) -> String {
    format!("{stem}-{i:05}-of-{count:05}.gguf")
}

/// Opens part `number` (from 0) of a split model.
fn open_split(
    path: &Path,
    options: OpenOptions,
    number: u16,
    count: u16,
) -> Result<(Arc<FileBytes>, Vec<Entry>)> {
    let file = options.bytes(path)?;
    let header = parse(file.as_slice(), number as usize).context(path.display())?;
    let is = |key: &str, wanted: u16| -> Result<()> {
        let found = required(key, header.metadata.get_u16(key)?)?;
        if found == wanted {
            return Ok(());
        }
        Err(Error::format(format!("metadata key `{key}` is {found}, expected {wanted}")))
    };
    is("split.no", number).and_then(|()| is("split.count", count)).context(path.display())?;
    Ok((file, header.entries))
}

/// Checks `split.tensors.count` against what all files together hold.
fn check_split_total(metadata: &Metadata, found: usize) -> Result<()> {
    match metadata.get_i32("split.tensors.count")? {
        Some(n) if n as i64 != found as i64 => Err(Error::format(format!(
            "the files hold {found} tensors, metadata key `split.tensors.count` says {n}"
        ))),
        _ => Ok(()),
    }
}
