//! The metadata of a GGUF file: typed values under dotted keys, in file order. Arrays stay in their
//! encoded form: a vocabulary of 100,000 strings is one allocation, and writing a file back gives the
//! same bytes.

use super::cursor::{Cursor, quote};
use puyu_tensor::{Context, Error, Result};

/// The longest key, in bytes.
const MAX_KEY: u64 = 65_535;

/// The longest string value, in bytes.
const MAX_STRING: u64 = 1 << 30;

/// The most elements of an array.
const MAX_ARRAY: u64 = 1 << 30;

/// How deep arrays may lie in arrays; no real file nests them at all.
const MAX_DEPTH: usize = 4;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// Every type, at the index of its number.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 13] = [
            "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64",
            "f64",
        ];
        NAMES[self as usize]
    }

    /// Bytes of one value; the fewest for strings and arrays.
    fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::String | Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Array => 12,
        }
    }

    fn read(c: &mut Cursor<'_>) -> Result<Self> {
        let n = c.u32()?;
        let known = Self::ALL.get(n as usize).copied();
        known.ok_or_else(|| Error::format(format!("unknown value type {n}")))
    }
}

/// An array in its encoded form, checked when it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    element: ValueType,
    len: usize,
    bytes: Vec<u8>,
}

impl Array {
    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> Self {
        let (mut len, mut bytes) = (0, Vec::new());
        for item in items {
            let item = item.as_ref();
            bytes.extend_from_slice(&(item.len() as u64).to_le_bytes());
            bytes.extend_from_slice(item);
            len += 1;
        }
        Self { element: ValueType::String, len, bytes }
    }

    /// An array of f32.
    pub fn f32(items: &[f32]) -> Self {
        let bytes = items.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { element: ValueType::F32, len: items.len(), bytes }
    }

    /// An array of i32.
    pub fn i32(items: &[i32]) -> Self {
        let bytes = items.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { element: ValueType::I32, len: items.len(), bytes }
    }

    /// The type of its elements.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of each string; nothing if the elements are not strings. Tokens need not be UTF-8.
    pub fn iter_strings(&self) -> impl Iterator<Item = &[u8]> {
        let mut c = Cursor::new(if self.element == ValueType::String { &self.bytes } else { &[] });
        std::iter::from_fn(move || {
            let n = c.u64().ok()?;
            c.take(n as usize).ok()
        })
    }

