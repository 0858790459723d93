//! A model as the GGUF file that llama.cpp reads: its tensor names, its row order of q and k, InternLM2's
//! fused projection taken apart, InternLM and InternLM3 as the architecture `llama`. What llama.cpp has
//! no key for goes under keys of our own, with a warning, so that a round trip loses nothing.

use super::cursor::quote;
use super::gguf_config::{self, ROPE_FREQS};
use super::gguf_meta::{Metadata, Value};
use super::gguf_names::{rope_rows, to_gguf, wqkv_row};
use super::gguf_type::GgmlType;
use super::gguf_write::{self, Out};
use super::recode::recode;
use super::{Source, Stored, gather};
use crate::Config;
use puyu_tensor::ops::Scaling;
use puyu_tensor::{Context, DType, Dims, Error, Result, Spec, Tensor};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// What to write besides the weights.
pub struct Export<'a> {
    /// The model's shape.
    pub config: &'a Config,
    /// `general.name`.
    pub name: &'a str,
    /// The tokenizer's keys, and any others to be written as they are.
    pub metadata: &'a Metadata,
    /// What a matrix becomes, by its GGUF name and its spec now. Vectors become F32, as llama.cpp
    /// needs them.
    pub rule: &'a dyn Fn(&str, &Spec) -> DType,
}

/// Where a GGUF tensor's rows come from.
enum Origin {
    /// A tensor of the source, as it is.
    Whole(String),
    /// The rows of a tensor of the source, in this order.
    Rows(String, Vec<usize>),
    /// Made here: Llama 3's divisors of rope frequencies.
    RopeFreqs(Vec<f32>),
}

/// Writes the model in `source` to `path`; gives warnings about what others will not understand.
///
/// # Errors
/// If the source has a tensor that GGUF has no name for, or the file cannot be written; an old file
/// of that name is then left as it was.
pub fn save(path: &Path, source: &dyn Source, export: &Export<'_>) -> Result<Vec<String>> {
    let config = export.config;
    if config.reward {
        return Err(Error::unsupported("GGUF has no form for a reward model's head"));
    }
    let mut metadata = metadata(export)?;
    let mut warnings = Vec::new();
    let divisors = rope(&mut metadata, config, &mut warnings)?;
    let (outs, origins) = tensors(source, export, divisors)?;
    metadata.set("general.file_type", Value::U32(file_type(&outs)));
    metadata.set("general.quantization_version", Value::U32(2));
    gguf_write::save(path, &metadata, &outs, |out| {
        bytes(source, &origins[&out.name], out.kind)
            .context(format_args!("tensor {}", quote(&out.name)))
    })?;
    Ok(warnings)
}

/// The architecture that llama.cpp runs a model as.
fn arch(config: &Config) -> &'static str {
    if config.model_type == "internlm2" { "internlm2" } else { "llama" }
}

/// `general.file_type`: llama.cpp's number for what most elements are stored as.
fn file_type(outs: &[Out]) -> u32 {
    let elements = |d: DType| -> usize {
        let of = outs.iter().filter(|o| o.kind.stored == Stored::Plain(d));
        of.map(|o| o.shape.numel()).sum()
    };
    match DType::WEIGHTS.into_iter().max_by_key(|d| elements(*d)) {
        Some(DType::F16) => 1,
        Some(DType::Q4_0) => 2,
        Some(DType::Q4_1) => 3,
        Some(DType::Q8_0) => 7,
        Some(DType::Q5_0) => 8,
        Some(DType::Q5_1) => 9,
        Some(DType::Q4K) => 15,
        Some(DType::Q5K) => 17,
        Some(DType::Q6K) => 18,
        Some(DType::BF16) => 32,
        _ => 0,
    }
}

/// Everything but the rope scaling and what is counted from the tensors.
fn metadata(export: &Export<'_>) -> Result<Metadata> {
    let config = export.config;
    let arch = arch(config);
    let mut meta = Metadata::default();
    let text = |s: &str| Value::String(s.into());
    meta.set("general.architecture", text(arch));
    meta.set("general.type", text("model"));
    meta.set("general.name", text(export.name));
    let mut number = |key: &str, n: usize| -> Result<()> {
        let n = u32::try_from(n).map_err(|_| Error::invalid(format!("{key} {n} is too large")))?;
        meta.set(&format!("{arch}.{key}"), Value::U32(n));
        Ok(())
    };
    number("block_count", config.layers)?;
    number("context_length", config.max_positions)?;
    number("embedding_length", config.hidden_size)?;
    number("feed_forward_length", config.intermediate_size)?;
    number("attention.head_count", config.heads)?;
    number("attention.head_count_kv", config.kv_heads)?;
    if arch == "llama" {
        number("attention.key_length", config.head_dim)?;
        number("attention.value_length", config.head_dim)?;
        number("rope.dimension_count", config.head_dim)?;
        number("vocab_size", config.vocab_size)?;
    }
    meta.set(&format!("{arch}.rope.freq_base"), Value::F32(config.rope.base));
    meta.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(config.eps));
    for (key, value) in export.metadata.iter() {
        meta.set(key, value.clone());
    }
    Ok(meta)
}

