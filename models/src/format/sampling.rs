//! How a model's authors would sample from it: keys of Hugging Face's generation_config.json, and the same
//! where llama.cpp keeps them in a GGUF file, `general.sampling.*`.

use super::gguf_meta::{Metadata, Value};
use super::quote;
use puyu_tensor::{Error, Result};
use serde_json::{Map, Value as Json};

/// The key in a GGUF file, and that in generation_config.json.
const KEYS: [(&str, &str); 4] = [
    ("general.sampling.temp", "temperature"),
    (TOP_K, "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

const TOP_K: &str = "general.sampling.top_k";

/// What a GGUF file recommends, under the names of generation_config.json.
///
/// # Errors
/// If one of them is no number.
pub fn read(meta: &Metadata) -> Result<Map<String, Json>> {
    let mut all = Map::new();
    for (key, name) in KEYS {
        let number = match meta.get(key) {
            None => continue,
            // The shortest decimal, not the float's every digit.
            Some(Value::F32(x)) => x.to_string().parse::<f64>().map(Json::from).ok(),
            Some(Value::F64(x)) => Some(Json::from(*x)),
            Some(Value::I32(n)) => Some(Json::from(*n)),
            Some(Value::U32(n)) => Some(Json::from(*n)),
            Some(_) => None,
        };
        let number = number.ok_or_else(|| Error::format(format!("{} is no number", quote(key))))?;
        all.insert(name.to_owned(), number);
    }
    Ok(all)
}

/// Writes what `config`, a generation_config.json, recommends; what is no number there is left out.
pub fn write(config: &Json, meta: &mut Metadata) {
    for (key, name) in KEYS {
        let whole = config[name].as_i64().and_then(|n| i32::try_from(n).ok());
        let value = match (key, whole, config[name].as_f64()) {
            (TOP_K, Some(n), _) => Value::I32(n),
            (_, _, Some(x)) if key != TOP_K => Value::F32(x as f32),
            _ => continue,
        };
        meta.set(key, value);
    }
}
