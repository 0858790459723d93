//! Where a reward model begins: one that has a score's head already, or a language model whose head is replaced
//! by a new one of a single output.

use super::config::FinetuneConfig;
use crate::hub;
use crate::train::{Start, Vocabulary, built, normal};
use puyu_models::format::{self, OpenOptions};
use puyu_models::reward::{HEAD, Headless, become_reward_model};
use puyu_models::{Config, Stored};
use puyu_nn::Weights;
use puyu_tensor::{Context, Result, Tensor};

/// A reward model of what `model.from` names.
///
/// # Errors
/// If it cannot be read, or has another architecture than InternLM2.
pub(super) fn start(config: &FinetuneConfig, vocabulary: &Vocabulary) -> Result<Start> {
    let path = hub::resolve(config.model.from.as_deref().unwrap_or_default());
    let path = path.context("model.from")?;
    let checkpoint = format::open(&path, OpenOptions::default())?;
    let (vocab, seq_len) = (vocabulary.tokenizer.vocab_size(), config.data.seq_len);
    let mut json = checkpoint.config()?;
    let shape = Config::from_json(&json).context(path.display())?;
    let start = if shape.reward {
        built(json, &Stored::new(checkpoint.source(), &|_, _| ()), vocab, seq_len)
    } else {
        become_reward_model(&mut json, &vocabulary.tokenizer).and_then(|()| {
            let headless = Headless(checkpoint.source());
            let stored = Stored::new(&headless, &|_, _| ());
            built(json, &NewHead { stored, seed: config.train.seed }, vocab, seq_len)
        })
    };
    start.context(path.display())
}

/// A new score's head `[1, H]`: normal of variance 1/(H + 1) (Stiennon et al. 2020, "Learning to summarize from human
/// feedback", appendix B.1).
pub(super) fn new_head(seed: u64, shape: &[usize]) -> Tensor {
    let width = shape.last().copied().unwrap_or_default();
    normal(seed, HEAD, shape, 1.0 / ((width + 1) as f64).sqrt())
}

/// A model's weights with a new head.
struct NewHead<'a> {
    stored: Stored<'a>,
    seed: u64,
}

impl Weights for NewHead<'_> {
    fn names(&self) -> Vec<String> {
        self.stored.names()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        self.stored.get(name)
    }

    fn fresh(&self, name: &str, shape: &[usize]) -> Option<Tensor> {
        (name == HEAD).then(|| new_head(self.seed, shape))
    }
}
