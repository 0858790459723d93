//! PyTorch `.bin` checkpoints, built by hand as `torch.save` builds them.

use puyu_models::format::{Format, OpenOptions, open, pickle};
use puyu_tensor::DType;
use puyu_tests::{TorchTensor, torch_pickle, torch_zip};
use std::path::Path;

fn tensor<'a>(name: &'a str, shape: &'a [u32], strides: &'a [u32]) -> TorchTensor<'a> {
    TorchTensor { name, storage: "FloatStorage", key: "0", offset: 0, shape, strides }
}

/// A file of these tensors, whose storages hold 0, 1, 2, ... as f32, and the same as i64.
fn file(tensors: &[TorchTensor]) -> Vec<u8> {
    let floats: Vec<u8> = (0..24).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let longs: Vec<u8> = (0..8i64).flat_map(|i| i.to_le_bytes()).collect();
    torch_zip(
        "archive",
        &[
            ("data.pkl", &torch_pickle(tensors)),
            ("byteorder", b"little"),
            ("data/0", &floats),
            ("data/1", &longs),
        ],
    )
}

fn write(path: &Path, tensors: &[TorchTensor]) {
    std::fs::write(path, file(tensors)).unwrap();
}

#[test]
fn tensors_are_views_of_storages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    write(
        &path,
        &[
            tensor("plain", &[2, 3], &[3, 1]),
            TorchTensor { offset: 4, ..tensor("shifted", &[2], &[1]) },
            tensor("transposed", &[3, 2], &[1, 3]),
            TorchTensor { storage: "LongStorage", key: "1", ..tensor("ids", &[2, 4], &[4, 1]) },
            TorchTensor { storage: "HalfStorage", ..tensor("half", &[1], &[1]) },
        ],
    );
    let model = open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(model.format, Format::Pickle);
    let values = |name: &str| model.source().tensor(name).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values("plain"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(values("shifted"), [4.0, 5.0]);
    assert_eq!(values("transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(model.source().tensor("transposed").unwrap().shape(), [3, 2]);
    assert_eq!(model.table().read_i64("ids").unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(model.source().spec("half").unwrap().dtype, DType::F16);
    assert_eq!(model.source().names(), ["plain", "shifted", "transposed", "ids", "half"]);
}

#[test]
fn shards_are_read_through_their_index() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let path = folder.path().join(format!("pytorch_model-{name}.bin"));
        write(&path, &[tensor(name, &[2], &[1])]);
    }
    let index = serde_json::json!({
        "weight_map": { "a": "pytorch_model-a.bin", "b": "pytorch_model-b.bin" }
    });
    let path = folder.path().join("pytorch_model.bin.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    let model = open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(model.source().names(), ["a", "b"]);
    assert_eq!(model.source().tensor("b").unwrap().to_vec::<f32>().unwrap(), [0.0, 1.0]);
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    for (t, word) in [
        (tensor("t", &[25], &[1]), "reaches to byte 100"),
        (TorchTensor { offset: 20, ..tensor("t", &[2, 3], &[3, 1]) }, "reaches"),
        (TorchTensor { offset: u32::MAX, ..tensor("t", &[2], &[1]) }, "offset -1"),
        (TorchTensor { key: "7", ..tensor("t", &[2], &[1]) }, "`7` is not in the file"),
        (tensor("t", &[2, 3], &[1]), "strides"),
        (tensor("t", &[1 << 20, 1 << 20], &[0, 0]), "repeat"),
        (tensor("t", &[5, 5], &[0, 0]), "repeat"),
        (
            TorchTensor { storage: "DoubleStorage", ..tensor("t", &[2], &[1]) },
            "torch.DoubleStorage",
        ),
    ] {
        let error = pickle::parse(&file(&[t]), 0).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn cut_or_damaged_files_are_refused() {
    let whole = file(&[tensor("t", &[2, 3], &[3, 1])]);
    assert!(pickle::parse(&whole, 0).is_ok());
    for n in 0..whole.len() {
        assert!(pickle::parse(&whole[..n], 0).is_err(), "cut at {n}");
    }
    // Whatever one byte is changed to, the answer is a value or an error.
    for i in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[i] ^= flip;
            let _ = pickle::parse(&bytes, 0);
        }
    }
}

/// A pickle that refers to itself, or nests without end, is no deep structure here.
#[test]
fn endless_pickles_end() {
    let nested = [b"\x80\x02)".as_slice(), &b"\x85".repeat(1 << 20), b"."].concat();
    let bombs = [
        nested,
        // A dict that holds itself.
        b"\x80\x02}q\0X\x01\0\0\0ah\0s.".to_vec(),
        // Tuples of tuples, each twice the one before.
        [b"\x80\x02)q\0".as_slice(), &b"h\0h\0\x86q\0".repeat(60), b"."].concat(),
    ];
    for bomb in bombs {
        assert!(pickle::parse(&torch_zip("m", &[("data.pkl", &bomb)]), 0).is_err());
    }
}
