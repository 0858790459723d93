//! The time a step is expected to take: its FLOPs at the rate of a device, and the bytes that pass
//! through memory besides.

use super::memory::{Memory, Method, Setting, trained};
use super::shape::forward_flops;
use crate::finetune::Method as Goal;
use puyu_models::Config;
use puyu_tensor::{DType, Tensor};
use std::time::Instant;

/// What a device can do at best.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// FLOPs per second of matrix products.
    pub flops: f64,
    /// Bytes per second from and to its memory.
    pub bandwidth: f64,
    /// Bytes of its memory, if known.
    pub memory: Option<f64>,
}

impl Device {
    /// Devices that are known by name; figures of their makers' data sheets, in BF16 without sparsity.
    pub fn named(name: &str) -> Option<Self> {
        const KNOWN: [(&str, f64, f64, f64); 2] =
            [("a100-80g", 312e12, 2.039e12, 80e9), ("h100-80g", 989e12, 3.35e12, 80e9)];
        let (name, flops, bandwidth, memory) = *KNOWN.iter().find(|k| k.0 == name)?;
        Some(Self { name: name.into(), flops, bandwidth, memory: Some(memory) })
    }

    /// This machine, measured in about half a second.
    pub fn measured() -> Self {
        let large = Tensor::zeros([16 << 20], DType::F32);
        let bytes = 2.0 * large.spec().bytes() as f64;
        let bandwidth = rate(bytes, || drop(large.affine(1.0, 1.0)));
        let (name, flops) = ("this machine, measured".into(), matmul_flops());
        Self { name, flops, bandwidth, memory: memory() }
    }
}

/// FLOPs per second of a large F32 matrix product on this machine, measured in about a quarter of a
/// second: what utilisation is a share of.
pub fn matmul_flops() -> f64 {
    const N: usize = 768;
    let x = Tensor::full([N, N], 0.5).contiguous();
    rate(2.0 * (N * N * N) as f64, || drop(x.matmul_transposed(&x)))
}

/// The best rate of `work` in a fifth of a second.
fn rate(amount: f64, work: impl Fn()) -> f64 {
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || begun.elapsed().as_secs_f64() < 0.2 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    amount / best
}

/// Memory of this machine, where the system tells (Linux).
fn memory() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

/// FLOPs that one process does in a step of `accumulate` micro-batches, recomputation included.
pub fn step_flops(c: &Config, s: &Setting, accumulate: usize) -> f64 {
    let (linear, attention) = forward_flops(c, s.seq_len);
    let again = s.checkpointed.min(c.layers) as f64 / c.layers as f64;
    let head = if c.reward { c.hidden_size } else { c.vocab_size * c.hidden_size };
    let head = 2.0 * head as f64;
    // Frozen weights pass gradients on but need none of their own; adapters need both.
    let passes = match s.method {
        Method::Adapters { .. } => 2.0,
        _ => 3.0,
    };
    let adapters = match s.method {
        Method::Adapters { .. } => 6.0 * trained(c, s.method) as f64,
        _ => 0.0,
    };
    // Losses over pairs compute logits twice, and DPO's the reference's besides.
    let pairs = match s.goal {
        Goal::Sft | Goal::Reward => 0.0,
        Goal::Orpo => head,
        Goal::Dpo => head + linear + attention,
    };
    let token =
        passes * linear + 3.0 * attention + adapters + again * (linear - head + attention) + pairs;
    token * (s.tokens() * accumulate) as f64
}

/// Seconds of a step of `accumulate` micro-batches on `device`: matrix products at its rate, then
/// what only moves bytes: activations (written, read, and their gradients likewise), gradients, and
/// the optimizer's pass over 7 numbers of each weight.
pub fn step_seconds(c: &Config, s: &Setting, accumulate: usize, device: &Device) -> f64 {
    let m = Memory::of(c, s);
    let micro = 4.0 * m.activations + 2.0 * m.loss + 2.0 * m.gradients;
    let sharers = if s.zero == 0 { 1.0 } else { s.ranks as f64 };
    let update = 28.0 * trained(c, s.method) as f64 / sharers;
    let bytes = accumulate as f64 * micro + update;
    step_flops(c, s, accumulate) / device.flops + bytes / device.bandwidth
}
