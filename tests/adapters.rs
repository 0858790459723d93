//! Adapters in PEFT's format: written, read, merged, refused; and, where Python has `peft`, that it
//! computes the same with them (`PUYU_PYTHON`).

use puyu::train::normal;
use puyu_models::format::adapter::{AdapterConfig, SavedAdapter, save};
use puyu_models::format::gguf_export::{self, Export};
use puyu_models::format::{Checkpoint, Metadata, OpenOptions, Source, convert, open};
use puyu_models::{Config, Loaded, Stored, build_adapted};
use puyu_nn::{Adapter, Ctx, Param};
use puyu_tensor::{DType, Result, Tensor};
use puyu_tests::{fixtures, worst};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn opened(path: &Path) -> Checkpoint {
    open(path, OpenOptions::default()).unwrap()
}

const IDS: [u32; 9] = [5, 1, 30, 7, 22, 9, 2, 40, 11];

fn model(base: &Checkpoint, source: &dyn Source, adapter: Option<&Path>) -> Result<Loaded> {
    let config = Config::from_json(&base.config()?)?;
    let names = source.names();
    let saved = adapter.map(|folder| SavedAdapter::open(folder, &config, &names)).transpose()?;
    let added = saved.as_ref().map(|a| a as &dyn Adapter);
    build_adapted(&config, &Stored::new(source, &|_, _| ()), Some(DType::F32), added)
}

/// The logits of [`IDS`].
fn logits(path: &Path, adapter: Option<&Path>) -> Result<Vec<f32>> {
    let base = opened(path);
    let loaded = model(&base, base.source(), adapter)?;
    let mut ctx = Ctx::packed(&[IDS.len()]);
    loaded.model.forward(&Tensor::new(&IDS, [IDS.len()]), &mut ctx).to_vec()
}

/// An adapter of random numbers on the layers of `base` that `config` names.
fn write(folder: &Path, base: &Path, config: &AdapterConfig) {
    let base = opened(base);
    let mut params = Vec::new();
    for name in base.source().names() {
        let Some(path) = name.strip_suffix(".weight") else { continue };
        if config.replaces(name) {
            let shape = base.source().spec(name).unwrap().shape;
            params.push(Param::new(name, normal(7, name, &shape, 0.3)));
        }
        let Some((rank, _)) = config.rank(path) else { continue };
        let Some(spec) = base.source().spec(name).filter(|s| s.rank() == 2) else { continue };
        for (part, shape) in [("lora_A", [rank, spec.shape[1]]), ("lora_B", [spec.shape[0], rank])]
        {
            let name = format!("{path}.{part}.weight");
            params.push(Param::new(&name, normal(7, &name, &shape, 0.1)));
        }
    }
    assert!(!params.is_empty());
    save(folder, config, &params).unwrap();
}

fn adapter(base: &str, targets: &[&str], whole: &[&str]) -> (TempDir, PathBuf) {
    let base = fixtures().join(base);
    let folder = tempfile::tempdir().unwrap();
    let owned = |names: &[&str]| names.iter().map(|t| (*t).to_owned()).collect();
    let mut config = AdapterConfig::new("base", 3, 6.0, owned(targets));
    config.whole = owned(whole);
    write(folder.path(), &base, &config);
    (folder, base)
}

#[test]
fn a_merged_adapter_is_the_adapter() {
    for (base, targets, whole) in [
        ("internlm2", &["wqkv", "w2"][..], &[][..]),
        ("internlm2", &[], &[]),
        ("internlm2", &["w1"], &["output", "layers.1.attention", "norm"]),
        ("internlm3", &["k_proj", "o_proj", "up_proj"], &[]),
        ("internlm1", &["q_proj", "gate_proj"], &["lm_head", "embed_tokens"]),
        ("llama_tied", &["q_proj", "v_proj", "down_proj"], &[]),
        ("llama_tied", &[], &["embed_tokens"]),
    ] {
        let (folder, path) = adapter(base, targets, whole);
        let (plain, adapted) =
            (logits(&path, None).unwrap(), logits(&path, Some(folder.path())).unwrap());
        assert!(worst(&plain, &adapted) > 1e-2, "{base}: the adapter does nothing");
        for name in ["merged", "merged.gguf"] {
            let out = folder.path().join(name);
            let checkpoint = opened(&path);
            convert::merge(&checkpoint, folder.path(), &out, Some(DType::F32)).unwrap();
            // Rounding goes with the size of the logits, which these random models have up to 25.
            let size = adapted.iter().fold(1.0f32, |most, x| most.max(x.abs()));
            let error = worst(&logits(&out, None).unwrap(), &adapted);
            assert!(error <= 1e-5 * size, "{base} {name}: off by {error}, logits up to {size}");
        }
    }
}

