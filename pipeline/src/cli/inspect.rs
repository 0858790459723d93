//! `puyu inspect`: what is in a checkpoint, also in one that puyu cannot run.

use super::output;
use crate::hub;
use clap::Args;
use puyu_models::Config;
use puyu_models::format::{self, Checkpoint, OpenOptions, Stored};
use puyu_nn::KvCache;
use puyu_tensor::{DType, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Show config, tensors, types, parameters and memory of a checkpoint
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// A folder, a .gguf or .safetensors file, or a pulled org/repo[:QUANT]
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The types whose memory is estimated.
const ESTIMATES: [DType; 5] = [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_1, DType::Q4_0];

impl InspectArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the checkpoint cannot be opened.
    pub fn run(&self) -> Result<()> {
        let checkpoint = format::open(&hub::resolve(&self.model)?, OpenOptions::default())?;
        let about = About::new(&checkpoint);
        if self.json {
            return output::print(&format!("{:#}\n", about.json()));
        }
        output::print(&about.text(self.tensors))
    }
}

struct About<'a> {
    checkpoint: &'a Checkpoint,
    /// The shape, or why puyu does not run it.
    config: Result<(Value, Config)>,
    /// By stored type: tensors, elements, bytes.
    types: BTreeMap<String, [usize; 3]>,
}

fn type_name(stored: &Stored) -> String {
    match stored {
        Stored::Plain(dtype) => dtype.name().into(),
        Stored::Import(import) => format!("{import:?}").to_lowercase(),
        Stored::Other(name) => (*name).into(),
    }
}

impl<'a> About<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Self {
        let config = checkpoint.config().and_then(|json| {
            let config = Config::from_json(&json)?;
            Ok((json, config))
        });
        let mut types: BTreeMap<String, [usize; 3]> = BTreeMap::new();
        for e in checkpoint.table().entries() {
            let sums = types.entry(type_name(&e.stored)).or_default();
            for (sum, n) in sums.iter_mut().zip([1, e.numel(), e.len]) {
                *sum += n;
            }
        }
        Self { checkpoint, config, types }
    }

    fn parameters(&self) -> usize {
        self.types.values().map(|s| s[1]).sum()
    }

    fn kv_bytes(&self, dtype: DType) -> Option<usize> {
        let (_, c) = self.config.as_ref().ok()?;
        Some(KvCache::bytes_per_token(c.layers, c.kv_heads, c.head_dim, dtype))
    }

    fn text(&self, tensors: bool) -> String {
        let mut out = String::new();
        let mb = |bytes: usize| bytes as f64 / 1e6;
        let c = self.checkpoint;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} ({})", c.path.display(), c.format);
        match &self.config {
            Ok((_, c)) => {
                let _ = writeln!(
                    out,
                    "{}: {} layers, hidden {}, {} heads ({} key heads) of {}, feed-forward {}, vocabulary \
                     {}, {} positions\nrope base {}, scaling {:?}",
                    c.model_type,
                    c.layers,
                    c.hidden_size,
                    c.heads,
                    c.kv_heads,
                    c.head_dim,
                    c.intermediate_size,
                    c.vocab_size,
                    c.max_positions,
                    c.rope.base,
                    c.rope.scaling
                );
            }
            Err(e) => {
                let _ = writeln!(out, "puyu cannot run it: {e}");
            }
        }
        for (name, [count, elements, bytes]) in &self.types {
            let _ = writeln!(
                out,
                "{name:>8}: {count:>4} tensors {elements:>14} elements {:>10.1} MB",
                mb(*bytes)
            );
        }
        let total = self.parameters();
        let _ = writeln!(out, "{total} parameters; memory of the weights by type:");
        for dtype in ESTIMATES {
            let bytes = total / dtype.block_len() * dtype.block_bytes();
            let _ = writeln!(out, "{:>8}: {:>10.1} MB", dtype.name(), mb(bytes));
        }
        if let (Some(f32), Some(f16)) = (self.kv_bytes(DType::F32), self.kv_bytes(DType::F16)) {
            let _ = writeln!(out, "KV cache: {f16} bytes per token in f16, {f32} in f32");
        }
        for warning in c.warnings() {
            let _ = writeln!(out, "warning: {warning}");
        }
        for e in c.table().entries().iter().filter(|_| tensors) {
            let _ = writeln!(out, "{} {} {}", e.name, type_name(&e.stored), e.shape);
        }
        out
    }

    fn json(&self) -> Value {
        let types = self.types.iter().map(|(name, [count, elements, bytes])| {
            (name.clone(), json!({ "tensors": count, "elements": elements, "bytes": bytes }))
        });
        let tensors = self.checkpoint.table().entries().iter().map(
            |e| json!({ "name": e.name, "type": type_name(&e.stored), "shape": e.shape.to_vec() }),
        );
        let (config, reason) = match &self.config {
            Ok((json, _)) => (json.clone(), Value::Null),
            Err(e) => (Value::Null, e.to_string().into()),
        };
        json!({
            "path": self.checkpoint.path,
            "format": self.checkpoint.format.to_string(),
            "config": config,
            "cannot_run": reason,
            "parameters": self.parameters(),
            "types": types.collect::<serde_json::Map<_, _>>(),
            "kv_bytes_per_token_f16": self.kv_bytes(DType::F16),
            "warnings": self.checkpoint.warnings(),
            "tensors": tensors.collect::<Vec<_>>(),
        })
    }
}
