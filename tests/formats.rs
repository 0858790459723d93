//! Checkpoint formats on the fixtures: every reader against another one, and every writer against its
//! reader.

use puyu_models::format::gguf::{Array, Gguf, Value};
use puyu_models::format::gguf_type::GgmlType;
use puyu_models::format::{
    Checkpoint, Format, Metadata, OpenOptions, Source, gguf, gguf_names, gguf_write, open,
    safetensors_write,
};
use puyu_tensor::{DType, Spec, Tensor};
use puyu_tests::fixtures;
use std::borrow::Cow;
use std::path::Path;

fn opened(name: &str) -> Checkpoint {
    open(&fixtures().join(name), OpenOptions::default()).unwrap()
}

fn bits(t: &Tensor) -> Vec<u8> {
    t.bytes().to_vec()
}

fn floats(t: &Tensor) -> Vec<f32> {
    let (halves, _) = t.bytes().as_chunks::<2>();
    match t.dtype() {
        DType::F32 => t.to_vec().unwrap(),
        DType::F16 => halves.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        DType::BF16 => halves.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other} is no float"),
    }
}

/// Each GGUF fixture holds what the safetensors folder of its model holds, once names and rows are
/// put back: the converter that made it was llama.cpp's.
#[test]
fn gguf_equals_safetensors() {
    for (file, folder) in [
        ("internlm2-f32", "internlm2"),
        ("internlm2_bf16-bf16", "internlm2_bf16"),
        ("internlm3-f32", "internlm3"),
        ("llama_tied-f32", "llama_tied"),
    ] {
        let (a, b) = (opened(&format!("gguf/{file}.gguf")), opened(folder));
        assert_eq!((a.format, b.format), (Format::Gguf, Format::Safetensors));
        let (a, b) = (a.source(), b.source());
        let sorted = |s: &dyn Source| {
            let mut names: Vec<String> = s.names().into_iter().map(String::from).collect();
            names.sort();
            names
        };
        assert_eq!(sorted(a), sorted(b), "{file}");
        for name in b.names() {
            let (x, y) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
            assert_eq!(x.shape(), y.shape(), "{file} {name}");
            // The converter keeps norms in F32, where the folder may hold BF16.
            assert_eq!(floats(&x), floats(&y), "{file} {name}");
            assert_eq!(a.spec(name).unwrap().shape, b.spec(name).unwrap().shape);
        }
    }
}

/// The configuration made from metadata is that of the folder, in every field it has.
#[test]
fn gguf_config_equals_config_json() {
    for (file, folder) in [("internlm2-q8_0", "internlm2"), ("llama_tied-f32", "llama_tied")] {
        let (a, b) = (opened(&format!("gguf/{file}.gguf")), opened(folder));
        let (a, b) = (a.config().unwrap(), b.config().unwrap());
        for (key, value) in a.as_object().unwrap() {
            let same = match (value.as_f64(), b[key].as_f64()) {
                // The end of the text is `<|im_end|>` in chat models' GGUF files.
                (Some(_), Some(_)) if key == "eos_token_id" => true,
                (Some(x), Some(y)) => x == y,
                _ if key == "head_dim" => value == 8,
                _ => *value == b[key],
            };
            assert!(same, "{file}: {key} is {value}, config.json has {}", b[key]);
        }
    }
}

/// A file read and written again is the same file, byte by byte.
#[test]
fn gguf_round_trip_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["internlm2-f16", "internlm2-q8_0", "internlm2_bf16-bf16", "internlm3-f32"] {
        let path = fixtures().join(format!("gguf/{name}.gguf"));
        let copy = folder.path().join("copy.gguf");
        gguf_write::save_copy(&copy, &Gguf::open(&path, OpenOptions { mmap: false }).unwrap())
            .unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&copy).unwrap(), "{name}");
    }
}

/// A model in three files is opened through its first, and reads like the whole.
#[test]
fn split_gguf_reads_like_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Gguf::open(&fixtures().join("gguf/internlm2-q8_0.gguf"), OpenOptions::default());
    let whole = whole.unwrap();
    let first = write_split(folder.path(), &whole, 3);
    let split = Gguf::open(&first, OpenOptions::default()).unwrap();
    assert_eq!(split.table.entries().len(), whole.table.entries().len());
    for e in whole.table.entries() {
        assert_eq!(split.table.raw(split.table.get(&e.name).unwrap()), whole.table.raw(e));
    }
    let second = folder.path().join("m-00002-of-00003.gguf");
    let error = open(&second, OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("part 2 of 3; open the first"), "{error}");
    std::fs::remove_file(second).unwrap();
    let error = open(&first, OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("m-00002-of-00003.gguf"), "{error}");
}

