//! The golden training runs: their folder is `PUYU_TRAIN_FIXTURES`, their texts `PUYU_TRAIN_DATA`
//! (defaults under `PUYU_SHARED`). Every folder of that layout is run, whatever its seed and shape.

use crate::shared;
use puyu::data::Batch;
use puyu_models::{Config, Loaded, Stored, build, format};
use puyu_tensor::DType;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A folder of golden runs and what golden.json says.
pub struct TrainGolden {
    /// Where init.safetensors and the others lie.
    pub folder: PathBuf,
    /// golden.json
    pub json: Value,
}

/// Every golden folder; empty, with a loud line, where there are none.
pub fn train_goldens() -> Vec<TrainGolden> {
    let chosen = std::env::var_os("PUYU_TRAIN_FIXTURES").map(PathBuf::from);
    let Some(root) = chosen.or_else(|| shared("fixtures/train")) else { return Vec::new() };
    let entries = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("PUYU_TRAIN_FIXTURES {}: {e}", root.display()));
    let mut folders: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    folders.push(root.clone());
    folders.retain(|f| f.join("golden.json").exists());
    folders.sort();
    assert!(!folders.is_empty(), "no golden.json in {} or its folders", root.display());
    folders.into_iter().map(TrainGolden::open).collect()
}

/// A file below `PUYU_TRAIN_DATA`, or `None` with a loud line.
pub fn train_data(file: &str) -> Option<PathBuf> {
    let chosen = std::env::var_os("PUYU_TRAIN_DATA").map(PathBuf::from);
    chosen.or_else(|| shared("data/train")).map(|folder| folder.join(file))
}

impl TrainGolden {
    fn open(folder: PathBuf) -> Self {
        let text = std::fs::read_to_string(folder.join("golden.json")).expect("golden.json");
        let json = serde_json::from_str(&text).expect("golden.json is JSON");
        Self { folder, json }
    }

    /// A whole number of golden.json, by a path of keys.
    pub fn number(&self, path: &[&str]) -> usize {
        self.value(path).as_u64().unwrap_or_else(|| panic!("{path:?} is no number")) as usize
    }

    /// A number of golden.json, by a path of keys.
    pub fn float(&self, path: &[&str]) -> f64 {
        self.value(path).as_f64().unwrap_or_else(|| panic!("{path:?} is no number"))
    }

    /// A value of golden.json, by a path of keys.
    pub fn value(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.json, |v, key| &v[*key])
    }

    /// The model's config in Hugging Face's keys.
    pub fn config(&self) -> Value {
        let c = &self.json["config"];
        json!({
            "model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "bias": false,
            "vocab_size": c["vocab"], "hidden_size": c["hidden"], "num_hidden_layers": c["layers"],
            "num_attention_heads": c["heads"], "num_key_value_heads": c["kv_heads"],
            "head_dim": c["head_dim"], "intermediate_size": c["inter"],
            "rope_theta": c["theta"], "rms_norm_eps": c["eps"], "max_position_embeddings": 2048,
        })
    }

    /// The model with the weights of `file`.
    pub fn load(&self, file: &str) -> Loaded {
        let checkpoint = format::open(&self.folder.join(file), Default::default())
            .unwrap_or_else(|e| panic!("{file}: {e}"));
        let config = Config::from_json(&self.config()).expect("the golden's config");
        build(&config, &Stored::new(checkpoint.source(), &|_, _| ()), Some(DType::F32))
            .unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    /// The elements of the tensor `name` of `file`.
    pub fn tensor(&self, file: &str, name: &str) -> Vec<f32> {
        let checkpoint = format::open(&self.folder.join(file), Default::default())
            .unwrap_or_else(|e| panic!("{file}: {e}"));
        let tensor = checkpoint.source().tensor(name).unwrap_or_else(|e| panic!("{file}: {e}"));
        tensor.to_vec().unwrap_or_else(|e| panic!("{file} {name}: {e}"))
    }

    /// The bytes of the tensor `name` of `file`, of whatever type.
    pub fn bytes(&self, file: &str, name: &str) -> Vec<u8> {
        let all = std::fs::read(self.folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let tensors = safetensors::SafeTensors::deserialize(&all);
        let tensors = tensors.unwrap_or_else(|e| panic!("{file}: {e}"));
        tensors.tensor(name).unwrap_or_else(|e| panic!("{file} {name}: {e}")).data().to_vec()
    }

    /// Rows `rows` of step `step`, as the README has them: row b of step s starts at byte
    /// offset + (s·batch + b)·seq of the text.
    pub fn rows(&self, text: &Path, step: usize, rows: std::ops::Range<usize>) -> Batch {
        let bytes = std::fs::read(text).unwrap_or_else(|e| panic!("{}: {e}", text.display()));
        let (seq, batch) = (self.number(&["seq"]), self.number(&["batch"]));
        let offset = self.number(&["offset"]);
        let mut out = Batch::default();
        for row in rows {
            let at = offset + (step * batch + row) * seq;
            let ids = |from: usize| -> Vec<u32> {
                bytes[from..from + seq].iter().map(|b| u32::from(*b)).collect()
            };
            out.push(&ids(at), &ids(at + 1));
        }
        out
    }
}
