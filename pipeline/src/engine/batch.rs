//! Many answers at once: sequences that are decoded together read every weight once for all of them.

use super::Engine;
use super::sampler::argmax;
use puyu_nn::{KvCache, Sequence};
use puyu_tensor::{Error, Result, Tensor};

/// Sequences that are run together.
const SLOTS: usize = 16;

/// A prompt that is being answered.
struct Slot {
    /// Which prompt.
    prompt: usize,
    sequence: Sequence,
    /// What the next step runs: the prompt, then one token at a time.
    next: Vec<u32>,
    answer: Vec<u32>,
}

/// The most likely continuation of each prompt, without the token that ends it, of at most
/// `max_tokens` tokens. `answered(prompt, ids)` hears of each as it ends, in no particular order, and
/// may end the work by returning false.
///
/// # Errors
/// If a prompt has no tokens or ids that the model does not have, the device failed, or `answered`
/// ended it.
pub fn greedy(
    engine: &Engine,
    prompts: &[Vec<u32>],
    max_tokens: usize,
    answered: &mut dyn FnMut(usize, &[u32]) -> bool,
) -> Result<()> {
    let c = engine.config();
    for (i, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() || prompt.iter().any(|id| *id as usize >= c.vocab_size) {
            let i = i + 1;
            return Err(Error::invalid(format!("prompt {i} is empty or not of this vocabulary")));
        }
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + max_tokens;
    let room = SLOTS * longest.next_multiple_of(puyu_tensor::cpu::attention::BLOCK);
    let mut cache = KvCache::new(c.layers, c.kv_heads, c.head_dim, room, engine.options.cache)?;
    let mut waiting = prompts.iter().enumerate();
    let mut slots: Vec<Slot> = Vec::new();
    loop {
        let free = SLOTS - slots.len();
        slots.extend(waiting.by_ref().take(free).map(|(i, ids)| Slot {
            prompt: i,
            sequence: Sequence::new(ids.len()),
            next: ids.clone(),
            answer: Vec::new(),
        }));
        if slots.is_empty() {
            return Ok(());
        }
        let chosen = step(engine, &mut cache, &mut slots)?;
        for (slot, id) in slots.iter_mut().zip(chosen) {
            let ends = engine.generation.eos.contains(&id);
            slot.next = if ends { Vec::new() } else { vec![id] };
            slot.answer.extend(&slot.next);
            if slot.answer.len() >= max_tokens {
                slot.next.clear();
            }
        }
        for slot in slots.extract_if(.., |slot| slot.next.is_empty()) {
            let Slot { prompt, mut sequence, answer, .. } = slot;
            cache.truncate(&mut sequence, 0);
            if !answered(prompt, &answer) {
                return Err(Error::new(puyu_tensor::ErrorKind::Interrupted, "interrupted"));
            }
        }
    }
}

/// Runs what is next in every slot; the most likely token after each.
fn step(engine: &Engine, cache: &mut KvCache, slots: &mut [Slot]) -> Result<Vec<u32>> {
    let (mut sequences, mut next) = (Vec::new(), Vec::new());
    for slot in slots {
        sequences.push(&mut slot.sequence);
        next.push(&slot.next[..]);
    }
    let logits = logits(engine, cache, &mut sequences, &next)?.to_vec::<f32>()?;
    Ok(logits.chunks_exact(engine.config().vocab_size).map(argmax).collect())
}

/// Appends the tokens `next[i]` to sequence `i`: the logits after the last of each, `[S, V]`.
fn logits(
    engine: &Engine,
    cache: &mut KvCache,
    sequences: &mut [&mut Sequence],
    next: &[&[u32]],
) -> Result<Tensor> {
    let ids = next.concat();
    let counts: Vec<usize> = next.iter().map(|ids| ids.len()).collect();
    let ends = counts.iter().scan(0, |end, n| {
        *end += *n as u32;
        Some(*end - 1)
    });
    let ends: Vec<u32> = ends.collect();
    let mut ctx = cache.step(sequences, &counts)?;
    ctx.compute = engine.options.compute;
    ctx.logit_rows = Some(Tensor::new(&ends, [ends.len()]));
    Ok(engine.model.forward(&Tensor::new(&ids, [ids.len()]), &mut ctx))
}

/// Sequences of one length that grow together, a token each at a time; what they say does not matter.
pub struct Crowd<'e> {
    engine: &'e Engine,
    cache: KvCache,
    sequences: Vec<Sequence>,
}

impl<'e> Crowd<'e> {
    /// `n` sequences with room for `context` tokens each.
    ///
    /// # Errors
    /// If the cache cannot be of the wanted type.
    pub fn new(engine: &'e Engine, n: usize, context: usize) -> Result<Self> {
        let c = engine.config();
        let room = n * context.next_multiple_of(puyu_tensor::cpu::attention::BLOCK);
        let cache = KvCache::new(c.layers, c.kv_heads, c.head_dim, room, engine.options.cache)?;
        Ok(Self { engine, cache, sequences: (0..n).map(|_| Sequence::default()).collect() })
    }

    /// Appends `ids` to each sequence in one step; the logits after the last token of each, `[S, V]`.
    ///
    /// # Errors
    /// If there is no more room.
    pub fn push(&mut self, ids: &[u32]) -> Result<Tensor> {
        let mut sequences: Vec<&mut Sequence> = self.sequences.iter_mut().collect();
        let next = vec![ids; sequences.len()];
        logits(self.engine, &mut self.cache, &mut sequences, &next)
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        for sequence in &mut self.sequences {
            let len = len.min(sequence.len());
            self.cache.truncate(sequence, len);
        }
    }
}
