//! The block-paged KV cache: blocks of 64 tokens, handed to sequences as they grow. A single chat is
//! the batch of one.

use crate::Ctx;
use puyu_tensor::cpu::attention::BLOCK;
use puyu_tensor::ops::{Pages, Rope, kv_write};
use puyu_tensor::{DType, Error, Result, Tensor};

/// Keys and values of all layers, for all sequences.
#[derive(Debug)]
pub struct KvCache {
    /// Per layer: key blocks `[N, G, D, 64]`, value blocks `[N, G, 64, D]`.
    layers: Vec<[Tensor; 2]>,
    /// Blocks that belong to no sequence; the last is handed out next.
    free: Vec<u32>,
    blocks: usize,
}

/// One sequence's place in the cache.
#[derive(Debug, Default)]
pub struct Sequence {
    blocks: Vec<u32>,
    len: usize,
    prompt_len: usize,
}

impl Sequence {
    /// A sequence whose prompt will have `prompt_len` tokens: until then, every token's rope base is
    /// that of the whole prompt.
    pub fn new(prompt_len: usize) -> Self {
        Self { prompt_len, ..Self::default() }
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl KvCache {
    /// Room for `tokens` tokens (rounded up to blocks) of `layers` layers with `groups` key heads of
    /// `head_dim`, in F32, F16 or BF16.
    ///
    /// # Errors
    /// If `dtype` is none of these.
    pub fn new(
        layers: usize,
        groups: usize,
        head_dim: usize,
        tokens: usize,
        dtype: DType,
    ) -> Result<Self> {
        if !dtype.is_float() {
            return Err(Error::unsupported(format!(
                "a KV cache of type {dtype} is not supported; use f32, f16 or bf16"
            )));
        }
        let blocks = tokens.div_ceil(BLOCK);
        let zeros = |last: [usize; 2]| Tensor::zeros([blocks, groups, last[0], last[1]], dtype);
        Ok(Self {
            layers: (0..layers)
                .map(|_| [zeros([head_dim, BLOCK]), zeros([BLOCK, head_dim])])
                .collect(),
            free: (0..blocks as u32).rev().collect(),
            blocks,
        })
    }

    /// Bytes of one token over all layers.
    pub fn bytes_per_token(layers: usize, groups: usize, head_dim: usize, dtype: DType) -> usize {
        2 * layers * groups * head_dim * dtype.block_bytes()
    }

    /// Tokens that still fit, counted in whole free blocks.
    pub fn free_tokens(&self) -> usize {
        self.free.len() * BLOCK
    }

    /// Tokens the cache holds at most.
    pub fn capacity(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Forgets the tokens of `sequence` from `len` on and takes its spare blocks back.
    ///
    /// # Panics
    /// If the sequence is shorter.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        assert!(len <= sequence.len, "truncate: {len} of {} tokens", sequence.len);
        sequence.len = len;
        self.free.extend(sequence.blocks.drain(len.div_ceil(BLOCK)..).rev());
        sequence.prompt_len = sequence.prompt_len.min(len);
    }

    /// Says that the next `tokens` tokens are one prompt: their rope base is that of its end.
    pub fn extend_prompt(&self, sequence: &mut Sequence, tokens: usize) {
        sequence.prompt_len = sequence.len + tokens;
    }

    /// The context of a step that appends `counts[i]` tokens to sequence `i`.
    ///
    /// # Errors
    /// If the cache has too few free blocks; nothing is changed then.
    pub fn step<'a>(
        &'a mut self,
        sequences: &mut [&mut Sequence],
        counts: &[usize],
    ) -> Result<Ctx<'a>> {
        let needed = |s: &Sequence, n: usize| (s.len + n).div_ceil(BLOCK) - s.blocks.len();
        let blocks: usize = sequences.iter().zip(counts).map(|(s, &n)| needed(s, n)).sum();
        if blocks > self.free.len() {
            let tokens: usize = counts.iter().sum();
            return Err(Error::resource(format!(
                "the KV cache is full: {tokens} more tokens need {blocks} blocks of {BLOCK}, and {} \
                 of {} are free",
                self.free.len(),
                self.blocks
            )));
        }
        let (mut positions, mut rope, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ends, mut lengths) = (vec![0u32], Vec::new());
        for (s, &n) in sequences.iter_mut().zip(counts) {
            let fresh = needed(s, n);
            s.blocks.extend(self.free.drain(self.free.len() - fresh..).rev());
            for p in s.len..s.len + n {
                positions.push(p as u32);
                rope.push(s.prompt_len.max(p + 1) as u32);
                slots.push(s.blocks[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32);
            }
            s.len += n;
            lengths.push(s.len as u32);
            ends.push(positions.len() as u32);
        }
        let width = sequences.iter().map(|s| s.blocks.len()).max().unwrap_or(0).max(1);
        let mut table = vec![0u32; sequences.len() * width];
        for (row, s) in table.chunks_exact_mut(width).zip(sequences.iter()) {
            row[..s.blocks.len()].copy_from_slice(&s.blocks);
        }
        let list = |v: &[u32]| Tensor::new(v, [v.len()]);
        Ok(Ctx {
            positions: list(&positions),
            angles: None,
            rope_lengths: list(&rope),
            cumulative: list(&ends),
            cache: Some(CacheStep {
                layers: &mut self.layers,
                table: Tensor::new(&table, [lengths.len(), width]),
                lengths: list(&lengths),
                slots: list(&slots),
            }),
            logit_rows: None,
            compute: crate::Compute::Exact,
            adapters: true,
            noise: None,
            observer: None,
        })
    }
}

/// The cache as one step sees it.
pub struct CacheStep<'a> {
    layers: &'a mut [[Tensor; 2]],
    table: Tensor,
    lengths: Tensor,
    slots: Tensor,
}

impl CacheStep<'_> {
    /// Writes the new tokens' k, v `[T, G, D]`, with `angles` k turned by them.
    pub(crate) fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor, angles: Option<&Tensor>) {
        let [keys, values] = &mut self.layers[layer];
        kv_write(keys, values, k, v, &self.slots, angles);
    }

    /// Attention of the new tokens' q `[T, H, D]`, before rotation, over their sequences; `step` is cumulative lengths,
    /// rope lengths and angles.
    pub(crate) fn attend(
        &self,
        layer: usize,
        q: &Tensor,
        [cumulative, rope_lengths, angles]: [&Tensor; 3],
        scale: f32,
        key_rope: Option<Rope>,
    ) -> Tensor {
        let [keys, values] = &self.layers[layer];
        let (table, lengths) = (&self.table, &self.lengths);
        let pages = Pages { table, cumulative, lengths, rope_lengths, angles };
        q.paged_attention(keys, values, pages, scale, key_rope)
    }
}
