//! `puyu convert` and `puyu quantize`: from one file format to another, keeping precision or not.

use super::args::dtype;
use crate::hub;
use clap::{Args, Subcommand};
use puyu_models::format::{self, OpenOptions, check_tensors, convert};
use puyu_tensor::{DType, Error, Result};
use std::path::{Path, PathBuf};

/// Convert a Hugging Face folder to a GGUF file, or a GGUF file to a folder
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ConvertArgs {
    /// A folder, a .gguf or .safetensors file, or a pulled org/repo[:QUANT]
    #[arg(required = true)]
    input: Option<String>,
    /// What to write: a name ending in .gguf is a file, any other a folder
    #[arg(required = true)]
    out: Option<PathBuf>,
    /// Type of the matrices: f32, f16 or bf16 [default: as they are; block formats become f32]
    #[arg(long, value_parser = dtype)]
    outtype: Option<DType>,
    /// Refuse weights that are not finite
    #[arg(long)]
    check_tensors: bool,
    #[command(subcommand)]
    command: Option<ConvertCommand>,
}

#[derive(Subcommand, Clone, Debug)]
enum ConvertCommand {
    Merge(MergeArgs),
}

/// Merge an adapter into its model
#[derive(Args, Clone, Debug)]
pub struct MergeArgs {
    /// The model that was adapted: a folder, a file, or a pulled org/repo[:QUANT]
    #[arg(value_name = "LLM")]
    model: String,
    /// The folder of the PEFT adapter
    adapter: PathBuf,
    /// What to write: a name ending in .gguf is a file, any other a folder
    out: PathBuf,
    /// Type of the matrices: f32, f16 or bf16 [default: as they are; merged block formats become f32]
    #[arg(long, value_parser = dtype)]
    outtype: Option<DType>,
}

/// Write a model as GGUF with its matrices in a block format
#[derive(Args, Clone, Debug)]
pub struct QuantizeArgs {
    /// A folder, a .gguf or .safetensors file, or a pulled org/repo[:QUANT]
    input: String,
    /// The GGUF file to write
    out: PathBuf,
    /// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, or F32, F16, BF16
    #[arg(value_name = "TYPE", value_parser = dtype)]
    to: DType,
    /// Metadata to write, such as general.sampling.temp=float:0; TYPE is int, float, bool or str
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = key_value)]
    override_kv: Vec<(String, format::Value)>,
}

impl ConvertArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the input cannot be read, or the output cannot be written; nothing half-written stays.
    pub fn run(&self) -> Result<()> {
        if let Some(ConvertCommand::Merge(merge)) = &self.command {
            return merge.run();
        }
        let (Some(input), Some(out)) = (&self.input, &self.out) else {
            return Err(Error::invalid("convert needs an input and an output"));
        };
        float(self.outtype)?;
        let checkpoint = open(input)?;
        if self.check_tensors {
            check_tensors(checkpoint.source())?;
        }
        if out.extension().is_some_and(|e| e == "gguf") {
            return to_gguf(&checkpoint, out, self.outtype);
        }
        if checkpoint.gguf().is_none() {
            return Err(Error::invalid(format!(
                "{} is no GGUF file, so there is nothing to convert to a folder; name an output that \
                 ends in .gguf",
                input
            )));
        }
        convert::to_hugging_face(&checkpoint, out, self.outtype)?;
        eprintln!("wrote {}", out.display());
        Ok(())
    }
}

impl MergeArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the model or the adapter cannot be read, they do not fit, or the output cannot be written.
    pub fn run(&self) -> Result<()> {
        float(self.outtype)?;
        let model = open(&self.model)?;
        let warnings = convert::merge(&model, &self.adapter, &self.out, self.outtype)?;
        model.warnings().iter().chain(&warnings).for_each(|w| eprintln!("warning: {w}"));
        eprintln!("wrote {}", self.out.display());
        Ok(())
    }
}

/// Refuses block formats.
fn float(outtype: Option<DType>) -> Result<()> {
    match outtype.filter(|d| !d.is_float()) {
        None => Ok(()),
        Some(block) => Err(Error::invalid(format!(
            "--outtype {block} is a block format; convert keeps precision, `puyu quantize` writes block \
             formats"
        ))),
    }
}

impl QuantizeArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the input cannot be read or is not finite, or the output cannot be written; nothing
    /// half-written stays.
    pub fn run(&self) -> Result<()> {
        let checkpoint = open(&self.input)?;
        check_tensors(checkpoint.source())?;
        let mut overrides = format::Metadata::default();
        self.override_kv.iter().for_each(|(key, value)| overrides.set(key, value.clone()));
        let warnings = convert::quantize(&checkpoint, &self.out, self.to, &overrides)?;
        told(&checkpoint, &self.out, &warnings)
    }
}

/// A key and its value as llama-quantize takes them.
fn key_value(text: &str) -> std::result::Result<(String, format::Value), String> {
    use format::Value;
    let parts = text.split_once('=').and_then(|(key, rest)| Some((key, rest.split_once(':')?)));
    let (key, (kind, value)) =
        parts.filter(|p| !p.0.is_empty()).ok_or("expected KEY=TYPE:VALUE")?;
    let wrong = || format!("{value} is no {kind}");
    let value = match kind {
        "int" => value.parse().map(Value::I32).map_err(|_| wrong())?,
        "float" => {
            let number = value.parse().ok().filter(|x: &f32| x.is_finite());
            number.map(Value::F32).ok_or_else(wrong)?
        }
        "bool" => value.parse().map(Value::Bool).map_err(|_| wrong())?,
        "str" => Value::String(value.into()),
        other => return Err(format!("{other} is none of int, float, bool, str")),
    };
    Ok((key.to_owned(), value))
}

fn open(name: &str) -> Result<format::Checkpoint> {
    format::open(&hub::resolve(name)?, OpenOptions::default())
}

fn to_gguf(from: &format::Checkpoint, out: &Path, dtype: Option<DType>) -> Result<()> {
    told(from, out, &convert::to_gguf(from, out, dtype)?)
}

/// Says what was written, and what to beware of.
fn told(from: &format::Checkpoint, out: &Path, warnings: &[String]) -> Result<()> {
    from.warnings().iter().chain(warnings).for_each(|w| eprintln!("warning: {w}"));
    let size = std::fs::metadata(out)?.len();
    eprintln!("wrote {} ({:.1} MB)", out.display(), size as f64 / 1e6);
    Ok(())
}
