//! From a config to the parts of a fine-tuning run: which parameters move, what is made small, and what
//! a checkpoint holds. Everything else is `puyu train`'s.

use super::config::{FinetuneConfig, LoraConfig, Method, MethodConfig};
use super::{Dpo, Orpo, Reference, Reward, score_head};
use crate::data::{Kind, Progress, matches};
use crate::hub;
use crate::train::{
    Forward, NextToken, Objective, Prepared, Recipe, Start, Vocabulary, assemble, full_model, key,
    start, uniform,
};
use puyu_models::format::adapter::{self, AdapterConfig, is_within};
use puyu_models::format::{self, OpenOptions};
use puyu_models::reward::{HEAD, Headless, become_reward_model};
use puyu_models::{Config, Loaded, Stored, build_adapted};
use puyu_nn::{Adapter, Compute, Param, Weights};
use puyu_tensor::ops::Dropout;
use puyu_tensor::{Context, DType, Error, Result, Tensor};
use std::path::Path;
use std::sync::Arc;

/// The parts of the run that `config` describes, in the work folder `dir`; `text` is the config as it is
/// in force. `progress` is told how far reading the data is.
///
/// # Errors
/// If the config contradicts itself or the data, or a file cannot be read.
pub fn prepare(
    config: &FinetuneConfig,
    text: String,
    dir: &Path,
    progress: Progress,
) -> Result<Prepared> {
    config.check()?;
    let method = &config.finetune;
    let fits = |kind: Kind| match (method.method, kind) {
        (Method::Sft, Kind::Preference) => Err(Error::invalid(
            "[data] holds preference pairs, which dpo, orpo and reward learn from; finetune.method is sft",
        )),
        (Method::Dpo | Method::Orpo | Method::Reward, Kind::Text | Kind::Chat) => {
            let name = format!("{:?}", method.method).to_lowercase();
            Err(Error::invalid(format!(
                "finetune.method is {name}, which learns from preference pairs; [data] holds none"
            )))
        }
        _ => Ok(()),
    };
    let make = &|vocabulary: &Arc<Vocabulary>| match &config.lora {
        Some(lora) => adapted(config, lora, vocabulary),
        None => whole(config, vocabulary),
    };
    assemble(&config.shared(), text, dir, progress, &fits, make)
}

/// All of the model, or chosen parameters of it.
fn whole(config: &FinetuneConfig, vocabulary: &Arc<Vocabulary>) -> Result<Recipe> {
    let begin = || match config.finetune.method {
        Method::Reward => score_head::start(config, vocabulary),
        _ => start(&config.model, vocabulary, config.data.seq_len, config.train.seed),
    };
    let Start { loaded: Loaded { model, params }, config: json } = begin()?;
    let trained = chosen(&params, &config.finetune.parameters)?;
    let reference = match config.finetune.method {
        // What the model was, frozen, as long as there is no adapter to switch off.
        Method::Dpo => Reference::Frozen(Forward::new(begin()?.loaded.model)),
        _ => Reference::WithoutAdapters,
    };
    Ok(Recipe {
        objective: objective(&config.finetune, reference),
        export: full_model(params, config.model.dtype, json, vocabulary.clone()),
        model,
        trained,
        compute: config.model.dtype.compute(),
    })
}

