//! Opening a model: its checkpoint, its tokenizer, and everything that says how it wants to be used.

use super::GenerationConfig;
use puyu_models::chat_template::{ChatTemplate, Message, RenderOptions};
use puyu_models::format::adapter::SavedAdapter;
use puyu_models::format::{self, OpenOptions};
use puyu_models::tokenizer::Tokenizer;
use puyu_models::{Config, Model};
use puyu_nn::{Adapter, Compute};
use puyu_tensor::cpu::simd::Isa;
use puyu_tensor::{Context, DType, Error, Result};
use std::path::{Path, PathBuf};

/// How a model is loaded and run.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Map files instead of reading them.
    pub mmap: bool,
    /// Cast the matrices to this type at load.
    pub weights: Option<DType>,
    /// How weights are multiplied; with [`Compute::Fast`] matrices of floats are rounded to BF16 at load, if
    /// this CPU has products of such and `weights` says nothing else.
    pub compute: Compute,
    /// Element type of the KV cache.
    pub cache: DType,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { mmap: true, weights: None, compute: Compute::Auto, cache: DType::F16 }
    }
}

/// A loaded model with its tokenizer.
pub struct Engine {
    /// Where it was loaded from.
    pub path: PathBuf,
    /// The model.
    pub model: Box<dyn Model>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What its authors recommend.
    pub generation: GenerationConfig,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How it is run.
    pub options: LoadOptions,
    /// Bytes of its weights.
    pub weight_bytes: usize,
    template: Option<ChatTemplate>,
}

impl Engine {
    /// Loads the model at `path`; `progress(done, total)` counts tensors.
    ///
    /// # Errors
    /// If the checkpoint or its tokenizer cannot be read, or is of a kind that puyu does not run.
    pub fn open(
        path: &Path,
        options: LoadOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        Self::open_adapted(path, None, options, progress)
    }

    /// As [`Engine::open`], with the PEFT adapter in the folder `adapter`.
    ///
    /// # Errors
    /// As [`Engine::open`], and if the adapter cannot be read or does not fit.
    pub fn open_adapted(
        path: &Path,
        adapter: Option<&Path>,
        options: LoadOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let checkpoint = format::open(path, OpenOptions { mmap: options.mmap })?;
        let config = Config::from_json(&checkpoint.config()?).context(path.display())?;
        let names = checkpoint.source().names();
        let saved =
            adapter.map(|folder| SavedAdapter::open(folder, &config, &names)).transpose()?;
        if config.reward || saved.as_ref().is_some_and(SavedAdapter::scores) {
            let what = adapter.filter(|_| !config.reward).unwrap_or(path);
            return Err(Error::unsupported(format!(
                "{} is of a reward model, which gives a score and writes no text",
                what.display()
            )));
        }
        let tokenizer = checkpoint.tokenizer()?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::format(format!(
                "{}: the tokenizer has {} tokens, but the model's embedding only {} rows; they do \
                 not belong together",
                path.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            )));
        }
        let mut generation = match (checkpoint.gguf(), checkpoint.folder()) {
            (Some(file), _) => {
                GenerationConfig::from_metadata(&file.metadata).context(path.display())?
            }
            (None, Some(folder)) => GenerationConfig::read(folder)?,
            (None, None) => GenerationConfig::default(),
        };
        if generation.eos.is_empty() {
            generation.eos = config.eos.clone();
        }
        for id in tokenizer.eos_ids() {
            if !generation.eos.contains(&id) {
                generation.eos.push(id);
            }
        }
        let template = template_of(&tokenizer, &config)?;
        let weights = puyu_models::Stored::new(checkpoint.source(), progress);
        let added = saved.as_ref().map(|a| a as &dyn Adapter);
        let built = puyu_models::build_adapted(&config, &weights, options.weights, added);
        let loaded = built.context(path.display()).map_err(|e| match adapter {
            Some(folder) => e.context(format_args!("with the adapter {}", folder.display())),
            None => e,
        })?;
        let weight_bytes = loaded.params.iter().map(|p| p.get().spec().bytes()).sum();
        let dots = options.compute == Compute::Fast && Isa::detect().dots();
        loaded.pack(Some(DType::BF16).filter(|_| dots && options.weights.is_none()));
        Ok(Self {
            path: path.into(),
            weight_bytes,
            model: loaded.model,
            tokenizer,
            generation,
            warnings: checkpoint.warnings(),
            options,
            template,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        self.model.config()
    }

    /// Token ids of plain text, with the beginning-of-sequence token if the model wants it.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let add_bos = self.tokenizer.add_bos();
        self.tokenizer
            .encode(text, puyu_models::tokenizer::EncodeOptions { add_bos, parse_special })
    }

    /// Token ids of a conversation up to where the assistant speaks; what users typed stays text.
    ///
    /// # Errors
    /// If the model has no chat template, or it refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_chat_with(messages, None)
    }

    /// As [`Engine::encode_chat`], with descriptions of the `tools` on offer, as OpenAI's interface has
    /// them.
    ///
    /// # Errors
    /// As [`Engine::encode_chat`].
    pub fn encode_chat_with(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
    ) -> Result<Vec<u32>> {
        let template = self.template.as_ref().ok_or_else(|| {
            Error::unsupported(format!(
                "{} has no chat template, so it cannot chat; use `puyu generate`",
                self.path.display()
            ))
        })?;
        let options =
            RenderOptions { tools: tools.cloned(), ..RenderOptions::new(&self.tokenizer, true) };
        let parts = template.render(messages, &options)?;
        let text = parts.first().map_or("", |p| p.text());
        let bos = self.tokenizer.bos().map(|id| self.tokenizer.token_text(id));
        let has_bos = bos.is_some_and(|b| !b.is_empty() && text.starts_with(&b));
        Ok(self.tokenizer.encode_parts(&parts, self.tokenizer.add_bos() && !has_bos))
    }
}

/// The file's template, or the one an InternLM model was trained with; other models without one
/// cannot chat.
fn template_of(tokenizer: &Tokenizer, config: &Config) -> Result<Option<ChatTemplate>> {
    use puyu_models::chat_template::{CHATML, INTERNLM1};
    let source = match (tokenizer.chat_template(), config.model_type.as_str()) {
        (Some(own), _) => own,
        (None, "internlm") => INTERNLM1,
        (None, "internlm2" | "internlm3") => CHATML,
        (None, _) => return Ok(None),
    };
    ChatTemplate::new(source).map(Some).context("the chat template")
}
