//! Arguments that many commands share, and opening a model by them.

use super::output;
use crate::engine::{Engine, LoadOptions};
use crate::hub;
use clap::{Args, ValueEnum};
use puyu_nn::Compute;
use puyu_tensor::{DType, Error, Result, cpu::pool};
use std::path::PathBuf;

/// Which model, and how it runs.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A folder, a .gguf or .safetensors file, or a pulled org/repo[:QUANT]; puyu is the one that comes
    /// with the program
    #[arg(value_name = "MODEL", env = "PUYU_MODEL", default_value = hub::SHIPPED)]
    pub model: String,
    /// The same as MODEL
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "model")]
    pub model_flag: Option<String>,
    /// A folder with a PEFT adapter to run beside the model
    #[arg(long, visible_alias = "lora", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(short, long, env = "PUYU_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How weights are multiplied: with f32 activations, or rounded ones
    #[arg(long, value_enum, default_value_t = ComputeArg::Auto, env = "PUYU_COMPUTE")]
    pub compute: ComputeArg,
    /// Element type of the KV cache: f32, f16 or bf16 [default: f16; f32 with --compute exact]
    #[arg(long, visible_aliases = ["cache-type-k", "cache-type-v"], value_parser = dtype, env = "PUYU_CACHE_TYPE")]
    pub cache_type: Vec<DType>,
    /// Cast the weights to this type at load
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub weights: Option<DType>,
    /// Read files into memory instead of mapping them: safe against files that change
    #[arg(long)]
    pub no_mmap: bool,
}

/// `--compute`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComputeArg {
    /// F32 activations times decoded weights
    Exact,
    /// Activations rounded to int8 for weights of block formats, f32 for others
    Auto,
    /// As auto, and floats rounded to bf16 where the CPU multiplies such twice as fast (Zen 4 and later)
    Fast,
}

impl From<ComputeArg> for Compute {
    fn from(arg: ComputeArg) -> Self {
        match arg {
            ComputeArg::Exact => Self::Exact,
            ComputeArg::Auto => Self::Auto,
            ComputeArg::Fast => Self::Fast,
        }
    }
}

/// A dtype by its name.
///
/// # Errors
/// With the names there are.
pub fn dtype(name: &str) -> std::result::Result<DType, String> {
    DType::from_name(name).filter(|d| DType::WEIGHTS.contains(d)).ok_or_else(|| {
        let names: Vec<_> = DType::WEIGHTS.iter().map(|d| d.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

/// The type of the KV cache: keys and values have one, however often it was given.
///
/// # Errors
/// If different types were given.
pub fn one_type(given: &[DType], default: DType) -> Result<DType> {
    let first = given.first().copied().unwrap_or(default);
    match given.iter().find(|dtype| **dtype != first) {
        None => Ok(first),
        Some(other) => Err(Error::invalid(format!(
            "the KV cache cannot be {first} and {other}: keys and values have one type"
        ))),
    }
}

impl ModelArgs {
    /// Where the model lies: a local path first, else what was pulled.
    ///
    /// # Errors
    /// If it is nowhere.
    pub fn path(&self) -> Result<PathBuf> {
        hub::resolve(self.model_flag.as_ref().unwrap_or(&self.model))
    }

    /// Sets the number of threads, as asked.
    ///
    /// # Errors
    /// If the system does not give that many.
    pub fn apply_threads(&self) -> Result<()> {
        if let Some(threads) = self.threads {
            pool::set_threads(threads.into())?;
        }
        Ok(())
    }

    /// Loads the model, with a progress bar.
    ///
    /// # Errors
    /// If it cannot be found or loaded.
    pub fn open(&self) -> Result<Engine> {
        self.apply_threads()?;
        let exact = self.compute == ComputeArg::Exact;
        let options = LoadOptions {
            mmap: !self.no_mmap,
            weights: self.weights,
            compute: self.compute.into(),
            cache: one_type(&self.cache_type, if exact { DType::F32 } else { DType::F16 })?,
        };
        let bar = output::bar("loading", 0, "tensors");
        let progress = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let engine =
            Engine::open_adapted(&self.path()?, self.adapter.as_deref(), options, &progress);
        bar.finish_and_clear();
        let engine = engine?;
        for warning in &engine.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(engine)
    }
}
