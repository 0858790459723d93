//! Chat templates: messages to the text a model was trained on, with what users typed kept apart.
//!
//! A template is a program in Jinja that came with a file, so it runs with a budget for its work and
//! memory. To know which characters of its output are a user's, it is run again on messages whose
//! contents are replaced by marks, and the split is believed only if putting the contents back gives
//! the first output to the character.

mod jinja;
mod marks;
mod paid;
mod python;
mod time;

use minijinja::Environment;
use puyu_tensor::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::tokenizer::{TokenKind, Tokenizer};

/// The template of InternLM2, 2.5 and 3, for files that carry none. Plain conversations are as their own
/// template has them; it also knows tools, their calls and what they answer (the form is that of
/// InternLM's chat/chat_format.md).
pub const CHATML: &str = "{{ bos_token }}{% set tool_list = '' %}{% if tools %}\
{% set tool_list = '<|im_start|>system name=<|plugin|>\\n' + (tools | tojson) + '<|im_end|>\\n' %}\
{% endif %}{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}{{ tool_list }}{% endif %}\
{{ '<|im_start|>' + ('environment' if message['role'] == 'tool' else message['role']) }}\
{% if message['name'] in ['plugin', 'interpreter'] %}{{ ' name=<|' + message['name'] + '|>' }}{% endif %}\
{{ '\\n' }}{{ message['content'] }}{% for call in message['tool_calls'] %}\
{% set call = call['function'] %}{% set arguments = call['arguments'] %}\
{{ '<|action_start|><|plugin|>\\n{\"name\": ' + (call['name'] | tojson) + ', \"parameters\": ' }}\
{{ arguments if arguments is string else arguments | tojson }}{{ '}<|action_end|>' }}\
{% endfor %}{{ '<|im_end|>\\n' }}\
{% if loop.first and message['role'] == 'system' %}{{ tool_list }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The prompt of InternLM-1, whose files carry no template. `<|User|>` and its like are plain text.
pub const INTERNLM1: &str = "{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'system' %}{{ '<|System|>:' + message['content'] + '\\n' }}\
{% elif message['role'] == 'user' %}{{ '<|User|>:' + message['content'] + '\\n' }}\
{% elif message['role'] == 'assistant' %}{{ '<|Bot|>:' + message['content'] + '<eoa>\\n' }}\
{% else %}{{ raise_exception('InternLM-1 knows system, user and assistant, not ' + message['role']) }}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Bot|>:' }}{% endif %}";

/// The system message that InternLM 1 and 2 were trained with.
pub const META_INSTRUCTION: &str = "You are an AI assistant whose name is InternLM (书生·浦语).\n\
- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n\
- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such as English and 中文.";

/// The system message of InternLM3's own demonstration.
pub const META_INSTRUCTION_3: &str = "You are InternLM (书生·浦语), a helpful, honest, and harmless AI assistant developed by Shanghai AI Laboratory (上海人工智能实验室).";

/// One message of a conversation, in the layout of OpenAI's interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The text. A list of text parts is joined when it is read, `null` is the empty text.
    #[serde(default, deserialize_with = "content")]
    pub content: String,
    /// Everything else: `name`, `tool_calls`, `tool_call_id`, ...
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// Reads `content`: a string, nothing, or a list whose parts are all text.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    let text = |part: &Value| {
        let own =
            part.as_str().or_else(|| part["text"].as_str().filter(|_| part["type"] == "text"));
        own.map(str::to_string)
            .ok_or_else(|| serde::de::Error::custom("a content part is not text"))
    };
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Array(parts) => parts.iter().map(text).collect(),
        _ => Err(serde::de::Error::custom("content is neither text nor a list of text parts")),
    }
}

/// A stretch of a rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Written by the template: control tokens in it are meant.
    Control(String),
    /// Written by somebody else: whatever it spells is text.
    Text(String),
}

impl Part {
    /// The characters, whoever wrote them.
    pub fn text(&self) -> &str {
        match self {
            Part::Control(text) | Part::Text(text) => text,
        }
    }
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the opening of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Descriptions of tools, as OpenAI's interface has them.
    pub tools: Option<Value>,
    /// More variables by name (`chat_template_kwargs`, `documents`); they override the others.
    pub variables: Map<String, Value>,
    /// Text of every control token, which a message may not smuggle in.
    pub control_tokens: Vec<String>,
    /// The time that `strftime_now` prints, in seconds since 1970 (UTC); `None` is the present.
    pub now: Option<u64>,
}

impl RenderOptions {
    /// Options with `bos_token` and its like, and the control tokens, of `tokenizer`.
    pub fn new(tokenizer: &Tokenizer, add_generation_prompt: bool) -> Self {
        let mut options = Self { add_generation_prompt, ..Self::default() };
        let roles = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos()),
            ("unk_token", tokenizer.unk()),
            ("pad_token", tokenizer.pad()),
        ];
        for (name, id) in roles {
            if let Some(id) = id {
                options.variables.insert(name.into(), tokenizer.token_text(id).into());
            }
        }
        options.control_tokens = tokenizer.control_tokens();
        options
    }
}

