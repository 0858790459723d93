//! What the commands about data sets share: a config or a file, the tokenizer to read it with, and a
//! progress bar that Ctrl-C stops.

use super::{interrupt, output};
use crate::data::{DataConfig, DataReport, Dataset, Format, OnError, Progress, SourceConfig};
use crate::train::Vocabulary;
use crate::train::config::{ConfigText, ModelConfig, Shipped, TokenizerConfig};
use clap::Args;
use puyu_models::chat_template::ChatTemplate;
use puyu_models::tokenizer::Tokenizer;
use puyu_tensor::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// Which tokenizer.
#[derive(Args, Clone, Debug)]
pub struct TokenizerArgs {
    /// The model whose tokenizer and chat template are used: a folder, a .gguf or tokenizer.model
    /// file, a pulled org/repo[:QUANT], or `bytes`
    #[arg(short, long, env = "PUYU_MODEL", visible_alias = "tokenizer")]
    model: Option<String>,
}

/// Which data, and how it is read.
#[derive(Args, Clone, Debug)]
pub struct DatasetArgs {
    /// A training config (.toml, or a name of `puyu list-cfg`) with a [data] section, or a file, folder or pattern
    /// of samples
    #[arg(value_name = "CONFIG|FILE")]
    what: PathBuf,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// What the files hold [default: seen from their content]
    #[arg(long, value_parser = format_named)]
    format: Option<Format>,
    /// Most tokens of a row [default: the config's, or 2048]
    #[arg(long, visible_alias = "max-length")]
    seq_len: Option<usize>,
}

fn format_named(name: &str) -> std::result::Result<Format, String> {
    let found = Format::ALL.iter().find(|(_, known, _)| *known == name);
    let names: Vec<_> = Format::ALL.iter().map(|(_, known, _)| *known).collect();
    found.map(|(format, ..)| *format).ok_or_else(|| format!("one of {}", names.join(", ")))
}

/// Data that was opened.
pub struct Opened {
    /// The rows.
    pub dataset: Dataset,
    /// What was found.
    pub report: DataReport,
    /// The tokenizer that made them.
    pub tokenizer: Tokenizer,
}

impl TokenizerArgs {
    /// The tokenizer and the chat template that training uses with it.
    ///
    /// # Errors
    /// If none was named, or it cannot be read.
    pub fn open(&self) -> Result<(Tokenizer, ChatTemplate)> {
        let name = self.model.as_ref().ok_or_else(|| {
            Error::invalid(
                "no tokenizer was named; give -m/--model, or [tokenizer] path in the config",
            )
        })?;
        open_tokenizer(name)
    }
}

fn open_tokenizer(name: &str) -> Result<(Tokenizer, ChatTemplate)> {
    let named = TokenizerConfig { path: Some(name.into()) };
    let vocabulary = Vocabulary::open(&named, &ModelConfig::default())?;
    let template = vocabulary.template()?;
    Ok((vocabulary.tokenizer, template))
}

impl DatasetArgs {
    /// Opens the data with these settings changed by `change`.
    ///
    /// # Errors
    /// If the config, the data or the tokenizer cannot be read.
    pub fn open(&self, change: impl Fn(&mut DataConfig)) -> Result<Opened> {
        let (mut config, tokenizer) = self.config()?;
        if let Some(seq_len) = self.seq_len {
            config.seq_len = seq_len;
        }
        change(&mut config);
        let (tokenizer, template) = match (&self.tokenizer.model, tokenizer) {
            (None, Some(named)) => open_tokenizer(&named)?,
            _ => self.tokenizer.open()?,
        };
        let (dataset, report) =
            with_bar(|progress| Dataset::open(&config, &tokenizer, Some(&template), progress))?;
        Ok(Opened { dataset, report, tokenizer })
    }

    /// The data section, and the tokenizer that the config names.
    fn config(&self) -> Result<(DataConfig, Option<String>)> {
        let ending = self.what.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let place = self.what.display();
        match ending {
            "py" => Err(Error::unsupported(format!(
                "{place} is a Python config, as XTuner and InternEvo have them; puyu's are TOML: \
                 `puyu list-cfg` names those there are and `puyu copy-cfg` copies one to change"
            ))),
            "toml" => read_config(&self.what),
            _ if !self.what.exists() && self.what.to_str().and_then(Shipped::find).is_some() => {
                read_config(&self.what)
            }
            _ => {
                let source = SourceConfig {
                    path: self.what.clone(),
                    format: self.format,
                    ..SourceConfig::default()
                };
                Ok((DataConfig { source: vec![source], ..DataConfig::default() }, None))
            }
        }
    }
}

/// `[data]` of a training config, and where its tokenizer is.
fn read_config(path: &Path) -> Result<(DataConfig, Option<String>)> {
    let (table, _) = ConfigText::open(path)?.parse::<toml::Table>(&[])?;
    let data = table.get("data").ok_or_else(|| Error::invalid("there is no [data] section"));
    let wrong = |e: toml::de::Error| Error::invalid(e.to_string());
    let data = data.and_then(|data| data.clone().try_into().map_err(wrong));
    let data: DataConfig = data.context(path.display())?;
    let named = |section: &str, key: &str| table.get(section)?.get(key)?.as_str().map(String::from);
    Ok((data, named("tokenizer", "path").or_else(|| named("model", "from"))))
}

/// Runs `f` with a progress bar that counts bytes; Ctrl-C stops it.
///
/// # Errors
/// Those of `f`.
pub fn with_bar<T>(f: impl FnOnce(Progress) -> Result<T>) -> Result<T> {
    let bar = output::bar("tokenizing", 0, "bytes");
    interrupt::start();
    let result = f(&mut |_, done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !interrupt::asked()
    });
    interrupt::finish();
    bar.finish_and_clear();
    result
}

/// Lines that are broken are counted, not refused, by commands that are there to find them.
pub fn count_broken(config: &mut DataConfig) {
    config.on_error = OnError::Skip;
}
