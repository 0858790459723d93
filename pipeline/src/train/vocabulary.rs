//! The tokenizer of a run, and its files: a checkpoint carries them, so that it can be chatted with and
//! trained on where it lies.

use super::config::{ModelConfig, TokenizerConfig};
use crate::hub;
use puyu_models::chat_template::{CHATML, ChatTemplate};
use puyu_models::format::atomic::AtomicFile;
use puyu_models::format::{self, OpenOptions, tokenizer_files};
use puyu_models::tokenizer::{GgufVocab, Tokenizer};
use puyu_tensor::{Context, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The files that make a tokenizer, as they lie in Hugging Face folders.
const FILES: [&str; 9] = [
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// A tokenizer and how its files are written again.
pub struct Vocabulary {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    origin: Origin,
}

enum Origin {
    /// The 256 bytes.
    Bytes,
    /// Files by name, read when the run began: what lies on the disk may change under a long run.
    Files(Vec<(&'static str, Vec<u8>)>),
    /// GGUF metadata, and the model's type.
    Gguf(Box<GgufVocab>, String),
}

impl Vocabulary {
    /// The tokenizer that a config names, or that of the model it goes on with.
    ///
    /// # Errors
    /// If there is none, or its files are broken.
    pub fn open(tokenizer: &TokenizerConfig, model: &ModelConfig) -> Result<Self> {
        match tokenizer.path.as_ref().or(model.from.as_ref()) {
            Some(path) if path == "bytes" => Self::bytes(),
            Some(name) => Self::from_path(&hub::resolve(name).context("[tokenizer]")?),
            None => Err(Error::invalid(
                "tokenizer.path is missing: name a tokenizer.model (`puyu tokenizer train` makes one), \
                 a folder that holds one, or `bytes`",
            )),
        }
    }

    fn from_path(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if path.is_file() && (ending == "model" || ending == "json") {
            let bytes = std::fs::read(path).context(path.display())?;
            let (name, tokenizer) = match ending {
                "model" => ("tokenizer.model", Tokenizer::from_sentencepiece(&bytes)),
                _ => ("tokenizer.json", Tokenizer::from_json(&bytes)),
            };
            let tokenizer = tokenizer.context(path.display())?;
            return Ok(Self { tokenizer, origin: Origin::Files(vec![(name, bytes)]) });
        }
        if path.is_dir() {
            match Self::from_folder(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => (),
                done => return done,
            }
        }
        let checkpoint = format::open(path, OpenOptions::default())?;
        let Some(metadata) = checkpoint.metadata() else {
            return Self::from_folder(checkpoint.folder().unwrap_or(path));
        };
        let tokenizer = Tokenizer::from_metadata(metadata).context(path.display())?;
        let vocab = GgufVocab::read(metadata).context(path.display())?;
        let config = checkpoint.config()?;
        let model_type = config["model_type"].as_str().unwrap_or_default().to_owned();
        Ok(Self { tokenizer, origin: Origin::Gguf(Box::new(vocab), model_type) })
    }

    fn from_folder(folder: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::load(folder)?;
        let there = FILES.into_iter().filter(|name| folder.join(name).is_file());
        let read = |name| Ok((name, std::fs::read(folder.join(name)).context(name)?));
        let files = there.map(read).collect::<Result<_>>().context(folder.display())?;
        Ok(Self { tokenizer, origin: Origin::Files(files) })
    }

    /// The tokenizer whose tokens are the 256 bytes, each with its value as id.
    ///
    /// # Errors
    /// None: its files are made here.
    pub fn bytes() -> Result<Self> {
        let tokenizer = Tokenizer::from_json(bytes_json().to_string().as_bytes())?;
        Ok(Self { tokenizer, origin: Origin::Bytes })
    }

    /// The chat template: the tokenizer's, InternLM-1's if it has that model's end of turn, else the
    /// one that InternLM2 models are trained with.
    ///
    /// # Errors
    /// If the template is broken.
    pub fn template(&self) -> Result<ChatTemplate> {
        match ChatTemplate::of(&self.tokenizer) {
            Err(e) if e.kind() == ErrorKind::NotFound => ChatTemplate::new(CHATML),
            found => found,
        }
    }

    /// Writes the tokenizer's files into `folder`.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match &self.origin {
            Origin::Bytes => write(folder, "tokenizer.json", bytes_json().to_string().as_bytes()),
            Origin::Files(files) => {
                files.iter().try_for_each(|(name, bytes)| write(folder, name, bytes))
            }
            Origin::Gguf(vocab, model_type) => tokenizer_files::save(folder, vocab, model_type),
        }
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(&folder.join(name))?;
    file.write(bytes)?;
    file.finish()
}

/// `tokenizer.json` of the 256 bytes, which it writes as printable characters (Radford et al. 2019,
/// GPT-2's `bytes_to_unicode`): itself where that is one, else one from U+0100 on.
fn bytes_json() -> Value {
    let mut vocab = Map::new();
    let mut moved = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { u32::from(byte) } else { moved };
        moved += u32::from(!printable);
        let name = char::from_u32(code).map(String::from).unwrap_or_default();
        vocab.insert(name, json!(byte));
    }
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use puyu_models::tokenizer::EncodeOptions;

    #[test]
    fn bytes_are_their_own_ids() {
        let vocabulary = Vocabulary::bytes().unwrap();
        let text = "To be, or\n\tnot 浦语 \u{7f}\u{ad}";
        let ids = vocabulary.tokenizer.encode(text, EncodeOptions::default());
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_eq!(ids, bytes);
        assert_eq!(vocabulary.tokenizer.decode(&ids, false), text);
        assert_eq!(vocabulary.tokenizer.vocab_size(), 256);
    }
}
