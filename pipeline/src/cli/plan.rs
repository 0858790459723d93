//! `puyu plan`: what a training run will need, before it is run and without its weights.

use super::output;
use crate::finetune::{FinetuneConfig, LoraConfig, Method as Goal};
use crate::hub;
use crate::plan::{
    Device, Memory, Method, NF4_BITS, Parameters, Setting, Whole, kept, largest_batch, step_flops,
    step_seconds, train_flops, trained,
};
use crate::train::TrainConfig;
use crate::train::config::{ConfigText, OptimizerName, Override, Shipped, TrainDType};
use crate::units::{bytes, decimal, duration, quantity};
use clap::Args;
use puyu_models::format::adapter::AdapterConfig;
use puyu_models::format::{self, OpenOptions, json};
use puyu_models::{Config, Loaded, build};
use puyu_nn::Weights;
use puyu_tensor::{Context, DType, Error, ErrorKind, Result, Tensor};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Say what training will need: memory, time, and which settings fit
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// A config (a TOML file or a name of `puyu list-cfg`), or a model: a folder or config.json, also
    /// without weights, a file, or a pulled org/repo[:QUANT]
    #[arg(value_name = "CONFIG|MODEL")]
    what: String,
    /// Rows that go through the model at a time [default: the config's, or 1]
    #[arg(short, long)]
    batch: Option<usize>,
    /// Tokens of a row [default: the config's, or 2048]
    #[arg(long)]
    seq_len: Option<usize>,
    /// Layers that are run again in the backward pass [default: the config's, or 0]
    #[arg(long)]
    checkpointed: Option<usize>,
    /// Rank of LoRA adapters in what is compared
    #[arg(long, default_value_t = 16)]
    lora_rank: usize,
    /// Processes that share the work
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    ranks: u16,
    /// What they share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    zero: u8,
    /// What it is to run on: cpu (this machine, measured), a100-80g or h100-80g
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Memory that a process may take, such as 8GB or 7.5GiB [default: the device's]
    #[arg(long, value_parser = size)]
    memory: Option<f64>,
    /// FLOPs per second of matrix products, instead of the device's
    #[arg(long, value_name = "FLOPS")]
    flops: Option<f64>,
    /// Bytes per second of memory, instead of the device's
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<f64>,
    /// Override fields of the config, such as train.batch=4
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    cfg_options: Vec<Override>,
}

/// Bytes from a number with a unit.
fn size(text: &str) -> std::result::Result<f64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "mib" => f64::from(1 << 20),
        "gib" => f64::from(1 << 30),
        "tib" => 1024.0 * f64::from(1 << 30),
        _ => return Err("expected a size such as 8GB or 7.5GiB".into()),
    };
    let number = number.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.map(|n| n * unit).ok_or_else(|| "expected a size such as 8GB or 7.5GiB".into())
}

/// What is planned.
struct Planned {
    config: Config,
    setting: Setting,
    accumulate: usize,
}

