//! Adapters in PEFT's format: `adapter_config.json` says which layers are adapted and how strongly,
//! `adapter_model.safetensors` holds A and B of each under `base_model.model.<path>`, and the tensors of modules
//! that were trained as a whole. What would change the result and is neither is refused by the name of its key.

use super::cursor::quote;
use super::gguf_names::wqkv_row;
use super::hugging_face::write_json;
use super::{OpenOptions, Source, Table, json::read_config, safetensors, safetensors_write};
use crate::{Config, reward};
use fancy_regex::Regex;
use puyu_nn::{Adapter, Param, Weights};
use puyu_tensor::{Context, Error, Result, Spec, Tensor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

/// The file that makes a folder an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// A and B of each layer.
const MODEL: &str = "adapter_model.safetensors";
/// What PEFT puts before the model's own names.
const PREFIX: &str = "base_model.model.";

/// Which layers are adapted, and how.
#[derive(Clone, Debug)]
pub struct AdapterConfig {
    /// The checkpoint that was adapted, for those who read the file.
    pub base: String,
    /// r
    pub rank: usize,
    /// α; the scale is α/r, or α/√r with `rslora`.
    pub alpha: f64,
    /// Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732).
    pub rslora: bool,
    /// The probability that an element of a layer's input is dropped before A in training.
    pub dropout: f64,
    /// `modules_to_save`: paths, or what they end in, of modules that are trained as a whole.
    pub whole: Vec<String>,
    targets: Targets,
    /// Other ranks and alphas of layers whose path ends in a match.
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

#[derive(Clone, Debug)]
enum Targets {
    /// Whole paths, or what they end in after a dot.
    Names(Vec<String>),
    /// The whole path, and as it was written.
    Pattern(Regex, String),
    /// `all-linear`: every layer but the head.
    All,
}

/// The heads of all models: no target, since the fused loss takes their weight alone.
const HEADS: [&str; 3] = ["output", "lm_head", "v_head"];
/// The embeddings, which are no linear layers.
const EMBEDDINGS: [&str; 2] = ["model.tok_embeddings", "model.embed_tokens"];

impl AdapterConfig {
    /// An adapter of rank `rank` on the layers whose paths end in one of `targets`; with none, on all
    /// linear layers but the head.
    pub fn new(base: &str, rank: usize, alpha: f64, targets: Vec<String>) -> Self {
        Self {
            base: base.into(),
            rank,
            alpha,
            rslora: false,
            dropout: 0.0,
            whole: Vec::new(),
            targets: if targets.is_empty() { Targets::All } else { Targets::Names(targets) },
            ranks: Vec::new(),
            alphas: Vec::new(),
        }
    }

    /// Names the targets one by one, as PEFT does in its files: the last parts of the paths of `params`.
    pub fn name_targets(&mut self, params: &[Param]) {
        let layer =
            |p: &Param| p.name().split(".lora_").next()?.rsplit('.').next().map(str::to_owned);
        let params = params.iter().filter(|p| p.name().contains(".lora_"));
        let names: BTreeSet<String> = params.filter_map(layer).collect();
        self.targets = Targets::Names(names.into_iter().collect());
    }

    /// Reads the object of an adapter_config.json.
    ///
    /// # Errors
    /// If a key is missing or wrong, or asks for something other than plain LoRA.
    pub fn from_json(json: &Value) -> Result<Self> {
        if json["peft_type"] != "LORA" {
            return Err(Error::unsupported(format!(
                "peft_type is {}, not LORA",
                json["peft_type"]
            )));
        }
        refuse_others(json)?;
        let positive = |key: &str| {
            let n = json[key].as_f64().filter(|n| *n > 0.0 && n.is_finite());
            n.ok_or_else(|| Error::format(format!("{key} is {}, no positive number", json[key])))
        };
        Ok(Self {
            base: json["base_model_name_or_path"].as_str().unwrap_or_default().into(),
            rank: rank("r", &json["r"])?,
            alpha: positive("lora_alpha")?,
            rslora: json["use_rslora"] == true,
            dropout: json["lora_dropout"].as_f64().unwrap_or(0.0),
            whole: match &json["modules_to_save"] {
                Value::Null => Vec::new(),
                list => names("modules_to_save", list)?,
            },
            targets: targets(&json["target_modules"])?,
            ranks: patterns("rank_pattern", json, |v| rank("rank_pattern", v))?,
            alphas: patterns("alpha_pattern", json, |v| {
                let wrong = || Error::format(format!("alpha_pattern has {v}, which is no number"));
                v.as_f64().ok_or_else(wrong)
            })?,
        })
    }

    /// The object of an adapter_config.json, with what PEFT wants to find there.
    pub fn to_json(&self) -> Value {
        let targets = match &self.targets {
            Targets::Names(names) => json!(names),
            Targets::Pattern(_, text) => json!(text),
            Targets::All => json!("all-linear"),
        };
        let written = |r: &Regex| {
            let text = r.as_str();
            let inner = text.strip_prefix(BEFORE).and_then(|t| t.strip_suffix(AFTER));
            inner.unwrap_or(text).to_owned()
        };
        let ranks = self.ranks.iter().map(|(k, v)| (written(k), json!(v)));
        let alphas = self.alphas.iter().map(|(k, v)| (written(k), json!(v)));
        // PEFT wants a language model to generate, which a reward model does not.
        let task = if self.replaces(reward::HEAD) { "FEATURE_EXTRACTION" } else { "CAUSAL_LM" };
        let whole = Some(&self.whole).filter(|whole| !whole.is_empty());
        json!({
            "peft_type": "LORA", "task_type": task, "base_model_name_or_path": self.base,
            "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout, "bias": "none",
            "target_modules": targets, "use_rslora": self.rslora, "use_dora": false,
            "fan_in_fan_out": false, "init_lora_weights": true, "inference_mode": true,
            "modules_to_save": whole, "layers_to_transform": null, "layers_pattern": null,
            "rank_pattern": ranks.collect::<Map<_, _>>(),
            "alpha_pattern": alphas.collect::<Map<_, _>>(),
        })
    }

    /// The rank and the scale of the layer at `path`; `None` if it is no target.
    pub fn rank(&self, path: &str) -> Option<(usize, f32)> {
        let ends = |t: &String| {
            path.strip_suffix(t.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let wanted = match &self.targets {
            Targets::Names(names) => names.iter().any(ends),
            Targets::Pattern(pattern, _) => matches(pattern, path),
            Targets::All => !HEADS.contains(&path) && !EMBEDDINGS.contains(&path),
        };
        let r = first(&self.ranks, path).unwrap_or(self.rank);
        let alpha = first(&self.alphas, path).unwrap_or(self.alpha);
        let by = if self.rslora { (r as f64).sqrt() } else { r as f64 };
        let whole = self.whole.iter().any(|module| path.ends_with(module));
        (wanted && !whole).then_some((r, (alpha / by) as f32))
    }

    /// Whether the tensor `name` belongs to a module that is trained as a whole.
    pub fn replaces(&self, name: &str) -> bool {
        self.whole.iter().any(|module| is_within(name, module))
    }
}

/// Whether the tensor `name` lies in a module whose path ends in `module`, which is PEFT's rule for `modules_to_save`.
pub fn is_within(name: &str, module: &str) -> bool {
    name.match_indices('.').any(|(end, _)| name[..end].ends_with(module))
}

/// Keys that make an adapter more than A, B and whole modules; absent, null, false and empty say that they do not.
fn refuse_others(json: &Value) -> Result<()> {
    const OTHERS: [&str; 15] = [
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
        "layers_to_transform",
        "layer_replication",
        "exclude_modules",
        "trainable_token_indices",
        "target_parameters",
        "megatron_config",
        "use_qalora",
        "alora_invocation_tokens",
        "arrow_config",
        "use_bdlora",
        "monteclora_config",
        "velora_config",
    ];
    let asks = |v: &&Value| match v {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    for key in OTHERS {
        if let Some(value) = json.get(key).filter(asks) {
            return Err(Error::unsupported(format!(
                "{key} is {value}; puyu runs plain LoRA adapters only"
            )));
        }
    }
    // These begin by changing the base's own weights.
    let init = json["init_lora_weights"].as_str().unwrap_or_default();
    if ["pissa", "olora", "corda", "loftq"].iter().any(|name| init.starts_with(name)) {
        return Err(Error::unsupported(format!(
            "init_lora_weights is {init}, which changes the base; save the adapter as plain LoRA"
        )));
    }
    match json.get("bias").and_then(Value::as_str) {
        None | Some("none") => Ok(()),
        Some(bias) => Err(Error::unsupported(format!(
            "bias is {bias}; puyu runs adapters with bias none only"
        ))),
    }
}

fn rank(key: &str, value: &Value) -> Result<usize> {
    let n = value.as_u64().filter(|n| (1..=65_536).contains(n));
    let wrong = || Error::format(format!("{key} is {value}, no rank from 1 to 65536"));
    n.map(|n| n as usize).ok_or_else(wrong)
}

fn targets(json: &Value) -> Result<Targets> {
    match json {
        Value::String(all) if all == "all-linear" => Ok(Targets::All),
        Value::String(pattern) => Ok(Targets::Pattern(
            regex("target_modules", &format!("^(?:{pattern})$"))?,
            pattern.into(),
        )),
        Value::Array(list) if !list.is_empty() => names("target_modules", json).map(Targets::Names),
        other => Err(Error::format(format!(
            "target_modules is {other}, expected a list of names or a pattern"
        ))),
    }
}

fn names(key: &str, json: &Value) -> Result<Vec<String>> {
    let wrong = || Error::format(format!("{key} is {json}, expected a list of names"));
    let name = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let names = json.as_array().map(|list| list.iter().map(name).collect::<Option<Vec<_>>>());
    names.flatten().ok_or_else(wrong)
}

/// What PEFT puts around a key of `rank_pattern` and `alpha_pattern`.
const BEFORE: &str = r"^(?:.*\.)?(?:";
const AFTER: &str = ")$";

fn patterns<T>(
    key: &str,
    json: &Value,
    read: impl Fn(&Value) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let object = match json.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(value) => value.as_object(),
    };
    let object = object.ok_or_else(|| Error::format(format!("{key} is no object")))?;
    let pair =
        |(k, v): (&String, &Value)| Ok((regex(key, &format!("{BEFORE}{k}{AFTER}"))?, read(v)?));
    object.iter().map(pair).collect()
}

fn regex(key: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| Error::format(format!("{key} is no pattern: {e}")))
}

/// Whether `path` matches; a pattern that runs out of its budget of steps does not.
fn matches(pattern: &Regex, path: &str) -> bool {
    pattern.is_match(path).unwrap_or(false)
}

fn first<T: Copy>(patterns: &[(Regex, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(p, _)| matches(p, path)).map(|(_, v)| *v)
}

/// An adapter in a folder.
pub struct SavedAdapter {
    /// What it adapts.
    pub config: AdapterConfig,
    table: Table,
    /// Set where the base has q, k and v of InternLM2 apart: query heads a group, and D.
    split: Option<(usize, usize)>,
}

impl SavedAdapter {
    /// Opens the adapter in `folder` for a base of shape `shape` whose tensors are called `names`.
    ///
    /// # Errors
    /// If a file is missing or broken, or it is no plain LoRA adapter.
    pub fn open(folder: &Path, shape: &Config, names: &[&str]) -> Result<Self> {
        if !folder.join(CONFIG).is_file() {
            return Err(Error::not_found(format!(
                "{} has no {CONFIG}, so it is no adapter",
                folder.display()
            )));
        }
        let file = folder.join(CONFIG);
        let config = AdapterConfig::from_json(&read_config(&file)?).context(file.display())?;
        let table = safetensors::open(&folder.join(MODEL), OpenOptions::default())?;
        let known = |n: &&str| {
            n.ends_with(".lora_A.weight") || n.ends_with(".lora_B.weight") || config.replaces(n)
        };
        if let Some(other) = table.names().into_iter().find(|n| !n.starts_with(PREFIX) || !known(n))
        {
            return Err(Error::unsupported(format!(
                "{}: tensor {} is neither A nor B of a layer ({PREFIX}<path>.lora_A.weight), nor in one of \
                 modules_to_save",
                folder.join(MODEL).display(),
                quote(other)
            )));
        }
        let apart = names.iter().any(|n| n.ends_with(".attention.wq.weight"));
        let split = apart.then(|| (shape.heads / shape.kv_heads, shape.head_dim));
        let adapter = Self { config, table, split };
        let missing = |n: &&&str| adapter.replaces(n) && adapter.whole(n).is_none();
        match names.iter().find(missing) {
            Some(name) => Err(Error::format(format!(
                "{}: {name} is missing, which is in one of modules_to_save",
                folder.join(MODEL).display()
            ))),
            None => Ok(adapter),
        }
    }

    /// Whether it brings a score's head: on a language model it makes a reward model.
    pub fn scores(&self) -> bool {
        self.whole(reward::HEAD).is_some()
    }

    /// The spec of the tensor `name`, or of what it is a part of, if the adapter replaces it.
    pub(super) fn whole(&self, name: &str) -> Option<Spec> {
        let fused = self.fused(name).map(|(fused, _)| fused);
        let spec = self.table.spec(&format!("{PREFIX}{}", fused.as_deref().unwrap_or(name)));
        spec.filter(|_| self.replaces(name))
    }

    /// A and B of the layer at `path` and its scale, checked against the `[out, in]` of its weight;
    /// `None` if it is left alone.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn of(
        &self,
        path: &str,
        out: usize,
        input: usize,
    ) -> Result<Option<(Tensor, Tensor, f32)>> {
        let Some((rank, scale)) = Adapter::rank(self, path) else { return Ok(None) };
        let part = |name: &str, shape: [usize; 2]| {
            let name = format!("{path}.{name}.weight");
            let tensor =
                self.get(&name).map_err(|_| Error::format(format!("{name} is missing")))?;
            match *tensor.shape() == shape {
                true => Ok(tensor.to_dtype(puyu_tensor::DType::F32)),
                false => Err(Error::format(format!(
                    "{name} has shape {:?}, expected {shape:?}",
                    tensor.shape()
                ))),
            }
        };
        Ok(Some((part("lora_A", [rank, input])?, part("lora_B", [out, rank])?, scale)))
    }

    /// For a part of a split projection: the fused name, and which part it is.
    fn fused(&self, name: &str) -> Option<(String, usize)> {
        self.split?;
        let part = ["wq", "wk", "wv"].iter().position(|p| in_attention(name, p))?;
        let own = self.table.spec(&format!("{PREFIX}{name}")).is_some();
        (!own).then(|| (rename(name, ["wq", "wk", "wv"][part], "wqkv"), part))
    }
}

fn in_attention(name: &str, layer: &str) -> bool {
    let dotted = format!(".attention.{layer}");
    name.ends_with(&dotted) || name.contains(&format!("{dotted}."))
}

fn rename(name: &str, from: &str, to: &str) -> String {
    name.replace(&format!(".attention.{from}"), &format!(".attention.{to}"))
}

impl Weights for SavedAdapter {
    fn names(&self) -> Vec<String> {
        let own = self.table.names().into_iter().map(|n| n[PREFIX.len()..].to_owned());
        own.flat_map(|n| match self.split {
            Some(_) if in_attention(&n, "wqkv") => {
                ["wq", "wk", "wv"].map(|p| rename(&n, "wqkv", p)).to_vec()
            }
            _ => vec![n],
        })
        .collect()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        let (Some((fused, part)), Some((per_group, d))) = (self.fused(name), self.split) else {
            return self.table.tensor(&format!("{PREFIX}{name}"));
        };
        let tensor = self.table.tensor(&format!("{PREFIX}{fused}"))?;
        if name.ends_with(".lora_A.weight") {
            return Ok(tensor);
        }
        let unit = (per_group + 2) * d;
        if !tensor.dim(0).is_multiple_of(unit) {
            return Err(Error::format(format!("{fused} has shape {:?}", tensor.shape())));
        }
        let heads = tensor.dim(0) / unit * if part == 0 { per_group } else { 1 };
        let row = |row| wqkv_row(part, row, per_group, d) as u32;
        let rows: Vec<u32> = (0..heads * d).map(row).collect();
        Ok(tensor.gather(&Tensor::new(&rows, [rows.len()])))
    }
}

impl Adapter for SavedAdapter {
    fn rank(&self, path: &str) -> Option<(usize, f32)> {
        let fused = || self.fused(&format!("{path}.lora_A.weight"));
        self.config.rank(path).or_else(|| {
            let (name, _) = fused()?;
            self.config.rank(name.strip_suffix(".lora_A.weight")?)
        })
    }

    fn replaces(&self, name: &str) -> bool {
        let fused = || self.fused(name).is_some_and(|(fused, _)| self.config.replaces(&fused));
        self.config.replaces(name) || fused()
    }
}

/// Writes an adapter: the parameters called `<path>.lora_A.weight` and `<path>.lora_B.weight`, and those of whole
/// modules.
///
/// # Errors
/// If a file cannot be written.
pub fn save(folder: &Path, config: &AdapterConfig, params: &[Param]) -> Result<()> {
    std::fs::create_dir_all(folder).context(folder.display())?;
    let spec = |p: &Param| (format!("{PREFIX}{}", p.name()), *p.get().spec());
    let specs: Vec<(String, Spec)> = params.iter().map(spec).collect();
    safetensors_write::save(&folder.join(MODEL), &specs, &[("format", "pt")], |name| {
        let param = params.iter().find(|p| name[PREFIX.len()..] == *p.name());
        param.map(|p| p.get().detach()).ok_or_else(|| Error::not_found(format!("no {name}")))
    })?;
    write_json(&folder.join(CONFIG), &config.to_json())
}

/// Checks that `adapter` fits a base of these specs: one error with all missing, misshapen and extra
/// tensors.
///
/// # Errors
/// That one.
pub(super) fn check(adapter: &SavedAdapter, base: &dyn Source) -> Result<()> {
    let (mut problems, mut used) = (Vec::new(), HashSet::new());
    for name in base.names() {
        if adapter.replaces(name) {
            let shape =
                |t: Tensor| *t.shape() == base.spec(name).map_or([].into(), |s| s.shape)[..];
            if !adapter.get(name).is_ok_and(shape) {
                problems.push(format!("{name} is missing or has another shape than the model's"));
            }
            used.insert(name.to_owned());
            continue;
        }
        let Some(path) = name.strip_suffix(".weight") else { continue };
        let Some(spec) = base.spec(name).filter(|s| s.rank() == 2) else { continue };
        if HEADS.contains(&path) && adapter.rank(path).is_some() {
            problems.push(format!("{path} is the model's head, which puyu does not adapt"));
        } else if let Err(e) = adapter.of(path, spec.shape[0], spec.shape[1]) {
            problems.push(e.to_string());
        }
        if adapter.rank(path).is_some() {
            used.extend(["lora_A", "lora_B"].map(|part| format!("{path}.{part}.weight")));
        }
    }
    let extra = adapter.names().into_iter().filter(|n| !used.contains(n));
    problems.extend(extra.map(|n| format!("{n} is on no layer of this model")));
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::format(format!(
            "the adapter does not fit the model: {}",
            problems[..problems.len().min(8)].join("; ")
        ))),
    }
}