/// Writes `whole` as `count` files and gives the path of the first.
fn write_split(folder: &Path, whole: &Gguf, count: usize) -> std::path::PathBuf {
    let entries = whole.table.entries();
    let path = |i: usize| folder.join(format!("m-{:05}-of-{count:05}.gguf", i + 1));
    for (i, part) in entries.chunks(entries.len().div_ceil(count)).enumerate() {
        let mut meta = if i == 0 { whole.metadata.clone() } else { Metadata::default() };
        meta.set("split.no", Value::U16(i as u16));
        meta.set("split.count", Value::U16(count as u16));
        meta.set("split.tensors.count", Value::I32(entries.len() as i32));
        let outs: Vec<_> = part
            .iter()
            .map(|e| gguf_write::Out {
                name: e.name.clone(),
                shape: e.shape,
                kind: GgmlType::from_stored(e.stored).unwrap(),
            })
            .collect();
        gguf_write::save(&path(i), &meta, &outs, |out| {
            Ok(Cow::Borrowed(whole.table.raw(whole.table.get(&out.name).unwrap())))
        })
        .unwrap();
    }
    path(0)
}

/// Version 2 differs from 3 in its number alone.
#[test]
fn version_2_is_read() {
    let mut bytes = std::fs::read(fixtures().join("gguf/internlm2-q8_0.gguf")).unwrap();
    bytes[4] = 2;
    assert_eq!(gguf::parse(&bytes, 0).unwrap().entries.len(), 30);
}

/// A format is known by its first bytes, whatever the file is called.
#[test]
fn content_decides_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    for (from, format) in [
        ("gguf/internlm2-f16.gguf", Format::Gguf),
        ("llama_tied/model.safetensors", Format::Safetensors),
    ] {
        std::fs::copy(fixtures().join(from), &path).unwrap();
        assert_eq!(open(&path, OpenOptions::default()).unwrap().format, format);
    }
}

/// Metadata of every type survive writing and reading.
#[test]
fn metadata_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.gguf");
    let mut meta = Metadata::default();
    for (key, value) in [
        ("a", Value::U8(1)),
        ("b", Value::I8(-1)),
        ("c", Value::U16(2)),
        ("d", Value::I16(-2)),
        ("e", Value::U32(3)),
        ("f", Value::I32(-3)),
        ("g", Value::F32(0.1)),
        ("h", Value::Bool(true)),
        ("i", Value::String("浦语".into())),
        ("j", Value::U64(u64::MAX)),
        ("k", Value::I64(i64::MIN)),
        ("l", Value::F64(1e300)),
        ("m", Value::Array(Array::strings(["x", "", "yz"]))),
        ("n", Value::Array(Array::f32(&[1.0, -0.0]))),
        ("o", Value::Array(Array::i32(&[i32::MIN]))),
    ] {
        meta.set(key, value);
    }
    gguf_write::save(&path, &meta, &[], |_| unreachable!("there are no tensors")).unwrap();
    let read = Gguf::open(&path, OpenOptions::default()).unwrap();
    assert_eq!(read.metadata, meta);
    assert_eq!(read.metadata.get_u32("e").unwrap(), Some(3));
    let error = read.metadata.get_u32("i").unwrap_err().to_string();
    assert!(error.contains("`i`") && error.contains("string") && error.contains("u32"), "{error}");
    assert_eq!(meta.get_strings("m").unwrap().unwrap(), [&b"x"[..], b"", b"yz"]);
}

/// The rows of q and k go to llama.cpp's order and back; the fused projection holds every row once.
#[test]
fn row_orders_are_permutations() {
    for (heads, dim) in [(1, 2), (3, 8), (4, 12)] {
        let there: Vec<usize> = gguf_names::rope_rows(heads, dim, true).collect();
        let back: Vec<usize> = gguf_names::rope_rows(heads, dim, false).collect();
        for (i, row) in there.iter().enumerate() {
            assert_eq!(back[*row], i);
        }
    }
    // Two groups of four query heads, each followed by its key and its value head.
    let (heads, kv_heads, dim) = (8, 2, 4);
    let row = |part, row| gguf_names::wqkv_row(part, row, heads / kv_heads, dim);
    assert_eq!((row(0, 4 * dim), row(1, 0), row(2, 1)), (6 * dim, 4 * dim, 5 * dim + 1));
    let of = |part, n: usize| (0..n * dim).map(move |r| row(part, r));
    let mut rows: Vec<usize> = of(0, heads).chain(of(1, kv_heads)).chain(of(2, kv_heads)).collect();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..(heads + 2 * kv_heads) * dim));
}

