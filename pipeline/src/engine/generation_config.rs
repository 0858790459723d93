//! What a model's authors recommend: Hugging Face's generation_config.json, or the same in a GGUF file.

use puyu_models::format::{Metadata, json, sampling};
use puyu_tensor::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Recommended sampling and the ids that end an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end an answer.
    pub eos: Vec<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Tokens kept by rank.
    pub top_k: Option<usize>,
    /// Tokens kept by cumulative probability.
    pub top_p: Option<f32>,
    /// Divides (multiplies) the logits of tokens that already occurred.
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads generation_config.json in `folder`; a folder without one recommends nothing.
    ///
    /// # Errors
    /// If the file is there but is not what it should be; the message names file and key.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("generation_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let value = json::read_config(&path)?;
        Self::from_json(&value).map_err(|e| e.context(path.display()))
    }

    /// Reads `general.sampling.*` of a GGUF file.
    ///
    /// # Errors
    /// If a key is there but is not what it should be.
    pub fn from_metadata(meta: &Metadata) -> Result<Self> {
        Self::from_json(&Value::Object(sampling::read(meta)?))
    }

    fn from_json(v: &Value) -> Result<Self> {
        let wrong = |key: &str| Error::format(format!("{key} is {}, which it cannot be", v[key]));
        let number = |key: &str| match &v[key] {
            Value::Null => Ok(None),
            x => x
                .as_f64()
                .filter(|f| f.is_finite() && *f >= 0.0)
                .map(Some)
                .ok_or_else(|| wrong(key)),
        };
        let id = |x: &Value| x.as_u64().and_then(|n| u32::try_from(n).ok());
        let eos = match &v["eos_token_id"] {
            Value::Null => Some(Vec::new()),
            Value::Array(ids) => ids.iter().map(id).collect(),
            x => id(x).map(|id| vec![id]),
        };
        Ok(Self {
            eos: eos.ok_or_else(|| wrong("eos_token_id"))?,
            temperature: number("temperature")?.map(|x| x as f32),
            top_k: number("top_k")?.map(|x| x as usize),
            top_p: number("top_p")?.map(|x| x as f32),
            repetition_penalty: number("repetition_penalty")?.map(|x| x as f32),
        })
    }
}
