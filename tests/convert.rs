//! Converting models: the files that puyu writes against those that llama.cpp's own converter wrote of
//! the same models, and against the models they came from.

use puyu_models::Config;
use puyu_models::format::gguf_export::{self, Export};
use puyu_models::format::recode::{fitting, recode};
use puyu_models::format::{
    Checkpoint, Metadata, OpenOptions, convert, gguf, gguf_config, gguf_write, open,
};
use puyu_models::tokenizer::{EncodeOptions, GgufVocab, Tokenizer};
use puyu_tensor::quant::decode_row;
use puyu_tensor::{DType, Result, Spec};
use puyu_tests::fixtures;
use std::path::Path;

fn opened(path: &Path) -> Checkpoint {
    open(path, OpenOptions::default()).unwrap()
}

/// Exports the model in the fixture `folder` with matrices of `dtype`; gives the warnings.
fn export(folder: &str, to: &Path, dtype: DType) -> Result<Vec<String>> {
    let model = opened(&fixtures().join(folder));
    let config = Config::from_json(&model.config().unwrap()).unwrap();
    let export = Export {
        config: &config,
        name: folder,
        metadata: &Metadata::default(),
        rule: &|_, spec| fitting(dtype, spec.last()),
    };
    gguf_export::save(to, model.source(), &export)
}

/// Every tensor is, byte for byte, what llama.cpp's converter writes, and so are the keys both have.
#[test]
fn export_equals_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.gguf");
    for (model, file, dtype) in [
        ("internlm2", "internlm2-f32", DType::F32),
        ("internlm2", "internlm2-f16", DType::F16),
        ("internlm2", "internlm2-q8_0", DType::Q8_0),
        ("internlm2_bf16", "internlm2_bf16-bf16", DType::BF16),
        ("internlm3", "internlm3-f32", DType::F32),
        ("llama_tied", "llama_tied-f32", DType::F32),
    ] {
        export(model, &path, dtype).unwrap();
        let (ours, theirs) = (opened(&path), opened(&fixtures().join(format!("gguf/{file}.gguf"))));
        let (ours, theirs) = (ours.gguf().unwrap(), theirs.gguf().unwrap());
        assert_eq!(ours.table.entries().len(), theirs.table.entries().len(), "{file}");
        for e in theirs.table.entries() {
            let o = ours.table.require(&e.name).unwrap();
            assert_eq!((o.shape, o.stored), (e.shape, e.stored), "{file} {}", e.name);
            assert!(ours.table.raw(o) == theirs.table.raw(e), "{file} {}", e.name);
        }
        for (key, value) in theirs.metadata.iter() {
            let skipped = key.starts_with("tokenizer.") || key == "general.size_label";
            if !skipped && key != "general.name" {
                assert_eq!(ours.metadata.get(key), Some(value), "{file} {key}");
            }
        }
    }
}

/// A model exported and opened again is the same model: names, values, and configuration, which
/// llama.cpp's keys alone could not hold.
#[test]
fn round_trip_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (model, warned) in [
        ("internlm1", true),
        ("internlm2", false),
        ("internlm2_ntk", true),
        ("internlm3", true),
        ("internlm3_qkvbias_ntk", true),
        ("llama_tied", false),
    ] {
        let warnings = export(model, &path, DType::F32).unwrap();
        assert_eq!(warnings.iter().any(|w| w.contains("dynamic NTK")), warned, "{warnings:?}");
        let (before, after) = (opened(&fixtures().join(model)), opened(&path));
        let config = |c: &Checkpoint| Config::from_json(&c.config().unwrap()).unwrap();
        let (mut a, mut b) = (config(&before), config(&after));
        // The tokenizer's keys were left out, and with them the end of the text.
        a.eos.clear();
        b.eos.clear();
        assert_eq!(format!("{a:?}"), format!("{b:?}"), "{model}");
        let kept = |name: &&str| !name.ends_with("inv_freq");
        let names: Vec<&str> = before.source().names().into_iter().filter(kept).collect();
        assert_eq!(names.len(), after.source().names().len(), "{model}");
        for name in names {
            let (x, y) = (before.source().tensor(name), after.source().tensor(name).unwrap());
            assert_eq!(x.unwrap().bytes(), y.bytes(), "{model} {name}");
        }
    }
}

