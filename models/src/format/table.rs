//! What every checkpoint format comes down to: named tensors, each a range of bytes in some file.
//! A format's reader only makes entries; finding, checking and viewing them is here, once.

use super::Source;
use super::cursor::quote;
use puyu_tensor::quant::ImportType;
use puyu_tensor::{DType, Dims, Error, FileBytes, MAX_DIMS, Result, Spec, Tensor};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// How a file stores a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As one of our own dtypes: used as it lies.
    Plain(DType),
    /// In a block format that is decoded to F16 when it is loaded.
    Import(ImportType),
    /// As something puyu does not compute with, by the name the format gives it.
    Other(&'static str),
}

impl Stored {
    /// The dtype the tensor has once loaded; `None` if it cannot be.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::Plain(d) => Some(d),
            Self::Import(_) => Some(DType::F16),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(d) => f.write_str(d.name()),
            Self::Import(t) => f.write_str(t.name()),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// One tensor in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name the file gives it.
    pub name: String,
    /// Index of its file in [`Table::files`].
    pub file: usize,
    /// Where its first element lies in that file, in bytes.
    pub offset: usize,
    /// Bytes from its first element to just past its last.
    pub len: usize,
    /// Sizes, outermost first.
    pub shape: Dims,
    /// Strides in elements; `None` for row-major.
    pub strides: Option<Dims>,
    /// How the elements are stored.
    pub stored: Stored,
}

impl Entry {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// The row-major spec the tensor has once loaded; `None` if puyu does not compute with its type.
    pub fn spec(&self) -> Option<Spec> {
        Some(Spec::new(self.shape, self.stored.dtype()?))
    }
}

/// `shape` as [`Dims`], if puyu can index it.
///
/// # Errors
/// If there are too many dimensions, or their product (zeros left out) overflows.
pub(crate) fn checked_shape(shape: &[u64]) -> Result<Dims> {
    if shape.len() > MAX_DIMS {
        return Err(Error::unsupported(format!(
            "it has {} dimensions, the most is {MAX_DIMS}",
            shape.len()
        )));
    }
    let bytes = shape.iter().try_fold(8u64, |n, d| n.checked_mul((*d).max(1)));
    if bytes.is_none_or(|n| isize::try_from(n).is_err()) {
        return Err(Error::format(format!("the product of its shape {shape:?} overflows")));
    }
    Ok(shape.iter().map(|d| *d as usize).collect())
}

/// The tensors of a checkpoint, in the order of its files.
pub struct Table {
    files: Vec<Arc<FileBytes>>,
    entries: Vec<Entry>,
    /// Indices of `entries`, sorted by name.
    by_name: Vec<u32>,
}

impl Table {
    /// The table of `entries`, whose byte ranges the caller has checked against `files`.
    ///
    /// # Errors
    /// If two entries have one name.
    pub fn new(files: Vec<Arc<FileBytes>>, entries: Vec<Entry>) -> Result<Self> {
        let mut by_name: Vec<u32> = (0..entries.len() as u32).collect();
        by_name.sort_unstable_by(|a, b| entries[*a as usize].name.cmp(&entries[*b as usize].name));
        for pair in by_name.windows(2) {
            let name = &entries[pair[0] as usize].name;
            if *name == entries[pair[1] as usize].name {
                return Err(Error::format(format!("two tensors are named {}", quote(name))));
            }
        }
        Ok(Self { files, entries, by_name })
    }

    /// Every tensor, in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The files the entries point into.
    pub fn files(&self) -> &[Arc<FileBytes>] {
        &self.files
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.index_of(name).map(|i| &self.entries[i])
    }

    /// The place in [`Table::entries`] of the entry called `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|i| (*self.entries[*i as usize].name).cmp(name));
        found.ok().map(|i| self.by_name[i] as usize)
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn require(&self, name: &str) -> Result<&Entry> {
        self.get(name).ok_or_else(|| {
            Error::not_found(format!("the checkpoint has no tensor {}", quote(name)))
        })
    }

    /// The bytes of `entry` as they lie in its file.
    pub fn raw(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file].as_slice()[entry.offset..entry.offset + entry.len]
    }

    /// The spec and the row-major bytes of `entry` as they are once loaded: borrowed from the file,
    /// or made anew if its type is only imported or its elements lie in another order.
    ///
    /// # Errors
    /// If puyu does not compute with its type, or it has no elements.
    pub fn loaded(&self, entry: &Entry) -> Result<(Spec, Cow<'_, [u8]>)> {
        let spec = self.loadable(entry)?;
        let raw = self.raw(entry);
        let bytes = match (entry.stored, entry.strides) {
            (Stored::Import(import), _) => Cow::Owned(decode(import, spec.last(), raw)),
            (_, Some(strides)) => {
                let strided = Spec { strides, ..spec };
                Cow::Owned(row_major(&strided, spec.dtype.block_bytes(), raw))
            }
            _ => Cow::Borrowed(raw),
        };
        Ok((spec, bytes))
    }

    /// The I64 elements of a tensor: token ids and labels in test data.
    ///
    /// # Errors
    /// If there is no such tensor, or it holds something else.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let entry = self.require(name)?;
        if entry.stored != Stored::Other("I64") || entry.strides.is_some() {
            return Err(Error::unsupported(format!(
                "tensor {} holds {}, not I64",
                quote(name),
                entry.stored
            )));
        }
        let (words, _) = self.raw(entry).as_chunks::<8>();
        Ok(words.iter().map(|w| i64::from_le_bytes(*w)).collect())
    }

    /// The spec of `entry`, or why it cannot be loaded.
    fn loadable(&self, entry: &Entry) -> Result<Spec> {
        let spec = entry.spec().ok_or_else(|| {
            Error::unsupported(format!(
                "tensor {} is of type {}, which puyu does not compute with",
                quote(&entry.name),
                entry.stored
            ))
        })?;
        if spec.numel() == 0 {
            return Err(Error::format(format!(
                "tensor {} has no elements (shape {})",
                quote(&entry.name),
                entry.shape
            )));
        }
        Ok(spec)
    }
}

impl Source for Table {
    fn names(&self) -> Vec<&str> {
        self.entries.iter().map(|e| e.name.as_str()).collect()
    }

    fn spec(&self, name: &str) -> Option<Spec> {
        self.get(name)?.spec()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.require(name)?;
        match self.loaded(entry)? {
            (spec, Cow::Borrowed(_)) => {
                Tensor::from_file(&self.files[entry.file], entry.offset, spec)
            }
            (spec, Cow::Owned(bytes)) => Ok(Tensor::from_bytes(&bytes, spec)),
        }
    }
}

/// The F16 bytes of rows of `row` elements each, stored as `import`.
fn decode(import: ImportType, row: usize, raw: &[u8]) -> Vec<u8> {
    let row_bytes = row / import.block_len() * import.block_bytes();
    let mut values = vec![0.0; row];
    let mut out = Vec::with_capacity(raw.len() / row_bytes * row * 2);
    for bytes in raw.chunks_exact(row_bytes) {
        import.decode_row(bytes, &mut values);
        out.extend(values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()));
    }
    out
}

/// Gathers a strided view of elements of `size` bytes into row-major order.
fn row_major(spec: &Spec, size: usize, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(spec.numel() * size);
    let mut index = [0; MAX_DIMS];
    for _ in 0..spec.numel() {
        let at: usize = index.iter().zip(spec.strides.iter()).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&raw[at * size..(at + 1) * size]);
        // The next index, as an odometer counts.
        for d in (0..spec.rank()).rev() {
            index[d] += 1;
            if index[d] < spec.shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
    out
}
