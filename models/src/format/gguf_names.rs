//! GGUF's tensor names and row order against a model's own. llama.cpp rotates neighbouring rows of q
//! and k where the models rotate halves, so its converter interleaves them; here that is undone, by
//! moving whole rows, which works in every block format and copies q and k only. The fused `wqkv` of
//! InternLM2 is put together again where its parts have one type.

use super::cursor::quote;
use super::gguf::Gguf;
use super::gguf_config::{self, ROPE_FREQS};
use super::{Entry, Source, Table, gather};
use puyu_tensor::{Error, Result, Spec, Tensor};
use std::collections::HashMap;

/// Tensor names outside the layers: GGUF's, Llama's, InternLM2's. Each ends in `.weight`.
const OUTER: [(&str, &str, &str); 3] = [
    ("token_embd", "model.embed_tokens", "model.tok_embeddings"),
    ("output_norm", "model.norm", "model.norm"),
    ("output", "lm_head", "output"),
];

/// Names within layer `N`: after `blk.N.`, and after `model.layers.N.` of Llama and InternLM2.
const INNER: [(&str, &str, &str); 9] = [
    ("attn_norm", "input_layernorm", "attention_norm"),
    ("attn_q", "self_attn.q_proj", "attention.wq"),
    ("attn_k", "self_attn.k_proj", "attention.wk"),
    ("attn_v", "self_attn.v_proj", "attention.wv"),
    ("attn_output", "self_attn.o_proj", "attention.wo"),
    ("ffn_norm", "post_attention_layernorm", "ffn_norm"),
    ("ffn_gate", "mlp.gate_proj", "feed_forward.w1"),
    ("ffn_up", "mlp.up_proj", "feed_forward.w3"),
    ("ffn_down", "mlp.down_proj", "feed_forward.w2"),
];

/// Picks the column of [`OUTER`] and [`INNER`] that a model type uses.
fn column<'a>(row: &(&'a str, &'a str, &'a str), internlm2: bool) -> &'a str {
    if internlm2 { row.2 } else { row.1 }
}

/// The model's name of a GGUF tensor; `None` if it has none.
pub fn from_gguf(name: &str, internlm2: bool) -> Option<String> {
    let (stem, kind) = split_kind(name)?;
    if let Some(rest) = stem.strip_prefix("blk.") {
        let (layer, part) = rest.split_once('.')?;
        number(layer)?;
        let row = INNER.iter().find(|row| row.0 == part)?;
        return Some(format!("model.layers.{layer}.{}.{kind}", column(row, internlm2)));
    }
    let row = OUTER.iter().find(|row| row.0 == stem)?;
    Some(format!("{}.{kind}", column(row, internlm2)))
}

/// The GGUF name of a model's tensor; `None` if it has none.
pub fn to_gguf(name: &str, internlm2: bool) -> Option<String> {
    let (stem, kind) = split_kind(name)?;
    if let Some(rest) = stem.strip_prefix("model.layers.") {
        let (layer, part) = rest.split_once('.')?;
        number(layer)?;
        let row = INNER.iter().find(|row| column(row, internlm2) == part)?;
        return Some(format!("blk.{layer}.{}.{kind}", row.0));
    }
    let row = OUTER.iter().find(|row| column(row, internlm2) == stem)?;
    Some(format!("{}.{kind}", row.0))
}

/// The number of a layer, in the one way it is written.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}

/// `a.b.weight` as (`a.b`, `weight`).
fn split_kind(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
}

/// For each row of a projection as models have it, the row of llama.cpp's order (`to_gguf` false);
/// or the other way round. `w.reshape(n, d/2, 2, in).swapaxes(1, 2)` and its inverse.
pub fn rope_rows(heads: usize, head_dim: usize, to_gguf: bool) -> impl Iterator<Item = usize> {
    let half = head_dim / 2;
    (0..heads * head_dim).map(move |row| {
        let (head, at) = (row / head_dim, row % head_dim);
        let from = if to_gguf { at % 2 * half + at / 2 } else { at % half * 2 + at / half };
        head * head_dim + from
    })
}

