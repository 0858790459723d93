//! Files that are wrong, by accident or by intent: each gives one clear error, without a panic, a
//! hang, or memory beyond the file's size. Numbers are those of the list the project keeps to.

use puyu_models::format::gguf::{Gguf, Value};
use puyu_models::format::gguf_type::GgmlType;
use puyu_models::format::{
    Metadata, OpenOptions, check_tensors, gguf, gguf_config, gguf_write, json, open, pickle,
    safetensors,
};
use puyu_tensor::{DType, Result};
use puyu_tests::memory::{Counting, measured};
use puyu_tests::{GgufBuilder, fixtures};
use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a parser may hold beyond a multiple of the file: messages, and the first steps of vectors.
const SLACK: usize = 16 << 10;

/// The error of `parse` on `bytes`, which must need no more memory than the file is large.
#[track_caller]
fn refused<T>(bytes: &[u8], parse: impl FnOnce(&[u8]) -> Result<T>) -> String {
    let started = Instant::now();
    let (result, usage) = measured(|| parse(bytes).err().map(|e| e.to_string()));
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    assert!(usage.largest <= bytes.len() + SLACK, "{usage:?} for {} bytes", bytes.len());
    assert!(usage.peak <= 4 * bytes.len() + SLACK, "{usage:?} for {} bytes", bytes.len());
    result.expect("a bad file was accepted")
}

/// Checks that `parse` refuses `bytes` with a message of one line that holds every one of `words`.
#[track_caller]
fn says<T>(bytes: &[u8], parse: impl FnOnce(&[u8]) -> Result<T>, words: &[&str]) {
    let message = refused(bytes, parse);
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    assert!(!message.contains('\n'), "{message:?}");
}

fn gguf_header(bytes: &[u8]) -> Result<gguf::Header> {
    gguf::parse(bytes, 0)
}

fn safetensors_header(bytes: &[u8]) -> Result<Vec<puyu_models::format::Entry>> {
    safetensors::parse(bytes, 0)
}

fn pickle_entries(bytes: &[u8]) -> Result<Vec<puyu_models::format::Entry>> {
    pickle::parse(bytes, 0)
}

#[test]
fn case_01_empty_and_tiny_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for bytes in [&b""[..], b"GGUF", b"GG", b"GGUF\x03\0\0\0"] {
        says(bytes, gguf_header, &["truncated header"]);
        if bytes.len() < 8 {
            says(bytes, safetensors_header, &["truncated header"]);
        }
        std::fs::write(&path, bytes).unwrap();
        says(bytes, |_| open(&path, OpenOptions::default()), &["truncated header", "model.gguf"]);
    }
    says(b"", |_| open(&folder.path().join("none"), OpenOptions::default()), &["none"]);
    says(b"", |_| open(Path::new("/dev/null"), OpenOptions::default()), &["regular file"]);
}

#[test]
fn case_02_magic_and_version() {
    says(b"GGML\x03\0\0\0", gguf_header, &["GGML"]);
    for (version, words) in [
        (0u32, "version 0"),
        (1, "version 1 was withdrawn"),
        (99, "version 99"),
        (3u32.swap_bytes(), "big-endian"),
    ] {
        let bytes = [b"GGUF".as_slice(), &version.to_le_bytes(), &[0; 16]].concat();
        says(&bytes, gguf_header, &[words]);
    }
}

#[test]
fn case_03_counts_beyond_the_file() {
    for n in [1u64 << 63, u64::MAX, 1 << 32, 100] {
        says(&GgufBuilder::new(n, 0).0, gguf_header, &["tensors", &n.to_string()]);
        says(&GgufBuilder::new(0, n).0, gguf_header, &["metadata pairs", &n.to_string()]);
    }
}

#[test]
fn case_04_strings_beyond_the_file() {
    for n in [1u64 << 63, u64::MAX, 1 << 30, 100] {
        let bytes = GgufBuilder::new(0, 1).u64(n).raw(&[b'k'; 60]).0;
        says(&bytes, gguf_header, &["a string of"]);
        let bytes = GgufBuilder::new(0, 1).text(b"key").u32(8).u64(n).raw(&[b'v'; 60]).0;
        says(&bytes, gguf_header, &["`key`", "a string of"]);
    }
}

