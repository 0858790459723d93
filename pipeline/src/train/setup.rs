//! From a config to the parts of a run: tokenizer, data, model, optimizer.

use super::config::{ModelConfig, TrainConfig, TrainDType};
use super::init::{FirstWeights, first_deviation};
use super::monitor::About;
use super::trainer::{Export, Parts};
use super::vocabulary::Vocabulary;
use super::{Forward, Learner, NextToken, Objective};
use crate::data::{DataReport, Dataset, Kind, Progress};
use crate::hub;
use crate::plan::train_flops;
use puyu_models::format::{self, OpenOptions, Source, hugging_face};
use puyu_models::{Config, Loaded, Model, Stored, build};
use puyu_nn::{Compute, Optimizer, Param, Weights};
use puyu_tensor::ops::Scaling;
use puyu_tensor::{Context, DType, Error, Result, Spec, Tensor};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A run that could begin, and what was found on the way.
pub struct Prepared {
    /// The run's parts.
    pub parts: Parts,
    /// The training data.
    pub data: DataReport,
    /// The validation data, if there are any.
    pub valid: Option<DataReport>,
}

/// A model to train: its parameters, and its config in config.json's keys.
pub struct Start {
    /// The model.
    pub loaded: Loaded,
    /// config.json
    pub config: Value,
}

/// What a kind of training decides itself.
pub struct Recipe {
    /// The model.
    pub model: Box<dyn Model>,
    /// The parameters that move.
    pub trained: Vec<Param>,
    /// Exact, or fast: products in bf16.
    pub compute: Compute,
    /// What is made small.
    pub objective: Box<dyn Objective>,
    /// What a checkpoint holds of the model.
    pub export: Export,
}

/// The parts of a pretraining run that `config` describes, in the work folder `dir`; `text` is the
/// config as it is in force. `progress` is told how far reading the data is.
///
/// # Errors
/// If the config contradicts itself or the data, or a file cannot be read.
pub fn prepare(
    config: &TrainConfig,
    text: String,
    dir: &Path,
    progress: Progress,
) -> Result<Prepared> {
    let fits = |kind| match kind {
        Kind::Preference => Err(Error::invalid(
            "[data] holds preference pairs, which `puyu finetune` learns from; `puyu train` takes texts \
             and conversations",
        )),
        _ => Ok(()),
    };
    let make = &|vocabulary: &Arc<Vocabulary>| -> Result<Recipe> {
        let start = start(&config.model, vocabulary, config.data.seq_len, config.train.seed)?;
        let Start { loaded: Loaded { model, params }, config: shape } = start;
        Ok(Recipe {
            model,
            compute: config.model.dtype.compute(),
            objective: Box::new(NextToken),
            export: full_model(params.clone(), config.model.dtype, shape, vocabulary.clone()),
            trained: params,
        })
    };
    assemble(config, text, dir, progress, &fits, make)
}

/// The parts of a run of any kind: `fits` says whether it learns from data of a kind, `make` makes its
/// model once the tokenizer and the data are in order.
///
/// # Errors
/// As [`prepare`].
pub fn assemble(
    config: &TrainConfig,
    text: String,
    dir: &Path,
    progress: Progress,
    fits: &dyn Fn(Kind) -> Result<()>,
    make: &dyn Fn(&Arc<Vocabulary>) -> Result<Recipe>,
) -> Result<Prepared> {
    config.check()?;
    let vocabulary = Arc::new(Vocabulary::open(&config.tokenizer, &config.model)?);
    let template = vocabulary.template()?;
    let tokenizer = &vocabulary.tokenizer;
    let (data, report) = Dataset::open(&config.data, tokenizer, Some(&template), progress)?;
    fits(data.kind())?;
    let measured = config.data.validation();
    let measured = measured.map(|c| Dataset::open(&c, tokenizer, Some(&template), progress));
    let (valid, valid_report) = measured.transpose()?.unzip();
    let Recipe { model, trained, compute, objective, export } = make(&vocabulary)?;
    let optimizer = Optimizer::new(config.optimizer.options(), trained)?;
    let about = About {
        title: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        config: text,
        total_steps: config.train.steps(data.len()),
        parameters: optimizer.numel() as u64,
        flops_per_token: train_flops(model.config(), config.data.seq_len),
        peak_flops: None,
        progress: true,
    };
    let schedule = config.schedule.schedule(about.total_steps, config.optimizer.lr)?;
    let checkpointed = config.model.checkpointed.of(model.config().layers);
    let learner = Learner {
        forward: Forward { checkpointed, compute, ..Forward::new(model) },
        objective,
        optimizer,
        schedule,
        clip: config.optimizer.clip,
    };
    let parts = Parts {
        learner,
        data,
        valid,
        vocabulary,
        export,
        train: config.train.clone(),
        checkpoint: config.checkpoint.clone(),
        validation: config.valid.clone(),
        sample: config.sample.clone(),
        dir: dir.into(),
        about,
    };
    Ok(Prepared { parts, data: report, valid: valid_report })
}

