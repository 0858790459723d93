//! `report.html`: the run on one page that needs nothing else, in light and dark, with and without
//! script, wide and narrow. It is drawn anew from bounded memory and replaces the last one whole.

use super::chart::{Chart, Curve};
use super::series::Series;
use super::{About, Record, StepRecord};
use crate::units::{decimal, duration, quantity};
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::Result;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::path::Path;

/// Events and samples that are kept; of samples more than the newest few are folded away.
const EVENTS: usize = 200;
const SAMPLES: usize = 40;
const UNFOLDED: usize = 4;

/// What the page shows.
pub(super) struct Report {
    about: About,
    last: Option<StepRecord>,
    /// Wall time of all steps.
    seconds: f64,
    skipped: u64,
    valid: Option<(u64, f64, f64)>,
    loss: Series,
    valid_loss: Series,
    lr: Series,
    grad_norm: Series,
    tokens_per_s: Series,
    metrics: BTreeMap<String, Series>,
    events: VecDeque<(u64, String)>,
    samples: VecDeque<(u64, String, String)>,
}

impl Report {
    pub fn new(about: &About) -> Self {
        Self {
            about: about.clone(),
            last: None,
            seconds: 0.0,
            skipped: 0,
            valid: None,
            loss: Series::default(),
            valid_loss: Series::default(),
            lr: Series::default(),
            grad_norm: Series::default(),
            tokens_per_s: Series::default(),
            metrics: BTreeMap::new(),
            events: VecDeque::new(),
            samples: VecDeque::new(),
        }
    }

