//! `puyu data internevo`: tokenized files that InternEvo reads.

use super::dataset::{self, TokenizerArgs};
use crate::data::{OnError, SourceConfig, Split, internevo};
use clap::Args;
use puyu_tensor::Result;
use std::path::PathBuf;

/// Tokenize text or conversations into InternEvo's .bin and .meta
///
/// A text becomes a sample a line, with beginning- and end-of-sequence tokens. Conversations become a
/// sample each; ids that are not learnt are negative.
#[derive(Args, Clone, Debug)]
pub struct InternevoArgs {
    /// A file, a folder, or a name with * and ? in its last part
    input: PathBuf,
    /// The .bin file to write; its .meta is written beside it
    out: PathBuf,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Leave broken lines out and count them, instead of stopping at the first
    #[arg(long)]
    skip_broken: bool,
}

impl InternevoArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the input or the tokenizer cannot be read, or the output cannot be written.
    pub fn run(&self) -> Result<()> {
        let (tokenizer, template) = self.tokenizer.open()?;
        let source = SourceConfig {
            path: self.input.clone(),
            split: Split::Line,
            ..SourceConfig::default()
        };
        let on_error = if self.skip_broken { OnError::Skip } else { OnError::Refuse };
        let written = dataset::with_bar(|progress| {
            internevo::write(&source, &tokenizer, Some(&template), on_error, &self.out, progress)
        })?;
        eprintln!(
            "wrote {} and its .meta: samples {}, tokens {}, broken lines left out {}",
            self.out.display(),
            written.samples,
            written.tokens,
            written.broken
        );
        Ok(())
    }
}
