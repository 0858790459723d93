//! The TOML config of `puyu finetune`: the sections of `puyu train`, and two of its own.

use super::{DpoLoss, Ranking};
use crate::data::DataConfig;
use crate::train::TrainConfig;
use crate::train::config::{
    CheckpointConfig, ModelConfig, OptimizerConfig, SampleConfig, ScheduleConfig, StepConfig,
    TokenizerConfig, ValidationConfig,
};
use puyu_models::format::adapter::AdapterConfig;
use puyu_models::reward::MODULE;
use puyu_tensor::{DType, Error, Result};
use serde::{Deserialize, Serialize};

/// The config of `puyu finetune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// `[finetune]`: what is made small, and which parameters move.
    #[serde(default)]
    pub finetune: MethodConfig,
    /// `[lora]`: an adapter beside a frozen model; absent: the model itself is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// `[model]`: `from` is the model to tune.
    pub model: ModelConfig,
    /// `[tokenizer]`: absent: the model's.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// `[data]`: conversations, or preference pairs.
    pub data: DataConfig,
    /// `[optimizer]`: AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// `[schedule]`: the learning rate over the steps.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// `[train]`: steps, batch, seed.
    pub train: StepConfig,
    /// `[checkpoint]`: when the run is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// `[valid]`: when the loss on other data is measured.
    #[serde(default)]
    pub valid: ValidationConfig,
    /// `[sample]`: when the model writes a text.
    #[serde(default)]
    pub sample: SampleConfig,
}

/// `[finetune]`: what is made small, and which parameters move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MethodConfig {
    /// `sft` (the next token of answers), `dpo`, `orpo` or `reward`.
    pub method: Method,
    /// Without `[lora]`: names of the parameters to train, with `*` and `?`; empty: all.
    pub parameters: Vec<String>,
    /// Of `dpo`: how strongly the model is held to what it was.
    pub beta: f64,
    /// Of `dpo`: `sigmoid`, `robust`, `hinge`, `ipo`, `sppo_hard` or `nca_pair`.
    pub loss: DpoLoss,
    /// Of `dpo` with `sigmoid` or `robust`: the share of pairs that are taken to be the wrong way round.
    pub label_smoothing: f64,
    /// Of `orpo`: the weight of the odds ratio.
    pub lambda: f64,
    /// Of `reward`: `focal` or `logistic`.
    pub ranking: Ranking,
    /// Of `reward`: the weight of the penalty on large scores.
    pub penalty: f64,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            method: Method::Sft,
            parameters: Vec::new(),
            beta: 0.1,
            loss: DpoLoss::default(),
            label_smoothing: 0.0,
            lambda: 0.1,
            ranking: Ranking::default(),
            penalty: 0.0,
        }
    }
}

/// A method's name in a config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Supervised fine-tuning.
    #[default]
    Sft,
    /// Direct preference optimization.
    Dpo,
    /// Odds ratio preference optimization.
    Orpo,
    /// A reward model: one goes on, or a language model of InternLM2's architecture gets a score's head.
    Reward,
}

/// `[lora]`: an adapter beside a frozen model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r, the inner width of the adapter.
    pub rank: usize,
    /// α; what the adapter adds is multiplied by α/r.
    pub alpha: f64,
    /// Layers by the end of their path, such as `wqkv` or `q_proj`; empty: all linear layers but the
    /// head.
    pub targets: Vec<String>,
    /// Modules by the end of their path, such as `output` or `tok_embeddings`, that are trained as a whole and lie
    /// in the adapter; a reward model's new head is among them by itself.
    pub modules_to_save: Vec<String>,
    /// The probability that an element of a layer's input is dropped on its way into the adapter.
    pub dropout: f64,
    /// The scale is α/√r.
    pub rslora: bool,
    /// What the frozen matrices are held as: `f32`, `bf16`, `nf4`, `nf4_dq`, `q4_0` and the other block
    /// formats (QLoRA), or `stored` for what the file has; absent: `model.dtype`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let (targets, modules_to_save) = (Vec::new(), Vec::new());
        let (dropout, rslora, base) = (0.0, false, None);
        Self { rank: 16, alpha: 32.0, targets, modules_to_save, dropout, rslora, base }
    }
}