/// Writes the rope scaling; gives Llama 3's divisors, which llama.cpp keeps in a tensor.
fn rope(
    meta: &mut Metadata,
    config: &Config,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<f32>>> {
    let arch = arch(config);
    let (mut dynamic, mut divisors) = (None, None);
    match config.rope.scaling {
        Scaling::None => {}
        Scaling::Linear { factor } => {
            meta.set(&format!("{arch}.rope.scaling.type"), Value::String("linear".into()));
            meta.set(&format!("{arch}.rope.scaling.factor"), Value::F32(factor));
        }
        Scaling::Dynamic { factor, .. } => {
            warnings.push(format!(
                "llama.cpp has no dynamic NTK: beyond {} tokens its results differ from the model's \
                 (puyu keeps the factor {factor} in a key of its own)",
                config.max_positions
            ));
            dynamic = Some(factor);
        }
        Scaling::Llama3 { factor, low, high, original } => {
            if (low, high, original) != (1.0, 4.0, 8192) {
                return Err(Error::unsupported(format!(
                    "llama3 rope scaling with {low}, {high} and {original} (GGUF files are \
                     recognised by 1, 4 and 8192)"
                )));
            }
            let base = config.rope.base;
            let found =
                gguf_config::llama3_divisors(base, config.head_dim, factor, low, high, 8192.0);
            divisors = Some(found);
        }
    }
    if config.model_type != arch || dynamic.is_some() {
        gguf_config::set_private(meta, &config.model_type, dynamic);
    }
    Ok(divisors)
}

/// The tensors of the file, in the order of the source, and where each comes from.
fn tensors(
    source: &dyn Source,
    export: &Export<'_>,
    divisors: Option<Vec<f32>>,
) -> Result<(Vec<Out>, HashMap<String, Origin>)> {
    let (mut outs, mut origins) = (Vec::new(), HashMap::new());
    let mut add = |name: String, spec: Spec, origin: Origin| -> Result<()> {
        let dtype = if spec.rank() < 2 { DType::F32 } else { (export.rule)(&name, &spec) };
        let kind = GgmlType::from_dtype(dtype)
            .ok_or_else(|| Error::invalid(format!("GGUF has no {dtype}")))?;
        outs.push(Out { name: name.clone(), shape: spec.shape, kind });
        origins.insert(name, origin);
        Ok(())
    };
    let config = export.config;
    let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim);
    for name in source.names() {
        // InternLM-1's files hold a table that is computed anew; a tied head is the embedding.
        let tied_head = config.tied && matches!(name, "lm_head.weight" | "output.weight");
        if name.ends_with("rotary_emb.inv_freq") || tied_head {
            continue;
        }
        let spec = source.spec(name).ok_or_else(|| {
            Error::unsupported(format!("tensor {} is of a type puyu does not convert", quote(name)))
        })?;
        let shape = spec.shape;
        if let Some((layer, kind)) = name.split_once(".attention.wqkv.") {
            check_rows(name, &shape, (heads + 2 * kv_heads) * dim)?;
            for (part, short) in ["wq", "wk", "wv"].into_iter().enumerate() {
                let n = if part == 0 { heads } else { kv_heads };
                let row = |r: usize| wqkv_row(part, r, heads / kv_heads, dim);
                let order: Vec<usize> = match part {
                    2 => (0..n * dim).map(row).collect(),
                    _ => rope_rows(n, dim, true).map(row).collect(),
                };
                let gguf = gguf_name(&format!("{layer}.attention.{short}.{kind}"), config)?;
                let spec = Spec::new(shape.with(0, n * dim), spec.dtype);
                add(gguf, spec, Origin::Rows(name.into(), order))?;
            }
            continue;
        }
        let gguf = gguf_name(name, config)?;
        if gguf == "token_embd.weight" && config.tied && arch(config) == "internlm2" {
            // llama.cpp has no tied head for this architecture.
            add("output.weight".into(), spec, Origin::Whole(name.into()))?;
        }
        let heads_of = match gguf.split('.').nth(2) {
            Some("attn_q") => Some(heads),
            Some("attn_k") => Some(kv_heads),
            _ => None,
        };
        let origin = match heads_of {
            Some(n) => {
                check_rows(name, &shape, n * dim)?;
                Origin::Rows(name.into(), rope_rows(n, dim, true).collect())
            }
            None => Origin::Whole(name.into()),
        };
        add(gguf, spec, origin)?;
    }
    if let Some(divisors) = divisors {
        add(ROPE_FREQS.into(), Spec::f32([divisors.len()]), Origin::RopeFreqs(divisors))?;
    }
    Ok((outs, origins))
}

fn gguf_name(name: &str, config: &Config) -> Result<String> {
    to_gguf(name, config.model_type == "internlm2")
        .ok_or_else(|| Error::unsupported(format!("GGUF has no name for tensor {}", quote(name))))
}

fn check_rows(name: &str, shape: &Dims, rows: usize) -> Result<()> {
    if shape.first() == Some(&rows) {
        return Ok(());
    }
    Err(Error::invalid(format!("tensor {} has shape {shape}, expected {rows} rows", quote(name))))
}

/// The bytes of a GGUF tensor.
fn bytes(source: &dyn Source, origin: &Origin, kind: GgmlType) -> Result<Cow<'static, [u8]>> {
    let (tensor, order): (Tensor, Option<&[usize]>) = match origin {
        Origin::RopeFreqs(table) => (Tensor::new(table, [table.len()]), None),
        Origin::Whole(name) => (source.tensor(name)?, None),
        Origin::Rows(name, order) => (source.tensor(name)?, Some(order)),
    };
    let tensor = tensor.contiguous();
    let spec = *tensor.spec();
    let (spec, raw) = match order {
        None => (spec, Cow::Borrowed(tensor.bytes())),
        Some(order) => {
            let size = tensor.bytes().len() / spec.shape[0];
            let spec = Spec::new(spec.shape.with(0, order.len()), spec.dtype);
            let rows = order.iter().map(|r| &tensor.bytes()[r * size..(r + 1) * size]);
            (spec, Cow::Owned(gather(rows, &spec)))
        }
    };
    let dtype = kind.stored.dtype().expect("the kind was made from a dtype");
    Ok(Cow::Owned(recode(&spec, &raw, dtype)?.into_owned()))
}