    /// Takes a record in.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Step(s) => self.step(s),
            Record::Valid { step, loss, perplexity, metrics } => {
                self.valid = Some((*step, *loss, *perplexity));
                self.valid_loss.add(*step, *loss);
                for (name, value) in metrics {
                    self.metric(&format!("{name} (validation)"), *step, *value);
                }
            }
            Record::Sample { step, prompt, text } => {
                keep(&mut self.samples, SAMPLES, (*step, prompt.clone(), text.clone()));
            }
            Record::Event { step, text } => keep(&mut self.events, EVENTS, (*step, text.clone())),
        }
    }

    fn step(&mut self, s: &StepRecord) {
        self.seconds += s.seconds;
        self.skipped += u64::from(s.skipped);
        self.loss.add(s.step, s.loss);
        self.lr.add(s.step, s.lr);
        self.grad_norm.add(s.step, s.grad_norm);
        self.tokens_per_s.add(s.step, s.tokens_per_s);
        for (name, value) in &s.metrics {
            self.metric(name, s.step, *value);
        }
        self.last = Some(s.clone());
    }

    fn metric(&mut self, name: &str, step: u64, value: f64) {
        self.metrics.entry(name.to_owned()).or_default().add(step, value);
    }

    /// Writes the page to `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = AtomicFile::create(path)?;
        file.write(self.html().as_bytes())?;
        file.finish()
    }

    /// The page.
    pub fn html(&self) -> String {
        let title = escape(match self.about.title.as_str() {
            "" => "Training run",
            title => title,
        });
        let style = include_str!("report.css");
        let script = include_str!("report.js");
        let (lead, facts, charts) = (self.lead(), self.facts(), self.charts());
        let columns = format!("{}{}", self.samples(), self.events());
        let config = match self.about.config.as_str() {
            "" => String::new(),
            text => format!(
                "<details class=\"card\"><summary>Config</summary><pre>{}</pre></details>",
                escape(text)
            ),
        };
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title>\n<style>\n{style}</style></head>\n<body><main>\n\
             <h1>{title}</h1>\n{lead}\n<dl class=\"facts\">{facts}</dl>\n\
             <div class=\"charts\">\n{charts}</div>\n<div class=\"columns\">\n{columns}</div>\n\
             {config}\n</main>\n<script>\n{script}</script></body></html>\n"
        )
    }

    /// How far the run is, in words and as a bar.
    fn lead(&self) -> String {
        let (done, total) = (self.last.as_ref().map_or(0, |s| s.step), self.about.total_steps);
        let share = if total == 0 { 0.0 } else { 100.0 * done as f64 / total as f64 };
        let pace = self.tail_seconds();
        let left = match total.saturating_sub(done) {
            0 if done > 0 => "finished".to_owned(),
            n if pace > 0.0 => format!("about {} left", duration(n as f64 * pace)),
            _ => "starting".to_owned(),
        };
        let size = match self.about.parameters {
            0 => String::new(),
            n => format!("{} parameters · ", decimal(n as f64)),
        };
        format!(
            "<p class=\"lead\">{size}step {} of {} · {} so far · {left}</p>\n\
             <div class=\"done\"><b style=\"width:{share:.1}%\"></b></div>",
            grouped(done),
            grouped(total),
            duration(self.seconds),
        )
    }

    /// Seconds a step takes at present.
    fn tail_seconds(&self) -> f64 {
        let speed = self.tokens_per_s.smoothed().last().map_or(0.0, |p| p.1);
        let tokens = self.last.as_ref().map_or(0, |s| s.tokens);
        if speed > 0.0 { tokens as f64 / speed } else { 0.0 }
    }

    fn facts(&self) -> String {
        let mut out = String::new();
        let mut fact = |name: &str, value: String, note: String| {
            let note = if note.is_empty() { note } else { format!("<small>{note}</small>") };
            let _ = write!(out, "<div><dt>{name}</dt><dd>{value}{note}</dd></div>");
        };
        if let Some((_, loss)) = self.loss.smoothed().last() {
            fact("Training loss", format!("{loss:.4}"), "smoothed, nats per token".into());
        }
        if let Some((step, loss, perplexity)) = self.valid {
            let note = format!("perplexity {} at step {}", short(perplexity), grouped(step));
            fact("Validation loss", format!("{loss:.4}"), note);
        }
        if let Some(s) = &self.last {
            let speed = self.tokens_per_s.smoothed().last().map_or(0.0, |p| p.1);
            let flops = speed * self.about.flops_per_token;
            let share = self.about.peak_flops.map(|p| format!(" · {:.0} %", 100.0 * flops / p));
            let note = format!("{}{}", quantity(flops, "FLOP/s"), share.unwrap_or_default());
            fact(
                "Tokens per second",
                decimal(speed),
                if flops > 0.0 { note } else { String::new() },
            );
            fact("Tokens seen", decimal(s.seen_tokens as f64), String::new());
            fact("Learning rate", format!("{:.2e}", s.lr), String::new());
        }
        if self.skipped > 0 {
            fact("Skipped steps", grouped(self.skipped), "not finite".into());
        }
        out
    }

    fn charts(&self) -> String {
        let mut loss = Chart::of("Loss", "nats per token", &self.loss);
        for curve in &mut loss.curves {
            curve.name = if curve.class == "main" { "training" } else { "" };
        }
        let points = self.valid_loss.means();
        if !points.is_empty() {
            loss.curves.push(Curve { name: "validation", class: "second", dots: true, points });
        }
        let lr = Curve { name: "", class: "main", dots: false, points: self.lr.means() };
        let lr = Chart { title: "Learning rate", unit: "", curves: vec![lr], band: Vec::new() };
        let mut out = loss.html() + &lr.html();
        out += &Chart::of("Gradient norm", "before clipping", &self.grad_norm).html();
        out += &Chart::of("Throughput", "tokens per second", &self.tokens_per_s).html();
        for (name, series) in &self.metrics {
            out += &Chart::of(&escape(name), "", series).html();
        }
        out
    }

    fn samples(&self) -> String {
        if self.samples.is_empty() {
            return String::new();
        }
        let one = |(step, prompt, text): &(u64, String, String)| {
            let (step, prompt, text) = (grouped(*step), escape(prompt), escape(text));
            format!("<p class=\"sample\"><small>step {step}</small><b>{prompt}</b>{text}</p>\n")
        };
        let all: Vec<String> = self.samples.iter().rev().map(one).collect();
        let (new, old) = all.split_at(all.len().min(UNFOLDED));
        let old = if old.is_empty() { String::new() } else { fold(&old.concat()) };
        format!("<section class=\"card\"><h2>Samples</h2>\n{}{old}</section>\n", new.concat())
    }

    fn events(&self) -> String {
        if self.events.is_empty() {
            return String::new();
        }
        let row = |(step, text): &(u64, String)| {
            format!("<tr><td>{}</td><td>{}</td></tr>\n", grouped(*step), escape(text))
        };
        let all: Vec<String> = self.events.iter().rev().map(row).collect();
        let (new, old) = all.split_at(all.len().min(4 * UNFOLDED));
        let table = |rows: &[String]| format!("<table>{}</table>", rows.concat());
        let old = if old.is_empty() { String::new() } else { fold(&table(old)) };
        format!("<section class=\"card\"><h2>Events</h2>{}{old}</section>\n", table(new))
    }
}

fn keep<T>(list: &mut VecDeque<T>, most: usize, new: T) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(new);
}

fn fold(inside: &str) -> String {
    format!("<details><summary>Earlier</summary>{inside}</details>")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// Four significant digits.
fn short(x: f64) -> String {
    match x {
        x if x >= 1000.0 => decimal(x),
        x if x >= 100.0 => format!("{x:.1}"),
        x if x >= 10.0 => format!("{x:.2}"),
        x => format!("{x:.3}"),
    }
}

/// Digits in threes.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
