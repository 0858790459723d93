//! `puyu tokenize`: a text as token ids.

use super::args::ModelArgs;
use super::output;
use clap::Args;
use puyu_models::format::{self, OpenOptions};
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use puyu_tensor::{Context, Result};
use std::io::Read;

/// Print the token ids of a text
#[derive(Args, Clone, Debug)]
pub struct TokenizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; none reads standard input
    #[arg(short, long)]
    prompt: Option<String>,
    /// Leave out the beginning-of-sequence token
    #[arg(long)]
    no_bos: bool,
    /// Spell control tokens in the text out instead of recognising them
    #[arg(long)]
    no_parse_special: bool,
    /// Print only the number of tokens
    #[arg(long)]
    show_count: bool,
    /// Print only ids, as a JSON list
    #[arg(long)]
    ids: bool,
    /// Print a JSON list of id, piece and text
    #[arg(long)]
    json: bool,
}

impl TokenizeArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the tokenizer cannot be loaded.
    pub fn run(&self) -> Result<()> {
        let text = match &self.prompt {
            Some(text) => text.clone(),
            None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input")?;
                text
            }
        };
        let tokenizer = open(&self.model)?;
        let options = EncodeOptions {
            add_bos: tokenizer.add_bos() && !self.no_bos,
            parse_special: !self.no_parse_special,
        };
        let ids = tokenizer.encode(&text, options);
        let piece = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        if self.show_count {
            return output::print(&format!("{}\n", ids.len()));
        }
        if self.ids {
            return output::print(&format!("{ids:?}\n"));
        }
        if self.json {
            let list: Vec<_> = ids
                .iter()
                .map(|&id| {
                    let name = String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
                    serde_json::json!({ "id": id, "piece": name, "text": piece(id) })
                })
                .collect();
            return output::print(&format!("{}\n", serde_json::Value::from(list)));
        }
        let lines: String = ids.iter().map(|&id| format!("{id:>6} -> {:?}\n", piece(id))).collect();
        output::print(&lines)
    }
}

/// The tokenizer alone: a folder needs no weights.
fn open(model: &ModelArgs) -> Result<Tokenizer> {
    let path = model.path()?;
    if path.is_dir() {
        return Tokenizer::load(&path);
    }
    format::open(&path, OpenOptions { mmap: !model.no_mmap })?.tokenizer()
}
