//! What a world is worth as a test: how far one gets without understanding. The nearest neighbour answers
//! with what followed the most similar training question (BM25 over words and word pairs, characters in
//! Chinese); the majority answers with the most frequent answer of a kind, taken from the test set
//! itself, which no other constant answer beats.

use super::problem::Kind;
use super::question::{Question, lines};
use super::score::{normalized, score};
use puyu_models::chat_template::Message;
use puyu_tensor::Result;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Right answers of each baseline for one kind in one language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Questions.
    pub questions: usize,
    /// Of these, answered by the nearest neighbour.
    pub nearest: usize,
    /// Of these, answered by the most frequent answer.
    pub majority: usize,
}

/// A table of baselines.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Rows by kind and language.
    pub rows: BTreeMap<(String, String), Row>,
}

impl Table {
    /// The sum of all rows.
    pub fn total(&self) -> Row {
        self.rows.values().fold(Row::default(), |mut sum, row| {
            sum.questions += row.questions;
            sum.nearest += row.nearest;
            sum.majority += row.majority;
            sum
        })
    }
}

/// Shares of right answers, as a Markdown table.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
        writeln!(f, "| kind | language | questions | nearest neighbour | majority |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        let mut line = |kind: &str, lang: &str, row: &Row| {
            let (near, most) =
                (percent(row.nearest, row.questions), percent(row.majority, row.questions));
            writeln!(f, "| {kind} | {lang} | {} | {near:.1} % | {most:.1} % |", row.questions)
        };
        for ((kind, lang), row) in &self.rows {
            line(kind, lang, row)?;
        }
        line("all", "", &self.total())
    }
}

/// Reads the world in `folder` and answers its `answer_test.jsonl` with both baselines.
///
/// # Errors
/// If a file is missing or is not what `puyu data world` writes; file and line are named.
pub fn baselines(folder: &Path) -> Result<Table> {
    let mut index = Index::default();
    lines(&folder.join("sft.jsonl"), |record| {
        index.add(record);
        Some(())
    })?;
    let tests = Question::read(&folder.join("answer_test.jsonl"))?;
    let mut counts: HashMap<(Kind, &str, String), usize> = HashMap::new();
    for test in &tests {
        *counts
            .entry((test.kind, &test.lang, normalized(test.kind, &test.accepted[0])))
            .or_insert(0) += 1;
    }
    let mut table = Table::default();
    for test in &tests {
        let row = table.rows.entry((test.kind.name().to_owned(), test.lang.clone())).or_default();
        row.questions += 1;
        let answer = index.nearest(&heard(&test.messages));
        row.nearest += usize::from(answer.is_some_and(|a| score(test.kind, &test.accepted, a)));
    }
    for ((kind, lang, _), n) in counts {
        let row = table.rows.entry((kind.name().to_owned(), lang.to_owned())).or_default();
        row.majority = row.majority.max(n);
    }
    Ok(table)
}

/// All that users and tools have said, in order.
fn heard(messages: &[Message]) -> String {
    let heard = messages.iter().filter(|m| m.role == "user" || m.role == "tool");
    heard.map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n")
}

/// What the assistant says in a message, a call as InternLM2 writes it.
fn reply(message: &Message) -> String {
    let call = message.extra.get("tool_calls").map(|calls| &calls[0]["function"]);
    match call.and_then(|f| Some((f["name"].as_str()?, f["arguments"].as_str()?))) {
        Some((name, arguments)) => format!(
            "<|action_start|><|plugin|>\n{{\"name\": \"{name}\", \"parameters\": {arguments}}}<|action_end|>"
        ),
        None => message.content.clone(),
    }
}

/// BM25 with its usual constants (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009).
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Training questions by their terms.
#[derive(Default)]
struct Index {
    /// Numbers of terms.
    terms: HashMap<String, u32>,
    /// Question and count, for each term.
    postings: Vec<Vec<(u32, u32)>>,
    lengths: Vec<u32>,
    answers: Vec<String>,
    total: u64,
    scores: Vec<f32>,
}

impl Index {
    /// Adds each of the assistant's turns with what was said before it.
    fn add(&mut self, record: &Value) {
        let messages = serde_json::from_value::<Vec<Message>>(record["messages"].clone());
        let messages = messages.unwrap_or_default();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
            self.add_one(&heard(&messages[..i]), reply(message));
        }
    }

    fn add_one(&mut self, question: &str, answer: String) {
        let number = self.answers.len() as u32;
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        let terms = terms(question);
        for term in &terms {
            let next = self.postings.len() as u32;
            let id = *self.terms.entry(term.clone()).or_insert(next);
            if id == next {
                self.postings.push(Vec::new());
            }
            *counts.entry(id).or_insert(0) += 1;
        }
        for (id, count) in counts {
            self.postings[id as usize].push((number, count));
        }
        self.lengths.push(terms.len() as u32);
        self.total += terms.len() as u64;
        self.answers.push(answer);
    }

    /// The answer of the most similar question; of equal ones, the first.
    fn nearest(&mut self, question: &str) -> Option<&str> {
        let n = self.answers.len();
        self.scores.clear();
        self.scores.resize(n, 0.0);
        let mean = self.total as f32 / n.max(1) as f32;
        let mut asked = terms(question);
        asked.sort_unstable();
        asked.dedup();
        for term in asked {
            let Some(id) = self.terms.get(&term) else { continue };
            let postings = &self.postings[*id as usize];
            let df = postings.len() as f32;
            let idf = (1.0 + (n as f32 - df + 0.5) / (df + 0.5)).ln();
            for (question, count) in postings {
                let length = self.lengths[*question as usize] as f32;
                let count = *count as f32;
                self.scores[*question as usize] +=
                    idf * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / mean));
            }
        }
        let best =
            (0..n).max_by(|a, b| self.scores[*a].total_cmp(&self.scores[*b]).then(b.cmp(a)))?;
        Some(&self.answers[best])
    }
}

/// Words and pairs of words; every Chinese character is a word.
fn terms(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for c in text.to_lowercase().chars() {
        let chinese = c as u32 > 0x2e80;
        if !c.is_alphanumeric() {
            open = false;
        } else if chinese || !open {
            words.push(c.to_string());
            open = !chinese;
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let pairs: Vec<String> = words.windows(2).map(|w| w.join(" ")).collect();
    words.extend(pairs);
    words
}