#[test]
fn case_05_arrays_too_long_or_too_deep() {
    for element in [0, 4, 8, 9, 12] {
        for n in [1u64 << 40, u64::MAX, 1000] {
            let bytes =
                GgufBuilder::new(0, 1).text(b"key").u32(9).u32(element).u64(n).raw(&[0; 60]).0;
            says(&bytes, gguf_header, &["`key`", "an array of"]);
        }
    }
    let mut nested = GgufBuilder::new(0, 1).text(b"key").u32(9);
    for _ in 0..10_000 {
        nested = nested.u32(9).u64(1);
    }
    says(&nested.u32(0).u64(1).u8(7).0, gguf_header, &["`key`", "nested deeper"]);
}

#[test]
fn case_06_equal_names() {
    let twice = GgufBuilder::new(0, 2).text(b"key").u32(0).u8(1).text(b"key").u32(0).u8(1).0;
    says(&twice, gguf_header, &["`key`", "twice"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.gguf");
    let twice = GgufBuilder::new(2, 0).tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(64);
    std::fs::write(&path, &twice).unwrap();
    says(&twice, |_| Gguf::open(&path, OpenOptions::default()), &["two tensors", "`a`"]);
}

#[test]
fn case_07_alignment() {
    for n in [0, 3, 1 << 31] {
        let bytes = GgufBuilder::new(0, 1).text(b"general.alignment").u32(4).u32(n).0;
        says(&bytes, gguf_header, &["general.alignment", &n.to_string()]);
    }
    let bytes = GgufBuilder::new(0, 1).text(b"general.alignment").u32(8).text(b"32").0;
    says(&bytes, gguf_header, &["general.alignment", "string", "u32"]);
}

#[test]
fn case_08_shapes_and_names() {
    let five = GgufBuilder::new(1, 0).tensor("t", &[1; 5], 0, 0).data(64);
    says(&five, gguf_header, &["`t`", "5 dimensions"]);
    let long = GgufBuilder::new(1, 0).tensor(&"n".repeat(64), &[8], 0, 0).data(64);
    says(&long, gguf_header, &["64 bytes"]);
    for ne in [&[1u64 << 32, 1 << 32][..], &[1 << 62, 4], &[u64::MAX], &[0, 1 << 40, 1 << 40]] {
        says(
            &GgufBuilder::new(1, 0).tensor("t", ne, 0, 0).data(64),
            gguf_header,
            &["`t`", "overflows"],
        );
    }
    // A tensor without elements stands in the file, but cannot be used.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.gguf");
    std::fs::write(&path, GgufBuilder::new(1, 0).tensor("t", &[0, 3], 0, 0).data(0)).unwrap();
    let model = open(&path, OpenOptions::default()).unwrap();
    let error = model.source().tensor("t").unwrap_err().to_string();
    assert!(error.contains("`t` has no elements"), "{error}");
}

#[test]
fn case_09_unknown_types() {
    for id in [4, 31, 36, 999, u32::MAX] {
        let bytes = GgufBuilder::new(1, 0).tensor("t", &[32], id, 0).data(64);
        says(&bytes, gguf_header, &["`t`", &id.to_string()]);
    }
}

#[test]
fn case_10_rows_of_half_blocks() {
    let bytes = GgufBuilder::new(1, 0).tensor("t", &[48, 4], 2, 0).data(256);
    says(&bytes, gguf_header, &["`t`", "rows of 48", "Q4_0"]);
    let bytes = GgufBuilder::new(1, 0).tensor("t", &[128, 4], 12, 0).data(512);
    says(&bytes, gguf_header, &["`t`", "rows of 128", "Q4_K"]);
}

#[test]
fn case_11_offsets() {
    for wrong in [1, 32, 31, 1 << 40, u64::MAX] {
        let bytes = GgufBuilder::new(1, 0).tensor("t", &[8], 0, wrong).data(64);
        says(&bytes, gguf_header, &["`t`", "offset"]);
    }
    let overlap = GgufBuilder::new(2, 0).tensor("a", &[8], 0, 0).tensor("b", &[8], 0, 0).data(64);
    says(&overlap, gguf_header, &["`b`", "offset 0, expected 32"]);
    let past = GgufBuilder::new(1, 0).tensor("t", &[64], 0, 0).data(64);
    says(&past, gguf_header, &["`t`", "beyond the end"]);
}

#[test]
fn case_12_cut_at_every_byte() {
    let whole = std::fs::read(fixtures().join("gguf/internlm2-q8_0.gguf")).unwrap();
    let header = gguf::parse(&whole, 0).unwrap().entries[0].offset;
    for n in (0..=header).chain((header..whole.len()).step_by(997)) {
        refused(&whole[..n], gguf_header);
    }
    let whole = std::fs::read(fixtures().join("llama_tied/model.safetensors")).unwrap();
    let header = safetensors::parse(&whole, 0).unwrap()[0].offset;
    for n in (0..=header).chain((header..whole.len()).step_by(997)) {
        refused(&whole[..n], safetensors_header);
    }
}

/// A valid GGUF file with one metadata value replaced.
fn altered(folder: &Path, key: &str, value: Value) -> Gguf {
    let path = folder.join("altered.gguf");
    let from = fixtures().join("gguf/internlm2-q8_0.gguf");
    let mut model = Gguf::open(&from, OpenOptions::default()).unwrap();
    model.metadata.set(key, value);
    gguf_write::save_copy(&path, &model).unwrap();
    Gguf::open(&path, OpenOptions::default()).unwrap()
}

#[test]
fn case_13_impossible_sizes() {
    let folder = tempfile::tempdir().unwrap();
    for (key, values) in [
        ("internlm2.attention.head_count", &[0, 3, 7, u32::MAX][..]),
        ("internlm2.block_count", &[0, 1 << 31, u32::MAX]),
        ("internlm2.attention.head_count_kv", &[0, 3, 16]),
        ("internlm2.embedding_length", &[0, u32::MAX]),
        ("internlm2.feed_forward_length", &[0]),
        ("internlm2.context_length", &[0]),
    ] {
        for value in values {
            let model = altered(folder.path(), key, Value::U32(*value));
            says(&[], |_| gguf_config::config(&model), &[key, &value.to_string()]);
        }
    }
}

#[test]
fn case_14_wrong_value_types() {
    let folder = tempfile::tempdir().unwrap();
    for (key, value, words) in [
        ("internlm2.block_count", Value::F32(3.0), ["f32", "u32"]),
        ("internlm2.rope.freq_base", Value::String("1e6".into()), ["string", "f32"]),
        ("tokenizer.ggml.tokens", Value::U32(1), ["u32", "array"]),
        ("general.architecture", Value::Bool(true), ["bool", "string"]),
    ] {
        let model = altered(folder.path(), key, value);
        says(&[], |_| gguf_config::config(&model), &[key, words[0], words[1]]);
    }
    says(&GgufBuilder::new(0, 1).text(b"key").u32(7).u8(7).0, gguf_header, &["`key`", "bool", "7"]);
    let array = GgufBuilder::new(0, 1).text(b"key").u32(9).u32(7).u64(2).u8(1).u8(7).0;
    says(&array, gguf_header, &["`key`", "bool", "7"]);
    says(&GgufBuilder::new(0, 1).text(b"key").u32(13).u64(0).0, gguf_header, &["`key`", "type 13"]);
}

#[test]
fn case_15_vocabulary_and_embedding() {
    let folder = tempfile::tempdir().unwrap();
    let model = altered(
        folder.path(),
        "tokenizer.ggml.tokens",
        Value::Array(gguf::Array::strings(["a", "b"])),
    );
    says(&[], |_| gguf_config::config(&model), &["2 tokens", "320 rows"]);
    let model = altered(folder.path(), "tokenizer.ggml.eos_token_id", Value::U32(320));
    says(&[], |_| gguf_config::config(&model), &["eos_token_id", "320"]);
}

#[test]
fn unsupported_models_are_refused_but_can_be_inspected() {
    let folder = tempfile::tempdir().unwrap();
    for (key, value, word) in [
        ("general.architecture", Value::String("qwen2".into()), "qwen2"),
        ("internlm2.rope.scaling.type", Value::String("yarn".into()), "yarn"),
        ("internlm2.attention.sliding_window", Value::U32(4096), "sliding window"),
        ("internlm2.expert_count", Value::U32(8), "experts"),
        ("internlm2.rope.dimension_count", Value::U32(4), "dimension_count"),
        ("internlm2.logit_scale", Value::F32(0.5), "logit_scale"),
    ] {
        altered(folder.path(), key, value);
        let model = open(&folder.path().join("altered.gguf"), OpenOptions::default()).unwrap();
        says(&[], |_| model.config(), &["altered.gguf", word]);
        assert!(!model.source().names().is_empty());
    }
}

#[test]
fn case_17_text_that_is_no_utf8() {
    let key = GgufBuilder::new(0, 1).text(b"k\xffy").u32(0).u8(1).0;
    says(&key, gguf_header, &["not UTF-8"]);
    let token = GgufBuilder::new(0, 1).text(b"t").u32(9).u32(8).u64(1).text(b"\xff\xfe").0;
    let meta = gguf::parse(&token, 0).unwrap().metadata;
    assert_eq!(meta.get_strings("t").unwrap().unwrap(), [b"\xff\xfe"]);
}

#[test]
fn case_18_numbers_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.gguf");
    let type_of = |d| GgmlType::from_dtype(d).unwrap();
    for (dtype, bad) in [
        (DType::F32, f32::NAN.to_le_bytes().to_vec()),
        (DType::F16, vec![0, 0x7c]),
        (DType::BF16, vec![0x80, 0xff]),
        (DType::Q8_0, vec![0, 0x7e]),
        (DType::Q4_1, vec![0, 0, 0, 0xfc]),
    ] {
        let out = gguf_write::Out { name: "t".into(), shape: [4, 64].into(), kind: type_of(dtype) };
        let mut bytes = vec![0; out.bytes()];
        let row = out.bytes() / 4;
        bytes[2 * row..2 * row + bad.len()].copy_from_slice(&bad);
        let outs = [out];
        gguf_write::save(&path, &Metadata::default(), &outs, |_| Ok(Cow::Borrowed(&bytes)))
            .unwrap();
        let model = open(&path, OpenOptions::default()).unwrap();
        let error = check_tensors(model.source()).unwrap_err().to_string();
        assert!(error.contains("`t` holds") && error.contains("row 2"), "{dtype}: {error}");
    }
    check_tensors(open(&fixtures().join("internlm2"), OpenOptions::default()).unwrap().source())
        .unwrap();
}

/// A safetensors file with this header and `n` bytes of data.
fn safetensors_file(header: &[u8], n: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; n]].concat()
}

