//! A model's answers to the questions of a world: the most likely ones, scored by `score.rs`, counted by
//! kind and language.

use super::problem::{Kind, dont_know};
use super::question::Question;
use super::score::{CALL, normalized, score};
use super::words::Lang;
use crate::engine::{Engine, greedy};
use puyu_tensor::Result;
use std::collections::BTreeMap;

/// Most tokens of an answer; the longest that is right has about 60.
const MAX_TOKENS: usize = 160;

/// Right answers among so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Answers that are right.
    pub right: usize,
    /// All.
    pub of: usize,
}

impl Count {
    fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// The share that is right; 0 of nothing.
    pub fn share(self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }
}

/// An answer and whether it is right.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the model said, control tokens included.
    pub text: String,
    /// It is one of those that are accepted.
    pub right: bool,
}

/// What an exam came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By kind, then language.
    pub kinds: BTreeMap<&'static str, BTreeMap<String, Count>>,
    /// Of the answers "I don't know", those that are right: its precision.
    pub unknown_said: Count,
    /// Of the questions that the facts do not answer, those that are answered so: its recall.
    pub unknown_asked: Count,
    /// Of the questions for which the calculator is on offer and needed, those that called it.
    pub calls: Count,
    /// Of the other questions with tools on offer, those that called none.
    pub no_calls: Count,
}

impl Report {
    /// Takes the answer `text` to `question` into account.
    pub fn add(&mut self, question: &Question, text: String) -> Answer {
        let right = score(question.kind, &question.accepted, &text);
        let kind = self.kinds.entry(question.kind.name()).or_default();
        kind.entry(question.lang.clone()).or_default().add(right);
        let said = normalized(question.kind, &text);
        if Lang::ALL.iter().any(|l| normalized(Kind::Unknown, dont_know(*l)) == said.to_lowercase())
        {
            self.unknown_said.add(right);
        }
        if question.is_unknown() {
            self.unknown_asked.add(right);
        }
        let called = text.contains(CALL);
        if question.is_call() {
            self.calls.add(called);
        } else if question.tools.is_some() {
            self.no_calls.add(!called);
        }
        Answer { text, right }
    }

    /// Right answers of one kind in all languages.
    pub fn kind(&self, kind: &str) -> Count {
        let of_kind = self.kinds.get(kind).into_iter().flat_map(BTreeMap::values);
        of_kind.fold(Count::default(), |sum, c| Count {
            right: sum.right + c.right,
            of: sum.of + c.of,
        })
    }

    /// The mean over the kinds, each counting alike.
    pub fn mean(&self) -> f64 {
        let shares = self.kinds.keys().map(|k| self.kind(k).share());
        shares.sum::<f64>() / self.kinds.len().max(1) as f64
    }

    /// The kind that is answered worst, and how often it is answered right.
    pub fn worst(&self) -> Option<(&'static str, f64)> {
        let shares = self.kinds.keys().map(|k| (*k, self.kind(k).share()));
        shares.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Shares of right answers, as a Markdown table.
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let percent = |c: Count| match c.of {
            0 => "-".to_owned(),
            _ => format!("{:.1} %", 100.0 * c.share()),
        };
        writeln!(f, "| kind | questions | en | zh | right |")?;
        writeln!(f, "|---|---:|---:|---:|---:|")?;
        for (kind, langs) in &self.kinds {
            let [en, zh] = ["en", "zh"].map(|l| percent(langs.get(l).copied().unwrap_or_default()));
            let all = self.kind(kind);
            writeln!(f, "| {kind} | {} | {en} | {zh} | {} |", all.of, percent(all))?;
        }
        writeln!(f, "| mean | | | | {:.1} % |", 100.0 * self.mean())?;
        if self.unknown_asked.of > 0 {
            let (said, asked) = (percent(self.unknown_said), percent(self.unknown_asked));
            writeln!(f, "\n\"I don't know\": precision {said}, recall {asked}")?;
        }
        if self.calls.of == 0 {
            return Ok(());
        }
        let (calls, rest) = (percent(self.calls), percent(self.no_calls));
        writeln!(
            f,
            "calculator: called in {calls} of the sums it is offered for, left alone in {rest} of the rest"
        )
    }
}

/// Asks `engine` all `questions`. `answered(question, answer)` hears of each and may end the exam by
/// returning false.
///
/// # Errors
/// If the model has no chat template, the device failed, or `answered` ended it.
pub fn exam(
    engine: &Engine,
    questions: &[Question],
    answered: &mut dyn FnMut(&Question, &Answer) -> bool,
) -> Result<Report> {
    let prompts = questions.iter().map(|q| engine.encode_chat_with(&q.messages, q.tools.as_ref()));
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let mut report = Report::default();
    greedy(engine, &prompts, MAX_TOKENS, &mut |i, ids| {
        let text = engine.tokenizer.decode(ids, false);
        let answer = report.add(&questions[i], text);
        answered(&questions[i], &answer)
    })?;
    Ok(report)
}
