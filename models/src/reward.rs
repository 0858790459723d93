//! From a language model to a reward model: other keys of config.json, and a head of one output in the place of the
//! one that gives logits.

use crate::Config;
use crate::format::Source;
use crate::tokenizer::Tokenizer;
use puyu_tensor::{Error, Result, Spec, Tensor};
use serde_json::{Value, json};

/// A reward model's head.
pub const MODULE: &str = "v_head";

/// Its weight, `[1, H]`.
pub const HEAD: &str = "v_head.weight";

/// The head that it takes the place of.
const LOGITS: &str = "output.weight";

/// What InternLM2's reward models read last, where their score is taken.
const REWARD_PIECES: [&str; 2] = ["<|reward|>", "[UNUSED_TOKEN_130]"];

/// Makes config.json that of a reward model, which reads the reward token of `tokenizer`, if there is one, last.
///
/// # Errors
/// If it is of another architecture than InternLM2.
pub fn become_reward_model(json: &mut Value, tokenizer: &Tokenizer) -> Result<()> {
    let shape = Config::from_json(json)?;
    if shape.model_type != "internlm2" {
        return Err(Error::unsupported(format!(
            "a reward model of model_type `{}`; of language models, those of InternLM2 become reward models",
            shape.model_type
        )));
    }
    json["architectures"] = json!(["InternLM2ForRewardModel"]);
    if let Some(id) = REWARD_PIECES.iter().find_map(|piece| tokenizer.id_of(piece)) {
        json["reward_token_id"] = json!(id);
    }
    Ok(())
}

/// A language model's tensors without its head.
pub struct Headless<'a>(pub &'a dyn Source);

impl Source for Headless<'_> {
    fn names(&self) -> Vec<&str> {
        self.0.names().into_iter().filter(|name| *name != LOGITS).collect()
    }

    fn spec(&self, name: &str) -> Option<Spec> {
        self.0.spec(name).filter(|_| name != LOGITS)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.0.tensor(name)
    }
}