/// The row of InternLM2's `wqkv` that holds row `row` of q, k or v (`part` 0, 1, 2): per group of query
/// heads those `per_group` heads, then the group's key head, then its value head.
pub fn wqkv_row(part: usize, row: usize, per_group: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    let (group, slot) = match part {
        0 => (head / per_group, head % per_group),
        _ => (head, per_group + part - 1),
    };
    (group * (per_group + 2) + slot) * head_dim + at
}

/// How one of the model's tensors comes from the file.
#[derive(Clone, Copy)]
enum Part {
    /// As it lies; the index of its entry.
    Whole(usize),
    /// With the rows of this many heads put back in order.
    Reordered(usize, usize),
    /// The fused projection of the entries q, k, v.
    Fused([usize; 3]),
}

/// The head counts that row orders depend on.
#[derive(Clone, Copy, Default)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// The tensors of a GGUF file under the model's own names, with rows in the model's order.
pub struct Renamed {
    gguf: Gguf,
    heads: Heads,
    parts: Vec<(String, Part)>,
    /// Indices of `parts`.
    by_name: HashMap<String, usize>,
}

impl Renamed {
    /// Renames the tensors of `gguf`. If its metadata describe no model that puyu runs, names and
    /// rows stay as they are.
    pub fn new(gguf: Gguf) -> Self {
        let (heads, parts) = match gguf_config::Shape::read(&gguf) {
            Ok(shape) => {
                let gguf_config::Shape { heads, kv_heads, head_dim, .. } = shape;
                let heads = Heads { heads, kv_heads, head_dim };
                (heads, model_parts(&gguf.table, heads, shape.model_type == "internlm2"))
            }
            Err(_) => {
                let whole = |(i, e): (usize, &Entry)| (e.name.clone(), Part::Whole(i));
                (Heads::default(), gguf.table.entries().iter().enumerate().map(whole).collect())
            }
        };
        let by_name = parts.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Self { gguf, heads, parts, by_name }
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    fn entry(&self, i: usize) -> &Entry {
        &self.gguf.table.entries()[i]
    }

    /// The tensor of entry `i` with the rows of `heads` heads put back in order.
    fn reordered(&self, i: usize, heads: usize) -> Result<Tensor> {
        let entry = self.entry(i);
        let (spec, bytes) = self.gguf.table.loaded(entry)?;
        if spec.shape.first() != Some(&(heads * self.heads.head_dim)) {
            return Err(Error::format(format!(
                "tensor {} has shape {}, expected {heads} heads of {} rows",
                quote(&entry.name),
                spec.shape,
                self.heads.head_dim
            )));
        }
        let size = row_bytes(entry, &spec)?;
        let rows = rope_rows(heads, self.heads.head_dim, false);
        Ok(Tensor::from_bytes(&gather(rows.map(|r| &bytes[r * size..(r + 1) * size]), &spec), spec))
    }

    fn fused(&self, parts: [usize; 3]) -> Result<Tensor> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let spec = self.fused_spec(parts).ok_or_else(|| {
            Error::unsupported(format!(
                "tensor {} is of type {}, which puyu does not compute with",
                quote(&self.entry(parts[0]).name),
                self.entry(parts[0]).stored
            ))
        })?;
        let [q, k, v] = parts.map(|i| self.gguf.table.loaded(self.entry(i)));
        let sources = [q?.1, k?.1, v?.1];
        let size = row_bytes(self.entry(parts[0]), &spec)?;
        let mut out = vec![0; spec.bytes()];
        for (part, source) in sources.iter().enumerate() {
            let n = if part == 0 { heads } else { kv_heads };
            let as_is = 0..n * head_dim;
            let order: Vec<usize> =
                if part == 2 { as_is.collect() } else { rope_rows(n, head_dim, false).collect() };
            for (row, from) in order.into_iter().enumerate() {
                let to = wqkv_row(part, row, heads / kv_heads, head_dim) * size;
                out[to..to + size].copy_from_slice(&source[from * size..(from + 1) * size]);
            }
        }
        Ok(Tensor::from_bytes(&out, spec))
    }

