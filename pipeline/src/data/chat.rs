//! A conversation as tokens, with loss on what the assistant has to say.
//!
//! Where an answer begins and ends is seen by rendering the conversation up to it, with and without
//! it: what a model is given and what it should say then. Each stretch is encoded for itself, as it is
//! when the model answers, and what others wrote stays text.

use super::sample::Conversation;
use super::tokens::NO_LOSS;
use puyu_models::chat_template::{ChatTemplate, Message, Part, RenderOptions, Renderer};
use puyu_models::tokenizer::Tokenizer;
use puyu_tensor::{Error, Result};
use std::borrow::Cow;
use std::ops::Range;

/// Renders conversations for one model.
pub struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    /// With the opening of an answer, and without.
    opened: RenderOptions,
    whole: RenderOptions,
}

impl<'a> Chat<'a> {
    /// For a model with this tokenizer and template.
    pub fn new(tokenizer: &'a Tokenizer, template: &'a ChatTemplate) -> Self {
        let whole = RenderOptions::new(tokenizer, false);
        let opened = RenderOptions { add_generation_prompt: true, ..whole.clone() };
        Self { tokenizer, template, opened, whole }
    }

    /// The template, compiled for the conversations of one thread.
    ///
    /// # Errors
    /// If there can be no thread to compile it on.
    pub fn renderer(&self) -> Result<Renderer<'a>> {
        self.template.renderer()
    }

    /// The tokens of `conversation`, up to the last that is learnt; the others have [`NO_LOSS`].
    ///
    /// # Errors
    /// If the template refuses it, or renders an answer differently once more follows.
    pub fn encode(&self, renderer: &mut Renderer, conversation: &Conversation) -> Result<Vec<u32>> {
        let [whole, opened] = [&self.whole, &self.opened].map(|o| with_tools(o, conversation));
        let parts = renderer.render(&conversation.messages, &whole)?;
        let text: String = parts.iter().map(Part::text).collect();
        let mut words = Vec::new();
        let mut at = 0;
        for (i, _) in conversation.learnt.iter().enumerate().filter(|(_, learnt)| **learnt) {
            let options = [&*whole, &*opened];
            let answer = self.answer(renderer, &conversation.messages, i, &text, options)?;
            if answer.start < at {
                return Err(self.differs(i));
            }
            let given = self.stretch(&parts, at..answer.start);
            words.extend(given.into_iter().map(|id| id | NO_LOSS));
            words.extend(self.stretch(&parts, answer.clone()));
            at = answer.end;
        }
        if let Some(first) = words.first_mut() {
            *first |= NO_LOSS;
        }
        Ok(words)
    }

    /// Where in `text` the message `i` is what the model has to say, with the end of its turn.
    fn answer(
        &self,
        renderer: &mut Renderer,
        messages: &[Message],
        i: usize,
        text: &str,
        [whole, opened]: [&RenderOptions; 2],
    ) -> Result<Range<usize>> {
        let before = renderer.render_text(&messages[..i], opened)?;
        let until = match i + 1 == messages.len() {
            true => Cow::Borrowed(text),
            false => Cow::Owned(renderer.render_text(&messages[..=i], whole)?),
        };
        let said = until.strip_prefix(&before).filter(|_| text.starts_with(&*until));
        let said = said.ok_or_else(|| self.differs(i))?;
        // White space after the token that ends the turn is never generated.
        let core = said.trim_end();
        let ends =
            self.whole.control_tokens.iter().any(|t| !t.is_empty() && core.ends_with(t.as_str()));
        let length = if ends { core.len() } else { said.len() };
        Ok(before.len()..before.len() + length)
    }

    fn differs(&self, i: usize) -> Error {
        Error::invalid(format!(
            "the chat template renders message {} differently when it is answered than within the \
             conversation, so its tokens cannot be told from the others",
            i + 1
        ))
    }

    /// The ids of a stretch of the rendered text.
    fn stretch(&self, parts: &[Part], range: Range<usize>) -> Vec<u32> {
        let mut inside = Vec::new();
        let mut at = 0;
        for part in parts {
            let text = part.text();
            let from = range.start.clamp(at, at + text.len()) - at;
            let to = range.end.clamp(at, at + text.len()) - at;
            at += text.len();
            if from < to {
                inside.push(match part {
                    Part::Control(_) => Part::Control(text[from..to].into()),
                    Part::Text(_) => Part::Text(text[from..to].into()),
                });
            }
        }
        if range.start == 0 {
            // As `Engine::encode_chat`: a template that writes the token itself has written it.
            let bos = self.tokenizer.bos().map(|id| self.tokenizer.token_text(id));
            let text = inside.first().map_or("", Part::text);
            let has_bos = bos.is_some_and(|b| !b.is_empty() && text.starts_with(&b));
            return self.tokenizer.encode_parts(&inside, self.tokenizer.add_bos() && !has_bos);
        }
        self.tokenizer.encode_parts_after(&inside)
    }
}

/// The options with a conversation's tools, copied only if it has some.
fn with_tools<'o>(options: &'o RenderOptions, said: &Conversation) -> Cow<'o, RenderOptions> {
    match &said.tools {
        None => Cow::Borrowed(options),
        tools => Cow::Owned(RenderOptions { tools: tools.clone(), ..options.clone() }),
    }
}
