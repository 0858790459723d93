//! One forward pass as plain loops over slices: the best first read, and an independent oracle.
//!
//! Nothing here is fast and nothing is shared with the engine: no tensors, no threads, no cache.
//! Tokens go in, logits come out, and all that a model does in between is on this page. Letters: T
//! tokens, H hidden size, N query heads, G key heads, D head dim, F feed-forward size, V vocabulary.

use puyu_nn::Ctx;
use puyu_tensor::{DType, Tensor};
use puyu_tests::{fixtures, worst};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Logits `[T, V]` of the tokens `ids`: how likely each token of the vocabulary is to come next.
fn forward(m: &Plain, ids: &[u32]) -> Vec<f32> {
    // The residual stream: one vector [H] per token, which every layer adds to.
    let embedding = m.weight("model.tok_embeddings");
    let mut stream: Vec<Vec<f32>> =
        ids.iter().map(|&id| embedding[id as usize * m.h..][..m.h].to_vec()).collect();
    let frequencies = m.frequencies(ids.len());
    let layers = m.config["num_hidden_layers"].as_u64().expect("num_hidden_layers");
    for i in 0..layers {
        let at = |name: &str| format!("model.layers.{i}.{name}");

        // What each token asks for (q), what it offers (k), and what it gives (v).
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (position, x) in stream.iter().enumerate() {
            let x = rms_norm(x, m.weight(&at("attention_norm")), m.eps);
            let [mut q1, mut k1, v1] = m.project_qkv(&at("attention"), &x); // [N·D], [G·D], [G·D]
            q1.chunks_exact_mut(m.d).for_each(|head| rotate(head, position, &frequencies));
            k1.chunks_exact_mut(m.d).for_each(|head| rotate(head, position, &frequencies));
            q.push(q1);
            k.push(k1);
            v.push(v1);
        }

        for (t, x) in stream.iter_mut().enumerate() {
            // A token looks at itself and at those before it.
            let seen = m.attend(&q[t], &k[..=t], &v[..=t]); // [N·D]
            add(x, &m.linear(&at("attention.wo"), &seen));

            let y = rms_norm(x, m.weight(&at("ffn_norm")), m.eps);
            let gate = m.linear(&at("feed_forward.w1"), &y); // [F]
            let up = m.linear(&at("feed_forward.w3"), &y); // [F]
            let swiglu: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
            add(x, &m.linear(&at("feed_forward.w2"), &swiglu));
        }
    }

    let norm = m.weight("model.norm");
    // A tied head is the embedding: how much a token looks like each one of the vocabulary.
    let own = m.weights.contains_key("output.weight");
    let head = if own { "output" } else { "model.tok_embeddings" };
    stream.iter().flat_map(|x| m.linear(head, &rms_norm(x, norm, m.eps))).collect()
}

/// x / √(mean(x²) + ε) · weight
fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean_square = dot(x, x) / x.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

