//! A model's shape, from Hugging Face's config.json (GGUF metadata is translated to the same keys).
//!
//! What puyu does not run is an error, never ignored: an unknown architecture, rope type, activation,
//! or a sliding window.

use puyu_tensor::ops::{Rope, Scaling};
use puyu_tensor::{Error, Result};
use serde_json::Value;

/// Everything a model file needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `internlm`, `internlm2`, `internlm3` or `llama`.
    pub model_type: String,
    /// A reward model: a score instead of logits.
    pub reward: bool,
    /// H
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// V
    pub vocab_size: usize,
    /// The context the model was trained for.
    pub max_positions: usize,
    /// ε of the normalizations.
    pub eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Biases of the q, k, v projections.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub output_bias: bool,
    /// Biases of the feed-forward layer.
    pub mlp_bias: bool,
    /// The head is the embedding.
    pub tied: bool,
    /// Ids that end a text, from config.json; generation_config.json has the better list.
    pub eos: Vec<u32>,
    /// The token whose position a reward model scores.
    pub reward_token: Option<u32>,
}

/// Architectures by `model_type`, with the defaults their code has for absent keys.
struct Defaults {
    model_type: &'static str,
    bias: bool,
    eps: f64,
    theta: f64,
    max_positions: usize,
}

const KNOWN: [Defaults; 4] = [
    Defaults { model_type: "internlm", bias: true, eps: 1e-6, theta: 1e4, max_positions: 2048 },
    Defaults { model_type: "internlm2", bias: true, eps: 1e-6, theta: 1e4, max_positions: 2048 },
    Defaults { model_type: "internlm3", bias: false, eps: 1e-6, theta: 1e4, max_positions: 32768 },
    Defaults { model_type: "llama", bias: false, eps: 1e-6, theta: 1e4, max_positions: 2048 },
];

/// Larger sizes than these are broken files, not models.
const MOST_LAYERS: usize = 4096;
const MOST_SIZE: usize = 1 << 24;

/// Typed access to a JSON object, with errors that name the key.
struct Keys<'a>(&'a serde_json::Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let n = v.as_u64().filter(|&n| n >= 1 && n <= MOST_SIZE as u64);
        n.map(|n| Some(n as usize)).ok_or_else(|| {
            Error::format(format!("{key} is {v}, expected a number from 1 to {MOST_SIZE}"))
        })
    }

    fn need(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::format(format!("{key} is missing")))
    }

    fn float(&self, key: &str, default: f64) -> Result<f64> {
        let Some(v) = self.get(key) else { return Ok(default) };
        let positive = v.as_f64().filter(|f| f.is_finite() && *f > 0.0);
        positive.ok_or_else(|| Error::format(format!("{key} is {v}, expected a positive number")))
    }

    fn bool(&self, key: &str, default: bool) -> Result<bool> {
        let Some(v) = self.get(key) else { return Ok(default) };
        v.as_bool().ok_or_else(|| Error::format(format!("{key} is {v}, expected true or false")))
    }

    fn str(&self, key: &str) -> Result<Option<&str>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_str()
            .map(Some)
            .ok_or_else(|| Error::format(format!("{key} is {v}, expected a string")))
    }
}

impl Config {
    /// Reads the object of a config.json.
    ///
    /// # Errors
    /// If a key is missing or of the wrong type or value, or the model is one puyu does not run; the
    /// message names the key.
    pub fn from_json(json: &Value) -> Result<Self> {
        let map = json.as_object();
        let keys = Keys(map.ok_or_else(|| Error::format("the config is not a JSON object"))?);
        let defaults = architecture(&keys)?;
        let model_type = defaults.model_type;
        refuse_unknown(&keys)?;
        let hidden_size = keys.need("hidden_size")?;
        let heads = keys.need("num_attention_heads")?;
        let kv_heads = keys.size("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match keys.size("head_dim")? {
            Some(d) => d,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(Error::format(format!(
                    "hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}"
                )));
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::format(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(Error::format(format!("head_dim {head_dim} is odd: rope needs pairs")));
        }
        let layers = keys.need("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(Error::format(format!(
                "num_hidden_layers is {layers}, more than {MOST_LAYERS}"
            )));
        }
        let max_positions = keys.size("max_position_embeddings")?.unwrap_or(defaults.max_positions);
        let bias = |key| keys.bool(key, defaults.bias);
        let (qkv_bias, output_bias, mlp_bias) = match model_type {
            "internlm" | "internlm2" => (bias("bias")?, bias("bias")?, false),
            "internlm3" => (bias("qkv_bias")?, bias("bias")?, bias("bias")?),
            _ => (bias("attention_bias")?, bias("attention_bias")?, bias("mlp_bias")?),
        };
        Ok(Self {
            reward: architecture_name(&keys).is_some_and(|a| a.ends_with("ForRewardModel")),
            model_type: model_type.into(),
            hidden_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            intermediate_size: keys.need("intermediate_size")?,
            vocab_size: keys.need("vocab_size")?,
            max_positions,
            eps: keys.float("rms_norm_eps", defaults.eps)? as f32,
            rope: rope(&keys, defaults.theta, max_positions)?,
            qkv_bias,
            output_bias,
            mlp_bias,
            tied: keys.bool("tie_word_embeddings", false)?,
            eos: ids(keys.get("eos_token_id"))?,
            reward_token: ids(keys.get("reward_token_id"))?.first().copied(),
        })
    }

    /// Heads · D.
    pub fn q_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Key heads · D.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

