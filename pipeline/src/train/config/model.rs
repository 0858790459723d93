//! `[model]` and `[tokenizer]`. The shape's fields are those of Hugging Face's config.json, so that
//! what is known of a published model can be written down as it is.

use puyu_nn::Compute;
use puyu_tensor::{DType, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `[model]`: either `from`, or a shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The checkpoint to go on with: a folder, a file, or a pulled org/repo\[:QUANT\].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Of a new model: `internlm`, `internlm2`, `internlm3` or `llama`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Rows of the embedding; absent: as many as the tokenizer has tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Width of the hidden states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<usize>,
    /// Query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// Key and value heads; absent: as many as query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; absent: hidden_size / num_attention_heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Width of the feed-forward layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// The longest text the model is made for; absent: `data.seq_len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_position_embeddings: Option<usize>,
    /// Base of the rotary embedding; absent: 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// ε of the normalizations; absent: 1e-5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rms_norm_eps: Option<f64>,
    /// The head is the embedding; absent: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_word_embeddings: Option<bool>,
    /// Deviation of the first weights; absent: 0.02, or 1/√hidden_size where that is larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    /// Biases in attention, as InternLM-1 has them; absent: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// What matrices are multiplied in: `f32` or `bf16`, which rounds what goes into a product, and keeps what a
    /// layer's products give, and the gradients of that, in half the memory. Weights, sums, what is passed from
    /// layer to layer and the optimizer's state are F32 in both cases; checkpoints hold matrices in this type.
    pub dtype: TrainDType,
    /// Layers that keep only their input and are run again in the backward pass: a number, or a share
    /// from 0.0 to 1.0.
    pub checkpointed: Checkpointed,
}

/// An element type to train in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainDType {
    /// Single precision.
    #[default]
    F32,
    /// The upper half of it: products take half the time where the CPU has instructions for them.
    Bf16,
}

impl TrainDType {
    /// How weights are multiplied.
    pub fn compute(self) -> Compute {
        match self {
            Self::F32 => Compute::Exact,
            Self::Bf16 => Compute::Fast,
        }
    }
}

impl From<TrainDType> for DType {
    fn from(dtype: TrainDType) -> Self {
        match dtype {
            TrainDType::F32 => Self::F32,
            TrainDType::Bf16 => Self::BF16,
        }
    }
}

/// How many layers are checkpointed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of layers, or a share from 0.0 to 1.0")]
pub enum Checkpointed {
    /// So many layers.
    Layers(usize),
    /// This share of the layers.
    Share(f64),
}

impl Default for Checkpointed {
    fn default() -> Self {
        Self::Layers(0)
    }
}

impl Checkpointed {
    /// How many of `layers` layers that are.
    pub fn of(self, layers: usize) -> usize {
        match self {
            Self::Layers(n) => n.min(layers),
            Self::Share(share) => (share * layers as f64).ceil() as usize,
        }
    }
}

/// `[tokenizer]`: what turns text into ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// A `tokenizer.model`, a folder that holds one (or a `tokenizer.json`), a model, or `bytes` for
    /// the 256 bytes themselves; absent: that of `model.from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl ModelConfig {
    /// Checks what can be known without a file.
    ///
    /// # Errors
    /// If it is neither a checkpoint nor a shape, or both, or a share is out of range.
    pub fn check(&self) -> Result<()> {
        if let Checkpointed::Share(share) = self.checkpointed
            && !(0.0..=1.0).contains(&share)
        {
            return Err(Error::invalid(format!(
                "model.checkpointed is {share}, expected a number of layers, or a share from 0.0 to 1.0"
            )));
        }
        if let Some(range) = self.initializer_range
            && !(range > 0.0 && range < 10.0)
        {
            return Err(Error::invalid(format!(
                "model.initializer_range is {range}, expected a number above 0 and below 10"
            )));
        }
        let shape = self.shape_fields();
        match (&self.from, shape.first()) {
            (Some(_), Some(field)) => Err(Error::invalid(format!(
                "model.from and model.{field} contradict each other: a checkpoint has its own shape"
            ))),
            (None, None) => Err(Error::invalid(
                "[model] is empty: give `from` (a checkpoint), or the shape of a new model",
            )),
            (None, Some(_)) => self.need_shape(),
            (Some(_), None) => Ok(()),
        }
    }

    /// The names of the shape's fields that are set.
    fn shape_fields(&self) -> Vec<String> {
        let all = serde_json::to_value(self).unwrap_or_default();
        let fields = all.as_object().into_iter().flatten();
        let fields =
            fields.filter(|(k, _)| !["from", "dtype", "checkpointed"].contains(&k.as_str()));
        fields.map(|(k, _)| k.clone()).collect()
    }

    fn need_shape(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
        ];
        let missing = sizes.iter().find(|(_, v)| v.is_none()).map(|(name, _)| *name);
        match missing.or(self.model_type.is_none().then_some("model_type")) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "model.{name} is missing, and a new model needs it; give `from` to go on with a checkpoint"
            ))),
        }
    }

    /// The config of a new model in config.json's keys, with `vocab` tokens and rows of `seq_len`.
    ///
    /// # Errors
    /// If the model's vocabulary is smaller than the tokenizer's.
    pub fn fresh(&self, vocab: usize, seq_len: usize) -> Result<Value> {
        let vocab_size = self.vocab_size.unwrap_or(vocab);
        if vocab_size < vocab {
            return Err(Error::invalid(format!(
                "model.vocab_size is {vocab_size}, but the tokenizer has {vocab} tokens"
            )));
        }
        let model_type = self.model_type.as_deref().unwrap_or_default();
        let class = match model_type {
            "internlm" => "InternLMForCausalLM",
            "internlm3" => "InternLM3ForCausalLM",
            "llama" => "LlamaForCausalLM",
            _ => "InternLM2ForCausalLM",
        };
        let bias = self.bias.unwrap_or(false);
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads.or(self.num_attention_heads),
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings.unwrap_or(seq_len),
            "rms_norm_eps": self.rms_norm_eps.unwrap_or(1e-5),
            "tie_word_embeddings": self.tie_word_embeddings.unwrap_or(false),
            "hidden_act": "silu",
        });
        let theta = self.rope_theta.unwrap_or(1e4);
        match model_type {
            "internlm" => config["rotary"] = json!({ "base": theta, "type": "origin" }),
            _ => config["rope_theta"] = json!(theta),
        }
        match model_type {
            "llama" => config["attention_bias"] = json!(bias),
            "internlm3" => config["qkv_bias"] = json!(bias),
            _ => config["bias"] = json!(bias),
        }
        if let Some(d) = self.head_dim {
            config["head_dim"] = json!(d);
        }
        Ok(config)
    }
}
