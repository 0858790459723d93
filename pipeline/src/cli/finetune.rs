//! `puyu finetune`: a model tuned on conversations or preference pairs, all of it or by an adapter.

use super::train::{RunArgs, reading};
use crate::finetune::{FinetuneConfig, prepare};
use clap::Args;
use puyu_tensor::Result;

/// Fine-tune a model as a config says: all of it, LoRA or QLoRA
#[derive(Args, Clone, Debug)]
pub struct FinetuneArgs {
    #[command(flatten)]
    run: RunArgs,
}

impl FinetuneArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the config, the data or the model are not in order, the run stopped itself, or it was
    /// interrupted (after it was saved).
    pub fn run(&self) -> Result<()> {
        let (config, text) = self.run.read::<FinetuneConfig>()?;
        self.run.set_threads(&config.train)?;
        let dir = self.run.dir();
        let parts = reading(|progress| prepare(&config, text, &dir, progress))?;
        self.run.train(parts)
    }
}