/// An adapter beside the frozen model.
fn adapted(config: &FinetuneConfig, lora: &LoraConfig, vocabulary: &Vocabulary) -> Result<Recipe> {
    let from = config.model.from.as_deref().unwrap_or_default();
    let path = hub::resolve(from).context("model.from")?;
    let checkpoint = format::open(&path, OpenOptions::default())?;
    let mut shape = Config::from_json(&checkpoint.config()?).context(path.display())?;
    let new_head = config.finetune.method == Method::Reward && !shape.reward;
    let mut rule = lora.adapter(from, new_head);
    let headless = Headless(checkpoint.source());
    let mut source = checkpoint.source();
    if new_head {
        let mut json = checkpoint.config()?;
        become_reward_model(&mut json, &vocabulary.tokenizer).context(path.display())?;
        (shape, source) = (Config::from_json(&json)?, &headless);
    }
    let vocab = vocabulary.tokenizer.vocab_size();
    crate::train::fits(&shape, vocab, config.data.seq_len).context(path.display())?;
    let fresh = FirstAdapter { config: &rule, seed: config.train.seed };
    let stored = Stored::new(source, &|_, _| ());
    let dtype = lora.base(config.model.dtype.into())?;
    let built = build_adapted(&shape, &stored, dtype, Some(&fresh)).context(path.display())?;
    let Loaded { model, params } = built;
    let adapts = |p: &Param| p.name().contains(".lora_") || rule.replaces(p.name());
    let trained: Vec<Param> = params.into_iter().filter(adapts).collect();
    if let Some(unused) = lora.targets.iter().find(|t| !used(t, &trained)) {
        return Err(Error::invalid(format!(
            "lora.targets names `{unused}`, and {from} has no linear layer of that name"
        )));
    }
    if let Some(unused) =
        rule.whole.iter().find(|m| !trained.iter().any(|p| is_within(p.name(), m)))
    {
        return Err(Error::invalid(format!(
            "lora.modules_to_save names `{unused}`, and {from} has no module whose path ends so"
        )));
    }
    if lora.targets.is_empty() {
        rule.name_targets(&trained);
    }
    let params = trained.clone();
    Ok(Recipe {
        objective: objective(&config.finetune, Reference::WithoutAdapters),
        export: Box::new(move |folder| adapter::save(folder, &rule, &params)),
        model,
        trained,
        compute: Compute::Exact,
    })
}

/// Whether a target is one of the layers that got an adapter.
fn used(target: &str, trained: &[Param]) -> bool {
    let ending = format!("{target}.lora_A.weight");
    let ends = |name: &str| {
        name.strip_suffix(&ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    trained.iter().any(|p| ends(p.name()))
}

/// The parameters that one of `patterns` names; all if there are none.
fn chosen(params: &[Param], patterns: &[String]) -> Result<Vec<Param>> {
    let named = |pattern: &String, p: &Param| matches(pattern.as_bytes(), p.name().as_bytes());
    if let Some(none) = patterns.iter().find(|n| !params.iter().any(|p| named(n, p))) {
        return Err(Error::invalid(format!(
            "finetune.parameters has `{none}`, which is no parameter of the model; `puyu inspect` lists them"
        )));
    }
    let wanted = |p: &&Param| patterns.is_empty() || patterns.iter().any(|n| named(n, p));
    Ok(params.iter().filter(wanted).cloned().collect())
}

fn objective(config: &MethodConfig, reference: Reference) -> Box<dyn Objective> {
    let MethodConfig { beta, loss, label_smoothing, lambda, ranking, penalty, .. } = *config;
    match config.method {
        Method::Sft => Box::new(NextToken),
        Method::Dpo => Box::new(Dpo { beta, loss, label_smoothing, reference }),
        Method::Orpo => Box::new(Orpo { lambda }),
        Method::Reward => Box::new(Reward { ranking, penalty }),
    }
}

/// A new adapter: A as PEFT begins it (uniform within ±1/√in, He et al. 2015 with a = √5), B zeros, so
/// that the model begins as it was, but for a reward model's head that it had not.
pub struct FirstAdapter<'a> {
    /// Which layers have one, and of what rank.
    pub config: &'a AdapterConfig,
    /// Seed of all numbers.
    pub seed: u64,
}

impl Weights for FirstAdapter<'_> {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        unreachable!("{name} was not among the names")
    }

    fn fresh(&self, name: &str, shape: &[usize]) -> Option<Tensor> {
        Some(match name {
            HEAD => score_head::new_head(self.seed, shape),
            _ if name.ends_with(".lora_A.weight") => {
                uniform(self.seed, name, shape, 1.0 / (shape[1] as f64).sqrt())
            }
            _ => Tensor::zeros(shape, DType::F32),
        })
    }
}

impl Adapter for FirstAdapter<'_> {
    fn rank(&self, path: &str) -> Option<(usize, f32)> {
        self.config.rank(path)
    }

    fn dropout(&self, path: &str) -> Option<Dropout> {
        let p = self.config.dropout as f32;
        (p > 0.0).then(|| Dropout { p, salt: key(self.seed, path) as u32 })
    }

    fn replaces(&self, name: &str) -> bool {
        self.config.replaces(name)
    }
}
