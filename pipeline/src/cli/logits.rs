//! `puyu logits`: logits and hidden states as a file, to compare implementations.

use super::args::ModelArgs;
use clap::Args;
use puyu_models::format::safetensors_write;
use puyu_nn::Ctx;
use puyu_tensor::{Error, Result, Tensor};
use std::path::PathBuf;

/// Write logits [1,T,V] and hidden states of token ids as safetensors
#[derive(Args, Clone, Debug)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// The file to write
    #[arg(short, long)]
    out: PathBuf,
}

impl LogitsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the model cannot be loaded, an id is not in its vocabulary, or the file cannot be written.
    pub fn run(&self) -> Result<()> {
        let engine = self.model.open()?;
        let vocab = engine.config().vocab_size;
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::invalid(format!("id {id} is not below the vocabulary of {vocab}")));
        }
        let n = self.ids.len();
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        let batch = |x: &Tensor| x.reshape([1, n, x.dim(-1)]);
        let mut observe =
            |name: &str, x: &Tensor| tensors.push((format!("hidden.{name}"), batch(x)));
        let mut ctx = Ctx::packed(&[n]);
        ctx.compute = engine.options.compute;
        ctx.observer = Some(&mut observe);
        let logits = engine.model.forward(&Tensor::new(&self.ids, [n]), &mut ctx);
        drop(ctx);
        tensors.push(("logits".into(), batch(&logits)));
        let specs: Vec<_> = tensors.iter().map(|(name, t)| (name.clone(), *t.spec())).collect();
        safetensors_write::save(&self.out, &specs, &[], |name| {
            let found = tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.contiguous());
            found.ok_or_else(|| Error::not_found(format!("{name} was not computed")))
        })
    }
}
