//! `puyu data world`: writes a closed world to train on; `puyu data world-baseline`: what one gets on its
//! test set without understanding it.

use super::output;
use crate::world::{self, Kind, Lang, baseline};
use clap::Args;
use puyu_tensor::{Error, Result};
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
