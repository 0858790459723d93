//! What a run shows of itself: a progress line, `metrics.jsonl`, TensorBoard event files and
//! `report.html`. The journal is the truth; everything else is drawn from what goes into it, so a
//! resumed run shows each step once.

mod chart;
mod journal;
mod progress;
mod report;
mod series;
mod tensorboard;

use journal::Journal;
use progress::Progress;
use puyu_tensor::{Context, Result};
use report::Report;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tensorboard::Board;

pub use journal::{Record, read};

/// What is known of a run before its first step.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The run's name.
    pub title: String,
    /// The whole config, as TOML.
    pub config: String,
    /// Steps the run will take.
    pub total_steps: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// Model FLOPs of one trained token, without recomputation.
    pub flops_per_token: f64,
    /// The most FLOPs per second that the device does, if known.
    pub peak_flops: Option<f64>,
    /// Whether progress is shown on standard error.
    pub progress: bool,
}

/// One optimizer step. Where InternEvo's log has a field for it, the file has that name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRecord {
    /// Steps done, this one included: the first is 1.
    pub step: u64,
    /// Mean loss over the counted targets, in nats.
    #[serde(with = "finite")]
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// L2 norm of all gradients before clipping.
    #[serde(with = "finite")]
    pub grad_norm: f64,
    /// Tokens of this step.
    pub tokens: u64,
    /// Tokens since the run began.
    #[serde(rename = "num_consumed_tokens")]
    pub seen_tokens: u64,
    /// Targets of this step that count in the loss.
    pub counted: f64,
    /// Wall time of this step.
    pub seconds: f64,
    /// Tokens per second.
    #[serde(rename = "tgs")]
    pub tokens_per_s: f64,
    /// Model FLOPs per second.
    pub flops_per_s: f64,
    /// `flops_per_s` as a share of the device's peak.
    pub utilisation: Option<f64>,
    /// The step changed nothing, because its loss or gradients were not finite.
    pub skipped: bool,
    /// What else the objective measures.
    pub metrics: BTreeMap<String, f64>,
}

/// JSON has no NaN and no infinity: they are written as null, and null is read as NaN.
mod finite {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(*x)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
    }
}

/// Between two reports.
const EVERY: Duration = Duration::from_secs(20);

/// Writes down what happens in a run.
pub struct Monitor {
    journal: Journal,
    board: Board,
    progress: Progress,
    report: Report,
    page: PathBuf,
    /// When the report was last written.
    written: Option<Instant>,
}

impl Monitor {
    /// Begins in `dir`, which is made if it is missing. A new run (`resumed_at` is `None`) replaces what
    /// an earlier one wrote there; a resumed one keeps the records of the first `resumed_at` steps.
    ///
    /// # Errors
    /// If a file cannot be written, or a line of the journal that is kept is none of ours.
    pub fn open(dir: &Path, about: &About, resumed_at: Option<u64>) -> Result<Self> {
        let place = || format!("cannot make the folder {}", dir.display());
        std::fs::create_dir_all(dir).context(place())?;
        let (journal, kept) = Journal::open(&dir.join("metrics.jsonl"), resumed_at)?;
        let board = Board::open(dir, &about.config, resumed_at)?;
        let progress = Progress::new(about, resumed_at.unwrap_or(0));
        let mut report = Report::new(about);
        for record in &kept {
            report.add(record);
        }
        Ok(Self { journal, board, progress, report, page: dir.join("report.html"), written: None })
    }

    /// A step was done, or skipped.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn step(&mut self, step: &StepRecord) -> Result<()> {
        self.progress.step(step);
        self.record(Record::Step(step.clone()))
    }

    /// The model was validated after `step` steps: mean loss in nats, and its perplexity.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn valid(
        &mut self,
        step: u64,
        loss: f64,
        perplexity: f64,
        metrics: &BTreeMap<String, f64>,
    ) -> Result<()> {
        self.progress
            .say(&format!("step {step}: validation loss {loss:.4}, perplexity {perplexity:.3}"));
        self.record(Record::Valid { step, loss, perplexity, metrics: metrics.clone() })
    }

    /// The model continued `prompt` with `text`.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn sample(&mut self, step: u64, prompt: &str, text: &str) -> Result<()> {
        self.progress.say(&format!("step {step}: {prompt}|{text}"));
        self.record(Record::Sample { step, prompt: prompt.into(), text: text.into() })
    }

    /// Something worth a word: a spike, a skipped step, a checkpoint.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn event(&mut self, step: u64, text: &str) -> Result<()> {
        self.progress.say(&format!("step {step}: {text}"));
        self.record(Record::Event { step, text: text.into() })
    }

    /// Writes everything out. A monitor that is dropped without it loses nothing of the journal, only
    /// the report's last seconds.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish(&mut self) -> Result<()> {
        self.progress.finish();
        self.report.write(&self.page)?;
        self.journal.sync()
    }

    fn record(&mut self, record: Record) -> Result<()> {
        self.journal.append(&record)?;
        self.board.add(&record)?;
        self.report.add(&record);
        if self.written.is_none_or(|t| t.elapsed() >= EVERY) {
            self.report.write(&self.page)?;
            self.written = Some(Instant::now());
        }
        Ok(())
    }
}
