//! Where a reward model begins: one that has a score's head already, or a language model whose head is replaced
//! by a new one of a single output.

use super::config::FinetuneConfig;
use crate::hub;
use crate::train::{Start, Vocabulary, built, normal};
use puyu_models::format::{self, OpenOptions};
use puyu_models::{Config, Stored};
use puyu_nn::Weights;
use puyu_tensor::{Context, Error, Result, Tensor};
use serde_json::{Value, json};

/// What InternLM2's reward models read last, where their score is taken.
const REWARD_PIECES: [&str; 2] = ["<|reward|>", "[UNUSED_TOKEN_130]"];

/// A reward model of what `model.from` names.
///
/// # Errors
/// If it cannot be read, or has another architecture than InternLM2.
pub(super) fn start(config: &FinetuneConfig, vocabulary: &Vocabulary) -> Result<Start> {
    let path = hub::resolve(config.model.from.as_deref().unwrap_or_default());
    let path = path.context("model.from")?;
    let checkpoint = format::open(&path, OpenOptions::default())?;
    let (vocab, seq_len) = (vocabulary.tokenizer.vocab_size(), config.data.seq_len);
    let stored = Stored::new(checkpoint.source(), &|_, _| ());
    let mut json = checkpoint.config()?;
    let shape = Config::from_json(&json).context(path.display())?;
    let start = if shape.reward {
        built(json, &stored, vocab, seq_len)
    } else {
        score(&mut json, &shape, vocabulary).and_then(|()| {
            built(json, &NewHead { stored, seed: config.train.seed }, vocab, seq_len)
        })
    };
    start.context(path.display())
}

/// That the model `from` would need a new head, which an adapter cannot hold.
pub(crate) fn none_beside_an_adapter(from: &str) -> Error {
    Error::invalid(format!(
        "{from} has no score's head, and an adapter cannot hold a new one; begin with all parameters or with \
         finetune.parameters, [lora] left out"
    ))
}

/// Makes config.json that of a reward model.
fn score(json: &mut Value, shape: &Config, vocabulary: &Vocabulary) -> Result<()> {
    if shape.model_type != "internlm2" {
        return Err(Error::unsupported(format!(
            "a reward model of model_type `{}`; of language models, those of InternLM2 become reward models",
            shape.model_type
        )));
    }
    json["architectures"] = json!(["InternLM2ForRewardModel"]);
    let known = REWARD_PIECES.iter().find_map(|piece| vocabulary.tokenizer.id_of(piece));
    if let Some(id) = known {
        json["reward_token_id"] = json!(id);
    }
    Ok(())
}

/// A language model's weights with a new head, normal of variance 1/(hidden_size + 1) (Stiennon et al. 2020,
/// "Learning to summarize from human feedback", appendix B.1), in the old one's place.
struct NewHead<'a> {
    stored: Stored<'a>,
    seed: u64,
}

impl Weights for NewHead<'_> {
    fn names(&self) -> Vec<String> {
        self.stored.names().into_iter().filter(|name| name != "output.weight").collect()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        self.stored.get(name)
    }

    fn fresh(&self, name: &str, shape: &[usize]) -> Option<Tensor> {
        let deviation = 1.0 / ((shape.last()? + 1) as f64).sqrt();
        (name == "v_head.weight").then(|| normal(self.seed, name, shape, deviation))
    }
}
