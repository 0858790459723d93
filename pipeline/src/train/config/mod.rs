//! The TOML config of a run: a section for each part of it, every field documented and most with a
//! default. Sections are types of their own, so that other kinds of training share them. What is
//! unknown or contradicts itself is one error that names the field.

mod model;
mod read;
mod shipped;

pub use model::{Checkpointed, ModelConfig, TokenizerConfig, TrainDType};
pub use read::{ConfigText, Override};
pub use shipped::{SHIPPED, Shipped};

use crate::data::{DataConfig, Order};
use puyu_nn::{Curve, OptimizerOptions, Schedule};
use puyu_tensor::{Error, Result, ops};
use serde::{Deserialize, Serialize};

/// The config of `puyu train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// `[model]`: the shape of a new model, or the one to go on with.
    pub model: ModelConfig,
    /// `[tokenizer]`: what turns text into ids.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// `[data]`: what is learnt.
    pub data: DataConfig,
    /// `[optimizer]`: AdamW, or Muon.
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

/// `[optimizer]`: AdamW or Muon, with F32 master weights and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// What updates the matrices between hidden states, `adamw` or `muon`; all else is AdamW's.
    pub name: OptimizerName,
    /// The highest learning rate.
    pub lr: f64,
    /// The decay of Muon's momentum; absent: 0.95.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f32>,
    /// The decay of the first moment.
    pub beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// What keeps the quotient of the moments finite.
    pub eps: f32,
    /// Weight decay of matrices, decoupled.
    pub weight_decay: f32,
    /// Tensors of one dimension (norms, biases) decay too.
    pub decay_vectors: bool,
    /// The largest L2 norm of a step's gradient; 0 does not clip.
    pub clip: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerName::AdamW,
            lr: 3e-4,
            momentum: None,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            decay_vectors: false,
            clip: 1.0,
        }
    }
}

/// An optimizer's name in a config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay.
    #[default]
    AdamW,
    /// Momentum whose singular values are made equal.
    Muon,
}

/// `[schedule]`: the learning rate over the steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// What follows the warmup: `cosine`, `linear`, `constant` or `wsd` (warmup, stable, decay).
    pub curve: CurveName,
    /// Steps of the linear warmup; absent: 1 % of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// The learning rate at the end; absent: a tenth of the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// Steps of the decay of `wsd`; absent: 10 % of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<u64>,
}

/// A curve's name in a config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurveName {
    /// Half a cosine.
    #[default]
    Cosine,
    /// A straight line.
    Linear,
    /// The highest rate.
    Constant,
    /// Warmup, stable, decay.
    Wsd,
}

/// `[train]`: how long, and in what pieces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepConfig {
    /// Steps of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The run goes so many times over the data, if `steps` does not say how long it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Rows that go through the model at a time, each of `data.seq_len` tokens.
    #[serde(default = "one")]
    pub batch: usize,
    /// Such batches whose gradients are added before a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Seed of the first weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// In which order rows come: `shuffled` anew each epoch, or `sequential`.
    #[serde(default)]
    pub order: Order,
    /// Threads; absent: all cores. The result does not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Steps in a row that may be skipped because a loss or gradient was not finite, before the run
    /// stops.
    #[serde(default = "five")]
    pub max_skipped: u64,
}

fn one() -> usize {
    1
}

fn five() -> u64 {
    5
}

/// `[checkpoint]`: when the run is saved, and how much is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0 writes one at the end only.
    pub every: u64,
    /// The newest so many are kept; 0 keeps all.
    pub keep: usize,
    /// What a run begins with: `never` anew, `auto` from the newest whole checkpoint of the work
    /// folder if there is one, or a checkpoint's folder.
    pub resume: String,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 500, keep: 3, resume: "never".into() }
    }
}

/// `[valid]`: when the loss on `[data.valid]` is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationConfig {
    /// Steps between measurements; 0 measures at the end only.
    pub every: u64,
    /// The first so many rows are measured on; 0 takes all.
    pub rows: usize,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self { every: 500, rows: 64 }
    }
}

/// `[sample]`: texts the model writes during the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Steps between samples; 0 writes none.
    pub every: u64,
    /// What they begin with.
    pub prompts: Vec<String>,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Temperature; 0 takes the most likely token.
    pub temp: f32,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { every: 0, prompts: vec![String::new()], tokens: 64, temp: 0.8 }
    }
}

