//! Writing safetensors: one file, or shards with an index above a size, each appearing whole or not at
//! all. Tensors are asked for one at a time, so that a model is converted in the memory of its largest.

use super::atomic::AtomicFile;
use super::cursor::quote;
use puyu_tensor::{DType, Error, Result, Spec, Tensor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The format's name of a dtype.
///
/// # Errors
/// If the format has none.
fn dtype_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        DType::U32 => Ok("U32"),
        other => Err(Error::unsupported(format!(
            "safetensors has no {other}; write GGUF, or convert to f32, f16 or bf16"
        ))),
    }
}

/// Writes `tensors` (names and specs) to `path`, with `metadata` in its header. `tensor` is asked for
/// each by name. Wider elements come first, which keeps everything aligned.
///
/// # Errors
/// If a dtype has no name in the format, `tensor` fails or gives another spec, or the file cannot be
/// written; an old file of that name is then left as it was.
pub fn save(
    path: &Path,
    tensors: &[(String, Spec)],
    metadata: &[(&str, &str)],
    mut tensor: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    let mut order: Vec<&(String, Spec)> = tensors.iter().collect();
    order.sort_by_key(|(_, spec)| std::cmp::Reverse(spec.dtype.block_bytes()));
    let header = header(&order, metadata)?;
    let mut file = AtomicFile::create(path)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(header.as_bytes())?;
    for (name, spec) in order {
        let made = tensor(name)?;
        if made.shape() != &*spec.shape || made.dtype() != spec.dtype {
            return Err(Error::invalid(format!(
                "tensor {} came as {}, announced as {spec}",
                quote(name),
                made.spec()
            )));
        }
        file.write(made.contiguous().bytes())?;
    }
    file.finish()
}

/// The JSON header, padded with spaces to a multiple of 8 bytes.
fn header(tensors: &[&(String, Spec)], metadata: &[(&str, &str)]) -> Result<String> {
    let mut out = Map::new();
    if !metadata.is_empty() {
        let pairs = metadata.iter().map(|(k, v)| ((*k).into(), json!(v)));
        out.insert("__metadata__".into(), Value::Object(pairs.collect()));
    }
    let mut offset = 0;
    for (name, spec) in tensors {
        let end = offset + spec.bytes();
        let info = json!({
            "dtype": dtype_name(spec.dtype)?,
            "shape": spec.shape.to_vec(),
            "data_offsets": [offset, end],
        });
        if out.insert(name.clone(), info).is_some() {
            return Err(Error::invalid(format!("two tensors are named {}", quote(name))));
        }
        offset = end;
    }
    let mut text = Value::Object(out).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    Ok(text)
}

/// Writes `tensors` into `folder` as `model.safetensors`, or, above `shard_bytes`, as shards of at most
/// that size (or one tensor) with `model.safetensors.index.json`, which is written last.
///
/// # Errors
/// As [`save`].
pub fn save_sharded(
    folder: &Path,
    tensors: &[(String, Spec)],
    shard_bytes: usize,
    mut tensor: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    const METADATA: [(&str, &str); 1] = [("format", "pt")];
    let mut shards: Vec<Vec<(String, Spec)>> = Vec::new();
    let mut filled = 0;
    for item in tensors {
        let bytes = item.1.bytes();
        if shards.is_empty() || filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("one was just pushed").push(item.clone());
    }
    if shards.len() <= 1 {
        return save(&folder.join("model.safetensors"), tensors, &METADATA, tensor);
    }
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        save(&folder.join(&name), shard, &METADATA, &mut tensor)?;
        weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
    }
    let total: usize = tensors.iter().map(|(_, spec)| spec.bytes()).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let mut file = AtomicFile::create(&folder.join("model.safetensors.index.json"))?;
    file.write(format!("{index:#}\n").as_bytes())?;
    file.finish()
}