    /// Reads an array's type, length and elements, checking all of them.
    fn read(c: &mut Cursor<'_>, depth: usize) -> Result<Self> {
        let element = ValueType::read(c)?;
        let len = c.u64()?;
        let most = (c.left() / element.least_bytes()) as u64;
        if len > MAX_ARRAY || len > most {
            return Err(Error::format(format!(
                "an array of {len} {} values does not fit the {} bytes left",
                element.name(),
                c.left()
            )));
        }
        let len = len as usize;
        let mut probe = c.clone();
        match element {
            ValueType::String => {
                for _ in 0..len {
                    string_bytes(&mut probe, MAX_STRING)?;
                }
            }
            ValueType::Array if depth == MAX_DEPTH => {
                return Err(Error::format(format!("arrays nested deeper than {MAX_DEPTH}")));
            }
            ValueType::Array => {
                for _ in 0..len {
                    Self::read(&mut probe, depth + 1)?;
                }
            }
            _ => {
                let bytes = probe.take(len * element.least_bytes())?;
                if element == ValueType::Bool
                    && let Some(wrong) = bytes.iter().find(|b| **b > 1)
                {
                    return Err(Error::format(format!("a bool has the value {wrong}")));
                }
            }
        }
        let bytes = c.take(probe.position() - c.position())?.to_vec();
        Ok(Self { element, len, bytes })
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its type.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    fn read(c: &mut Cursor<'_>) -> Result<Self> {
        Ok(match ValueType::read(c)? {
            ValueType::U8 => Self::U8(c.u8()?),
            ValueType::I8 => Self::I8(c.u8()? as i8),
            ValueType::U16 => Self::U16(c.u16()?),
            ValueType::I16 => Self::I16(c.u16()? as i16),
            ValueType::U32 => Self::U32(c.u32()?),
            ValueType::I32 => Self::I32(c.u32()? as i32),
            ValueType::F32 => Self::F32(f32::from_bits(c.u32()?)),
            ValueType::Bool => match c.u8()? {
                b @ 0..=1 => Self::Bool(b == 1),
                wrong => return Err(Error::format(format!("a bool has the value {wrong}"))),
            },
            ValueType::String => Self::String(string(c, MAX_STRING)?),
            ValueType::Array => Self::Array(Array::read(c, 0)?),
            ValueType::U64 => Self::U64(c.u64()?),
            ValueType::I64 => Self::I64(c.u64()? as i64),
            ValueType::F64 => Self::F64(f64::from_bits(c.u64()?)),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.kind() as u32).to_le_bytes());
        match self {
            Self::U8(x) => out.push(*x),
            Self::I8(x) => out.push(*x as u8),
            Self::U16(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::I16(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::U32(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::I32(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::F32(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::Bool(x) => out.push(u8::from(*x)),
            Self::String(x) => write_string(x, out),
            Self::Array(x) => {
                out.extend_from_slice(&(x.element as u32).to_le_bytes());
                out.extend_from_slice(&(x.len as u64).to_le_bytes());
                out.extend_from_slice(&x.bytes);
            }
            Self::U64(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::I64(x) => out.extend_from_slice(&x.to_le_bytes()),
            Self::F64(x) => out.extend_from_slice(&x.to_le_bytes()),
        }
    }
}

/// Reads the bytes of a string of at most `limit` bytes.
fn string_bytes<'a>(c: &mut Cursor<'a>, limit: u64) -> Result<&'a [u8]> {
    let n = c.u64()?;
    if n > limit || n > c.left() as u64 {
        return Err(Error::format(format!(
            "a string of {n} bytes does not fit the {} bytes left",
            c.left()
        )));
    }
    c.take(n as usize)
}

/// Reads a UTF-8 string of at most `limit` bytes.
pub(crate) fn string(c: &mut Cursor<'_>, limit: u64) -> Result<String> {
    let bytes = string_bytes(c, limit)?;
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let shown = quote(&String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
        Error::format(format!("the string {shown} is not UTF-8"))
    })?;
    Ok(text.into())
}

/// Writes a string with its length.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The key-value pairs of a GGUF file, in file order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, Value)>);

/// One typed getter per type a key is asked for with.
macro_rules! getters {
    ($($get:ident, $variant:ident, $from:ty => $to:ty, |$x:ident| $out:expr;)*) => {
        $(
            #[doc = concat!("The ", stringify!($variant), " under `key`; `None` if it is absent.")]
            ///
            /// # Errors
            /// If the value has another type, naming the key and both types.
            pub fn $get(&self, key: &str) -> Result<Option<$to>> {
                match self.get(key) {
                    None => Ok(None),
                    Some(Value::$variant($x)) => Ok(Some($out)),
                    Some(other) => Err(wrong_type(key, ValueType::$variant.name(), other)),
                }
            }
        )*
    };
}

impl Metadata {
    /// Reads `n` pairs.
    ///
    /// # Errors
    /// If one breaks the format, or two have one key.
    pub(crate) fn read(c: &mut Cursor<'_>, n: usize) -> Result<Self> {
        let mut pairs: Vec<(String, Value)> = Vec::new();
        for i in 0..n {
            let key = string(c, MAX_KEY).context(format_args!("metadata key {i}"))?;
            let value = Value::read(c).context(format_args!("metadata key {}", quote(&key)))?;
            pairs.push((key, value));
        }
        let mut keys: Vec<&str> = pairs.iter().map(|(k, _)| k.as_str()).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::format(format!("metadata key {} stands twice", quote(twice[0]))));
        }
        Ok(Self(pairs))
    }

    /// Writes every pair.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.0 {
            write_string(key, out);
            value.write(out);
        }
    }

    /// Every pair, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Sets `key`, at the end if it is new.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.into(), value)),
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(k, _)| k != key);
    }

    getters! {
        get_u16, U16, u16 => u16, |x| *x;
        get_u32, U32, u32 => u32, |x| *x;
        get_i32, I32, i32 => i32, |x| *x;
        get_f32, F32, f32 => f32, |x| *x;
        get_bool, Bool, bool => bool, |x| *x;
        get_str, String, String => &str, |x| x;
        get_array, Array, Array => &Array, |x| x;
    }

    /// The array of strings under `key`; `None` if it is absent.
    ///
    /// # Errors
    /// If the value is something else, naming the key and both types.
    pub fn get_strings(&self, key: &str) -> Result<Option<Vec<&[u8]>>> {
        let array = self.array_of(key, ValueType::String)?;
        Ok(array.map(|a| a.iter_strings().collect()))
    }

    /// The array of f32 under `key`; `None` if it is absent.
    ///
    /// # Errors
    /// If the value is something else, naming the key and both types.
    pub fn get_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let array = self.array_of(key, ValueType::F32)?;
        Ok(array.map(|a| a.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// The array of i32 under `key`; `None` if it is absent.
    ///
    /// # Errors
    /// If the value is something else, naming the key and both types.
    pub fn get_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let array = self.array_of(key, ValueType::I32)?;
        Ok(array.map(|a| a.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()))
    }

    fn array_of(&self, key: &str, element: ValueType) -> Result<Option<&Array>> {
        match self.get_array(key)? {
            Some(a) if a.element != element => Err(Error::format(format!(
                "metadata key {} is an array of {}, wanted one of {}",
                quote(key),
                a.element.name(),
                element.name()
            ))),
            other => Ok(other),
        }
    }
}

/// `value`, or an error that names the key it should be under.
///
/// # Errors
/// If it is `None`.
pub fn required<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::format(format!("metadata key {} is missing", quote(key))))
}

fn wrong_type(key: &str, wanted: &str, found: &Value) -> Error {
    Error::format(format!(
        "metadata key {} is of type {}, wanted {wanted}",
        quote(key),
        found.kind().name()
    ))
}
