//! The memory of a training step, counted from the model's shape and what this engine keeps. Whatever
//! changes there (what an op remembers, when a gradient is freed) is a number in this file, and
//! `benches/plan_memory.rs` holds the sums to the peaks of real processes.

use super::shape::{Parameters, matrices};
use crate::finetune::Method as Goal;
use puyu_models::Config;
use puyu_nn::Optimizer;
use puyu_tensor::ops::rows_of_logits;

/// Bytes of an F32.
const F32: f64 = 4.0;

/// Bytes of a BF16.
const BF16: f64 = 2.0;

/// Bits of a weight in NF4 with double quantization: codes, and for 64 of them a scale in 8 bits,
/// whose own scales (F32) are shared by 256 (Dettmers et al. 2023, arXiv 2305.14314, section 3).
pub const NF4_BITS: f64 = 4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0);

/// The program itself, its threads and its tokenizer.
const PROGRAM: f64 = 8e6;

/// Which weights are trained, and how the others are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// All of them, which are F32 whatever they are multiplied in.
    Full,
    /// Adapters of this rank on every linear layer of the blocks; the matrices of the blocks take
    /// `block_bits` a weight, embedding and head `other_bits`.
    Adapters {
        /// The rank r.
        rank: usize,
        /// Bits of a weight of the blocks.
        block_bits: f64,
        /// Bits of a weight of embedding and head.
        other_bits: f64,
        /// What is trained beside them.
        whole: Whole,
    },
}

/// Modules that are trained as a whole beside adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Whole {
    /// Their numbers.
    pub numbers: u64,
    /// Whether the head is among them.
    pub head: bool,
}

impl Method {
    /// LoRA on BF16 weights.
    pub fn lora(rank: usize) -> Self {
        Self::Adapters { rank, block_bits: 16.0, other_bits: 16.0, whole: Whole::default() }
    }

    /// QLoRA: NF4 with double quantization, embedding and head too.
    pub fn qlora(rank: usize) -> Self {
        let whole = Whole::default();
        Self::Adapters { rank, block_bits: NF4_BITS, other_bits: NF4_BITS, whole }
    }

    /// What is trained as a whole beside adapters.
    pub fn whole(self) -> Whole {
        match self {
            Self::Full => Whole::default(),
            Self::Adapters { whole, .. } => whole,
        }
    }

    /// The same with these trained as a whole.
    #[must_use]
    pub fn with(mut self, more: Whole) -> Self {
        if let Self::Adapters { whole, .. } = &mut self {
            *whole = more;
        }
        self
    }

    fn trains_head(self) -> bool {
        self == Self::Full || self.whole().head
    }
}

/// What a step's memory depends on besides the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// What is trained.
    pub method: Method,
    /// What it learns from.
    pub goal: Goal,
    /// Whether products are of BF16, where both operands learn or follow from what does.
    pub bf16: bool,
    /// Muon: matrices between hidden states have one moment, not AdamW's two.
    pub muon: bool,
    /// Rows that go through the model at a time, or pairs of them.
    pub batch: usize,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Layers that keep only their input.
    pub checkpointed: usize,
    /// Processes that share the work.
    pub ranks: usize,
    /// What they share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too
    /// (Rajbhandari et al. 2019, arXiv 1910.02054).
    pub zero: u8,
}

impl Setting {
    /// Whether what products of a block give is BF16: beside frozen matrices it is not.
    pub fn in_halves(&self) -> bool {
        self.bf16 && self.method == Method::Full
    }

    /// Bytes of a number between the products of a block.
    fn number(&self) -> f64 {
        if self.in_halves() { BF16 } else { F32 }
    }

    /// Whether a step compares answers, two in each pair.
    pub fn in_pairs(&self) -> bool {
        self.goal != Goal::Sft
    }

    /// Tokens that go through the model at a time.
    pub fn tokens(&self) -> usize {
        let rows = if self.in_pairs() { 2 * self.batch } else { self.batch };
        rows * self.seq_len
    }

    /// Whether a frozen copy of the model is there to be compared with; adapters are switched off instead.
    fn has_copy(&self) -> bool {
        self.goal == Goal::Dpo && self.method == Method::Full
    }
}

/// Bytes of one process at its peak.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Weights that the model computes with.
    pub weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// Moments.
    pub optimizer: f64,
    /// What the forward pass keeps for the backward pass.
    pub activations: f64,
    /// The loss: logits of some rows, and gradients of the head and of its input.
    pub loss: f64,
    /// What the backward pass of a block needs meanwhile.
    pub buffers: f64,
    /// The program.
    pub program: f64,
}

impl Memory {
    /// Of a step of `setting` with the model of `c`.
    pub fn of(c: &Config, setting: &Setting) -> Self {
        let p = Parameters::of(c);
        let trained = trained(c, setting.method) as f64;
        let share = |from: u8| if setting.zero >= from { 1.0 / setting.ranks as f64 } else { 1.0 };
        let weights = match setting.method {
            Method::Full if setting.has_copy() => 2.0 * F32 * trained,
            Method::Full => F32 * trained,
            Method::Adapters { block_bits, other_bits, whole, .. } => {
                let blocks = p.blocks as f64 * block_bits / 8.0;
                // What is trained as a whole, mostly embedding or head, is there in F32 only.
                let others = (p.embedding + p.head) as f64 - whole.numbers as f64;
                blocks + others * other_bits / 8.0 + F32 * (p.vectors as f64 + trained)
            }
        };
        let once = match (setting.muon, setting.method) {
            (false, _) => 0.0,
            (true, Method::Adapters { whole, .. }) => trained - whole.numbers as f64,
            (true, _) => p.blocks as f64,
        };
        let activations = activations(c, setting);
        let loss = loss(c, setting);
        // The loss and the blocks have their peaks at different times. One checkpointed block at a time
        // is there in full while it is run again.
        let again = blocks(c, setting, usize::from(setting.checkpointed > 0));
        let block = (backward(c, setting) + again - loss.passing).max(0.0);
        Self {
            weights: weights * share(3),
            gradients: F32 * trained * share(2),
            optimizer: F32 * (2.0 * trained - once) * share(1),
            activations,
            loss: loss.saved + loss.passing,
            buffers: block,
            program: PROGRAM,
        }
    }

