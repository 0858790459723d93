//! Reading safetensors: 8 bytes of header length, a JSON header, then the tensors without a gap.
//! The header is read by us rather than by the format's crate, which keeps the last of two equal names
//! and does not say which tensor is wrong. Format: github.com/huggingface/safetensors, README.

use super::cursor::quote;
use super::json;
use super::table::{Entry, Stored, Table, checked_shape};
use super::{OpenOptions, plain_file_name};
use puyu_tensor::{Context, DType, Error, FileBytes, Result};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The longest header the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// A file's dtype: its name, its size in bits, and what puyu has for it.
const TYPES: [(&str, usize, Stored); 19] = [
    ("F32", 32, Stored::Plain(DType::F32)),
    ("F16", 16, Stored::Plain(DType::F16)),
    ("BF16", 16, Stored::Plain(DType::BF16)),
    ("U32", 32, Stored::Plain(DType::U32)),
    ("F64", 64, Stored::Other("F64")),
    ("I64", 64, Stored::Other("I64")),
    ("U64", 64, Stored::Other("U64")),
    ("I32", 32, Stored::Other("I32")),
    ("I16", 16, Stored::Other("I16")),
    ("U16", 16, Stored::Other("U16")),
    ("I8", 8, Stored::Other("I8")),
    ("U8", 8, Stored::Other("U8")),
    ("BOOL", 8, Stored::Other("BOOL")),
    ("F8_E5M2", 8, Stored::Other("F8_E5M2")),
    ("F8_E4M3", 8, Stored::Other("F8_E4M3")),
    ("F8_E8M0", 8, Stored::Other("F8_E8M0")),
    ("F6_E2M3", 6, Stored::Other("F6_E2M3")),
    ("F4", 4, Stored::Other("F4")),
    ("C64", 64, Stored::Other("C64")),
];

/// The tensors of one safetensors file.
///
/// # Errors
/// If the file cannot be read or breaks the format.
pub fn open(path: &Path, options: OpenOptions) -> Result<Table> {
    let file = options.bytes(path)?;
    let entries = parse(file.as_slice(), 0).context(path.display())?;
    Table::new(vec![file], entries).context(path.display())
}

/// The tensors of a checkpoint split over several files, listed in `model.safetensors.index.json`.
///
/// # Errors
/// If the index or a file is wrong or missing, or the index promises a tensor that is not there.
pub fn open_sharded(index: &Path, options: OpenOptions) -> Result<Table> {
    open_index(index, options, parse)
}

/// Opens the files an index lists, each parsed by `parse(bytes, file index)`. Only plain names are
/// followed, so an index cannot make us read outside its folder.
pub(crate) fn open_index(
    index: &Path,
    options: OpenOptions,
    parse: impl Fn(&[u8], usize) -> Result<Vec<Entry>>,
) -> Result<Table> {
    let weight_map = json::weight_map(index)?;
    let shards: BTreeSet<&str> = weight_map.iter().map(|(_, shard)| shard.as_str()).collect();
    let folder = index.parent().unwrap_or(Path::new(""));
    let (mut files, mut entries) = (Vec::<Arc<FileBytes>>::new(), Vec::new());
    for shard in &shards {
        let name = plain_file_name(shard).context(index.display())?;
        let path = folder.join(name);
        let file = options.bytes(&path).context(index.display())?;
        entries.extend(parse(file.as_slice(), files.len()).context(path.display())?);
        files.push(file);
    }
    let table = Table::new(files, entries).context(index.display())?;
    let shards: Vec<&str> = shards.into_iter().collect();
    for (tensor, shard) in &weight_map {
        let found = table.get(tensor).is_some_and(|e| shards[e.file] == shard);
        if !found {
            return Err(Error::format(format!(
                "{}: tensor {} is listed in {} but is not there",
                index.display(),
                quote(tensor),
                quote(shard)
            )));
        }
    }
    Ok(table)
}

/// Reads the header of a safetensors file; `file` is its index in the table to be.
///
/// # Errors
/// If `bytes` is not a whole, well-formed safetensors file.
pub fn parse(bytes: &[u8], file: usize) -> Result<Vec<Entry>> {
    let (header, start) = header(bytes)?;
    let mut entries = Vec::with_capacity(header.tensors.len());
    for (name, info) in &header.tensors {
        let entry = entry(name, info, file, start);
        entries.push(entry.context(format_args!("tensor {}", quote(name)))?);
    }
    check_cover(&mut entries, start, bytes.len() - start)?;
    Ok(entries)
}

