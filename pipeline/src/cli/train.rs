//! `puyu train`: pretraining from scratch, or going on with a checkpoint, as a TOML config says. What
//! runs of every kind share, from the flags to what is printed, is here too.

use super::dataset::with_bar;
use super::interrupt;
use crate::data::Progress;
use crate::plan::matmul_flops;
use crate::train::config::{ConfigText, Override, StepConfig};
use crate::train::{Ended, Parts, Prepared, TrainConfig, Trainer, prepare};
use crate::units::{bytes, decimal};
use clap::Args;
use puyu_models::format::adapter;
use puyu_tensor::{Error, ErrorKind, Result, cpu::pool};
use serde::de::DeserializeOwned;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Pretrain a model as a config says
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    run: RunArgs,
}

/// What runs of every kind take.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The config: a TOML file, or a name that `puyu list-cfg` shows
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// Folder for checkpoints, metrics.jsonl and report.html [default: work_dirs/NAME]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Go on from the newest whole checkpoint of the work folder, or from the one at PATH
    #[arg(long, value_name = "auto|PATH", num_args = 0..=1, default_missing_value = "auto")]
    resume: Option<String>,
    /// Override fields of the config, such as train.steps=100
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    cfg_options: Vec<Override>,
    /// Threads [default: all cores]; the result does not depend on it
    #[arg(short, long, env = "PUYU_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl TrainArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the config, the data or the model are not in order, the run stopped itself, or it was
    /// interrupted (after it was saved).
    pub fn run(&self) -> Result<()> {
        let (config, text) = self.run.read::<TrainConfig>()?;
        self.run.set_threads(&config.train)?;
        let dir = self.run.dir();
        self.run.train(reading(|progress| prepare(&config, text, &dir, progress))?)
    }
}

/// Runs `prepare` with a progress bar, and says what it found in the data.
///
/// # Errors
/// Those of `prepare`.
pub fn reading(prepare: impl FnOnce(Progress) -> Result<Prepared>) -> Result<Parts> {
    let Prepared { parts, data, valid } = with_bar(prepare)?;
    eprint!("data\n{data}");
    if let Some(valid) = valid {
        eprint!("validation data\n{valid}");
    }
    Ok(parts)
}

impl RunArgs {
    /// The config with all overrides in force, and its text.
    ///
    /// # Errors
    /// One sentence about what is wrong with it, and where.
    pub fn read<T: DeserializeOwned>(&self) -> Result<(T, String)> {
        let (config, table) = ConfigText::open(&self.config)?.parse(&self.cfg_options)?;
        let text = toml::to_string(&table).map_err(|e| Error::invalid(e.to_string()))?;
        Ok((config, text))
    }

    /// The work folder.
    pub fn dir(&self) -> PathBuf {
        let name = self.config.file_stem().unwrap_or_default();
        self.work_dir.clone().unwrap_or_else(|| Path::new("work_dirs").join(name))
    }

    /// Sets the number of threads: the flag's, else the config's.
    ///
    /// # Errors
    /// If the system does not give that many.
    pub fn set_threads(&self, train: &StepConfig) -> Result<()> {
        train.check()?;
        match self.threads.map(usize::from).or(train.threads) {
            Some(threads) => pool::set_threads(threads),
            None => Ok(()),
        }
    }

    /// Runs what was prepared, from the beginning or from where it is to be resumed.
    ///
    /// # Errors
    /// As [`Trainer::new`] and [`Trainer::run`]; interrupted, if it was.
    pub fn train(&self, mut parts: Parts) -> Result<()> {
        if let Some(resume) = &self.resume {
            parts.checkpoint.resume.clone_from(resume);
        }
        if std::io::stderr().is_terminal() {
            // A fifth of a second for the share of the machine that the progress line shows.
            parts.about.peak_flops = Some(matmul_flops());
        }
        describe(&parts);
        let dir = parts.dir.clone();
        let (mut trainer, notes) = Trainer::new(parts)?;
        notes.iter().for_each(|note| eprintln!("{note}"));
        interrupt::start();
        let ended = trainer.run(&interrupt::asked);
        interrupt::finish();
        let ended = ended?;
        if trainer.skipped() > 0 {
            eprintln!("{} steps were skipped: see {}", trainer.skipped(), dir.display());
        }
        let path = trainer.checkpoint_path(trainer.step());
        match ended {
            Ended::Finished => {
                let run = match path.join(adapter::CONFIG).is_file() {
                    true => "-m MODEL --adapter",
                    false => "-m",
                };
                eprintln!("done: try `puyu generate {run} {}`", path.display());
                Ok(())
            }
            Ended::Stopped => {
                eprintln!("stopped and saved {}; --resume goes on from it", path.display());
                Err(Error::new(ErrorKind::Interrupted, "interrupted"))
            }
        }
    }
}

/// Says what a run will do, before it begins.
fn describe(parts: &Parts) {
    let Parts { learner, train, data, dir, about, .. } = parts;
    let config = learner.forward.model.config();
    let parameters = learner.optimizer.numel();
    let held = bytes(learner.optimizer.bytes() as f64);
    eprintln!(
        "{} of {} layers, {} parameters trained; weights, gradient and optimizer take {held}",
        config.model_type,
        config.layers,
        decimal(parameters as f64),
    );
    let rows = train.batch * train.accumulate;
    let epochs = (about.total_steps as f64 * rows as f64) / data.len().max(1) as f64;
    eprintln!(
        "{} steps of {rows} rows, {epochs:.2} epochs of {} rows; {} threads",
        about.total_steps,
        data.len(),
        pool::threads(),
    );
    eprintln!("everything goes to {}", dir.display());
}
