//! The step loop: rows are drawn, learnt from, written down; now and then the loss on other data is
//! measured, a text is written, the run is saved. It is made of parts, so that every kind of training
//! is this one loop, and its whole state is a few counters beside the optimizer.

use super::checkpoint::{Checkpoints, Whole};
use super::config::{CheckpointConfig, SampleConfig, StepConfig, ValidationConfig};
use super::guard::{Guard, first_bad};
use super::monitor::{About, Monitor, StepRecord};
use super::vocabulary::Vocabulary;
use super::{Learned, Learner, sample};
use crate::data::{Batch, Dataset, Sampler};
use puyu_models::format::{self, OpenOptions, safetensors_write};
use puyu_tensor::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The optimizer's file in a checkpoint.
const OPTIMIZER: &str = "optimizer.safetensors";

/// Writes the files of the model, or of what was added to it, into a checkpoint's folder.
pub type Export = Box<dyn Fn(&Path) -> Result<()> + Send + Sync>;

/// What a run is made of.
pub struct Parts {
    /// The model, the objective and the optimizer.
    pub learner: Learner,
    /// What is learnt.
    pub data: Dataset,
    /// What is measured on.
    pub valid: Option<Dataset>,
    /// The tokenizer.
    pub vocabulary: Arc<Vocabulary>,
    /// Writes the model.
    pub export: Export,
    /// Steps, batch and seed.
    pub train: StepConfig,
    /// When the run is saved.
    pub checkpoint: CheckpointConfig,
    /// When it is measured.
    pub validation: ValidationConfig,
    /// When the model writes.
    pub sample: SampleConfig,
    /// The work folder, for checkpoints, journal and report.
    pub dir: PathBuf,
    /// What the monitor shows of the run.
    pub about: About,
}

/// What a checkpoint holds beside weights and optimizer. All randomness is a function of seed and
/// step, so the counters are the random state too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Steps done, skipped ones included.
    step: u64,
    /// Steps that changed the weights.
    updates: u64,
    /// Tokens that went through the model.
    seen_tokens: u64,
    /// The place in the data.
    sampler: Sampler,
    /// What is remembered of the losses.
    guard: Guard,
    /// The config's text, to tell whether it was changed.
    config: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps were done.
    Finished,
    /// It was asked to stop, and was saved.
    Stopped,
}

/// A run.
pub struct Trainer {
    parts: Parts,
    checkpoints: Checkpoints,
    monitor: Monitor,
    state: State,
    /// The step of the newest checkpoint of this process.
    saved: Option<u64>,
}

impl Trainer {
    /// A run made of `parts`, from its beginning or from where `checkpoint.resume` says. What the user
    /// should know comes with it.
    ///
    /// # Errors
    /// If the work folder cannot be written to, holds another run, or the checkpoint does not fit.
    pub fn new(mut parts: Parts) -> Result<(Self, Vec<String>)> {
        let checkpoints = Checkpoints::new(&parts.dir, parts.checkpoint.keep)?;
        let mut notes = Vec::new();
        let whole = begin_from(&parts, &checkpoints, &mut notes)?;
        let state = match &whole {
            None => State {
                step: 0,
                updates: 0,
                seen_tokens: 0,
                sampler: Sampler::new(&parts.data, parts.train.order, parts.train.seed),
                guard: Guard::default(),
                config: parts.about.config.clone(),
            },
            Some(whole) => restore(&mut parts, whole).context(whole.path.display())?,
        };
        if state.config != parts.about.config {
            notes.push(
                "the config has changed since the checkpoint; the new one is in force".into(),
            );
        }
        let state = State { config: parts.about.config.clone(), ..state };
        let resumed_at = whole.as_ref().map(|_| state.step);
        let monitor = Monitor::open(&parts.dir, &parts.about, resumed_at)?;
        if let Some(whole) = &whole {
            notes.push(format!("resumed from {} at step {}", whole.path.display(), state.step));
        }
        Ok((Self { parts, checkpoints, monitor, state, saved: resumed_at }, notes))
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Steps that were skipped, since the run began.
    pub fn skipped(&self) -> u64 {
        self.state.guard.skipped
    }

    /// The model and its optimizer.
    pub fn learner(&self) -> &Learner {
        &self.parts.learner
    }

    /// The folder of the checkpoint after `step` steps.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.checkpoints.path(step)
    }

