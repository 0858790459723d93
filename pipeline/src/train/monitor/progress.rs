//! The progress line: drawn over and over on a terminal, a plain line every few seconds elsewhere.

use super::{About, StepRecord};
use crate::units::{decimal, duration, quantity};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two plain lines.
const EVERY: Duration = Duration::from_secs(10);

/// How much the newest step weighs in the time that steps take.
const NEWEST: f64 = 0.1;

/// Where progress goes.
enum Place {
    Nowhere,
    Terminal(ProgressBar),
    Lines { last: Option<Instant> },
}

/// The line and what it remembers.
pub(super) struct Progress {
    place: Place,
    total: u64,
    /// Seconds a step takes, a running mean.
    pace: Option<f64>,
}

impl Progress {
    pub fn new(about: &About, done: u64) -> Self {
        let place = match (about.progress, std::io::stderr().is_terminal()) {
            (false, _) => Place::Nowhere,
            (true, false) => Place::Lines { last: None },
            (true, true) => Place::Terminal(bar(about.total_steps, done)),
        };
        Self { place, total: about.total_steps, pace: None }
    }

    /// Shows `step`.
    pub fn step(&mut self, step: &StepRecord) {
        let pace = self.pace.map_or(step.seconds, |p| p + NEWEST * (step.seconds - p));
        self.pace = Some(pace);
        let left = self.total.saturating_sub(step.step) as f64 * pace;
        let text = describe(step, self.total, left);
        match &mut self.place {
            Place::Nowhere => (),
            Place::Terminal(bar) => {
                bar.set_position(step.step);
                bar.set_message(text);
            }
            Place::Lines { last } => {
                let due = last.is_none_or(|t| t.elapsed() >= EVERY) || step.step == self.total;
                if due {
                    eprintln!("{text}");
                    *last = Some(Instant::now());
                }
            }
        }
    }

    /// Shows a line of its own.
    pub fn say(&self, text: &str) {
        match &self.place {
            Place::Nowhere => (),
            Place::Terminal(bar) => bar.println(text),
            Place::Lines { .. } => eprintln!("{text}"),
        }
    }

    /// Leaves the last line standing.
    pub fn finish(&self) {
        if let Place::Terminal(bar) = &self.place {
            bar.abandon();
        }
    }
}

fn bar(total: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
        bar.set_style(style);
    }
    bar.set_position(done);
    bar
}

/// Step, loss, learning rate, speed and the time left, in a line.
fn describe(s: &StepRecord, total: u64, left: f64) -> String {
    let share = s.utilisation.map_or(String::new(), |u| format!(" ({:.0} %)", 100.0 * u));
    let skipped = if s.skipped { " skipped" } else { "" };
    format!(
        "step {}/{total}{skipped}  loss {:.4}  lr {:.2e}  {} tokens/s  {}{share}  {} left",
        s.step,
        s.loss,
        s.lr,
        decimal(s.tokens_per_s),
        quantity(s.flops_per_s, "FLOP/s"),
        duration(left),
    )
}
