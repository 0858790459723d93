//! The `[data]` section of a training config: which files, what they hold, and how samples become rows.

use puyu_tensor::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where training data comes from and how it is cut into rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// `[[data.source]]`: the sources, mixed by their weights.
    #[serde(default)]
    pub source: Vec<SourceConfig>,
    /// `[data.valid]`: sources that are only measured on, cut like the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<ValidConfig>,
    /// Most tokens of a row.
    #[serde(default = "default_seq_len")]
    pub seq_len: usize,
    /// How samples share rows; absent: `documents` for texts, `samples` for conversations. A
    /// preference pair is always a row of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<Pack>,
    /// What happens at a broken line.
    #[serde(default)]
    pub on_error: OnError,
    /// Folder that keeps what was tokenized, by content; absent: it is done again in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Samples are cut to this many tokens; absent: only where a row asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_len: Option<usize>,
}

fn default_seq_len() -> usize {
    2048
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            valid: None,
            seq_len: default_seq_len(),
            pack: None,
            on_error: OnError::Refuse,
            cache: None,
            max_len: None,
        }
    }
}

/// Data to measure on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidConfig {
    /// `[[data.valid.source]]`: the sources.
    pub source: Vec<SourceConfig>,
}

/// One source of samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A file, a folder (its files, not its subfolders), or a name with `*` and `?` in its last part.
    pub path: PathBuf,
    /// What the files hold; absent: seen from their content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Share of the rows that are drawn from here, relative to the other sources; absent: as many as
    /// it has, so that each source is seen once an epoch. Given for all sources or for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Where a plain text file is cut into documents.
    #[serde(default)]
    pub split: Split,
    /// Begin each text with the beginning-of-sequence token; absent: if the tokenizer does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<bool>,
    /// End each text with the end-of-sequence token; absent: if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos: Option<bool>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Plain text.
    Text,
    /// A JSON object a line (or a JSON list of objects) with a `text`.
    Jsonl,
    /// WanJuan 1.0's texts: objects with `id` and `content`.
    WanjuanText,
    /// WanJuan 1.0's exam questions: objects with `q_main`, `option_a`.., `std_ans`, `answer_detail`.
    WanjuanExam,
    /// InternEvo's tokenized `.bin`: an object with `tokens` a line; negative ids are not learnt.
    Internevo,
    /// Alpaca: objects with `instruction`, `input`, `output`.
    Alpaca,
    /// OpenAI's: objects with `messages`, each a `role` and a `content`.
    Openai,
    /// ShareGPT: objects with `conversations`, each a `from` and a `value`.
    Sharegpt,
    /// XTuner: objects with `conversation`, each turn an `input` and an `output`.
    Xtuner,
    /// Preference pairs in OpenAI's layout: `prompt`, `chosen`, `rejected`.
    PreferenceOpenai,
    /// Preference pairs in ShareGPT's layout: `conversations`, `chosen`, `rejected`.
    PreferenceSharegpt,
}

/// What samples are used for, by format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Texts: every token is learnt.
    Text,
    /// Conversations: what the assistant says is learnt.
    Chat,
    /// Two answers to a prompt, of which the first is preferred.
    Preference,
}

impl Format {
    /// Every format, with its name in a config and what a sample of it looks like.
    pub const ALL: [(Self, &'static str, &'static str); 11] = [
        (Self::Text, "text", "plain text, cut into documents as `split` says"),
        (Self::Jsonl, "jsonl", r#"{"text": "..."}"#),
        (Self::WanjuanText, "wanjuan_text", r#"{"id": "...", "content": "..."}"#),
        (
            Self::WanjuanExam,
            "wanjuan_exam",
            r#"{"q_main": "...", "option_a": "...", "std_ans": "A", "answer_detail": "..."}"#,
        ),
        (
            Self::Internevo,
            "internevo",
            r#"{"tokens": [1, -333, 2]} in a .bin, offsets in its .meta"#,
        ),
        (Self::Alpaca, "alpaca", r#"{"instruction": "...", "input": "...", "output": "..."}"#),
        (Self::Openai, "openai", r#"{"messages": [{"role": "user", "content": "..."}, ...]}"#),
        (
            Self::Sharegpt,
            "sharegpt",
            r#"{"conversations": [{"from": "human", "value": "..."}, ...]}"#,
        ),
        (
            Self::Xtuner,
            "xtuner",
            r#"{"conversation": [{"system": "...", "input": "...", "output": "..."}, ...]}"#,
        ),
        (
            Self::PreferenceOpenai,
            "preference_openai",
            r#"{"prompt": [messages], "chosen": [message], "rejected": [message]}"#,
        ),
        (
            Self::PreferenceSharegpt,
            "preference_sharegpt",
            r#"{"conversations": [...], "chosen": {"from": "gpt", "value": "..."}, "rejected": {...}}"#,
        ),
    ];

    /// Its name in a config.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(format, ..)| *format == self).map_or("", |(_, name, _)| name)
    }

    /// What its samples are used for.
    pub fn kind(self) -> Kind {
        match self {
            Self::Text | Self::Jsonl | Self::WanjuanText | Self::WanjuanExam | Self::Internevo => {
                Kind::Text
            }
            Self::Alpaca | Self::Openai | Self::Sharegpt | Self::Xtuner => Kind::Chat,
            Self::PreferenceOpenai | Self::PreferenceSharegpt => Kind::Preference,
        }
    }
}

/// Where a plain text file is cut into documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The whole file is one document.
    #[default]
    File,
    /// At empty lines.
    Blank,
    /// Each line that is not empty, without white space around it.
    Line,
}

/// How samples share rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pack {
    /// Rows are full: documents follow each other and are cut where a row ends.
    Documents,
    /// Whole samples share a row as they fit best.
    Samples,
    /// A row is one sample.
    None,
}

/// What happens at a broken line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The first one is an error.
    #[default]
    Refuse,
    /// They are counted, reported and left out.
    Skip,
}

impl DataConfig {
    /// The same settings with the sources of `[data.valid]`, if there are any.
    pub fn validation(&self) -> Option<Self> {
        let valid = self.valid.as_ref()?;
        Some(Self { source: valid.source.clone(), valid: None, ..self.clone() })
    }

    /// Checks what can be known without a file.
    ///
    /// # Errors
    /// No source, a length of 0, a weight that is none, or weights for some sources only.
    pub fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::invalid(format!("[data]: {text}")));
        if self.source.is_empty() {
            return invalid("no source; add [[data.source]] with a path".into());
        }
        if self.seq_len == 0 {
            return invalid("seq_len is 0; a row needs at least 1 token".into());
        }
        if self.max_len.is_some_and(|n| n < 2) {
            return invalid("max_len is below 2; nothing could be learnt from a sample".into());
        }
        for (i, source) in self.source.iter().enumerate() {
            if let Some(w) = source.weight.filter(|w| !(w.is_finite() && *w > 0.0)) {
                return invalid(format!("source {} has weight {w}, expected more than 0", i + 1));
            }
        }
        let weighted = self.source.iter().filter(|s| s.weight.is_some()).count();
        if weighted != 0 && weighted != self.source.len() {
            return invalid(format!(
                "{weighted} of {} sources have a weight; give it for all or for none",
                self.source.len()
            ));
        }
        self.validation().map_or(Ok(()), |valid| valid.check())
    }
}