fn architecture_name<'a>(keys: &'a Keys) -> Option<&'a str> {
    keys.get("architectures")?.as_array()?.first()?.as_str()
}

fn architecture(keys: &Keys) -> Result<Defaults> {
    let name = keys.str("model_type")?;
    let found = name.and_then(|n| KNOWN.into_iter().find(|k| k.model_type == n));
    found.ok_or_else(|| {
        let known = KNOWN.map(|k| k.model_type).join(", ");
        let name = name.or(architecture_name(keys)).unwrap_or("absent");
        Error::unsupported(format!("model_type {name} is not one that puyu runs ({known})"))
    })
}

/// Refuses what would change the result if it were ignored.
fn refuse_unknown(keys: &Keys) -> Result<()> {
    let activation = keys.str("hidden_act")?.unwrap_or("silu");
    if !matches!(activation, "silu" | "swish") {
        return Err(Error::unsupported(format!(
            "hidden_act {activation} is not supported, only silu is"
        )));
    }
    let window_used = keys.bool("use_sliding_window", true)?;
    if let Some(n) = keys.size("sliding_window")?.filter(|_| window_used) {
        return Err(Error::unsupported(format!("sliding_window {n} is not supported")));
    }
    if let Some(experts) = keys.size("num_local_experts")? {
        return Err(Error::unsupported(format!("num_local_experts {experts} is not supported")));
    }
    Ok(())
}

fn ids(value: Option<&Value>) -> Result<Vec<u32>> {
    let one = |v: &Value| {
        let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
        id.ok_or_else(|| Error::format(format!("{v} is not a token id")))
    };
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(v) => Ok(vec![one(v)?]),
    }
}

/// Rope from `rotary` (InternLM-1), or `rope_theta` and `rope_scaling`.
fn rope(keys: &Keys, theta: f64, max_positions: usize) -> Result<Rope> {
    let empty = serde_json::Map::new();
    let (place, object, base_key) = match (keys.get("rotary"), keys.get("rope_scaling")) {
        (Some(v), _) => ("rotary", v.as_object(), Some("base")),
        (None, Some(v)) => ("rope_scaling", v.as_object(), None),
        (None, None) => ("rope_scaling", Some(&empty), None),
    };
    let object = object.ok_or_else(|| Error::format(format!("{place} is not an object")))?;
    let scaling = Keys(object);
    let base = match base_key {
        Some(key) => scaling.float(key, theta),
        None => keys.float("rope_theta", theta),
    }?;
    // InternLM-1 without the key is dynamic, as its code has it.
    let internlm1 = keys.str("model_type")? == Some("internlm");
    let default = if internlm1 { "dynamic" } else { "default" };
    let kind = scaling.str("rope_type")?.or(scaling.str("type")?).unwrap_or(default);
    let factor = |default: Option<f64>| -> Result<f32> {
        let key = if internlm1 { "scaling_factor" } else { "factor" };
        match (scaling.get(key), default) {
            (None, None) => Err(Error::format(format!("{place}.{key} is missing"))),
            (_, default) => Ok(scaling.float(key, default.unwrap_or(1.0))? as f32),
        }
    };
    let scaling = match kind {
        "default" | "origin" | "none" => Scaling::None,
        "linear" => Scaling::Linear { factor: factor(None)? },
        "dynamic" => {
            let default = internlm1.then_some(1.0);
            Scaling::Dynamic { factor: factor(default)?, max_positions: max_positions as u32 }
        }
        "llama3" => Scaling::Llama3 {
            factor: factor(None)?,
            low: scaling.float("low_freq_factor", 1.0)? as f32,
            high: scaling.float("high_freq_factor", 4.0)? as f32,
            original: scaling.need("original_max_position_embeddings")? as u32,
        },
        other => {
            return Err(Error::unsupported(format!(
                "{place} type {other} is not supported (default, linear, dynamic and llama3 are)"
            )));
        }
    };
    Ok(Rope { base: base as f32, scaling })
}
