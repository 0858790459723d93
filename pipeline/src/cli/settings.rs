//! Sampling flags, and where each value comes from: flag or `PUYU_*`, then the user's config file, then
//! the model's generation_config.json, then the default.

use crate::engine::{GenerationConfig, Sampling};
use clap::Args;
use puyu_tensor::{Context, Error, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// How tokens are chosen.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SamplingArgs {
    /// 0 takes the most likely token [default: 0.8]
    #[arg(long, alias = "temperature", env = "PUYU_TEMP")]
    pub temp: Option<f32>,
    /// Keep this many most likely tokens, 0 keeps all [default: 40]
    #[arg(long, env = "PUYU_TOP_K")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this probability [default: 0.95]
    #[arg(long, env = "PUYU_TOP_P")]
    pub top_p: Option<f32>,
    /// Keep tokens at least this fraction as likely as the first [default: 0.05]
    #[arg(long, env = "PUYU_MIN_P")]
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that occurred, 1 is off [default: 1]
    #[arg(long, alias = "repetition-penalty", env = "PUYU_REPEAT_PENALTY")]
    pub repeat_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that occurred [default: 0]
    #[arg(long, allow_negative_numbers = true, env = "PUYU_PRESENCE_PENALTY")]
    pub presence_penalty: Option<f32>,
    /// Subtracted for each time a token occurred [default: 0]
    #[arg(long, allow_negative_numbers = true, env = "PUYU_FREQUENCY_PENALTY")]
    pub frequency_penalty: Option<f32>,
    /// Last tokens the penalties see [default: 64]
    #[arg(long, env = "PUYU_REPEAT_LAST_N")]
    pub repeat_last_n: Option<usize>,
    /// ID+BIAS or ID-BIAS: changes a token's logit; may be repeated
    #[arg(long, value_parser = logit_bias)]
    #[serde(skip)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random choices [default: a new one each time]
    #[arg(short, long, env = "PUYU_SEED")]
    pub seed: Option<u64>,
    /// Say where each setting comes from
    #[arg(short, long)]
    #[serde(skip)]
    pub verbose: bool,
}

fn logit_bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let at = text.find(['+', '-']).ok_or("expected ID+BIAS or ID-BIAS, such as 15043+1.5")?;
    let id = text[..at].parse().map_err(|_| format!("{} is no token id", &text[..at]))?;
    let bias = text[at..].parse().ok().filter(|b: &f32| !b.is_nan());
    Ok((id, bias.ok_or_else(|| format!("{} is no number", &text[at..]))?))
}

/// The user's config file: `$XDG_CONFIG_HOME/puyu/config.toml`.
fn user_file() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config")))?;
    Some(folder.join("puyu/config.toml")).filter(|p| p.exists())
}

fn user_settings() -> Result<SamplingArgs> {
    let Some(path) = user_file() else { return Ok(SamplingArgs::default()) };
    let text = std::fs::read_to_string(&path).context(path.display())?;
    toml::from_str(&text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

impl SamplingArgs {
    /// The settings in force for a model that recommends `model`.
    ///
    /// # Errors
    /// If the user's config file is broken, or a value is out of range; the message names the flag.
    pub fn resolve(&self, model: &GenerationConfig) -> Result<Sampling> {
        let user = user_settings()?;
        let d = Sampling::default();
        let verbose = self.verbose;
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = clock.map_or(0, |t| t.as_nanos() as u64);
        let s = Sampling {
            temperature: pick(
                verbose,
                "temp",
                self.temp,
                user.temp,
                model.temperature,
                d.temperature,
            ),
            top_k: pick(verbose, "top-k", self.top_k, user.top_k, model.top_k, d.top_k),
            top_p: pick(verbose, "top-p", self.top_p, user.top_p, model.top_p, d.top_p),
            min_p: pick(verbose, "min-p", self.min_p, user.min_p, None, d.min_p),
            repetition_penalty: pick(
                verbose,
                "repeat-penalty",
                self.repeat_penalty,
                user.repeat_penalty,
                model.repetition_penalty,
                d.repetition_penalty,
            ),
            presence_penalty: pick(
                verbose,
                "presence-penalty",
                self.presence_penalty,
                user.presence_penalty,
                None,
                d.presence_penalty,
            ),
            frequency_penalty: pick(
                verbose,
                "frequency-penalty",
                self.frequency_penalty,
                user.frequency_penalty,
                None,
                d.frequency_penalty,
            ),
            repeat_last_n: pick(
                verbose,
                "repeat-last-n",
                self.repeat_last_n,
                user.repeat_last_n,
                None,
                d.repeat_last_n,
            ),
            logit_bias: self.logit_bias.clone(),
            seed: pick(verbose, "seed", self.seed, user.seed, None, seed),
        };
        check("temp", s.temperature, 0.0..=100.0)?;
        check("top-p", s.top_p, f32::MIN_POSITIVE..=1.0)?;
        check("min-p", s.min_p, 0.0..=1.0)?;
        check("repeat-penalty", s.repetition_penalty, f32::MIN_POSITIVE..=100.0)?;
        check("presence-penalty", s.presence_penalty, -100.0..=100.0)?;
        check("frequency-penalty", s.frequency_penalty, -100.0..=100.0)?;
        Ok(s)
    }
}

fn pick<T: std::fmt::Display>(
    verbose: bool,
    name: &str,
    flag: Option<T>,
    user: Option<T>,
    model: Option<T>,
    default: T,
) -> T {
    let (value, from) = match (flag, user, model) {
        (Some(v), ..) => (v, "flag or environment"),
        (_, Some(v), _) => (v, "your config file"),
        (_, _, Some(v)) => (v, "generation_config.json"),
        _ => (default, "default"),
    };
    if verbose {
        eprintln!("{name} = {value} ({from})");
    }
    value
}

fn check(name: &str, value: f32, range: std::ops::RangeInclusive<f32>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = (range.start(), range.end());
    let low = if *low == f32::MIN_POSITIVE { "above 0".into() } else { format!("{low}") };
    Err(Error::invalid(format!("--{name} is {value}, expected {low} to {high}")))
}