    /// All together.
    pub fn total(&self) -> f64 {
        self.rows().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Names and bytes, in the order in which they are shown.
    pub fn rows(&self) -> [(&'static str, f64); 7] {
        let Self { weights, gradients, optimizer, activations, loss, buffers, program } = *self;
        [
            ("weights", weights),
            ("gradients", gradients),
            ("optimizer state", optimizer),
            ("activations", activations),
            ("loss and head", loss),
            ("buffers", buffers),
            ("program", program),
        ]
    }
}

/// How many numbers are trained.
pub fn trained(c: &Config, method: Method) -> u64 {
    match method {
        Method::Full => Parameters::of(c).total(),
        Method::Adapters { rank, whole, .. } => {
            // q, k and v have an adapter each unless the model stores them as one.
            let fused = c.model_type == "internlm2";
            let split = if fused { 0 } else { 2 * c.hidden_size };
            let block: usize = matrices(c).iter().map(|(out, input)| out + input).sum();
            (c.layers * rank * (block + split)) as u64 + whole.numbers
        }
    }
}

/// What a block keeps of each token, in bytes: every input that a gradient reads, but for what norms and activations
/// give, which is computed again, and what ops save beside.
pub fn kept(c: &Config, s: &Setting) -> Vec<(&'static str, f64)> {
    let [h, f, q, kv, heads] =
        [c.hidden_size, c.intermediate_size, c.q_size(), c.kv_size(), c.heads].map(|n| n as f64);
    let number = s.number();
    let mut kept = vec![
        ("input", F32 * h),
        ("rotated q, k, and v", number * (q + 2.0 * kv)),
        ("attention and its sums", number * q + F32 * heads),
        ("residual", F32 * h),
        ("gate and up", number * 2.0 * f),
    ];
    if let Method::Adapters { rank, .. } = s.method {
        let layers = if c.model_type == "internlm2" { 5 } else { 7 };
        kept.push(("adapters", F32 * (2 * layers * rank) as f64));
    }
    kept
}

/// What so many blocks keep if none is checkpointed.
fn blocks(c: &Config, s: &Setting, n: usize) -> f64 {
    let block: f64 = kept(c, s).iter().map(|k| k.1).sum();
    (s.tokens() * n) as f64 * block
}

/// What all blocks keep, and the final norm's input and output.
fn activations(c: &Config, s: &Setting) -> f64 {
    let again = s.checkpointed.min(c.layers);
    let inputs = s.tokens() * (again + 2) * c.hidden_size;
    blocks(c, s, c.layers - again) + F32 * inputs as f64
}

/// Memory of the loss.
struct Loss {
    /// Until its gradients are used.
    saved: f64,
    /// Beside that, at the peak.
    passing: f64,
}

/// Numbers of the head's gradient beside the memory that it is added to; that of a large one is taken over.
fn head(c: &Config, s: &Setting) -> f64 {
    let n = c.vocab_size * c.hidden_size;
    if s.method.trains_head() && n < Optimizer::LARGE { n as f64 } else { 0.0 }
}

/// Logits, these without the largest of their row, and their exponentials.
const LOGITS: f64 = 3.0;

fn loss(c: &Config, s: &Setting) -> Loss {
    let tokens = s.tokens();
    let trained = s.method.trains_head();
    let dx = (tokens * c.hidden_size) as f64;
    if s.goal == Goal::Reward {
        // A score for each row: nothing but the gradient of the last hidden states.
        return Loss { saved: 0.0, passing: F32 * dx };
    }
    let rows = rows_of_logits([c.vocab_size, c.hidden_size], trained).min(tokens);
    let (logits, head) = ((rows * c.vocab_size) as f64, head(c, s));
    if s.in_pairs() {
        // Each piece of logits keeps its hidden states, and gives a gradient of the whole head.
        let another = if trained { c.vocab_size * c.hidden_size } else { 0 };
        let passing = LOGITS * logits + another as f64 + dx;
        return Loss { saved: F32 * (head + 2.0 * dx), passing: F32 * passing };
    }
    // Logits become their gradient in place, and the head's gradient is added to in place.
    let passing = logits + dx;
    Loss { saved: F32 * (head + dx), passing: F32 * passing }
}

/// The backward pass of a block at its peak, which is in the feed-forward layer: gradients of the
/// activation's parts and of a weight. That of the head, scaled by the loss's own, may be larger.
fn backward(c: &Config, s: &Setting) -> f64 {
    let tokens = s.tokens();
    let (h, f) = (c.hidden_size, c.intermediate_size);
    let weight = match s.method {
        Method::Adapters { .. } => 0,
        _ => 2 * h * f,
    };
    let activations = (tokens * 3 * f) as f64 * s.number() + F32 * (tokens * 4 * h) as f64;
    (F32 * head(c, s)).max(activations + F32 * weight as f64)
}
