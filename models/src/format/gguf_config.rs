//! GGUF metadata as the config.json that Hugging Face would have for the same model, so that one
//! configuration path serves every format. What puyu would compute wrongly is an error here, never
//! ignored. llama.cpp has no key for dynamic NTK or for which InternLM a `llama` file was: those lie
//! under keys of our own, `puyu.*`, which others skip.

use super::cursor::quote;
use super::gguf::{Gguf, required};
use super::gguf_meta::{Metadata, Value};
use puyu_tensor::{DType, Error, Result};
use serde_json::{Map, json};

/// Our key for the model type, where the architecture alone does not tell.
pub const MODEL_TYPE: &str = "puyu.model_type";

/// Our key for a kind of rope scaling that llama.cpp has no name for: `dynamic`.
pub const ROPE_TYPE: &str = "puyu.rope.scaling.type";

/// Our key for that scaling's factor.
pub const ROPE_FACTOR: &str = "puyu.rope.scaling.factor";

/// The tensor in which llama.cpp keeps Llama 3's rope scaling: one divisor per frequency.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// Keys after `<arch>.` that are read or change nothing.
const KNOWN: [&str; 20] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "tensor_data_layout",
];

/// Keys after `<arch>.` whose presence means another computation than ours.
const REFUSED: [&str; 6] = [
    "attention.clamp_kqv",
    "attention.scale",
    "attention.max_alibi_bias",
    "embedding_scale",
    "logit_scale",
    "residual_scale",
];

/// The sizes of a model that puyu runs, checked against each other.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The architecture that keys begin with: `llama` or `internlm2`.
    pub arch: String,
    /// The `model_type` of config.json.
    pub model_type: String,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub context: usize,
}

impl Shape {
    /// Reads the sizes from a file's metadata.
    ///
    /// # Errors
    /// If the architecture is not one that puyu runs, or a key is missing or impossible, naming it.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let meta = &gguf.metadata;
        let arch = required("general.architecture", meta.get_str("general.architecture")?)?;
        if !matches!(arch, "llama" | "internlm2") {
            return Err(Error::unsupported(format!(
                "architecture {} (puyu runs GGUF files of `llama` and `internlm2`)",
                quote(arch)
            )));
        }
        let model_type = model_type(gguf, arch)?;
        let tensors = gguf.table.entries().len() as u32;
        let key = |name: &str| format!("{arch}.{name}");
        let size = |name: &str, most: u32| -> Result<usize> {
            let key = key(name);
            let n = required(&key, meta.get_u32(&key)?)?;
            checked_size(&key, n, most)
        };
        let hidden = size("embedding_length", 1 << 24)?;
        let heads = size("attention.head_count", 1 << 16)?;
        let kv_key = key("attention.head_count_kv");
        let kv_heads = meta.get_u32(&kv_key)?.unwrap_or(heads as u32);
        let kv_heads = checked_size(&kv_key, kv_heads, 1 << 16)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::invalid(format!(
                "metadata key `{kv_key}` is {kv_heads}, which does not divide the {heads} heads"
            )));
        }
        let head_dim = head_dim(meta, arch, hidden, heads)?;
        Ok(Self {
            layers: size("block_count", tensors)?,
            feed_forward: size("feed_forward_length", 1 << 24)?,
            context: size("context_length", u32::MAX)?,
            arch: arch.into(),
            model_type,
            hidden,
            heads,
            kv_heads,
            head_dim,
        })
    }
}

/// The `model_type`: our key's, or the architecture's own. A `llama` file with biases on q, k and v but
/// not on the output is what llama.cpp's converter makes of InternLM3.
fn model_type(gguf: &Gguf, arch: &str) -> Result<String> {
    let has = |name: &str| gguf.table.get(name).is_some();
    let internlm3 = has("blk.0.attn_q.bias") && !has("blk.0.attn_output.bias");
    let otherwise = if arch == "llama" && internlm3 { "internlm3" } else { arch };
    let ours = gguf.metadata.get_str(MODEL_TYPE)?.unwrap_or(otherwise);
    let fits = match arch {
        "internlm2" => ours == "internlm2",
        _ => matches!(ours, "llama" | "internlm" | "internlm3"),
    };
    if fits {
        return Ok(ours.into());
    }
    Err(Error::unsupported(format!(
        "metadata key `{MODEL_TYPE}` is {} in a {arch} file",
        quote(ours)
    )))
}

