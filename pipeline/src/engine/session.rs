//! One conversation's place in a model: its tokens and its part of the KV cache.

use super::Engine;
use puyu_nn::{KvCache, Sequence};
use puyu_tensor::{Error, Result, Tensor};

/// Tokens run through the model in one step of a prompt.
const CHUNK: usize = 512;

/// A sequence of tokens that grows, and can be cut back.
pub struct Session<'e> {
    engine: &'e Engine,
    cache: KvCache,
    sequence: Sequence,
    tokens: Vec<u32>,
    context: usize,
}

impl<'e> Session<'e> {
    /// An empty sequence with room for `context` tokens.
    ///
    /// # Errors
    /// If the cache cannot be of the wanted type.
    pub fn new(engine: &'e Engine, context: usize) -> Result<Self> {
        let c = engine.config();
        let dtype = engine.options.cache;
        let cache = KvCache::new(c.layers, c.kv_heads, c.head_dim, context, dtype)?;
        Ok(Self { engine, cache, sequence: Sequence::default(), tokens: Vec::new(), context })
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The most tokens it can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Appends `ids` as one prompt and returns the logits `[V]` after the last; `progress(done,
    /// total)` counts tokens and may end the work by returning false.
    ///
    /// # Errors
    /// If the context is too small (with both numbers; nothing is changed), or `progress` ended it.
    pub fn feed(
        &mut self,
        ids: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Vec<f32>> {
        let (have, room) = (self.tokens.len(), self.context);
        if ids.is_empty() {
            return Err(Error::invalid("the prompt has no tokens"));
        }
        if have + ids.len() > room {
            return Err(Error::resource(format!(
                "{} tokens do not fit in the context of {room}; give a larger -c/--ctx-size or a \
                 shorter text",
                have + ids.len()
            )));
        }
        self.cache.extend_prompt(&mut self.sequence, ids.len());
        let mut logits = Vec::new();
        for chunk in ids.chunks(CHUNK) {
            logits = self.step(chunk)?;
            self.tokens.extend_from_slice(chunk);
            if !progress(self.tokens.len() - have, ids.len()) {
                return Err(Error::new(puyu_tensor::ErrorKind::Interrupted, "interrupted"));
            }
        }
        Ok(logits)
    }

    /// Appends one generated token and returns the logits `[V]` after it; `None` when the context
    /// is full.
    ///
    /// # Errors
    /// If the device failed.
    pub fn push(&mut self, id: u32) -> Result<Option<Vec<f32>>> {
        if self.tokens.len() == self.context {
            return Ok(None);
        }
        let logits = self.step(&[id])?;
        self.tokens.push(id);
        Ok(Some(logits))
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.tokens.len());
        self.cache.truncate(&mut self.sequence, len);
        self.tokens.truncate(len);
    }

    /// Makes `ids` the whole sequence, keeping the cache of what is already there, and returns the
    /// logits after the last.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn replace(
        &mut self,
        ids: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Vec<f32>> {
        let same = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        if ids.len() > self.context {
            return Err(Error::resource(format!(
                "{} tokens do not fit in the context of {}; give a larger -c/--ctx-size, or a shorter \
                 text (in a chat, /clear starts over)",
                ids.len(),
                self.context
            )));
        }
        self.truncate(same.min(ids.len().saturating_sub(1)));
        let rest = ids[self.tokens.len()..].to_vec();
        self.feed(&rest, progress)
    }

    fn step(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let vocab = self.engine.config().vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::invalid(format!(
                "token id {id} is not below the vocabulary of {vocab}"
            )));
        }
        let n = ids.len();
        let mut ctx = self.cache.step(&mut [&mut self.sequence], &[n])?;
        ctx.compute = self.engine.options.compute;
        ctx.logit_rows = Some(Tensor::new(&[n as u32 - 1], [1]));
        self.engine.model.forward(&Tensor::new(ids, [n]), &mut ctx).to_vec()
    }
}
