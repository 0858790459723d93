//! `puyu tokenizer`: a vocabulary of one's own, learned from text. Flags are those of `spm_train`,
//! whose spelling with underscores is taken too.

use super::{interrupt, output};
use crate::data::each_text;
use clap::{ArgAction, Args, Subcommand};
use puyu_models::format::tokenizer_files;
use puyu_models::tokenizer::{TrainOptions, TrainProgress, Trained, Trainer};
use puyu_tensor::cpu::pool;
use puyu_tensor::{Context, Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Learn a vocabulary from text
#[derive(Args, Clone, Debug)]
pub struct TokenizerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    Train(TrainArgs),
}

/// Learn a SentencePiece BPE vocabulary, like InternLM2's unless told otherwise
#[derive(Args, Clone, Debug)]
struct TrainArgs {
    /// Text files in UTF-8, a sentence or paragraph a line; or training data of any other format
    #[arg(required_unless_present = "input")]
    inputs: Vec<PathBuf>,
    /// The same as INPUTS, separated by commas
    #[arg(long, value_delimiter = ',', conflicts_with = "inputs")]
    input: Vec<PathBuf>,
    /// Folder that gets tokenizer.model and tokenizer_config.json
    #[arg(short, long, value_name = "FOLDER", required_unless_present = "model_prefix")]
    out: Option<PathBuf>,
    /// Write PREFIX.model alone, as spm_train does
    #[arg(long, alias = "model_prefix", value_name = "PREFIX", conflicts_with = "out")]
    model_prefix: Option<PathBuf>,
    /// Number of tokens, all counted
    #[arg(long, alias = "vocab_size", default_value_t = 8000)]
    vocab_size: usize,
    /// Share of the text's characters that get a token of their own
    #[arg(long, alias = "character_coverage", default_value_t = 0.9995)]
    character_coverage: f32,
    /// Texts that are always one token, separated by commas
    #[arg(long, alias = "user_defined_symbols", value_delimiter = ',', value_name = "LIST")]
    user_defined_symbols: Vec<String>,
    /// Tokens that no text becomes [default: those of InternLM2's chats and tools]
    #[arg(long, alias = "control_symbols", value_delimiter = ',', value_name = "LIST")]
    control_symbols: Option<Vec<String>>,
    /// Spell other characters in bytes
    #[arg(long, alias = "byte_fallback", value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    byte_fallback: bool,
    /// Make every digit a token of its own
    #[arg(long, alias = "split_digits", value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    split_digits: bool,
    /// Let runs of spaces be tokens
    #[arg(long, alias = "allow_whitespace_only_pieces", value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_whitespace_only_pieces: bool,
    /// Encode text as if a space stood in front of it
    #[arg(long, alias = "add_dummy_prefix", value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    add_dummy_prefix: bool,
    /// Skip lines of more bytes
    #[arg(long, alias = "max_sentence_length", default_value_t = 4192)]
    max_sentence_length: usize,
    /// Threads [default: all cores]
    #[arg(short, long, alias = "num_threads", env = "PUYU_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl TokenizerArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If a text cannot be read, does not fit the wanted vocabulary, or the result cannot be written.
    pub fn run(&self) -> Result<()> {
        let Command::Train(args) = &self.command;
        args.run()
    }
}

impl TrainArgs {
    fn run(&self) -> Result<()> {
        if let Some(threads) = self.threads {
            pool::set_threads(threads.into())?;
        }
        interrupt::start();
        let trained = self.train();
        if interrupt::finish() {
            return Err(Error::new(ErrorKind::Interrupted, "stopped"));
        }
        let trained = trained?;
        self.tell(&trained);
        self.write(&trained)
    }

    fn train(&self) -> Result<Trained> {
        let mut options = TrainOptions {
            vocab_size: self.vocab_size,
            character_coverage: self.character_coverage,
            user_defined_symbols: self.user_defined_symbols.clone(),
            byte_fallback: self.byte_fallback,
            split_digits: self.split_digits,
            allow_whitespace_only_pieces: self.allow_whitespace_only_pieces,
            add_dummy_prefix: self.add_dummy_prefix,
            max_sentence_length: self.max_sentence_length,
            ..TrainOptions::default()
        };
        if let Some(control) = &self.control_symbols {
            // An empty value asks for none.
            options.control_symbols =
                control.iter().filter(|symbol| !symbol.is_empty()).cloned().collect();
        }
        let mut trainer = Trainer::new(options)?;
        let inputs = if self.inputs.is_empty() { &self.input } else { &self.inputs };
        let mut bytes = 0;
        for path in inputs {
            bytes += std::fs::metadata(path).context(path.display())?.len();
        }
        let reading = output::bar("reading", bytes, "bytes");
        let merging = output::bar("merging", 0, "pieces");
        let mut report = |progress| {
            match progress {
                TrainProgress::Read(bytes) => reading.inc(bytes),
                TrainProgress::Merged(done, wanted) => {
                    reading.finish_and_clear();
                    merging.set_length(wanted as u64);
                    merging.set_position(done as u64);
                }
            }
            match interrupt::asked() {
                true => Err(Error::new(ErrorKind::Interrupted, "stopped")),
                false => Ok(()),
            }
        };
        for path in inputs {
            each_text(path, &mut |text| trainer.read(text, &mut report))?;
        }
        let trained = trainer.train(&mut report);
        merging.finish_and_clear();
        trained
    }

    fn tell(&self, trained: &Trained) {
        if trained.skipped_lines > 0 {
            eprintln!(
                "warning: {} lines of more than {} bytes were skipped; --max-sentence-length changes that",
                trained.skipped_lines, self.max_sentence_length
            );
        }
        if trained.dropped_below > 0 {
            eprintln!(
                "warning: there were too many different words; those met at most {} times were left out",
                trained.dropped_below
            );
        }
    }

    fn write(&self, trained: &Trained) -> Result<()> {
        let written = match (&self.model_prefix, &self.out) {
            (Some(prefix), _) => {
                let mut path = prefix.clone().into_os_string();
                path.push(".model");
                tokenizer_files::save_sentencepiece(Path::new(&path), &trained.vocab)?;
                PathBuf::from(path)
            }
            (None, folder) => {
                let folder = folder.clone().unwrap_or_default();
                std::fs::create_dir_all(&folder).context(folder.display())?;
                tokenizer_files::save(&folder, &trained.vocab, "internlm2")?;
                folder
            }
        };
        eprintln!(
            "wrote {}: {} tokens, {} of them characters",
            written.display(),
            trained.vocab.tokens.len(),
            trained.characters
        );
        Ok(())
    }
}