    /// Runs to the last step, or until `stop` says so, which is asked after each step; both save.
    ///
    /// # Errors
    /// If losses or gradients were not finite `max_skipped` times in a row, naming the first tensor
    /// that went bad; if the disk is full or fails; if the data hold what the model has not.
    pub fn run(&mut self, stop: &dyn Fn() -> bool) -> Result<Ended> {
        let done = self.steps(stop);
        // The first error is the one to report.
        let finished = self.monitor.finish();
        done.and_then(|ended| finished.map(|()| ended))
    }

    fn steps(&mut self, stop: &dyn Fn() -> bool) -> Result<Ended> {
        let steps = self.parts.about.total_steps;
        while self.state.step < steps {
            self.next()?;
            let (done, last) = (self.state.step, self.state.step == steps);
            let due = |every: u64| (every > 0 && done.is_multiple_of(every)) || last;
            if due(self.parts.validation.every) {
                self.validate()?;
            }
            if self.parts.sample.every > 0 && due(self.parts.sample.every) {
                self.write_samples()?;
            }
            if due(self.parts.checkpoint.every) {
                self.save()?;
            }
            if !last && stop() {
                self.save()?;
                return Ok(Ended::Stopped);
            }
        }
        Ok(Ended::Finished)
    }

    /// One step.
    fn next(&mut self) -> Result<()> {
        let began = Instant::now();
        let batches = self.draw()?;
        let learned = self.parts.learner.step(self.state.step, &batches)?;
        self.state.step += 1;
        self.state.seen_tokens += learned.tokens as u64;
        self.record(&learned, began.elapsed().as_secs_f64())?;
        if learned.applied {
            self.state.updates += 1;
            return match self.state.guard.good(learned.loss) {
                Some(spike) => self.monitor.event(self.state.step, &spike),
                None => Ok(()),
            };
        }
        self.state.guard.bad();
        let what = if learned.loss.is_finite() { "gradient" } else { "loss" };
        let text = format!("the {what} is not finite, so the step was skipped");
        self.monitor.event(self.state.step, &text)?;
        let in_a_row = self.state.guard.in_a_row;
        if in_a_row < self.parts.train.max_skipped {
            return Ok(());
        }
        let culprit = first_bad(&self.parts.learner, &batches)?;
        Err(Error::invalid(format!(
            "step {}: the {what} was not finite {in_a_row} times in a row; what went bad first is \
             {culprit}; lower optimizer.lr, lengthen schedule.warmup, or look at the data of these \
             steps, then resume from the newest checkpoint",
            self.state.step
        )))
    }

    /// The micro-batches of a step.
    fn draw(&mut self) -> Result<Vec<Batch>> {
        let StepConfig { batch, accumulate, .. } = self.parts.train;
        let data = &self.parts.data;
        let mut micro = || {
            let mut rows = Batch::default();
            for _ in 0..batch {
                rows.extend(&data.row(self.state.sampler.next(data))?);
            }
            Ok(rows)
        };
        (0..accumulate).map(|_| micro()).collect()
    }

    fn record(&mut self, learned: &Learned, seconds: f64) -> Result<()> {
        let tokens_per_s = learned.tokens as f64 / seconds.max(1e-9);
        let flops_per_s = tokens_per_s * self.parts.about.flops_per_token;
        let metrics = learned.metrics.iter().map(|(name, value)| ((*name).into(), *value));
        self.monitor.step(&StepRecord {
            step: self.state.step,
            loss: learned.loss,
            lr: learned.rate,
            grad_norm: learned.grad_norm,
            tokens: learned.tokens as u64,
            seen_tokens: self.state.seen_tokens,
            counted: learned.weight,
            seconds,
            tokens_per_s,
            flops_per_s,
            utilisation: self.parts.about.peak_flops.map(|peak| flops_per_s / peak),
            skipped: !learned.applied,
            metrics: metrics.collect(),
        })
    }