impl OptimizerConfig {
    /// The optimizer's constants.
    pub fn options(&self) -> OptimizerOptions {
        let Self { name, momentum, beta1, beta2, eps, weight_decay, decay_vectors, .. } = *self;
        let op = ops::AdamW { beta1, beta2, eps, weight_decay };
        let muon = (name == OptimizerName::Muon).then_some(momentum.unwrap_or(0.95));
        OptimizerOptions { op, muon, decay_vectors }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self) -> Result<()> {
        within("optimizer.lr", self.lr, 0.0, 100.0)?;
        within("optimizer.momentum", self.momentum.unwrap_or(0.0).into(), 0.0, 0.999_999)?;
        if self.momentum.is_some() && self.name != OptimizerName::Muon {
            return Err(Error::invalid(
                "optimizer.momentum is set, but only the optimizer `muon` has one; AdamW's is beta1",
            ));
        }
        within("optimizer.beta1", self.beta1.into(), 0.0, 0.999_999)?;
        within("optimizer.beta2", self.beta2.into(), 0.0, 0.999_999_9)?;
        within("optimizer.eps", self.eps.into(), 1e-30, 1.0)?;
        within("optimizer.weight_decay", self.weight_decay.into(), 0.0, 100.0)?;
        within("optimizer.clip", self.clip, 0.0, 1e9)
    }
}

impl ScheduleConfig {
    /// The schedule of a run of `steps` steps up to learning rate `lr`.
    ///
    /// # Errors
    /// If the warmup, the decay or the least rate do not fit.
    pub fn schedule(&self, steps: u64, lr: f64) -> Result<Schedule> {
        let floor = self.min_lr.unwrap_or(lr / 10.0);
        let warmup = self.warmup.unwrap_or(steps / 100);
        let decay = self.decay.unwrap_or(steps / 10);
        within("schedule.min_lr", floor, 0.0, lr)?;
        if self.decay.is_some() && self.curve != CurveName::Wsd {
            return Err(Error::invalid("schedule.decay is set, but only the curve `wsd` has one"));
        }
        let lasting = if self.curve == CurveName::Wsd { warmup + decay } else { warmup };
        if lasting > steps {
            return Err(Error::invalid(format!(
                "schedule: warmup and decay take {lasting} steps, but the run has {steps}"
            )));
        }
        let curve = match self.curve {
            CurveName::Cosine => Curve::Cosine,
            CurveName::Linear => Curve::Linear,
            CurveName::Constant => Curve::Constant,
            CurveName::Wsd => Curve::WarmupStableDecay,
        };
        Ok(Schedule { curve, peak: lr, floor, warmup, steps, decay })
    }
}

impl StepConfig {
    /// Steps of the run over data of `rows` rows.
    pub fn steps(&self, rows: usize) -> u64 {
        let rows = rows as f64 / (self.batch * self.accumulate) as f64;
        let by_epochs = || (self.epochs.unwrap_or(1.0) * rows).ceil().max(1.0) as u64;
        self.steps.unwrap_or_else(by_epochs)
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first value out of range, or that nothing says how long the run is.
    pub fn check(&self) -> Result<()> {
        if self.steps.is_none() && self.epochs.is_none() {
            return Err(Error::invalid(
                "[train] does not say how long the run is: give `steps`, or `epochs`",
            ));
        }
        within("train.epochs", self.epochs.unwrap_or(1.0), 1e-6, 1e6)?;
        let most =
            [("steps", self.steps.unwrap_or(1), 1 << 40), ("batch", self.batch as u64, 1 << 20)];
        let most = most.into_iter().chain([
            ("accumulate", self.accumulate as u64, 1 << 20),
            ("max_skipped", self.max_skipped, 1 << 20),
            ("threads", self.threads.unwrap_or(1) as u64, 1024),
        ]);
        for (name, value, most) in most {
            if value == 0 || value > most {
                return Err(Error::invalid(format!(
                    "train.{name} is {value}, expected 1 to {most}"
                )));
            }
        }
        Ok(())
    }
}

impl TrainConfig {
    /// Checks what can be known without a file.
    ///
    /// # Errors
    /// The first value that is out of range or contradicts another, by its name.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        self.data.check()?;
        self.optimizer.check()?;
        self.train.check()?;
        self.sample.check()?;
        // How long an epoch is, only the data say.
        let steps = self.train.steps.unwrap_or(u64::MAX);
        self.schedule.schedule(steps, self.optimizer.lr).map(|_| ())
    }
}

impl SampleConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self) -> Result<()> {
        within("sample.temp", self.temp.into(), 0.0, 100.0)
    }
}

fn within(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{name} is {value}, expected {low} to {high}"))),
    }
}
