//! `puyu log-dataset`: samples as the model will see them, with the tokens that are learnt in colour.

use super::dataset::{DatasetArgs, Opened, count_broken};
use super::output;
use crate::data::{IGNORE, Kind};
use clap::{Args, ValueEnum};
use puyu_tensor::Result;
use std::io::IsTerminal;

/// Print samples of the data of a config, or of a file, as a model sees them
#[derive(Args, Clone, Debug)]
pub struct LogDatasetArgs {
    #[command(flatten)]
    data: DatasetArgs,
    /// What is printed of each sample
    #[arg(long, value_enum, default_value_t = Show::Text)]
    show: Show,
    /// How many samples are printed
    #[arg(short = 'n', long, default_value_t = 3)]
    num: usize,
    /// The first sample, from 0
    #[arg(long, default_value_t = 0)]
    start: usize,
}

/// `--show`, with XTuner's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Show {
    /// The text; what is learnt is in colour, or between ⟦ and ⟧ where there are no colours
    Text,
    /// The text with [-100] for each token that is not learnt
    MaskedText,
    /// Token ids
    InputIds,
    /// Token ids, with -100 for those that are not learnt
    Labels,
    /// All of these
    All,
}

/// What marks the beginning and end of what is learnt.
type Marks = [&'static str; 2];

const COLOURS: Marks = ["\x1b[32m", "\x1b[0m"];
const BRACKETS: Marks = ["⟦", "⟧"];

impl LogDatasetArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the data cannot be read, or standard output is full.
    pub fn run(&self) -> Result<()> {
        let opened = self.data.open(count_broken)?;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let colour = std::io::stdout().is_terminal() && !no_color;
        let marks = if colour { COLOURS } else { BRACKETS };
        let end = self.start.saturating_add(self.num).min(opened.dataset.samples());
        for i in self.start..end {
            output::print(&self.sample(&opened, i, marks))?;
        }
        output::print(&opened.report.to_string())
    }

    /// What is printed of sample `i`.
    fn sample(&self, opened: &Opened, i: usize, marks: Marks) -> String {
        let batch = opened.dataset.sample(i);
        let tokens = tokens(&batch.ids, &batch.targets);
        let learnt = tokens.iter().filter(|(_, learnt)| *learnt).count();
        let name = match (opened.dataset.kind(), i % 2) {
            (Kind::Preference, 0) => format!("pair {}, chosen", i / 2),
            (Kind::Preference, _) => format!("pair {}, rejected", i / 2),
            _ => format!("sample {i}"),
        };
        let mut text = format!("--- {name}: tokens {}, learnt {learnt}\n", tokens.len());
        let asked = |show: Show| self.show == show || self.show == Show::All;
        if asked(Show::Text) {
            text += &coloured(opened, &tokens, marks);
        }
        if asked(Show::MaskedText) {
            text += &masked(opened, &tokens);
        }
        if asked(Show::InputIds) {
            let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
            text += &format!("{ids:?}\n");
        }
        if asked(Show::Labels) {
            let label = |(id, learnt): &(u32, bool)| if *learnt { i64::from(*id) } else { -100 };
            text += &format!("{:?}\n", tokens.iter().map(label).collect::<Vec<_>>());
        }
        text
    }
}

/// The tokens of a sequence, and whether each is learnt.
fn tokens(ids: &[u32], targets: &[u32]) -> Vec<(u32, bool)> {
    let before = std::iter::once(&IGNORE).chain(targets);
    let known = ids.iter().zip(before).map(|(id, target)| (*id, *target != IGNORE));
    let last = targets.last().filter(|t| **t != IGNORE).map(|t| (*t, true));
    known.chain(last).collect()
}

/// The text, with marks around what is learnt.
fn coloured(opened: &Opened, tokens: &[(u32, bool)], marks: Marks) -> String {
    let mut text = String::new();
    for run in tokens.chunk_by(|a, b| a.1 == b.1) {
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        let piece = visible(&opened.tokenizer.decode(&ids, false));
        let [start, end] = if run[0].1 { marks } else { ["", ""] };
        text += &[start, &piece, end].concat();
    }
    text + "\n"
}

/// The text with a mark for each token that is not learnt.
fn masked(opened: &Opened, tokens: &[(u32, bool)]) -> String {
    let mut text = String::new();
    for run in tokens.chunk_by(|a, b| a.1 == b.1) {
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        text += &match run[0].1 {
            true => visible(&opened.tokenizer.decode(&ids, false)),
            false => "[-100]".repeat(ids.len()),
        };
    }
    text + "\n"
}

/// Text that does nothing to a terminal.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}