fn checked_size(key: &str, n: u32, most: u32) -> Result<usize> {
    if n == 0 || n > most {
        return Err(Error::invalid(format!(
            "metadata key `{key}` is {n}, expected 1 to {most} in this file"
        )));
    }
    Ok(n as usize)
}

/// The width of a head: given, or what the heads share of the hidden width.
fn head_dim(meta: &Metadata, arch: &str, hidden: usize, heads: usize) -> Result<usize> {
    let key = format!("{arch}.attention.key_length");
    let given = meta.get_u32(&key)?;
    let d = match given {
        Some(n) => checked_size(&key, n, 1 << 16)?,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::invalid(format!(
                "metadata key `{arch}.attention.head_count` is {heads}, which does not divide the \
                 width {hidden}"
            )));
        }
    };
    for other in ["attention.value_length", "rope.dimension_count"] {
        let other = format!("{arch}.{other}");
        if let Some(n) = meta.get_u32(&other)?
            && n as usize != d
        {
            return Err(Error::unsupported(format!(
                "metadata key `{other}` is {n}, but heads are {d} wide; puyu runs models where they \
                 are equal"
            )));
        }
    }
    if !d.is_multiple_of(2) {
        return Err(Error::invalid(format!(
            "heads are {d} wide, which rope cannot halve (`{key}`)"
        )));
    }
    Ok(d)
}

/// The config.json of the model in `gguf`.
///
/// # Errors
/// If the metadata are incomplete or contradict themselves or the tensors, or describe something that
/// puyu would compute wrongly: another architecture, rope scaling, a sliding window, experts.
pub fn config(gguf: &Gguf) -> Result<serde_json::Value> {
    let meta = &gguf.metadata;
    let shape = Shape::read(gguf)?;
    refuse(meta, &shape.arch)?;
    let key = |name: &str| format!("{}.{name}", shape.arch);
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let eps = required(&eps_key, meta.get_f32(&eps_key)?)?;
    let theta = meta.get_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let rope = rope_scaling(gguf, &shape, theta)?;
    let has = |name: &str| gguf.table.get(name).is_some();
    let (qkv_bias, o_bias) = (has("blk.0.attn_q.bias"), has("blk.0.attn_output.bias"));
    let mut out = Map::new();
    let mut set = |key: &str, value: serde_json::Value| out.insert(key.into(), value);
    set("architectures", json!([class_name(&shape.model_type)]));
    set("model_type", json!(shape.model_type));
    set("hidden_act", json!("silu"));
    set("hidden_size", json!(shape.hidden));
    set("intermediate_size", json!(shape.feed_forward));
    set("num_hidden_layers", json!(shape.layers));
    set("num_attention_heads", json!(shape.heads));
    set("num_key_value_heads", json!(shape.kv_heads));
    set("max_position_embeddings", json!(shape.context));
    set("rms_norm_eps", json!(shortest(eps)));
    set("tie_word_embeddings", json!(!has("output.weight")));
    let vocab_size = vocab_size(gguf)?;
    set("vocab_size", json!(vocab_size));
    for (name, id) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        let key = format!("tokenizer.ggml.{id}_token_id");
        if let Some(n) = meta.get_u32(&key)? {
            if n as usize >= vocab_size {
                return Err(Error::invalid(format!(
                    "metadata key `{key}` is {n}, the vocabulary has {vocab_size} tokens"
                )));
            }
            set(&format!("{name}_token_id"), json!(n));
        }
    }
    match shape.model_type.as_str() {
        "internlm" => {
            set("bias", json!(qkv_bias));
            set("rotary", rotary(theta, rope));
        }
        kind => {
            set("rope_theta", json!(shortest(theta)));
            set("rope_scaling", rope);
            if kind != "internlm2" {
                set("head_dim", json!(shape.head_dim));
            } else if shape.head_dim * shape.heads != shape.hidden {
                return Err(Error::unsupported(format!(
                    "{} heads of width {} do not make the width {} of internlm2",
                    shape.heads, shape.head_dim, shape.hidden
                )));
            }
            match kind {
                "internlm2" => drop(set("bias", json!(qkv_bias))),
                "internlm3" => {
                    set("qkv_bias", json!(qkv_bias));
                    set("bias", json!(o_bias));
                }
                _ => {
                    set("attention_bias", json!(qkv_bias));
                    set("mlp_bias", json!(has("blk.0.ffn_gate.bias")));
                }
            }
        }
    }
    Ok(serde_json::Value::Object(out))
}

