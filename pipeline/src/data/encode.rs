//! A record as token words: texts with their beginning and end, conversations by their template.

use super::chat::Chat;
use super::config::{Format, Kind, SourceConfig};
use super::internevo;
use super::records::Record;
use super::sample::{self, Conversation, Sample};
use super::tokens::{Encoded, NO_LOSS};
use puyu_models::chat_template::{ChatTemplate, Part, Renderer};
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use puyu_tensor::{Error, Result};
use sha2::{Digest, Sha256};

/// How the records of one source become tokens.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    chat: Option<Chat<'a>>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Alpaca samples follow InternEvo's tool, not the template.
    internevo: bool,
    identity: [u8; 32],
}

/// Texts that tokenizers treat differently; their ids are part of a tokenizer's identity.
const PROBE: &str = " The quick  brown fox\n\n\tdoesn't cost 1234567.89 € — 浦语，你好！👋🏽";

impl<'a> Encoder<'a> {
    /// For `source`, with the tokenizer and template of the model.
    ///
    /// # Errors
    /// If the source asks for a token that the tokenizer has not.
    pub fn new(
        source: &SourceConfig,
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
    ) -> Result<Self> {
        let token = |wanted: Option<bool>, default: bool, id: Option<u32>, name: &str| match wanted
        {
            Some(true) if id.is_none() => {
                Err(Error::invalid(format!("{name} = true, but the tokenizer has no such token")))
            }
            wanted => Ok(id.filter(|_| wanted.unwrap_or(default))),
        };
        let bos = token(source.bos, tokenizer.add_bos(), tokenizer.bos(), "bos")?;
        let eos = token(source.eos, true, tokenizer.eos(), "eos")?;
        let mut digest = Sha256::new();
        digest.update(format!("{bos:?} {eos:?} {:?}\n", source.split));
        for id in 0..tokenizer.vocab_size() as u32 {
            digest.update(tokenizer.piece(id));
            digest.update([0, tokenizer.kind(id).map_or(0, |kind| kind as u8)]);
        }
        let probe = tokenizer.encode(PROBE, EncodeOptions::default());
        digest.update(format!("{probe:?} {:?} {}\n", tokenizer.bos(), tokenizer.add_bos()));
        digest.update(template.map_or("", |t| t.source()));
        let chat = template.map(|template| Chat::new(tokenizer, template));
        Ok(Self { tokenizer, chat, bos, eos, internevo: false, identity: digest.finalize().into() })
    }

    /// For a file that InternEvo reads: InternLM-1's Alpaca samples are as its tool makes them.
    #[must_use]
    pub fn for_internevo(self) -> Self {
        let internevo = self.tokenizer.vocab_size() == internevo::INTERNLM1_TOKENS;
        Self { internevo, ..self }
    }

    /// Names everything beside a file's content that its tokens depend on.
    pub fn identity(&self) -> &[u8] {
        &self.identity
    }

    /// Checks that samples of `format` can be encoded for this model and source.
    ///
    /// # Errors
    /// If conversations have no template, or bos and eos are given for what has its own.
    pub fn check(&self, format: Format, source: &SourceConfig) -> Result<()> {
        let own = format.kind() != Kind::Text || format == Format::Internevo;
        if own && (source.bos.is_some() || source.eos.is_some()) {
            return Err(Error::invalid(format!(
                "bos and eos are for texts, but this is {}, which says itself where samples begin \
                 and end; leave them out",
                format.name()
            )));
        }
        let template = format.kind() != Kind::Text && !(self.internevo && format == Format::Alpaca);
        if template && self.chat.is_none() {
            return Err(Error::unsupported(
                "these are conversations, but the model has no chat template; give one in its \
                 tokenizer_config.json, or train on texts",
            ));
        }
        Ok(())
    }

    /// What a thread needs to encode many records: the template, compiled, if there is one.
    ///
    /// # Errors
    /// If there can be no thread to compile it on.
    pub fn renderer(&self) -> Result<Option<Renderer<'a>>> {
        self.chat.as_ref().map(Chat::renderer).transpose()
    }

    /// The tokens of `record`, which lies in `file`, with what [`Encoder::renderer`] gave.
    ///
    /// # Errors
    /// If the record is broken.
    pub fn encode(
        &self,
        renderer: &mut Option<Renderer>,
        file: &[u8],
        record: &Record,
        format: Format,
    ) -> Result<Encoded> {
        let bytes = &file[record.bytes.clone()];
        if format == Format::Text {
            let text =
                std::str::from_utf8(bytes).map_err(|_| Error::format("the text is not UTF-8"))?;
            return Ok(self.text(text, record.first, record.last));
        }
        Ok(match sample::parse(bytes, format)? {
            Sample::Text(text) if text.is_empty() => {
                return Err(Error::format("the text is empty"));
            }
            Sample::Text(text) => self.text(&text, true, true),
            Sample::Tokens(ids) => document(self.ids(&ids)?),
            Sample::Chat(said) if self.internevo && format == Format::Alpaca => {
                let at = said.messages.len().saturating_sub(2);
                let [asked, answer] = [at, at + 1].map(|i| said.messages[i].content.as_str());
                document(self.ids(&internevo::alpaca(self.tokenizer, asked, answer))?)
            }
            Sample::Chat(conversation) => document(self.chat(renderer, &conversation)?),
            Sample::Pair(pair) => {
                let mut both = document(self.chat(renderer, &pair[0])?);
                both.words.extend(self.chat(renderer, &pair[1])?);
                both.ends.push(both.words.len());
                both
            }
        })
    }

    fn chat(
        &self,
        renderer: &mut Option<Renderer>,
        conversation: &Conversation,
    ) -> Result<Vec<u32>> {
        let (Some(chat), Some(renderer)) = (&self.chat, renderer) else {
            return Err(Error::unsupported("the model has no chat template"));
        };
        chat.encode(renderer, conversation)
    }

    /// A piece of a document, with what begins and ends one.
    fn text(&self, text: &str, first: bool, last: bool) -> Encoded {
        let mut words: Vec<u32> = self.bos.filter(|_| first).into_iter().collect();
        let parts = [Part::Text(text.into())];
        words.extend(match first {
            true => self.tokenizer.encode_parts(&parts, false),
            false => self.tokenizer.encode_parts_after(&parts),
        });
        words.extend(self.eos.filter(|_| last));
        if let Some(word) = words.first_mut().filter(|_| first) {
            *word |= NO_LOSS;
        }
        let ends = if last { vec![words.len()] } else { Vec::new() };
        Encoded { words, ends }
    }

    /// Ids that came tokenized.
    fn ids(&self, ids: &[i64]) -> Result<Vec<u32>> {
        let size = self.tokenizer.vocab_size() as u64;
        let word = |(i, id): (usize, &i64)| {
            if id.unsigned_abs() >= size {
                return Err(Error::format(format!(
                    "token id {id} is outside the tokenizer's {size} tokens; the file was made with \
                     another tokenizer"
                )));
            }
            let silent = *id < 0 || i == 0;
            Ok(id.unsigned_abs() as u32 | if silent { NO_LOSS } else { 0 })
        };
        if ids.is_empty() {
            return Err(Error::format("there are no tokens"));
        }
        ids.iter().enumerate().map(word).collect()
    }
}

fn document(words: Vec<u32>) -> Encoded {
    let ends = vec![words.len()];
    Encoded { words, ends }
}