impl PlanArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If neither a config nor a model is there, or it is not in order.
    pub fn run(&self) -> Result<()> {
        let planned = self.planned()?;
        let mut device = match self.device.as_str() {
            "cpu" => Device::measured(),
            name => Device::named(name).ok_or_else(|| {
                Error::invalid(format!("no device {name}: give cpu, a100-80g or h100-80g"))
            })?,
        };
        device.flops = self.flops.unwrap_or(device.flops);
        device.bandwidth = self.bandwidth.unwrap_or(device.bandwidth);
        device.memory = self.memory.or(device.memory);
        output::print(&self.text(&planned, &device))
    }

    fn planned(&self) -> Result<Planned> {
        let path = Path::new(&self.what);
        let is_config = path.extension().is_some_and(|e| e == "toml") && path.is_file();
        let mut planned = match is_config || Shipped::find(&self.what).is_some() && !path.exists() {
            true => self.by_config()?,
            false => Planned::of(Config::from_json(&shape(&self.what)?).context(&self.what)?),
        };
        let s = &mut planned.setting;
        s.batch = self.batch.unwrap_or(s.batch).max(1);
        s.seq_len = self.seq_len.unwrap_or(s.seq_len).max(1);
        s.checkpointed = self.checkpointed.unwrap_or(s.checkpointed).min(planned.config.layers);
        (s.ranks, s.zero) = (self.ranks.into(), self.zero);
        Ok(planned)
    }

    fn by_config(&self) -> Result<Planned> {
        let text = ConfigText::open(Path::new(&self.what))?;
        // A config of `puyu finetune` has two more sections, and both may be absent.
        let (all, _) = text.parse::<FinetuneConfig>(&self.cfg_options)?;
        let c = all.shared();
        c.check()?;
        let json = match &c.model.from {
            Some(from) => shape(from).context("model.from").map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::not_found(format!(
                    "{e}; or name a shape that `puyu list-cfg` shows, such as --cfg-options \
                     model.from=internlm2_5-7b"
                )),
                _ => e,
            })?,
            None => c.model.fresh(c.model.vocab_size.unwrap_or(1), c.data.seq_len)?,
        };
        if c.model.from.is_none() && c.model.vocab_size.is_none() {
            return Err(Error::invalid(
                "model.vocab_size is missing, and a plan needs it: add --cfg-options model.vocab_size=N",
            ));
        }
        let mut planned = Planned::of(Config::from_json(&json).context("[model]")?);
        let goal = all.finetune.method;
        let new_head = goal == Goal::Reward && !planned.config.reward;
        planned.config.reward |= new_head;
        planned.accumulate = c.train.accumulate;
        planned.setting = Setting {
            method: match &all.lora {
                Some(lora) => {
                    let from = c.model.from.as_deref().unwrap_or_default();
                    let whole = whole(&planned.config, &lora.adapter(from, new_head))?;
                    adapters(lora, c.model.dtype.into(), from)?.with(whole)
                }
                None => Method::Full,
            },
            goal,
            bf16: c.model.dtype == TrainDType::Bf16,
            muon: c.optimizer.name == OptimizerName::Muon,
            batch: c.train.batch,
            seq_len: c.data.seq_len,
            checkpointed: c.model.checkpointed.of(planned.config.layers),
            ..planned.setting
        };
        Ok(planned)
    }

    fn text(&self, planned: &Planned, device: &Device) -> String {
        let Planned { config: c, setting: s, accumulate, .. } = planned;
        let (p, memory) = (Parameters::of(c), Memory::of(c, s));
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        line(format!(
            "{}, {} layers: {} parameters ({} in blocks, {} in embedding and head)",
            c.model_type,
            c.layers,
            decimal(p.total() as f64),
            decimal(p.blocks as f64),
            decimal((p.embedding + p.head) as f64),
        ));
        line(format!(
            "{}{}{}{} at {} {} {} tokens, {} of {} layers checkpointed, {} process{}, ZeRO {}\n",
            name(s.method),
            if s.in_halves() { ", products in bf16," } else { "" },
            match s.goal {
                Goal::Sft => "",
                Goal::Dpo => " for DPO",
                Goal::Orpo => " for ORPO",
                Goal::Reward => " for a reward model",
            },
            if s.muon { " by Muon" } else { "" },
            s.batch,
            if s.in_pairs() { "pairs of 2 x" } else { "rows x" },
            s.seq_len,
            s.checkpointed,
            c.layers,
            s.ranks,
            if s.ranks == 1 { "" } else { "es" },
            s.zero,
        ));
        line("memory of a process".into());
        for (name, n) in memory.rows() {
            line(format!("  {name:<16} {:>10}", bytes(n)));
        }
        line(format!("  {:<16} {:>10}\n", "together", bytes(memory.total())));
        let kept: f64 = kept(c, s).iter().map(|k| k.1).sum();
        let tokens = s.tokens() as f64;
        line(format!(
            "a layer keeps {}, or {} if it is checkpointed",
            bytes(tokens * kept),
            bytes(tokens * 4.0 * c.hidden_size as f64),
        ));
        let seconds = step_seconds(c, s, *accumulate, device);
        let step_tokens = (s.tokens() * accumulate) as f64;
        line(format!(
            "a token is {}, a step of {} tokens {} with what is computed again",
            quantity(train_flops(c, s.seq_len), "FLOP"),
            decimal(step_tokens),
            quantity(step_flops(c, s, *accumulate), "FLOP"),
        ));
        line(format!(
            "expected on {} ({}, {}): {} a step, {} tokens/s a process\n",
            device.name,
            quantity(device.flops, "FLOP/s"),
            quantity(device.bandwidth, "B/s"),
            if seconds < 10.0 { format!("{seconds:.2} s") } else { duration(seconds) },
            decimal(step_tokens / seconds),
        ));
        out + &self.fits(planned, device)
    }

    /// Which settings fit, each with one row and with as many as fit.
    fn fits(&self, planned: &Planned, device: &Device) -> String {
        let Planned { config: c, setting, .. } = planned;
        let Some(most) = device.memory else { return String::new() };
        let mut out = format!(
            "what fits in {} with rows of {} tokens\n  {:<34} {:>9} {:>10}  {}\n",
            bytes(most),
            setting.seq_len,
            "",
            "trained",
            if setting.in_pairs() { "one pair" } else { "one row" },
            if setting.in_pairs() { "pairs that fit" } else { "rows that fit" },
        );
        let adapters = [Method::lora(self.lora_rank), Method::qlora(self.lora_rank)];
        let adapters = adapters.map(|method| method.with(setting.method.whole()));
        for method in [Method::Full].into_iter().chain(adapters) {
            for checkpointed in [0, c.layers] {
                let s = Setting { method, checkpointed, batch: 1, ..*setting };
                let rows = match largest_batch(c, s, most, 1024) {
                    None => "does not fit".into(),
                    Some(1024) => "1024 or more".into(),
                    Some(n) => n.to_string(),
                };
                let again = if checkpointed > 0 { ", checkpointed" } else { "" };
                let _ = writeln!(
                    out,
                    "  {:<34} {:>9} {:>10}  {rows}",
                    format!("{}{again}", name(method)),
                    decimal(trained(c, method) as f64),
                    bytes(Memory::of(c, &s).total()),
                );
            }
        }
        out
    }
}