/// The `__metadata__` strings of a safetensors file, in file order.
///
/// # Errors
/// If the header breaks the format.
pub fn metadata(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    Ok(header(bytes)?.0.metadata)
}

/// The parsed header, and where the data begins.
fn header(bytes: &[u8]) -> Result<(Header<'_>, usize)> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::format(format!(
            "truncated header: a safetensors file has at least 10 bytes, this one {}",
            bytes.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(Error::format(format!(
            "the safetensors header claims {length} bytes, the most is {MAX_HEADER}"
        )));
    }
    let length = length as usize;
    if length > rest.len() {
        return Err(Error::format(format!(
            "truncated header: it claims {length} bytes, the file has {} left",
            rest.len()
        )));
    }
    if length < 2 || rest[0] != b'{' {
        return Err(Error::format("the safetensors header is not a JSON object"));
    }
    let text = std::str::from_utf8(&rest[..length])
        .map_err(|e| Error::format(format!("the safetensors header is not UTF-8: {e}")))?;
    let header = serde_json::from_str(text)
        .map_err(|e| Error::format(format!("the safetensors header is wrong: {e}")))?;
    Ok((header, 8 + length))
}

/// The header as it stands, names not yet checked against each other.
struct Header<'a> {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, Info<'a>)>,
}

#[derive(serde::Deserialize)]
struct Info<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut metadata, mut tensors) = (None, Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        let info = map.next_value::<Info<'de>>();
                        tensors.push((name, info?));
                    } else if metadata.is_some() {
                        return Err(de::Error::custom("`__metadata__` stands twice"));
                    } else {
                        metadata = Some(map.next_value::<json::Pairs>()?.0);
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        d.deserialize_map(HeaderVisitor)
    }
}

/// One tensor of the header, its shape checked against its byte range.
fn entry(name: &str, info: &Info<'_>, file: usize, start: usize) -> Result<Entry> {
    let (_, bits, stored) = TYPES
        .into_iter()
        .find(|(known, ..)| *known == info.dtype)
        .ok_or_else(|| Error::unsupported(format!("unknown dtype {}", quote(&info.dtype))))?;
    let shape = checked_shape(&info.shape)?;
    let (begin, end) = info.data_offsets;
    let len = end
        .checked_sub(begin)
        .ok_or_else(|| Error::format(format!("its data_offsets [{begin}, {end}] are reversed")))?;
    let wanted = info.shape.iter().try_fold(bits as u64, |n, d| n.checked_mul(*d));
    if wanted != len.checked_mul(8) {
        return Err(Error::format(format!(
            "shape {:?} of {} does not take the {len} bytes of its data_offsets",
            info.shape, info.dtype
        )));
    }
    let place = |n: u64| usize::try_from(n).map_err(|_| Error::format(format!("offset {n}")));
    Ok(Entry {
        name: name.into(),
        file,
        offset: place(begin)?
            .checked_add(start)
            .ok_or_else(|| Error::format(format!("offset {begin} is past any file's end")))?,
        len: place(len)?,
        shape,
        strides: None,
        stored,
    })
}

/// Brings `entries` into the order of their bytes, which must cover the data without gap or overlap.
fn check_cover(entries: &mut [Entry], start: usize, len: usize) -> Result<()> {
    entries.sort_by_key(|e| (e.offset, e.len));
    let mut expected = start;
    for e in entries.iter() {
        if e.offset != expected {
            let what =
                if e.offset < expected { "overlaps the one before" } else { "leaves a hole" };
            return Err(Error::format(format!(
                "tensor {} {what}: it begins at byte {} of the data, expected {}",
                quote(&e.name),
                e.offset - start,
                expected - start
            )));
        }
        // No overflow: the range is a range of u64 offsets that fits `usize`, checked below.
        expected = e.offset.saturating_add(e.len);
        if expected > start + len {
            return Err(Error::format(format!(
                "tensor {} ends at byte {} of the data, which has {len} (is the file cut off?)",
                quote(&e.name),
                expected - start
            )));
        }
    }
    if expected != start + len {
        return Err(Error::format(format!(
            "{} bytes after the last tensor belong to none",
            start + len - expected
        )));
    }
    Ok(())
}
