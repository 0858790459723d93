//! All sources, tokenized and cut into rows. A row is made when it is asked for, from tokens that lie
//! in mapped files, so that a data set may be larger than memory.

use super::build::{Build, Progress};
use super::config::{DataConfig, Kind, OnError, Pack, SourceConfig};
use super::encode::Encoder;
use super::files::files_of;
use super::pack::{Piece, Rows};
use super::report::{DataReport, SourceReport};
use super::tokens::{NO_LOSS, Tokens};
use super::{Batch, IGNORE};
use puyu_models::chat_template::ChatTemplate;
use puyu_models::tokenizer::Tokenizer;
use puyu_tensor::{Context, Error, Result};

/// Rows of tokens.
#[derive(Debug)]
pub struct Dataset {
    sources: Vec<Source>,
    kind: Kind,
}

/// The tokens of a source and how they are cut.
#[derive(Debug)]
struct Source {
    files: Vec<Tokens>,
    samples: Vec<Span>,
    rows: Rows,
    weight: f64,
    /// The number of its first row in the data set.
    first: usize,
}

/// The words of a sample in a file.
#[derive(Clone, Copy, Debug)]
struct Span {
    file: u32,
    start: u64,
    words: u64,
}

impl Span {
    fn inputs(self) -> u64 {
        self.words - 1
    }
}

impl Dataset {
    /// Tokenizes the sources of `config`, or takes their tokens from the cache, and cuts them into
    /// rows. `progress` is told a file, how many of its bytes are done and how many it has; it says
    /// whether to go on.
    ///
    /// # Errors
    /// If the settings contradict each other or the data, a file cannot be read, a line is broken and
    /// not to be skipped, or a source has nothing to learn.
    pub fn open(
        config: &DataConfig,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        progress: Progress,
    ) -> Result<(Self, DataReport)> {
        config.check()?;
        let (mut sources, mut report) = (Vec::new(), DataReport::default());
        let mut first: Option<Kind> = None;
        let mut rows = 0;
        for (i, source) in config.source.iter().enumerate() {
            let place = format!("source {} ({})", i + 1, source.path.display());
            let encoder = Encoder::new(source, tokenizer, template).context(&place)?;
            let build = Build {
                source,
                encoder: &encoder,
                on_error: config.on_error,
                cache: config.cache.as_deref(),
            };
            let (files, kind, told) = read(&build, progress)?;
            let pairs = kind == Kind::Preference;
            if first.is_some_and(|first| pairs != (first == Kind::Preference)) {
                return Err(Error::invalid(format!(
                    "{place}: preference pairs and other samples cannot be trained on together; take \
                     one or the other"
                )));
            }
            first = first.or(Some(kind));
            let (mut source, told) = cut(config, source, files, kind, told).context(&place)?;
            source.first = rows;
            rows += source.rows.len();
            sources.push(source);
            report.sources.push(told);
        }
        let kind = first.unwrap_or(Kind::Text);
        Ok((Self { sources, kind }, report))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.sources.iter().map(|s| s.rows.len()).sum()
    }

    /// Whether there are none; an opened data set has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the first source is for; pairs are never mixed with other samples.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Inputs of all rows.
    pub fn tokens(&self) -> u64 {
        self.sources.iter().flat_map(|s| &s.samples).map(|span| span.inputs()).sum()
    }

    /// Rows and weight of each source.
    pub(super) fn shares(&self) -> impl Iterator<Item = (u64, f64)> {
        self.sources.iter().map(|s| (s.rows.len() as u64, s.weight))
    }

    /// The number of the first row of a source.
    pub(super) fn first_row(&self, source: usize) -> usize {
        self.sources[source].first
    }

    /// Row `i`: its sequences, one after another; of a preference pair the chosen one, then the other.
    ///
    /// # Errors
    /// None while all tokens lie in files of this machine.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> Result<Batch> {
        assert!(i < self.len(), "row {i} of {}", self.len());
        let source = &self.sources[self.sources.partition_point(|s| s.first <= i) - 1];
        let length = |sample: usize| source.samples[sample].inputs();
        let mut batch = Batch::default();
        for piece in source.rows.row(i - source.first, length) {
            source.push(&mut batch, piece);
        }
        Ok(batch)
    }

    /// Number of samples, however they share rows; each answer of a pair is one.
    pub fn samples(&self) -> usize {
        self.sources.iter().map(|s| s.samples.len()).sum()
    }

    /// Sample `i` alone, as long as rows let it be.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn sample(&self, i: usize) -> Batch {
        let mut sample = i;
        for source in &self.sources {
            if let Some(span) = source.samples.get(sample) {
                let mut batch = Batch::default();
                source.push(&mut batch, Piece { sample, inputs: 0..span.inputs() });
                return batch;
            }
            sample -= source.samples.len();
        }
        panic!("sample {i} of {}", self.samples());
    }
}