/// Metadata that puyu does not understand, which may or may not matter.
pub fn warnings(gguf: &Gguf) -> Vec<String> {
    let Ok(shape) = Shape::read(gguf) else { return Vec::new() };
    let unknown = gguf.metadata.iter().filter_map(|(key, _)| {
        let name = key.strip_prefix(shape.arch.as_str())?.strip_prefix('.')?;
        let known = KNOWN.contains(&name) || name.starts_with("expert_");
        (!known).then(|| format!("metadata key {} is not understood and ignored", quote(key)))
    });
    unknown.collect()
}

/// Hugging Face's class of a model type.
fn class_name(model_type: &str) -> &'static str {
    match model_type {
        "internlm" => "InternLMForCausalLM",
        "internlm2" => "InternLM2ForCausalLM",
        "internlm3" => "InternLM3ForCausalLM",
        _ => "LlamaForCausalLM",
    }
}

/// The f64 with the fewest digits that is this f32: 1e-5, not 9.999999747378752e-6.
fn shortest(x: f32) -> f64 {
    format!("{x}").parse().unwrap_or_else(|_| x.into())
}

/// Refuses metadata that mean another computation than ours.
fn refuse(meta: &Metadata, arch: &str) -> Result<()> {
    let refused = |key: String, what: &str| {
        Err(Error::unsupported(format!("metadata key `{key}`: {what}, which puyu does not run")))
    };
    for name in REFUSED {
        let key = format!("{arch}.{name}");
        if meta.get(&key).is_some() {
            return refused(key, "a scaling of its own");
        }
    }
    for (name, what) in
        [("attention.sliding_window", "a sliding window"), ("expert_count", "a mixture of experts")]
    {
        let key = format!("{arch}.{name}");
        if meta.get_u32(&key)?.unwrap_or(0) > 0 {
            return refused(key, what);
        }
    }
    let key = format!("{arch}.attention.causal");
    if meta.get_bool(&key)? == Some(false) {
        return refused(key, "attention that is not causal");
    }
    Ok(())
}

/// Rows of the embedding, which must be as many as there are tokens.
fn vocab_size(gguf: &Gguf) -> Result<usize> {
    let embedding = gguf.table.require("token_embd.weight")?;
    let rows = embedding.shape.first().copied().unwrap_or(0);
    let tokens = gguf.metadata.get_array("tokenizer.ggml.tokens")?.map(|a| a.len());
    match tokens {
        Some(n) if n != rows => Err(Error::invalid(format!(
            "the vocabulary (`tokenizer.ggml.tokens`) has {n} tokens, the embedding {rows} rows"
        ))),
        _ => Ok(rows),
    }
}

/// InternLM-1's form of rope settings.
fn rotary(theta: f32, rope: serde_json::Value) -> serde_json::Value {
    match rope.get("factor") {
        None => json!({ "base": shortest(theta), "type": "origin" }),
        Some(f) => {
            json!({ "base": shortest(theta), "type": rope["type"], "scaling_factor": f })
        }
    }
}