/// Names go to GGUF and back for every tensor of the fixtures.
#[test]
fn names_round_trip() {
    for (folder, internlm2) in [("internlm1", false), ("internlm3", false), ("llama_tied", false)] {
        for name in opened(folder).source().names() {
            if name.contains("rotary_emb") {
                continue;
            }
            let there = gguf_names::to_gguf(name, internlm2).unwrap();
            assert_eq!(gguf_names::from_gguf(&there, internlm2).as_deref(), Some(name));
        }
    }
    assert_eq!(
        gguf_names::from_gguf("blk.7.ffn_up.weight", true).unwrap(),
        "model.layers.7.feed_forward.w3.weight"
    );
    assert_eq!(gguf_names::from_gguf("blk.07.ffn_up.weight", true), None);
}

/// What is written as safetensors, whole or in shards, reads back the same; and the format's own
/// crate agrees.
#[test]
fn safetensors_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let model = opened("internlm2_bf16");
    let source = model.source();
    let mut tensors: Vec<(String, Spec)> =
        source.names().iter().map(|n| (n.to_string(), source.spec(n).unwrap())).collect();
    tensors.push(("extra".into(), Spec::f32([3])));
    let make = |name: &str| match name {
        "extra" => Ok(Tensor::new(&[1f32, 2.0, 3.0], [3])),
        name => source.tensor(name),
    };
    for shard_bytes in [usize::MAX, 30_000] {
        let folder = folder.path().join(shard_bytes.to_string());
        std::fs::create_dir(&folder).unwrap();
        safetensors_write::save_sharded(&folder, &tensors, shard_bytes, make).unwrap();
        let read = open(&folder, OpenOptions::default()).unwrap();
        assert_eq!(read.source().names().len(), tensors.len());
        assert_eq!(read.table().files().len() > 1, shard_bytes == 30_000);
        for (name, spec) in &tensors {
            assert_eq!(read.source().spec(name), Some(*spec));
            assert_eq!(bits(&read.source().tensor(name).unwrap()), bits(&make(name).unwrap()));
        }
        if shard_bytes == usize::MAX {
            let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
            let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(other.len(), tensors.len());
            assert_eq!(other.tensor("extra").unwrap().data(), bits(&make("extra").unwrap()));
        }
    }
    // Block formats have no name there.
    let block = [("x".to_string(), Spec::new([1, 32], DType::Q8_0))];
    let path = folder.path().join("block.safetensors");
    let saved = safetensors_write::save(&path, &block, &[], |_| unreachable!("refused before"));
    assert!(saved.unwrap_err().to_string().contains("no q8_0"));
    assert!(!path.exists());
}

/// Test data hold token ids as I64.
#[test]
fn i64_tensors_are_read_as_numbers() {
    let golden = opened("internlm2/golden.safetensors");
    let ids = golden.table().read_i64("input_ids").unwrap();
    let text = std::fs::read_to_string(fixtures().join("internlm2/golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::json!(ids), json["input_ids"]);
    let error = golden.source().tensor("input_ids").unwrap_err().to_string();
    assert!(error.contains("input_ids") && error.contains("I64"), "{error}");
}

/// A model without mapping reads the same.
#[test]
fn reading_equals_mapping() {
    let path = fixtures().join("internlm3");
    let (a, b) = (opened("internlm3"), open(&path, OpenOptions { mmap: false }).unwrap());
    for name in a.source().names() {
        let (x, y) = (a.source().tensor(name).unwrap(), b.source().tensor(name).unwrap());
        assert_eq!(bits(&x), bits(&y));
    }
}

/// Types that are only imported come as F16, with one warning each; others are refused by name.
#[test]
fn imported_types_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("import.gguf");
    let goldens = opened("gguf/ggml_quants.safetensors");
    let bytes_of = |name: &str| {
        let entry = goldens.table().get(&format!("{name}.bytes")).unwrap();
        goldens.table().raw(entry).to_vec()
    };
    let types = ["Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", "TQ1_0"];
    let outs = types.map(|name| gguf_write::Out {
        name: name.into(),
        shape: [6, 512].into(),
        kind: GgmlType::ALL.into_iter().find(|t| t.name == name).unwrap(),
    });
    gguf_write::save(&path, &Metadata::default(), &outs, |o| Ok(Cow::Owned(bytes_of(&o.name))))
        .unwrap();
    let model = open(&path, OpenOptions::default()).unwrap();
    assert_eq!(model.warnings().len(), 5, "{:?}", model.warnings());
    for name in &types[..5] {
        let x = model.source().tensor(name).unwrap();
        assert_eq!(x.dtype(), DType::F16);
        let want = goldens.source().tensor(&format!("{name}.dequant")).unwrap();
        let want: Vec<f32> =
            floats(&want).into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect();
        assert_eq!(floats(&x), want, "{name}");
    }
    let error = model.source().tensor("TQ1_0").unwrap_err().to_string();
    assert!(error.contains("tensor `TQ1_0` is of type TQ1_0"), "{error}");
}