impl Source {
    /// Appends a piece of a sample to `batch`.
    fn push(&self, batch: &mut Batch, piece: Piece) {
        let span = self.samples[piece.sample];
        // One word more than inputs: the last input's target.
        let words = span.start + piece.inputs.start..span.start + piece.inputs.end + 1;
        let words: Vec<u32> = self.files[span.file as usize].words(words).collect();
        let ids: Vec<u32> = words[..words.len() - 1].iter().map(|w| w & !NO_LOSS).collect();
        let target = |w: &u32| if w & NO_LOSS == 0 { *w } else { IGNORE };
        let targets: Vec<u32> = words[1..].iter().map(target).collect();
        batch.push(&ids, &targets);
    }
}

/// The tokens of a source's files, and what is known of them.
fn read(build: &Build, progress: Progress) -> Result<(Vec<Tokens>, Kind, SourceReport)> {
    let path = &build.source.path;
    let mut told = SourceReport { path: path.display().to_string(), ..SourceReport::default() };
    let (mut files, mut kinds) = (Vec::new(), Vec::new());
    for file in files_of(path)? {
        let (tokens, format) = build.tokens(&file, progress)?;
        let mut found = tokens.found.clone();
        for complaint in &mut found.complaints {
            *complaint = format!("{}: {complaint}", file.display());
        }
        told.found.add(&found);
        told.files += 1;
        if !told.formats.contains(&format.name()) {
            told.formats.push(format.name());
        }
        if !kinds.contains(&format.kind()) {
            kinds.push(format.kind());
        }
        files.push(tokens);
    }
    match kinds[..] {
        [kind] => Ok((files, kind, told)),
        _ => Err(Error::invalid(format!(
            "{}: files of a source hold different things ({}); make each kind a source",
            path.display(),
            told.formats.join(", ")
        ))),
    }
}

/// Cuts a source's samples to length and into rows.
fn cut(
    config: &DataConfig,
    settings: &SourceConfig,
    files: Vec<Tokens>,
    kind: Kind,
    mut told: SourceReport,
) -> Result<(Source, SourceReport)> {
    let pack = match (config.pack, kind) {
        (None | Some(Pack::None), Kind::Preference) => Pack::None,
        (Some(_), Kind::Preference) => {
            return Err(Error::invalid(
                "a preference pair is always a row of its own; leave `pack` out",
            ));
        }
        (Some(pack), _) => pack,
        (None, Kind::Text) => Pack::Documents,
        (None, Kind::Chat) => Pack::Samples,
    };
    // A row of n inputs has one word more, its last target.
    let fits = if pack == Pack::Documents { u64::MAX } else { config.seq_len as u64 + 1 };
    let most = config.max_len.map_or(fits, |n| fits.min(n as u64));
    let group = if kind == Kind::Preference { 2 } else { 1 };
    let samples = spans(&files, most, group, &mut told);
    if samples.is_empty() {
        let what = match (told.found.complaints.first(), config.on_error) {
            (Some(complaint), OnError::Skip) => {
                let broken = told.found.broken;
                format!("nothing is left to learn; {broken} broken lines, the first is {complaint}")
            }
            _ => "there is nothing to learn in it".into(),
        };
        return Err(Error::format(what));
    }
    let lengths = samples.iter().map(|s| s.inputs());
    let rows = match pack {
        Pack::Documents => Rows::cut(lengths, config.seq_len),
        Pack::Samples => Rows::best_fit(&lengths.collect::<Vec<_>>(), config.seq_len),
        Pack::None => Rows::groups(samples.len(), group as usize),
    };
    told.rows = rows.len() as u64;
    told.used = samples.iter().map(|s| s.inputs()).sum();
    told.room = if pack == Pack::None { 0 } else { told.rows * config.seq_len as u64 };
    let weight = settings.weight.unwrap_or(rows.len() as f64);
    Ok((Source { files, samples, rows, weight, first: 0 }, told))
}

/// The samples of `files`, at most `most` words each, without those that have nothing to learn; in
/// groups that stay or go together.
fn spans(files: &[Tokens], most: u64, group: u64, told: &mut SourceReport) -> Vec<Span> {
    let mut spans = Vec::new();
    for (file, tokens) in files.iter().enumerate() {
        for first in (0..tokens.documents()).step_by(group as usize) {
            let before = spans.len();
            let mut learns = true;
            for document in first..first + group {
                let range = tokens.document(document);
                let words = (range.end - range.start).min(most);
                let lost = range.end - range.start - words;
                told.truncated += u64::from(lost > 0);
                told.lost += lost;
                let kept = range.start..range.start + words;
                learns &= words >= 2 && tokens.words(kept).skip(1).any(|w| w & NO_LOSS == 0);
                spans.push(Span { file: file as u32, start: range.start, words });
            }
            if !learns {
                told.emptied += 1;
                spans.truncate(before);
            }
        }
    }
    spans
}
