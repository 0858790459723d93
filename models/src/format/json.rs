//! JSON from files that nobody vouches for: bounded in size before it is read, in depth by serde_json
//! (128), and with equal keys refused where one would silently win.

use super::cursor::quote;
use puyu_tensor::{Context, Error, Result};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::io::Read;
use std::path::Path;

/// More than any real config.json has, by far.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// More than any real index has: a name and a file for each of a million tensors.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// A file's text, if it has at most `limit` bytes.
///
/// # Errors
/// If it cannot be read, is longer, or is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let place = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).context(place())?;
    let expected = file.metadata().context(place())?.len().min(limit) + 1;
    let mut bytes = Vec::with_capacity(expected as usize);
    file.take(limit + 1).read_to_end(&mut bytes).context(place())?;
    if bytes.len() as u64 > limit {
        return Err(Error::format(format!("{} is longer than {limit} bytes", path.display())));
    }
    String::from_utf8(bytes)
        .map_err(|e| Error::format(format!("{} is not UTF-8: {e}", path.display())))
}

/// The JSON value of a configuration file.
///
/// # Errors
/// If it cannot be read, is longer than [`MAX_CONFIG_BYTES`], or is not JSON.
pub fn read_config(path: &Path) -> Result<serde_json::Value> {
    let text = read_text(path, MAX_CONFIG_BYTES)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::format(format!("{} is not JSON: {e}", path.display())))
}

/// The `weight_map` of an index: tensor and file names, in file order.
pub(crate) fn weight_map(path: &Path) -> Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Pairs,
    }
    let text = read_text(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|e| Error::format(format!("{} is not a shard index: {e}", path.display())))?;
    Ok(index.weight_map.0)
}

/// An object of strings, in file order, each key once.
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, String>()? {
                    pairs.push(pair);
                }
                let mut keys: Vec<&str> = pairs.iter().map(|(k, _)| k.as_str()).collect();
                keys.sort_unstable();
                if let Some(twice) = keys.windows(2).find(|w| w[0] == w[1]) {
                    return Err(de::Error::custom(format!("{} stands twice", quote(twice[0]))));
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(PairsVisitor)
    }
}