impl Planned {
    fn of(config: Config) -> Self {
        let method = Method::Full;
        let (batch, seq_len) = (1, 2048);
        let (bf16, muon, checkpointed, ranks, zero) = (false, false, 0, 1, 0);
        let goal = if config.reward { Goal::Reward } else { Goal::Sft };
        let setting =
            Setting { method, goal, bf16, muon, batch, seq_len, checkpointed, ranks, zero };
        Self { config, setting, accumulate: 1 }
    }
}

fn name(method: Method) -> String {
    match method {
        Method::Full => "all weights".into(),
        Method::Adapters { rank, block_bits, .. } => {
            let what = if block_bits < 16.0 { "QLoRA" } else { "LoRA" };
            let bits = match block_bits {
                NF4_BITS => "nf4".into(),
                16.0 => "bf16".into(),
                32.0 => "f32".into(),
                bits => format!("{bits} bits a weight"),
            };
            format!("{what} of rank {rank}, {bits}")
        }
    }
}

/// LoRA as a config describes it, on every linear layer of the blocks.
fn adapters(lora: &LoraConfig, dtype: DType, from: &str) -> Result<Method> {
    let bits = match lora.base(dtype)? {
        Some(dtype) => bits(dtype),
        None => stored_bits(from).context(
            "lora.base = \"stored\" is as large as the weights, which a plan then needs",
        )?,
    };
    let whole = Whole::default();
    Ok(Method::Adapters { rank: lora.rank, block_bits: bits, other_bits: bits, whole })
}

/// Parameters without values: any model can be built of them.
struct Shapes;

impl Weights for Shapes {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        Err(Error::not_found(format!("no {name}")))
    }

    fn fresh(&self, _name: &str, shape: &[usize]) -> Option<Tensor> {
        Some(Tensor::scalar(0.0).broadcast_to(shape))
    }
}

/// What `rule` trains as a whole of the model of `config`.
fn whole(config: &Config, rule: &AdapterConfig) -> Result<Whole> {
    let Loaded { model, params } = build(config, &Shapes, None)?;
    let head = model.output().weight().name().to_owned();
    let mut whole = Whole::default();
    for param in params.iter().filter(|p| rule.replaces(p.name())) {
        whole.numbers += param.get().spec().numel() as u64;
        whole.head |= param.name() == head;
    }
    Ok(whole)
}

/// Bits of a number.
fn bits(dtype: DType) -> f64 {
    8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64
}

/// Bits of a weight in the matrices of a model, one with another.
fn stored_bits(model: &str) -> Result<f64> {
    let checkpoint = format::open(&hub::resolve(model)?, OpenOptions::default())?;
    let source = checkpoint.source();
    let specs = source.names().into_iter().filter_map(|name| source.spec(name));
    let matrices = specs.filter(|spec| spec.rank() == 2);
    let (bytes, numbers) = matrices.fold((0.0, 0.0), |(bytes, numbers), spec| {
        let n = spec.numel() as f64;
        (bytes + n * bits(spec.dtype) / 8.0, numbers + n)
    });
    Ok(8.0 * bytes / numbers)
}

/// config.json of a model, which may have no weights, or of a shape that comes with puyu.
fn shape(model: &str) -> Result<Value> {
    let path = Path::new(model);
    if Shipped::find(model).is_some() && !path.exists() {
        let (config, _) = ConfigText::open(path)?.parse::<TrainConfig>(&[])?;
        return config.model.fresh(config.model.vocab_size.unwrap_or(1), config.data.seq_len);
    }
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    if file.extension().is_some_and(|e| e == "json") && file.is_file() {
        return json::read_config(&file);
    }
    format::open(&hub::resolve(model)?, OpenOptions::default())?.config()
}