impl LoraConfig {
    /// The adapter's config over the model called `from`, which may get a score's head.
    pub fn adapter(&self, from: &str, new_head: bool) -> AdapterConfig {
        let mut config = AdapterConfig::new(from, self.rank, self.alpha, self.targets.clone());
        config.rslora = self.rslora;
        config.dropout = self.dropout;
        config.whole = self.modules_to_save.clone();
        config.whole.extend(new_head.then(|| MODULE.to_owned()));
        config
    }

    /// What the frozen matrices are cast to; `default` where nothing is said, `None` for no cast.
    ///
    /// # Errors
    /// If it is no dtype of weights.
    pub fn base(&self, default: DType) -> Result<Option<DType>> {
        match self.base.as_deref() {
            None => Ok(Some(default)),
            Some("stored") => Ok(None),
            Some(name) => match DType::from_name(name).filter(|d| DType::WEIGHTS.contains(d)) {
                Some(dtype) => Ok(Some(dtype)),
                None => {
                    let names: Vec<_> = DType::WEIGHTS.iter().map(|d| d.name()).collect();
                    Err(Error::invalid(format!(
                        "lora.base is `{name}`, expected `stored` or one of {}",
                        names.join(", ")
                    )))
                }
            },
        }
    }

    fn check(&self) -> Result<()> {
        self.base(DType::F32)?;
        if !(1..=65_536).contains(&self.rank) {
            return Err(Error::invalid(format!("lora.rank is {}, expected 1 to 65536", self.rank)));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(Error::invalid(format!("lora.alpha is {}, not above 0", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "lora.dropout is {}, expected 0 to less than 1",
                self.dropout
            )));
        }
        Ok(())
    }
}

impl FinetuneConfig {
    /// The sections that this config shares with `puyu train`.
    pub fn shared(&self) -> TrainConfig {
        TrainConfig {
            model: self.model.clone(),
            tokenizer: self.tokenizer.clone(),
            data: self.data.clone(),
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            train: self.train.clone(),
            checkpoint: self.checkpoint.clone(),
            valid: self.valid.clone(),
            sample: self.sample.clone(),
        }
    }

    /// Checks what can be known without a file.
    ///
    /// # Errors
    /// The first value that is out of range or contradicts another, by its name.
    pub fn check(&self) -> Result<()> {
        self.shared().check()?;
        if self.model.from.is_none() {
            return Err(Error::invalid(
                "model.from is missing: name the model to tune; `puyu train` begins new ones",
            ));
        }
        if self.lora.is_some() && !self.finetune.parameters.is_empty() {
            return Err(Error::invalid(
                "[lora] and finetune.parameters contradict each other: with an adapter the model is frozen",
            ));
        }
        let whole = self.lora.as_ref().is_some_and(|lora| !lora.modules_to_save.is_empty());
        if whole && self.finetune.method == Method::Dpo {
            return Err(Error::invalid(
                "lora.modules_to_save and dpo contradict each other: without its adapter the model must be what \
                 it was",
            ));
        }
        let MethodConfig { beta, lambda, penalty, .. } = self.finetune;
        if !(beta > 0.0 && beta.is_finite() && lambda.is_finite() && penalty.is_finite()) {
            return Err(Error::invalid(
                "[finetune]: beta must be above 0, lambda and penalty must be finite",
            ));
        }
        let smoothing = self.finetune.label_smoothing;
        if !(0.0..0.5).contains(&smoothing) {
            return Err(Error::invalid(format!(
                "finetune.label_smoothing is {smoothing}, expected 0 to less than 0.5"
            )));
        }
        self.lora.as_ref().map_or(Ok(()), LoraConfig::check)
    }
}