/// A template that was checked.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// What is compiled.
    prepared: String,
}

/// A template compiled once, for many conversations.
pub struct Renderer<'t>(jinja::Compiled<'t>);

impl ChatTemplate {
    /// The template `source`.
    ///
    /// # Errors
    /// A template that is malformed, too long or too deeply nested.
    pub fn new(source: &str) -> Result<Self> {
        let prepared = jinja::prepared(source)?;
        let new = Self { environment: jinja::environment(), source: source.into(), prepared };
        new.renderer()?;
        Ok(new)
    }

    /// The template, compiled.
    ///
    /// # Errors
    /// If there can be no thread to compile it on.
    pub fn renderer(&self) -> Result<Renderer<'_>> {
        jinja::Compiled::new(&self.environment, &self.prepared).map(Renderer)
    }

    /// The program as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template to use with `tokenizer`: its own, else InternLM-1's prompt if the vocabulary has
    /// that model's end of turn, else ChatML if it has the tokens of that.
    ///
    /// # Errors
    /// A template that is malformed, or none and no known tokens.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        if let Some(source) = tokenizer.chat_template() {
            return Self::new(source);
        }
        let control = |name| {
            let id = tokenizer.id_of(name)?;
            tokenizer.kind(id).filter(|kind| *kind != TokenKind::Normal)
        };
        if control("<eoa>").is_some() {
            Self::new(INTERNLM1)
        } else if control("<|im_start|>").is_some() && control("<|im_end|>").is_some() {
            Self::new(CHATML)
        } else {
            Err(Error::not_found("the model has no chat template: it is not a chat model"))
        }
    }

    /// Renders the conversation as one text.
    ///
    /// # Errors
    /// What the template raises, and a template that uses up its budget.
    pub fn render_text(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        self.renderer()?.render_text(messages, options)
    }

    /// [`Renderer::render`] of one conversation.
    ///
    /// # Errors
    /// As there.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<Part>> {
        self.renderer()?.render(messages, options)
    }
}

impl Renderer<'_> {
    /// Renders the conversation as one text.
    ///
    /// # Errors
    /// What the template raises, and a template that uses up its budget.
    pub fn render_text(&mut self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        self.run(&conversation(messages)?, options)
    }

    /// Renders the conversation in parts, for [`Tokenizer::encode_parts`].
    ///
    /// A message's content is a [`Part::Text`] as a whole. Where the template takes contents apart,
    /// so that a whole one cannot be followed through it, the control tokens that messages and tools
    /// spell are followed instead, and the rest counts as the template's.
    ///
    /// # Errors
    /// As [`Renderer::render_text`]; also a template that rewrites even those.
    pub fn render(&mut self, messages: &[Message], options: &RenderOptions) -> Result<Vec<Part>> {
        let messages = conversation(messages)?;
        let text = self.run(&messages, options)?;
        for whole in [true, false] {
            let mut marks = marks::Marks::new(&text, &messages, &options.control_tokens, whole)?;
            let marked = marks.mark(&messages);
            let mut options = options.clone();
            options.tools = options.tools.as_ref().map(|tools| marks.mark(tools));
            // A template may refuse marks; it has accepted the messages, so that is no error yet.
            let Ok(rendered) = self.run(&marked, &options) else { continue };
            let parts = marks.split(&rendered);
            if parts.iter().map(Part::text).eq_text(&text) {
                return Ok(parts);
            }
        }
        Err(Error::invalid(
            "a message spells a control token, and the chat template changes it in a way that \
             cannot be followed; write the token differently",
        ))
    }

    fn run(&mut self, messages: &Value, options: &RenderOptions) -> Result<String> {
        let mut context = json!({
            "messages": messages,
            "add_generation_prompt": options.add_generation_prompt,
        });
        if let Some(tools) = &options.tools {
            context["tools"] = tools.clone();
        }
        for (name, value) in &options.variables {
            context[name] = value.clone();
        }
        self.0.render(&context, options.now)
    }
}

/// Runs `run`, which renders many conversations, on one thread with the stack that templates may need;
/// otherwise each of them is given a thread.
///
/// # Errors
/// If there can be no thread.
pub fn with_room<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    jinja::with_room(run)
}

/// The messages as the list a template sees.
fn conversation(messages: &[Message]) -> Result<Value> {
    serde_json::to_value(messages).map_err(|e| Error::invalid(e.to_string()))
}

/// Compares pieces with the text they should join to, without joining them.
trait EqText {
    fn eq_text(self, text: &str) -> bool;
}

impl<'a, I: Iterator<Item = &'a str>> EqText for I {
    fn eq_text(self, text: &str) -> bool {
        let mut rest = text;
        for piece in self {
            match rest.strip_prefix(piece) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}