/// The model that `config` names, or a new one of its shape, in F32.
///
/// # Errors
/// If the checkpoint cannot be read, the shape is none, or the tokenizer has more tokens than the model.
pub fn start(
    config: &ModelConfig,
    vocabulary: &Vocabulary,
    seq_len: usize,
    seed: u64,
) -> Result<Start> {
    let vocab = vocabulary.tokenizer.vocab_size();
    let Some(from) = &config.from else {
        let mut json = config.fresh(vocab, seq_len)?;
        for (key, id) in [
            ("bos_token_id", vocabulary.tokenizer.bos()),
            ("eos_token_id", vocabulary.tokenizer.eos()),
        ] {
            if let Some(id) = id {
                json[key] = json!(id);
            }
        }
        let shape = Config::from_json(&json).context("[model]")?;
        let deviation = config.initializer_range;
        let deviation = deviation.unwrap_or_else(|| first_deviation(shape.hidden_size));
        let first = FirstWeights { seed, layers: shape.layers, deviation };
        return built(json, &first, vocab, seq_len);
    };
    let path = hub::resolve(from).context("model.from")?;
    let checkpoint = format::open(&path, OpenOptions::default())?;
    let stored = Stored::new(checkpoint.source(), &|_, _| ());
    built(checkpoint.config()?, &stored, vocab, seq_len).context(path.display())
}

/// The model that config.json describes, of `weights`, in F32.
pub(crate) fn built(
    config: Value,
    weights: &dyn Weights,
    vocab: usize,
    seq_len: usize,
) -> Result<Start> {
    let shape = Config::from_json(&config)?;
    fits(&shape, vocab, seq_len)?;
    Ok(Start { loaded: build(&shape, weights, Some(DType::F32))?, config })
}

pub(crate) fn fits(shape: &Config, vocab: usize, seq_len: usize) -> Result<()> {
    if vocab > shape.vocab_size {
        return Err(Error::invalid(format!(
            "the tokenizer has {vocab} tokens, but the model's embedding only {} rows; they do not \
             belong together",
            shape.vocab_size
        )));
    }
    let dynamic = matches!(shape.rope.scaling, Scaling::Dynamic { .. });
    if seq_len > shape.max_positions && !dynamic {
        return Err(Error::invalid(format!(
            "data.seq_len is {seq_len}, but the model is made for {} positions \
             (max_position_embeddings)",
            shape.max_positions
        )));
    }
    Ok(())
}

/// Writes a whole model as a folder in Hugging Face layout.
pub fn full_model(
    params: Vec<Param>,
    dtype: TrainDType,
    config: Value,
    vocabulary: Arc<Vocabulary>,
) -> Export {
    Box::new(move |folder| {
        hugging_face::save(folder, &Values(&params, dtype.into()), &config, None)?;
        vocabulary.save(folder)
    })
}

/// Parameters as a source of tensors, matrices in a dtype.
struct Values<'a>(&'a [Param], DType);

impl Values<'_> {
    fn dtype(&self, param: &Tensor) -> DType {
        if param.shape().len() >= 2 { self.1 } else { param.dtype() }
    }
}

impl Source for Values<'_> {
    fn names(&self) -> Vec<&str> {
        self.0.iter().map(Param::name).collect()
    }

    fn spec(&self, name: &str) -> Option<Spec> {
        let value = self.0.iter().find(|p| p.name() == name)?.get();
        Some(Spec::new(value.spec().shape, self.dtype(&value)))
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let param = self.0.iter().find(|p| p.name() == name);
        let value = param.ok_or_else(|| Error::not_found(format!("no parameter {name}")))?.get();
        Ok(value.detach().to_dtype(self.dtype(&value)))
    }
}