/// An adapter on InternLM2's fused projection fits a GGUF file that has q, k and v apart.
#[test]
fn a_fused_adapter_fits_split_projections() {
    splits(&["wqkv"], &[]);
    splits(&["w2"], &["wqkv"]);
}

fn splits(targets: &[&str], whole: &[&str]) {
    let (folder, path) = adapter("internlm2", targets, whole);
    let base = opened(&path);
    let gguf = folder.path().join("split.gguf");
    let export = Export {
        config: &Config::from_json(&base.config().unwrap()).unwrap(),
        name: "split",
        metadata: &Metadata::default(),
        rule: &|name, _| if name.contains("attn_v") { DType::F16 } else { DType::F32 },
    };
    gguf_export::save(&gguf, base.source(), &export).unwrap();
    let names = |name: &str| opened(&gguf).source().names().iter().any(|n| n.ends_with(name));
    assert!(names("wq.weight") && !names("wqkv.weight"));
    let fused = logits(&path, Some(folder.path())).unwrap();
    let split = logits(&gguf, Some(folder.path())).unwrap();
    let change = worst(&fused, &logits(&path, None).unwrap());
    assert!(worst(&split, &fused) <= change / 50.0, "{} of {change}", worst(&split, &fused));
    let out = folder.path().join("merged.gguf");
    convert::merge(&opened(&gguf), folder.path(), &out, None).unwrap();
    assert!(worst(&logits(&out, None).unwrap(), &split) <= change / 50.0);
}