#[test]
fn case_19_header_lengths() {
    let with = |n: u64, rest: &[u8]| [&n.to_le_bytes(), rest].concat();
    says(&with(1000, b"{}"), safetensors_header, &["truncated header", "1000"]);
    says(&with(u64::MAX, b"{}"), safetensors_header, &["100000000"]);
    says(&with(100_000_001, b"{}"), safetensors_header, &["100000000"]);
    says(&with(0, b"{}"), safetensors_header, &["not a JSON object"]);
    says(&with(1, b"{}"), safetensors_header, &["not a JSON object"]);
}

#[test]
fn case_20_headers_that_are_no_header() {
    let x = |a: u32| format!(r#""x":{{"dtype":"F32","shape":[1],"data_offsets":[{a},{}]}}"#, a + 4);
    for (header, word) in [
        (b"{nonsense".to_vec(), "is wrong"),
        (b"[1, 2, 3]".to_vec(), "not a JSON object"),
        (b"{\"x\xff\":1}".to_vec(), "not UTF-8"),
        (b"{} trailing".to_vec(), "is wrong"),
        (br#"{"x": 3}"#.to_vec(), "is wrong"),
        (br#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.to_vec(), "is wrong"),
        (br#"{"x":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#.to_vec(), "`F33`"),
        (br#"{"__metadata__":{"a":"b","a":"c"}}"#.to_vec(), "`a` stands twice"),
        (format!("{{{},{}}}", x(0), x(4)).into_bytes(), "two tensors"),
        ([b"{\"x\":".as_slice(), &b"[".repeat(100_000)].concat(), "is wrong"),
    ] {
        let bytes = safetensors_file(&header, 8);
        let parse = |b: &[u8]| {
            safetensors::parse(b, 0)
                .and_then(|entries| puyu_models::format::Table::new(Vec::new(), entries))
        };
        says(&bytes, parse, &[word]);
    }
}

#[test]
fn case_21_offsets_that_do_not_tile() {
    let header = |ranges: &[(u64, u64)]| {
        let items = ranges.iter().enumerate().map(|(i, (a, b))| {
            let n = b.abs_diff(*a) / 4;
            format!(r#""t{i}":{{"dtype":"F32","shape":[{n}],"data_offsets":[{a},{b}]}}"#)
        });
        format!("{{{}}}", items.collect::<Vec<_>>().join(",")).into_bytes()
    };
    for (ranges, data, word) in [
        (&[(4, 0)][..], 4, "reversed"),
        (&[(0, 8), (4, 12)], 12, "overlaps"),
        (&[(0, 4), (8, 12)], 12, "hole"),
        (&[(4, 8)], 8, "hole"),
        (&[(0, 4)], 8, "belong to none"),
        (&[(0, 8)], 4, "ends at byte 8"),
        (&[(0, 4), (0, 4)], 4, "overlaps"),
    ] {
        says(&safetensors_file(&header(ranges), data), safetensors_header, &["t", word]);
    }
}

#[test]
fn case_22_shapes_that_do_not_fit() {
    for (shape, word) in [
        ("[3]", "does not take"),
        ("[4294967296,4294967296]", "overflows"),
        ("[18446744073709551615,2]", "overflows"),
        ("[0,4611686018427387904,4611686018427387904]", "overflows"),
        ("[1,1,1,1,1,1,1]", "7 dimensions"),
    ] {
        let header = format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
        says(&safetensors_file(header.as_bytes(), 4), safetensors_header, &["`x`", word]);
    }
}

#[test]
fn case_23_indices_that_point_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    std::fs::create_dir(&inside).unwrap();
    let secret = folder.path().join("secret.safetensors");
    std::fs::copy(fixtures().join("llama_tied/model.safetensors"), &secret).unwrap();
    let index = inside.join("model.safetensors.index.json");
    let absolute = secret.to_string_lossy().into_owned();
    for (shard, word) in [
        ("../secret.safetensors", "plain file name"),
        (absolute.as_str(), "plain file name"),
        ("..", "plain file name"),
        ("", "plain file name"),
        ("a\\..\\b", "plain file name"),
        ("missing.safetensors", "missing.safetensors"),
    ] {
        let json = serde_json::json!({ "weight_map": { "model.norm.weight": shard } });
        std::fs::write(&index, json.to_string()).unwrap();
        says(&[], |_| open(&inside, OpenOptions::default()), &["index.json", word]);
    }
    std::fs::copy(&secret, inside.join("a.safetensors")).unwrap();
    for (text, word) in [
        (r#"{"weight_map":{"not.there":"a.safetensors"}}"#, "not.there"),
        (r#"{"weight_map":{"x":"a","x":"b"}}"#, "twice"),
        (r#"{"weight_map":[]}"#, "not a shard index"),
        ("{}", "not a shard index"),
    ] {
        std::fs::write(&index, text).unwrap();
        let error = open(&inside, OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn case_25_configurations_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    drop(file);
    let (result, usage) = measured(|| json::read_config(&path));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("config.json is longer than"), "{error}");
    assert!(usage.peak <= 64 << 20, "{usage:?}");
    let deep = b"[".repeat(100_000);
    std::fs::write(&path, &deep).unwrap();
    says(&deep, |_| json::read_config(&path), &["config.json is not JSON", "recursion"]);
}

#[test]
fn case_27_pickles_with_code() {
    for bytes in [
        &b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."[..],
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02cbuiltins\neval\n.",
    ] {
        let file = puyu_tests::torch_zip("m", &[("data.pkl", bytes)]);
        says(&file, pickle_entries, &["refused"]);
    }
    // Opcodes that build objects of any class are not known at all.
    for op in [b'i', b'o', b'P', 0x81, 0x92] {
        let file = puyu_tests::torch_zip("m", &[("data.pkl", &[0x80, 2, op, b'.'])]);
        says(&file, pickle_entries, &["refused", &format!("{op:#04x}")]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.bin");
    std::fs::write(&path, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    says(&[0; 16], |_| open(&path, OpenOptions::default()), &["old.bin", "bare pickle"]);
}

/// Case 31: with `--no-mmap`, a file that shrinks under us changes nothing.
#[test]
fn case_31_truncated_while_in_use() {
    let folder = tempfile::tempdir().unwrap();
    for from in ["gguf/internlm2-f32.gguf", "llama_tied/model.safetensors"] {
        let path = folder.path().join("model");
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, std::fs::read(fixtures().join(from)).unwrap()).unwrap();
        let model = open(&path, OpenOptions { mmap: false }).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
        let whole = open(&fixtures().join(from), OpenOptions::default()).unwrap();
        for name in whole.source().names() {
            let (a, b) = (model.source().tensor(name), whole.source().tensor(name));
            assert_eq!(a.unwrap().bytes(), b.unwrap().bytes());
        }
    }
}
