//! Models whose files are well-formed but do not fit together, and files damaged at random: each gives
//! one error that names what is wrong, never a panic. Numbers are those of the list the project keeps to.

use proptest::prelude::*;
use puyu_models::format::{OpenOptions, Source, check_tensors, open, safetensors_write};
use puyu_models::load;
use puyu_tensor::{Spec, Tensor};
use puyu_tests::fixtures;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The error of loading the model in `folder`.
#[track_caller]
fn refused(folder: &Path) -> String {
    let result = load(folder, OpenOptions::default(), None);
    result.err().expect("a bad model was accepted").to_string()
}

/// A copy of the fixture `model` in `to`, its tensors changed by `edit`.
fn edited(model: &str, to: &Path, edit: impl Fn(&mut Vec<(String, Tensor)>)) {
    let checkpoint = open(&fixtures().join(model), OpenOptions::default()).unwrap();
    let source: &dyn Source = checkpoint.source();
    let mut tensors: Vec<(String, Tensor)> =
        source.names().into_iter().map(|n| (n.to_string(), source.tensor(n).unwrap())).collect();
    edit(&mut tensors);
    let specs: Vec<(String, Spec)> = tensors.iter().map(|(n, t)| (n.clone(), *t.spec())).collect();
    let find = |name: &str| Ok(tensors.iter().find(|(n, _)| n == name).unwrap().1.clone());
    safetensors_write::save(&to.join("model.safetensors"), &specs, &[], find).unwrap();
    write_config(to, &checkpoint.config().unwrap());
}

fn write_config(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn case_24_tensors_that_do_not_fit() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    edited("llama_tied", folder, |t| t.retain(|(n, _)| n != "model.norm.weight"));
    assert!(refused(folder).contains("model.norm.weight"), "{}", refused(folder));
    edited("llama_tied", folder, |t| t.push(("model.surplus".into(), Tensor::new(&[1f32], [1]))));
    assert!(refused(folder).contains("model.surplus"), "{}", refused(folder));
    edited("llama_tied", folder, |t| {
        for (name, tensor) in t.iter_mut().filter(|(n, _)| n.contains("layers.1.mlp")) {
            *tensor = Tensor::new(&[0f32; 6], [2, 3]);
            assert!(name.ends_with("weight"));
        }
    });
    let error = refused(folder);
    for part in ["gate_proj", "up_proj", "down_proj"] {
        assert!(error.contains(&format!("model.layers.1.mlp.{part}.weight")), "{error}");
    }
    assert!(error.contains("[2, 3]"), "{error}");
}

#[test]
fn case_25_configurations_that_are_none() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    edited("llama_tied", folder, |_| {});
    let good = open(folder, OpenOptions::default()).unwrap().config().unwrap();
    for (key, value) in [
        ("model_type", json!("gpt_neox")),
        ("model_type", json!(7)),
        ("hidden_size", json!("64")),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(1e300)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1u64 << 40)),
        ("num_attention_heads", json!(null)),
        ("num_key_value_heads", json!(3)),
        ("hidden_act", json!("gelu")),
        ("sliding_window", json!(4096)),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 2.0 })),
        ("rope_scaling", json!("dynamic")),
        ("rms_norm_eps", json!(-1.0)),
        ("tie_word_embeddings", json!("yes")),
    ] {
        let mut config = good.clone();
        config[key] = value;
        write_config(folder, &config);
        let error = refused(folder);
        let named = if key == "rope_scaling" { "rope_scaling" } else { key };
        assert!(error.contains(named), "{key}: {error}");
    }
    write_config(folder, &json!([1, 2]));
    assert!(refused(folder).contains("not a JSON object"));
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert!(refused(folder).contains("config.json"));
}

/// The seeds of the fuzz targets: small valid files of every format.
fn seeds() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let files = |format: &str| std::fs::read_dir(root.join(format)).unwrap();
    let formats = ["gguf", "safetensors", "pickle"];
    let mut paths: Vec<PathBuf> =
        formats.into_iter().flat_map(files).map(|f| f.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 6, "{paths:?}");
    paths
}

/// Asks a file everything that can be asked of it.
fn ask(path: &Path) {
    let options = OpenOptions { mmap: false };
    if let Ok(checkpoint) = open(path, options) {
        let _ = (checkpoint.config(), checkpoint.warnings(), check_tensors(checkpoint.source()));
    }
    let _ = load(path, options, None);
}

/// Damage to the seeds reaches far only if the seeds themselves are good.
#[test]
fn seeds_are_valid() {
    for path in seeds() {
        let checkpoint = open(&path, OpenOptions::default()).unwrap();
        check_tensors(checkpoint.source())
            .unwrap_or_else(|e| assert!(e.to_string().contains("holds")));
        if checkpoint.metadata().is_some_and(|m| m.get("general.architecture").is_some()) {
            load(&path, OpenOptions::default(), None).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a few bytes of a good file are changed to, the answer is a value or an error.
    #[test]
    fn damaged_files_are_values_or_errors(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let seeds = seeds();
        let mut bytes = std::fs::read(&seeds[seed.index(seeds.len())]).unwrap();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("model");
        std::fs::write(&path, bytes).unwrap();
        ask(&path);
    }
}