    fn fused_spec(&self, parts: [usize; 3]) -> Option<Spec> {
        let spec = self.entry(parts[0]).spec()?;
        let rows = (self.heads.heads + 2 * self.heads.kv_heads) * self.heads.head_dim;
        Some(Spec::new(spec.shape.with(0, rows), spec.dtype))
    }
}

/// Bytes of one row of a matrix, or of one element of a bias.
fn row_bytes(entry: &Entry, spec: &Spec) -> Result<usize> {
    let row: usize = spec.shape[1..].iter().product();
    if spec.rank() == 1 && spec.dtype.is_block() {
        return Err(Error::unsupported(format!(
            "tensor {} is a bias in the block format {}, whose elements cannot be reordered",
            quote(&entry.name),
            entry.stored
        )));
    }
    Ok(spec.dtype.bytes(row))
}

/// Every tensor of a model's file: its own name, and how it is made.
fn model_parts(table: &Table, heads: Heads, internlm2: bool) -> Vec<(String, Part)> {
    let mut parts = Vec::with_capacity(table.entries().len());
    // Llama 3's table of rope factors is part of the configuration.
    let entries = table.entries().iter().enumerate().filter(|(_, e)| e.name != ROPE_FREQS);
    for (i, Entry { name, .. }) in entries {
        // A tensor that no model has keeps its name, and loading reports it.
        let ours = from_gguf(name, internlm2).unwrap_or_else(|| name.clone());
        let projection =
            ["attn_q", "attn_k", "attn_v"].into_iter().find(|p| name.split('.').nth(2) == Some(p));
        let fused = projection.filter(|_| internlm2).and_then(|p| fused(table, name, p, heads));
        match (projection, fused) {
            (Some("attn_q"), Some(qkv)) => {
                parts.push((ours.replace("attention.wq", "attention.wqkv"), Part::Fused(qkv)));
            }
            (_, Some(_)) => {}
            (Some("attn_q"), None) => parts.push((ours, Part::Reordered(i, heads.heads))),
            (Some("attn_k"), None) => parts.push((ours, Part::Reordered(i, heads.kv_heads))),
            _ => parts.push((ours, Part::Whole(i))),
        }
    }
    parts
}

/// The entries of the q, k and v that `name` belongs to, if they are stored alike and have the rows
/// that the head counts say.
fn fused(table: &Table, name: &str, projection: &str, heads: Heads) -> Option<[usize; 3]> {
    let Heads { heads, kv_heads, head_dim } = heads;
    let sibling = |p: &str| table.index_of(&name.replace(projection, p));
    let found = [sibling("attn_q")?, sibling("attn_k")?, sibling("attn_v")?];
    let [q, k, v] = found.map(|i| &table.entries()[i]);
    let rows = |e: &Entry, n: usize| e.shape.first() == Some(&(n * head_dim));
    let alike = q.stored == k.stored
        && k.stored == v.stored
        && rows(q, heads)
        && rows(k, kv_heads)
        && rows(v, kv_heads)
        && q.shape.get(1..) == k.shape.get(1..)
        && k.shape.get(1..) == v.shape.get(1..);
    alike.then_some(found)
}

impl Source for Renamed {
    fn names(&self) -> Vec<&str> {
        self.parts.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn spec(&self, name: &str) -> Option<Spec> {
        match self.parts[*self.by_name.get(name)?].1 {
            Part::Whole(i) | Part::Reordered(i, _) => self.entry(i).spec(),
            Part::Fused(parts) => self.fused_spec(parts),
        }
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.by_name.get(name).map(|i| self.parts[*i].1) {
            None => Err(Error::not_found(format!("the checkpoint has no tensor {}", quote(name)))),
            Some(Part::Whole(i)) => self.gguf.table.tensor(&self.entry(i).name),
            Some(Part::Reordered(i, heads)) => self.reordered(i, heads),
            Some(Part::Fused(parts)) => self.fused(parts),
        }
    }
}
