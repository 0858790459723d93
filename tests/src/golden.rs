//! Golden files: safetensors and JSON made by other implementations.

use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

/// The folder of golden checkpoints: `PUYU_FIXTURES`, or the copy in the tree.
pub fn fixtures() -> PathBuf {
    std::env::var_os("PUYU_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models"), Into::into)
}

/// The folder of others' data (`PUYU_SHARED`, default beside the workspace), or `None` with a loud
/// line when it is not there.
pub fn shared(what: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("PUYU_SHARED").map_or(default, Into::into).join(what);
    if !folder.exists() {
        eprintln!("SKIPPED: {} does not exist; set PUYU_SHARED", folder.display());
        return None;
    }
    Some(folder)
}

/// The real model's file (`PUYU_SMOLLM2`), or `None` with a loud line.
pub fn smollm2() -> Option<PathBuf> {
    let file = std::env::var_os("PUYU_SMOLLM2").map(PathBuf::from);
    if file.is_none() {
        eprintln!("SKIPPED: PUYU_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    file
}

/// The golden files of one checkpoint folder.
pub struct Golden {
    /// golden.json
    pub json: serde_json::Value,
    tensors: Vec<u8>,
}

impl Golden {
    /// Reads golden.json and, if there is one, golden.safetensors.
    pub fn open(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("golden.json")).expect("golden.json");
        Self {
            json: serde_json::from_str(&text).expect("golden.json is JSON"),
            tensors: std::fs::read(folder.join("golden.safetensors")).unwrap_or_default(),
        }
    }

    /// The elements of an F32 tensor, if it is there.
    pub fn maybe_f32(&self, name: &str) -> Option<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.tensors).expect("golden.safetensors");
        let tensor = file.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let words = tensor.data().chunks_exact(4);
        Some(words.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
    }

    /// The elements of an F32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.maybe_f32(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The elements of an I64 tensor as labels: negative ones become `u32::MAX`, which is ignored.
    pub fn labels(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.tensors).expect("golden.safetensors");
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        let words = tensor.data().chunks_exact(8);
        let label = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
        words.map(|b| u32::try_from(label(b)).unwrap_or(u32::MAX)).collect()
    }

    /// The elements of an I64 tensor of token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.labels(name);
        assert!(!ids.contains(&u32::MAX), "{name} has negative ids");
        ids
    }

    /// A list of ids in golden.json.
    pub fn json_ids(&self, key: &str) -> Vec<u32> {
        let list = self.json[key].as_array().unwrap_or_else(|| panic!("no {key}"));
        list.iter().map(|v| v.as_u64().expect("an id") as u32).collect()
    }
}

/// The largest difference between elements.
pub fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "numbers of elements");
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, |worst, e| if e.is_nan() { f32::INFINITY } else { worst.max(e) })
}