/// The `rope_scaling` of config.json: null, dynamic (our key), linear, or Llama 3's.
fn rope_scaling(gguf: &Gguf, shape: &Shape, theta: f32) -> Result<serde_json::Value> {
    let meta = &gguf.metadata;
    // InternLM-1 and 2 call the kind `type`, later models `rope_type`.
    let name =
        if matches!(&*shape.model_type, "internlm" | "internlm2") { "type" } else { "rope_type" };
    let scaling = |kind: &str, factor: f32| json!({ name: kind, "factor": shortest(factor) });
    if let Some(kind) = meta.get_str(ROPE_TYPE)? {
        if kind != "dynamic" {
            return Err(Error::unsupported(format!(
                "metadata key `{ROPE_TYPE}` is {}",
                quote(kind)
            )));
        }
        return Ok(scaling(kind, required(ROPE_FACTOR, meta.get_f32(ROPE_FACTOR)?)?));
    }
    if gguf.table.get(ROPE_FREQS).is_some() {
        return llama3(gguf, shape, theta);
    }
    let old = meta.get_f32(&format!("{}.rope.scale_linear", shape.arch))?;
    let factor = meta.get_f32(&format!("{}.rope.scaling.factor", shape.arch))?.or(old);
    let key = format!("{}.rope.scaling.type", shape.arch);
    match (meta.get_str(&key)?, factor) {
        (Some("none"), _) | (None, None) => Ok(serde_json::Value::Null),
        (Some("linear"), Some(f)) | (None, Some(f)) if f.is_finite() && f > 0.0 => {
            Ok(if f == 1.0 { serde_json::Value::Null } else { scaling("linear", f) })
        }
        (kind, f) => Err(Error::unsupported(format!(
            "rope scaling {} with factor {f:?} (metadata key `{key}`)",
            quote(kind.unwrap_or("linear"))
        ))),
    }
}

/// Llama 3's scaling, recognised from its table of divisors: those of the published rule with the
/// constants all of its releases have (low 1, high 4, trained on 8192).
fn llama3(gguf: &Gguf, shape: &Shape, theta: f32) -> Result<serde_json::Value> {
    let entry = gguf.table.require(ROPE_FREQS)?;
    let (spec, bytes) = gguf.table.loaded(entry)?;
    if spec.dtype != DType::F32 || spec.numel() != shape.head_dim / 2 {
        return Err(Error::format(format!("tensor `{ROPE_FREQS}` is {spec}")));
    }
    let table: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let factor = table.iter().copied().fold(1.0, f32::max);
    let expected = llama3_divisors(theta, shape.head_dim, factor, 1.0, 4.0, 8192.0);
    if table.iter().zip(&expected).any(|(a, b)| (a / b - 1.0).abs() > 1e-3 || !a.is_finite()) {
        return Err(Error::unsupported(format!(
            "tensor `{ROPE_FREQS}` does not follow Llama 3's rule for rope scaling"
        )));
    }
    if factor == 1.0 {
        return Ok(serde_json::Value::Null);
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": shortest(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }))
}

/// What Llama 3's rope scaling divides each frequency by: 1 for short waves, `factor` for long ones,
/// smooth between (meta-llama/llama-models, `apply_scaling`).
pub fn llama3_divisors(
    theta: f32,
    head_dim: usize,
    factor: f32,
    low: f32,
    high: f32,
    original: f32,
) -> Vec<f32> {
    let divisor = |j: usize| {
        let frequency = f64::from(theta).powf(-2.0 * j as f64 / head_dim as f64);
        let turns = f64::from(original) * frequency / std::f64::consts::TAU;
        let smooth = ((turns - f64::from(low)) / f64::from(high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)) as f32
    };
    (0..head_dim / 2).map(divisor).collect()
}

/// The ids that end an answer, as generation_config.json has them: end of text, turn and message, and
/// what ended a text before an export put the end of a turn in its place.
///
/// # Errors
/// If a key has the wrong type.
pub fn eos_ids(meta: &Metadata) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = meta.get_u32(&format!("tokenizer.ggml.{name}_token_id"))?;
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    let id = meta.get_u32(super::gguf_vocab::TEXT_END)?;
    ids.extend(id.filter(|id| !ids.contains(id)));
    Ok(ids)
}

/// Puts the model type and a dynamic rope scaling under our own keys.
pub fn set_private(meta: &mut Metadata, model_type: &str, dynamic: Option<f32>) {
    meta.set(MODEL_TYPE, Value::String(model_type.into()));
    if let Some(factor) = dynamic {
        meta.set(ROPE_TYPE, Value::String("dynamic".into()));
        meta.set(ROPE_FACTOR, Value::F32(factor));
    }
}
