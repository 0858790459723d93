//! Converting models: the files that puyu writes against those that llama.cpp's own converter wrote of
//! the same models, and against the models they came from.

use puyu_models::Config;
use puyu_models::format::gguf_export::{self, Export};
use puyu_models::format::recode::{fitting, recode};
use puyu_models::format::{Checkpoint, Metadata, OpenOptions, open};
use puyu_tensor::quant::decode_row;
use puyu_tensor::{DType, ErrorKind, Result, Spec};
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
        dtype,
        rule: &|_, shape| fitting(dtype, *shape.last().unwrap()),
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
    assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
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