    /// Measures the loss on the validation data, if there are any.
    fn validate(&mut self) -> Result<()> {
        let Some(valid) = &self.parts.valid else { return Ok(()) };
        let rows = match self.parts.validation.rows {
            0 => valid.len(),
            n => n.min(valid.len()),
        };
        let (mut sum, mut weight) = (0.0, 0.0);
        for start in (0..rows).step_by(self.parts.train.batch) {
            let mut batch = Batch::default();
            for row in start..rows.min(start + self.parts.train.batch) {
                batch.extend(&valid.row(row)?);
            }
            let (loss, counted) = self.parts.learner.evaluate(&[batch])?;
            sum += loss * counted;
            weight += counted;
        }
        let loss = sum / weight;
        self.monitor.valid(self.state.step, loss, loss.exp(), &BTreeMap::new())
    }

    fn write_samples(&mut self) -> Result<()> {
        let Parts { learner, vocabulary, sample: wanted, train, .. } = &self.parts;
        for (i, prompt) in wanted.prompts.iter().enumerate() {
            let seed = train.seed ^ self.state.step << 16 ^ i as u64;
            let model = &*learner.forward.model;
            let text = sample::write(model, &vocabulary.tokenizer, prompt, wanted, seed)?;
            self.monitor.sample(self.state.step, prompt, &text)?;
        }
        Ok(())
    }

    /// Writes a checkpoint, unless this step has one.
    fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        let state = serde_json::to_value(&self.state).map_err(|e| Error::format(e.to_string()))?;
        let Parts { learner, export, .. } = &self.parts;
        let path = self.checkpoints.write(self.state.step, &state, &mut |folder| {
            export(folder)?;
            let specs = learner.optimizer.state_specs();
            safetensors_write::save(&folder.join(OPTIMIZER), &specs, &[], |name| {
                let missing = || Error::invalid(format!("the optimizer has no {name}"));
                learner.optimizer.state(name).ok_or_else(missing)
            })
        })?;
        self.saved = Some(self.state.step);
        self.monitor.event(self.state.step, &format!("saved {}", path.display()))
    }
}

/// The checkpoint to begin from, if any.
fn begin_from(
    parts: &Parts,
    checkpoints: &Checkpoints,
    notes: &mut Vec<String>,
) -> Result<Option<Whole>> {
    let dir = parts.dir.display();
    match parts.checkpoint.resume.as_str() {
        "auto" => {
            let whole =
                checkpoints.newest(&mut |warning| notes.push(format!("warning: {warning}")))?;
            if whole.is_none() && !checkpoints.steps()?.is_empty() {
                return Err(Error::format(format!(
                    "no checkpoint in {dir} is whole; remove them, or choose another --work-dir, to begin \
                     anew"
                )));
            }
            Ok(whole)
        }
        "never" => match checkpoints.steps()?.last() {
            None => Ok(None),
            Some(step) => Err(Error::invalid(format!(
                "{dir} holds a run up to step {step}: add --resume to go on with it, or choose another \
                 --work-dir"
            ))),
        },
        path => Whole::open(Path::new(path)).map(Some),
    }
}

/// Puts weights and optimizer back, and gives the counters.
fn restore(parts: &mut Parts, whole: &Whole) -> Result<State> {
    let state: State = serde_json::from_value(whole.state.clone())
        .map_err(|e| Error::format(format!("its state is not one of this version: {e}")))?;
    state.sampler.check(&parts.data)?;
    let saved = format::open(&whole.path.join(OPTIMIZER), OpenOptions::default())?;
    let names = saved.source().names();
    let wanted = parts.learner.optimizer.state_specs();
    if names.len() != wanted.len() {
        let masters = |name: &&str| name.starts_with("master.");
        let had = names.iter().copied().filter(masters).count();
        let has = wanted.iter().map(|(name, _)| &name[..]).filter(masters).count();
        return Err(Error::invalid(match had == has {
            true => {
                "another optimizer.name trained it; resume with the config it was made with".into()
            }
            false => format!(
                "it trained {had} tensors, and this config trains {has}; resume with the config it was \
                 made with"
            ),
        }));
    }
    parts.learner.optimizer.restore(state.updates, &mut |name, spec| {
        let tensor = saved.source().tensor(name)?;
        match tensor.spec() == spec {
            true => Ok(tensor),
            false => Err(Error::invalid(format!(
                "{name} is {}, and this config's model has {spec}; resume with the config it was made \
                 with",
                tensor.spec()
            ))),
        }
    })?;
    Ok(state)
}
