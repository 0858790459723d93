//! `puyu data world`: writes a closed world to train on; `puyu data world-baseline`: what one gets on its
//! test set without understanding it; `puyu data world-exam`: what a model gets.

use super::args::ModelArgs;
use super::{interrupt, output};
use crate::world::{self, Kind, Lang, Question, baseline, exam};
use clap::Args;
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Error, Result};
use serde_json::json;
use std::path::PathBuf;

/// Write a closed world in English and Chinese to train on
#[derive(Args, Clone, Debug)]
pub struct WorldArgs {
    /// Everything that is random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Megabytes of training text: pretraining, conversations and preference pairs together
    #[arg(long, default_value_t = 20)]
    megabytes: u64,
    /// The folder to write to
    #[arg(short, long)]
    out: PathBuf,
    /// Languages
    #[arg(long, value_delimiter = ',', default_value = "en,zh")]
    lang: Vec<String>,
    /// Kinds of question; all if not given
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Questions in each test set; a quarter as many are for validation
    #[arg(long, default_value_t = 2000)]
    questions: usize,
    /// Threads; 0 takes one for each core
    #[arg(short, long, default_value_t = 0, env = "PUYU_THREADS")]
    threads: usize,
}

impl WorldArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If a language or kind is not known, or the folder cannot be written to.
    pub fn run(&self) -> Result<()> {
        let langs = self.lang.iter().map(|name| {
            Lang::ALL
                .into_iter()
                .find(|l| l.name() == name)
                .ok_or_else(|| Error::invalid(format!("--lang {name}: the world speaks en and zh")))
        });
        let kinds = self.kinds.iter().map(|name| {
            Kind::of(name).ok_or_else(|| {
                let all: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
                Error::invalid(format!("--kinds {name}: the kinds are {}", all.join(", ")))
            })
        });
        let mut kinds = kinds.collect::<Result<Vec<Kind>>>()?;
        if kinds.is_empty() {
            kinds = Kind::ALL.to_vec();
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let options = world::Options {
            seed: self.seed,
            bytes: self.megabytes.saturating_mul(1_000_000),
            langs: langs.collect::<Result<_>>()?,
            kinds,
            questions: self.questions,
            threads: if self.threads == 0 { cores } else { self.threads },
            out: self.out.clone(),
        };
        let bar = output::bar("writing", options.bytes, "bytes");
        let mut last = 0;
        let card = world::write(&options, &mut |written| {
            bar.inc(written.saturating_sub(last));
            last = written;
        })?;
        bar.finish_and_clear();
        let mut text = String::new();
        for (name, file) in &card.files {
            text += &format!("{name:24} {:9} records {:11} bytes\n", file.records, file.bytes);
        }
        output::print(&text)
    }
}

/// Answer a world's test set by nearest neighbour and by majority
#[derive(Args, Clone, Debug)]
pub struct WorldBaselineArgs {
    /// A folder that `puyu data world` has written
    folder: PathBuf,
}

impl WorldBaselineArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If a file is missing or is not what `puyu data world` writes.
    pub fn run(&self) -> Result<()> {
        output::print(&baseline::baselines(&self.folder)?.to_string())
    }
}

/// Let a model answer a world's questions, and count what is right
#[derive(Args, Clone, Debug)]
pub struct WorldExamArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A file of questions that `puyu data world` has written
    #[arg(short, long)]
    questions: PathBuf,
    /// Ask the first so many only
    #[arg(short = 'n', long)]
    limit: Option<usize>,
    /// Write every answer to this file, a JSON object a line
    #[arg(short, long)]
    out: Option<PathBuf>,
}

impl WorldExamArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the model or the questions cannot be read, or the answers cannot be written.
    pub fn run(&self) -> Result<()> {
        let mut questions = Question::read(&self.questions)?;
        questions.truncate(self.limit.unwrap_or(usize::MAX));
        let mut out = self.out.as_deref().map(AtomicFile::create).transpose()?;
        let engine = self.model.open()?;
        let bar = output::bar("asking", questions.len() as u64, "questions");
        let mut failed = None;
        interrupt::start();
        let report = exam::exam(&engine, &questions, &mut |question, answer| {
            bar.inc(1);
            if let Some(out) = &mut out {
                let line = json!({
                    "id": question.id, "kind": question.kind.name(), "form": question.form,
                    "lang": question.lang, "right": answer.right, "said": answer.text,
                    "answers": question.accepted,
                });
                failed = out.write(format!("{line}\n").as_bytes()).err();
            }
            failed.is_none() && !interrupt::asked()
        });
        interrupt::finish();
        bar.finish_and_clear();
        if let Some(e) = failed {
            return Err(e);
        }
        let report = report?;
        out.map_or(Ok(()), AtomicFile::finish)?;
        output::print(&report.to_string())
    }
}