#[test]
fn what_is_not_plain_lora_is_refused_by_name() {
    let good = AdapterConfig::new("base", 4, 8.0, vec!["q_proj".into()]).to_json();
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("use_dora", json!(true)),
        ("modules_to_save", json!("lm_head")),
        ("modules_to_save", json!([""])),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("layers_to_transform", json!([1])),
        ("exclude_modules", json!(["k_proj"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("r", json!(0)),
        ("lora_alpha", json!("big")),
        ("target_modules", json!(null)),
        ("target_modules", json!("(")),
        ("rank_pattern", json!({"q_proj": -1})),
        ("alpha_pattern", json!([3])),
    ] {
        let mut json = good.clone();
        json[key] = value.clone();
        let error = AdapterConfig::from_json(&json).unwrap_err().to_string();
        assert!(error.contains(key), "{key} {value}: {error}");
    }
    assert_eq!(AdapterConfig::from_json(&good).unwrap().to_json(), good);
}

#[test]
fn ranks_and_scales_follow_the_patterns() {
    let mut json = AdapterConfig::new("base", 4, 8.0, vec!["q_proj".into()]).to_json();
    json["target_modules"] = json!(r"model\.layers\.\d+\.self_attn\.[qv]_proj");
    json["rank_pattern"] = json!({"v_proj": 16, r"layers\.1\..*": 2});
    json["alpha_pattern"] = json!({"v_proj": 32});
    let rank = |json: &Value, path: &str| {
        AdapterConfig::from_json(json).unwrap().rank(&format!("model.layers.{path}"))
    };
    assert_eq!(rank(&json, "0.self_attn.q_proj"), Some((4, 2.0)));
    assert_eq!(rank(&json, "0.self_attn.v_proj"), Some((16, 2.0)));
    assert_eq!(rank(&json, "1.self_attn.q_proj"), Some((2, 4.0)));
    assert_eq!(rank(&json, "0.self_attn.q_proj.x"), None);
    assert_eq!(rank(&json, "0.mlp.up_proj"), None);
    json["use_rslora"] = json!(true);
    assert_eq!(rank(&json, "0.self_attn.v_proj"), Some((16, 8.0)));
}

/// Missing, misshapen and extra tensors are one error, when running and when merging.
#[test]
fn an_adapter_that_does_not_fit_is_one_error() {
    let (folder, path) = adapter("llama_tied", &["q_proj"], &[]);
    let config = AdapterConfig::new("base", 3, 6.0, vec!["q_proj".into()]);
    let saved = SavedAdapter::open(
        folder.path(),
        &Config::from_json(&opened(&path).config().unwrap()).unwrap(),
        &[],
    )
    .unwrap();
    let mut params: Vec<Param> = Vec::new();
    for name in puyu_nn::Weights::names(&saved) {
        let value = puyu_nn::Weights::get(&saved, &name).unwrap();
        if name.contains("layers.0") && name.contains("lora_B") {
            params.push(Param::new("model.layers.0.self_attn.k_proj.lora_B.weight", value));
        } else if name.contains("layers.1") && name.contains("lora_A") {
            params.push(Param::new(&name, value.narrow(0, 0, 2).contiguous()));
        } else {
            params.push(Param::new(&name, value));
        }
    }
    save(folder.path(), &config, &params).unwrap();
    let wanted = ["0.self_attn.q_proj.lora_B", "1.self_attn.q_proj.lora_A", "k_proj.lora_B"];
    let running = logits(&path, Some(folder.path())).unwrap_err().to_string();
    let out = folder.path().join("out");
    let merging =
        convert::merge(&opened(&path), folder.path(), &out, None).unwrap_err().to_string();
    for error in [running, merging] {
        assert!(wanted.iter().all(|w| error.contains(w)), "{error}");
    }
    assert!(!out.exists());
    let into_itself = convert::merge(&opened(&path), folder.path(), &path, None).unwrap_err();
    assert!(into_itself.to_string().contains("another place"), "{into_itself}");
    let none = logits(&path, Some(&path)).unwrap_err().to_string();
    assert!(none.contains("adapter_config.json"), "{none}");
}

/// A module that is whole must be there, whole, and of the model's shape.
#[test]
fn whole_modules_that_do_not_fit_are_errors() {
    let (folder, path) = adapter("internlm2", &["w2"], &["output"]);
    let mut config = AdapterConfig::new("base", 3, 6.0, vec!["w2".into()]);
    let open = |config: &AdapterConfig, width: usize, name: &str| {
        config.rank("w2").unwrap();
        let weight = Param::new(name, Tensor::zeros([64, width], DType::F32));
        save(folder.path(), config, &[weight]).unwrap();
        logits(&path, Some(folder.path())).unwrap_err().to_string()
    };
    let error = open(&config, 64, "output.weight");
    assert!(error.contains("nor in one of modules_to_save"), "{error}");
    config.whole = vec!["output".into(), "tok_embeddings".into()];
    let error = open(&config, 64, "output.weight");
    assert!(error.contains("model.tok_embeddings.weight is missing"), "{error}");
    config.whole = vec!["output".into()];
    let error = open(&config, 7, "output.weight");
    assert!(error.contains("output.weight has shape [64, 7]"), "{error}");
    let out = folder.path().join("out");
    let merging = convert::merge(&opened(&path), folder.path(), &out, None).unwrap_err();
    assert!(merging.to_string().contains("output.weight is missing or has another"), "{merging}");
}

const PEFT: &str = r#"
import json, sys, torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
base, ours, theirs = sys.argv[1:4]
ids = torch.tensor([json.loads(sys.argv[4])])
load = lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
torch.manual_seed(0)
with torch.no_grad():
    read = PeftModel.from_pretrained(load(), ours)(ids).logits.flatten().tolist()
    config = LoraConfig(r=4, lora_alpha=6, target_modules=r".*\.(q_proj|up_proj)", use_rslora=True,
                        rank_pattern={"up_proj": 2}, init_lora_weights=False, task_type="CAUSAL_LM",
                        modules_to_save=["norm", "down_proj"])
    made = get_peft_model(load(), config)
    for name, p in made.named_parameters():
        if "modules_to_save" in name:
            p += 0.1 * torch.randn_like(p)
    made.save_pretrained(theirs)
    written = made(ids).logits.flatten().tolist()
print(json.dumps([read, written]))
"#;

#[test]
fn peft_computes_the_same() {
    let Some(python) = std::env::var_os("PUYU_PYTHON") else {
        eprintln!("SKIPPED: PUYU_PYTHON names no Python with torch, transformers and peft");
        return;
    };
    let targets = ["q_proj", "v_proj", "down_proj"];
    let (ours, base) = adapter("llama_tied", &targets, &["norm", "0.mlp.up_proj"]);
    let theirs = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(python);
    command
        .args(["-c", PEFT])
        .args([&base, ours.path(), theirs.path()])
        .arg(json!(IDS).to_string());
    let out = command.output().expect("PUYU_PYTHON starts");
    let stderr = String::from_utf8_lossy(&out.stderr);
    if stderr.contains("ModuleNotFoundError") {
        eprintln!("SKIPPED: PUYU_PYTHON lacks a package: {stderr}");
        return;
    }
    assert!(out.status.success(), "{stderr}");
    let [read, written]: [Vec<f32>; 2] = serde_json::from_slice(&out.stdout).unwrap();
    for (folder, theirs) in [(ours.path(), read), (theirs.path(), written)] {
        let error = worst(&logits(&base, Some(folder)).unwrap(), &theirs);
        assert!(error <= 1e-4, "{} is off by {error}", folder.display());
    }
}