/// Σ a · b
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// x · sigmoid(x)
fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// exp(x) / Σ exp(x), safe for large x.
fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// Turns the pairs (x[j], x[j + D/2]) of one head by position · frequency[j], so that q · k depends on
/// how far apart two tokens are.
fn rotate(head: &mut [f32], position: usize, frequencies: &[f32]) {
    let (first, second) = head.split_at_mut(frequencies.len());
    for ((a, b), frequency) in first.iter_mut().zip(second).zip(frequencies) {
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// A checkpoint's weights under InternLM2's names, and its config.json with the sizes used here.
struct Plain {
    weights: HashMap<String, Vec<f32>>,
    config: Value,
    h: usize,
    heads: usize,
    groups: usize,
    d: usize,
    eps: f32,
}

impl Plain {
    fn weight(&self, name: &str) -> &[f32] {
        self.weights.get(&format!("{name}.weight")).unwrap_or_else(|| panic!("no {name}.weight"))
    }

    /// W x + b, an output for each row of W; b only if the checkpoint has one.
    fn linear(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let rows = self.weight(name).chunks_exact(x.len());
        let mut y: Vec<f32> = rows.map(|row| dot(row, x)).collect();
        if let Some(bias) = self.weights.get(&format!("{name}.bias")) {
            add(&mut y, bias);
        }
        y
    }

    /// q, k and v of one token. Llama has three matrices. InternLM2 has one whose rows are grouped: for
    /// each key head, the query heads that share it, then the key head, then the value head.
    fn project_qkv(&self, attention: &str, x: &[f32]) -> [Vec<f32>; 3] {
        if !self.weights.contains_key(&format!("{attention}.wqkv.weight")) {
            return ["wq", "wk", "wv"].map(|name| self.linear(&format!("{attention}.{name}"), x));
        }
        let all = self.linear(&format!("{attention}.wqkv"), x);
        let shared = self.heads / self.groups;
        let [mut q, mut k, mut v] = [const { Vec::new() }; 3];
        for group in all.chunks_exact((shared + 2) * self.d) {
            let (queries, rest) = group.split_at(shared * self.d);
            let (key, value) = rest.split_at(self.d);
            q.extend_from_slice(queries);
            k.extend_from_slice(key);
            v.extend_from_slice(value);
        }
        [q, k, v]
    }

    /// Attention of one token's queries `[N·D]` over keys and values `[G·D]` of the tokens it sees: for
    /// each head, the mean of the values weighted by softmax(q · k / √D).
    fn attend(&self, q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f32> {
        let d = self.d;
        let mut y = vec![0.0; q.len()];
        for (head, (q, y)) in q.chunks_exact(d).zip(y.chunks_exact_mut(d)).enumerate() {
            let g = head / (self.heads / self.groups); // N / G query heads share a key head
            let scores = keys.iter().map(|k| dot(q, &k[g * d..][..d]) / (d as f32).sqrt());
            let mut p: Vec<f32> = scores.collect();
            softmax(&mut p);
            for (p, v) in p.iter().zip(values) {
                y.iter_mut().zip(&v[g * d..][..d]).for_each(|(y, v)| *y += p * v);
            }
        }
        y
    }

    /// base^(-2j/D) for j < D/2. With dynamic NTK, a text of L tokens that is longer than the P
    /// positions of the training has base · (f · L/P - (f - 1))^(D/(D-2)) instead.
    fn frequencies(&self, length: usize) -> Vec<f32> {
        let c = &self.config;
        let number = |v: &Value| v.as_f64().map(|f| f as f32);
        // InternLM-1 has one place for what the others spread over two.
        let rope = if c["rotary"].is_null() { &c["rope_scaling"] } else { &c["rotary"] };
        let d = self.d as f32;
        let mut base = number(&c["rope_theta"]).or(number(&rope["base"])).unwrap_or(10_000.0);
        match rope["rope_type"].as_str().or(rope["type"].as_str()) {
            None => {}
            Some("dynamic") => {
                let factor = number(&rope["factor"]).unwrap_or(1.0);
                let trained = number(&c["max_position_embeddings"]).expect("positions");
                let longer = (length as f32 / trained).max(1.0);
                base *= (factor * longer - (factor - 1.0)).powf(d / (d - 2.0));
            }
            Some(other) => panic!("this page does not turn heads by {other}"),
        }
        (0..self.d / 2).map(|j| base.powf(-2.0 * j as f32 / d)).collect()
    }

    fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
        let config: Value = serde_json::from_str(&text).expect("config.json is JSON");
        let size = |key: &str| config[key].as_u64().map(|n| n as usize);
        let need = |key: &str| size(key).unwrap_or_else(|| panic!("no {key}"));
        let (h, heads) = (need("hidden_size"), need("num_attention_heads"));
        let groups = size("num_key_value_heads").unwrap_or(heads);
        let d = size("head_dim").unwrap_or(h / heads);
        let eps = config["rms_norm_eps"].as_f64().expect("rms_norm_eps") as f32;
        Self { weights: read_weights(folder), h, heads, groups, d, eps, config }
    }
}

/// What Llama and its kin, and reward models, call a weight, and what InternLM2 calls it.
const OTHER_NAMES: [(&str, &str); 12] = [
    ("embed_tokens", "tok_embeddings"),
    ("input_layernorm", "attention_norm"),
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("lm_head", "output"),
    ("v_head", "output"),
];

/// Every weight of a folder as F32; a BF16 is the upper half of one.
fn read_weights(folder: &Path) -> HashMap<String, Vec<f32>> {
    let mut weights = HashMap::new();
    for entry in std::fs::read_dir(folder).expect("a checkpoint folder") {
        let path = entry.expect("an entry of the folder").path();
        let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let ours = file.starts_with("model") && file.ends_with(".safetensors");
        let bytes = if ours { std::fs::read(&path).expect("a readable file") } else { continue };
        for (name, tensor) in SafeTensors::deserialize(&bytes).expect("safetensors").tensors() {
            let rename = |name: String, (old, new): &(&str, &str)| name.replace(old, new);
            let name = OTHER_NAMES.iter().fold(name, rename);
            let wide = |b: &[u8]| match tensor.dtype() {
                Dtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                Dtype::BF16 => f32::from_le_bytes([0, 0, b[0], b[1]]),
                other => panic!("{name} is {other:?}"),
            };
            let size = tensor.dtype().bitsize() / 8;
            weights.insert(name.clone(), tensor.data().chunks_exact(size).map(wide).collect());
        }
    }
    weights
}

#[test]
fn plain_loops_agree_with_the_model() {
    let entries = std::fs::read_dir(fixtures()).expect("the fixtures folder can be listed");
    let paths = entries.map(|e| e.expect("an entry of the fixtures folder").path());
    let folders: Vec<_> = paths.filter(|p| p.join("config.json").exists()).collect();
    assert!(!folders.is_empty(), "no checkpoint folder in {}", fixtures().display());
    for folder in folders {
        let plain = Plain::read(&folder);
        // 44 tokens are more than the positions of the dynamic-NTK fixtures: their base moves.
        let vocabulary = plain.weight("model.tok_embeddings").len() / plain.h;
        let ids: Vec<u32> = (0..44).map(|i| ((i * 37 + 11) % vocabulary) as u32).collect();
        let model = puyu_models::load(&folder, Default::default(), Some(DType::F32));
        let model = model.unwrap_or_else(|e| panic!("{}: {e}", folder.display())).model;
        let logits = model.forward(&Tensor::new(&ids, [44]), &mut Ctx::packed(&[44]));
        let error = worst(&logits.to_vec().expect("values"), &forward(&plain, &ids));
        assert!(error <= 1e-4, "{}: logits differ by {error}", folder.display());
    }
}