#[test]
fn reward_models_have_no_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reward.gguf");
    let error = export("internlm2_reward", &path, DType::F32).unwrap_err().to_string();
    assert!(error.contains("reward"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn recoding_keeps_equal_types_and_refuses_nan() {
    let spec = Spec::f32([2, 32]);
    let values: Vec<f32> = (0..64).map(|i| i as f32 / 8.0).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert!(matches!(recode(&spec, &bytes, DType::F32), Ok(std::borrow::Cow::Borrowed(_))));
    let half = recode(&spec, &bytes, DType::F16).unwrap();
    let mut back = vec![0.0; 64];
    decode_row(DType::F16, &half, &mut back);
    assert_eq!(back, values);
    let mut bad = bytes.clone();
    bad[40 * 4..41 * 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = recode(&spec, &bad, DType::Q8_0).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
    assert!(recode(&spec, &bad, DType::BF16).is_ok());
    for (wanted, row, got) in [
        (DType::Q4K, 512, DType::Q4K),
        (DType::Q4K, 576, DType::Q5_0),
        (DType::Q6K, 576, DType::Q8_0),
        (DType::Q8_0, 48, DType::F16),
    ] {
        assert_eq!(fitting(wanted, row), got);
    }
}

/// Case 33: a full disk is an error, and nothing half-written stays. Linux has a device that refuses
/// every write as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn case_33_a_full_disk_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, b"old").unwrap();
    // The temporary name of this process leads to the device that is always full.
    let temporary = folder.path().join(format!(".model.gguf.{}.part", std::process::id()));
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    let error = export("llama_tied", &path, DType::F32).unwrap_err();
    assert_eq!(error.kind(), puyu_tensor::ErrorKind::Resource, "{error}");
    assert!(error.to_string().contains("model.gguf"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Case 34: a process that dies while it writes leaves the old file as it was, and what it leaves
/// besides is no model to anybody.
#[test]
fn case_34_a_killed_writer_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(fixtures().join("gguf/internlm2-q8_0.gguf"), &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut file = puyu_models::format::atomic::AtomicFile::create(&path).unwrap();
    file.write(&before[..5000]).unwrap();
    // A killed process runs no destructors.
    std::mem::forget(file);
    assert!(std::fs::read(&path).unwrap() == before);
    assert!(open(folder.path(), OpenOptions::default()).is_ok());
}

/// What a converted model's tokenizer must agree on.
const TEXTS: [&str; 4] =
    ["the attention model, then 模型 2024", "  \n two  spaces", "🐉 ü", "the then"];

fn same_tokens(a: &Tokenizer, b: &Tokenizer) {
    for text in TEXTS {
        for parse_special in [false, true] {
            let text = format!("{text}<|im_end|>");
            let options = EncodeOptions { add_bos: true, parse_special };
            let ids = a.encode(&text, options);
            assert_eq!(ids, b.encode(&text, options), "{text:?}");
            assert_eq!(a.decode(&ids, false), b.decode(&ids, false), "{text:?}");
        }
    }
}

/// A folder goes to GGUF and back: weights, configuration, tokenizer and chat template.
#[test]
fn folders_go_to_gguf_and_back() {
    let temporary = tempfile::tempdir().unwrap();
    for model in ["internlm1", "internlm2_ntk", "internlm2_bf16", "internlm3", "llama_tied"] {
        let path = temporary.path().join("model.gguf");
        let folder = temporary.path().join(model);
        let before = opened(&fixtures().join(model));
        convert::to_gguf(&before, &path, None).unwrap();
        let middle = opened(&path);
        convert::to_hugging_face(&middle, &folder, None).unwrap();
        let after = opened(&folder);
        let config = |c: &Checkpoint| {
            let json = c.config().unwrap();
            format!("{:?}", Config::from_json(&json).unwrap())
        };
        assert_eq!(config(&before), config(&after), "{model}");
        for name in after.source().names() {
            let (x, y) = (before.source().tensor(name).unwrap(), after.source().tensor(name));
            let (x, y) = (x, y.unwrap());
            // GGUF keeps vectors in F32.
            let bytes = recode(x.spec(), x.bytes(), y.dtype()).unwrap();
            assert!(bytes == y.bytes(), "{model} {name}");
        }
        let from = Tokenizer::load(&fixtures().join(model)).unwrap();
        let there = Tokenizer::from_metadata(middle.metadata().unwrap()).unwrap();
        same_tokens(&from, &there);
        same_tokens(&from, &Tokenizer::load(&folder).unwrap());
        assert_eq!(from.chat_template(), there.chat_template(), "{model}");
    }
}

/// The tokenizer's keys are those of llama.cpp's converter.
#[test]
fn tokenizer_keys_equal_llama_cpp() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("ours.gguf");
    for (model, file) in [("internlm2", "internlm2-f32"), ("internlm3", "internlm3-f32")] {
        convert::to_gguf(&opened(&fixtures().join(model)), &path, None).unwrap();
        let (ours, theirs) = (opened(&path), opened(&fixtures().join(format!("gguf/{file}.gguf"))));
        let (ours, theirs) = (ours.metadata().unwrap(), theirs.metadata().unwrap());
        for (key, value) in theirs.iter().filter(|(k, _)| k.starts_with("tokenizer.")) {
            match key {
                // Of no consequence: the scores of what is never merged, and a key for other models.
                "tokenizer.ggml.scores" | "tokenizer.ggml.add_sep_token" => {}
                // The unknown token is a control token there.
                "tokenizer.ggml.token_type" => {
                    let kinds = |m: &Metadata| m.get_i32s(key).unwrap().unwrap()[1..].to_vec();
                    assert_eq!(kinds(ours), kinds(theirs), "{file}");
                }
                _ => assert_eq!(ours.get(key), Some(value), "{file} {key}"),
            }
        }
        assert_eq!(gguf_config::eos_ids(ours).unwrap(), [318, 2]);
    }
}

/// Block formats become floats in a folder, and a byte-level vocabulary a tokenizer.json.
#[test]
fn gguf_becomes_a_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let quantized = opened(&fixtures().join("gguf/internlm2-q8_0.gguf"));
    let folder = temporary.path().join("q8");
    convert::to_hugging_face(&quantized, &folder, Some(DType::F16)).unwrap();
    let after = opened(&folder);
    assert_eq!(after.config().unwrap()["torch_dtype"], "float16");
    for name in quantized.source().names() {
        let (x, y) = (quantized.source().tensor(name).unwrap(), after.source().tensor(name));
        assert!(recode(x.spec(), x.bytes(), DType::F16).unwrap() == y.unwrap().bytes(), "{name}");
    }
    let error = convert::to_hugging_face(&quantized, &folder, Some(DType::Q4_0)).unwrap_err();
    assert!(error.to_string().contains("cannot hold q4_0"), "{error}");

    let path = temporary.path().join("bytes.gguf");
    let from = fixtures().join("gguf/llama_tied-f32.gguf");
    let mut model = gguf::Gguf::open(&from, OpenOptions::default()).unwrap();
    byte_level_vocabulary().write(&mut model.metadata);
    gguf_write::save_copy(&path, &model).unwrap();
    let folder = temporary.path().join("bytes");
    convert::to_hugging_face(&opened(&path), &folder, None).unwrap();
    let there = Tokenizer::from_metadata(&model.metadata).unwrap();
    assert!(there.encode("the then", EncodeOptions::default()).len() < 8);
    same_tokens(&there, &Tokenizer::load(&folder).unwrap());
}

/// A byte-level vocabulary of 320 tokens: bytes, some merges, and control tokens.
fn byte_level_vocabulary() -> GgufVocab {
    let mut shifted = 256;
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|b| match b {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b).to_string(),
            _ => {
                shifted += 1;
                char::from_u32(shifted - 1).unwrap().to_string()
            }
        })
        .collect();
    let merges = ["t h", "th e", "Ġ t", "h e", "Ġt he"].map(String::from);
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let plain = tokens.len();
    tokens.extend((plain..319).map(|i| format!("<|extra_{i}|>")));
    tokens.push("<|im_end|>".into());
    GgufVocab {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        token_type: (0..tokens.len()).map(|i| if i < plain { 1 } else { 3 }).collect(),
        tokens: tokens.into_iter().map(String::into_bytes).collect(),
        merges: merges.into(),
        bos: Some(plain as u32),
        eos: Some(319),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..GgufVocab::default()
    }
}
