//! A model as a folder in Hugging Face layout: safetensors under the model's names, config.json and
//! generation_config.json. What a GGUF file holds in block formats is decoded, since safetensors has
//! none; q, k and v of InternLM2 that could not stay fused are fused again.

use super::atomic::AtomicFile;
use super::gguf_names::wqkv_row;
use super::recode::recode;
use super::{Source, safetensors_write};
use crate::Config;
use puyu_tensor::{DType, Error, Result, Spec, Tensor};
use serde_json::{Value, json};
use std::path::Path;

/// Shards above this size, as Hugging Face's own tools make them.
const SHARD_BYTES: usize = 5_000_000_000;

/// Writes the weights of `source` and `config` (an object in config.json's keys) into `folder`. With no
/// `dtype`, floats keep theirs and block formats become F32, which loses nothing.
///
/// # Errors
/// If a tensor cannot be loaded, or a file cannot be written.
pub fn save(
    folder: &Path,
    source: &dyn Source,
    config: &Value,
    dtype: Option<DType>,
) -> Result<()> {
    let shape = Config::from_json(config)?;
    let model = Fused { source, shape: &shape };
    let target = |spec: &Spec| match (dtype, spec.dtype) {
        (Some(to), from) if from != DType::U32 => to,
        (None, from) if from.is_block() => DType::F32,
        (_, from) => from,
    };
    let mut tensors = Vec::new();
    for name in source.names() {
        let Some((name, spec)) = model.announce(name)? else { continue };
        tensors.push((name, Spec::new(spec.shape, target(&spec))));
    }
    let widest = tensors.iter().max_by_key(|(_, spec)| spec.numel());
    let main = widest.map_or(DType::F32, |(_, spec)| spec.dtype);
    std::fs::create_dir_all(folder)?;
    safetensors_write::save_sharded(folder, &tensors, SHARD_BYTES, |name| {
        model.tensor(name, &target)
    })?;
    let mut config = config.clone();
    config["torch_dtype"] = json!(torch_name(main)?);
    write_json(&folder.join("config.json"), &config)
}

/// PyTorch's name of a dtype.
fn torch_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float32"),
        DType::F16 => Ok("float16"),
        DType::BF16 => Ok("bfloat16"),
        other => Err(Error::invalid(format!("a Hugging Face folder cannot hold {other}"))),
    }
}

/// Writes a JSON file as people read it.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write(format!("{value:#}\n").as_bytes())?;
    file.finish()
}

/// A source in which InternLM2's q, k and v are one tensor again.
struct Fused<'a> {
    source: &'a dyn Source,
    shape: &'a Config,
}

/// The three names that a fused name stands for.
fn parts(fused: &str) -> Option<[String; 3]> {
    fused.contains(".attention.wqkv.").then(|| ["wq", "wk", "wv"].map(|p| fused.replace("wqkv", p)))
}

impl Fused<'_> {
    /// The name and spec under which a tensor of the source is written; `None` for one that goes into
    /// another.
    fn announce(&self, name: &str) -> Result<Option<(String, Spec)>> {
        let missing =
            || Error::unsupported(format!("tensor `{name}` is of a type puyu cannot load"));
        let spec = self.source.spec(name).ok_or_else(missing)?;
        if name.contains(".attention.wk.") || name.contains(".attention.wv.") {
            return Ok(None);
        }
        if !name.contains(".attention.wq.") {
            return Ok(Some((name.into(), spec)));
        }
        let rows = (self.shape.heads + 2 * self.shape.kv_heads) * self.shape.head_dim;
        Ok(Some((name.replace("wq", "wqkv"), Spec::new(spec.shape.with(0, rows), spec.dtype))))
    }

    /// The tensor written as `name`, recoded.
    fn tensor(&self, name: &str, target: &dyn Fn(&Spec) -> DType) -> Result<Tensor> {
        let load = |name: &str| -> Result<Tensor> {
            let tensor = self.source.tensor(name)?.contiguous();
            let spec = *tensor.spec();
            let to = Spec::new(spec.shape, target(&spec));
            Ok(Tensor::from_bytes(&recode(&spec, tensor.bytes(), to.dtype)?, to))
        };
        let split = parts(name).filter(|_| self.source.spec(name).is_none());
        let Some([q, k, v]) = split else { return load(name) };
        let parts = [load(&q)?, load(&k)?, load(&v)?];
        let Config { heads, kv_heads, head_dim, .. } = *self.shape;
        let rows = (heads + 2 * kv_heads) * head_dim;
        let spec = Spec::new(parts[0].spec().shape.with(0, rows), parts[0].dtype());
        let size = spec.bytes() / rows;
        let mut out = vec![0; spec.bytes()];
        for (part, tensor) in parts.iter().enumerate() {
            for (row, bytes) in tensor.bytes().chunks_exact(size).enumerate() {
                let to = wqkv_row(part, row, heads / kv_heads, head_dim) * size;
                let place = out.get_mut(to..to + size).filter(|_| tensor.dtype() == spec.dtype);
                let wrong = || Error::invalid(format!("`{name}`: q, k and v do not fit together"));
                place.ok_or_else(wrong)?.copy_from_slice(bytes);
            }
        }
        Ok(Tensor::from_bytes(&out, spec))
    }
}
