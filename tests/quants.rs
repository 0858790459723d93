//! Block formats against goldens written by ggml, and against their own error bounds.

use proptest::prelude::*;
use puyu_tensor::DType;
use puyu_tensor::quant::{ImportType, decode_row, encode_row, first_non_finite};
use safetensors::SafeTensors;
use std::path::PathBuf;

/// Formats that puyu writes, with their names in the fixture.
const WRITTEN: [(DType, &str); 8] = [
    (DType::Q8_0, "Q8_0"),
    (DType::Q4_0, "Q4_0"),
    (DType::Q4_1, "Q4_1"),
    (DType::Q5_0, "Q5_0"),
    (DType::Q5_1, "Q5_1"),
    (DType::Q4K, "Q4_K"),
    (DType::Q5K, "Q5_K"),
    (DType::Q6K, "Q6_K"),
];

const IMPORTED: [(ImportType, &str); 5] = [
    (ImportType::Q2K, "Q2_K"),
    (ImportType::Q3K, "Q3_K"),
    (ImportType::Iq4Nl, "IQ4_NL"),
    (ImportType::Iq4Xs, "IQ4_XS"),
    (ImportType::Mxfp4, "MXFP4"),
];

fn golden_file(name: &str) -> Vec<u8> {
    let root = std::env::var_os("PUYU_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/models"),
        PathBuf::from,
    );
    let path = root.join("gguf").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let (bytes, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
    bytes.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn rms(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    decode_row(dtype, bytes, &mut out);
    out
}

fn encoded(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xa5; dtype.bytes(x.len())];
    encode_row(dtype, x, &mut bytes);
    bytes
}

/// Decoding multiplies the same f32 numbers in the same order as ggml up to how d·scale·code is
/// associated, so a few units in the last place are allowed.
fn assert_decodes(name: &str, ours: &[f32], golden: &[f32]) {
    for (i, (a, b)) in ours.iter().zip(golden).enumerate() {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-3), "{name}[{i}]: {a}, golden {b}");
    }
}

#[test]
fn golden_blocks_decode_alike() {
    let data = golden_file("ggml_quants.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let bytes = |name: &str| file.tensor(&format!("{name}.bytes")).unwrap().data();
    for (dtype, name) in WRITTEN {
        let golden = floats(&file, &format!("{name}.dequant"));
        assert_decodes(name, &decoded(dtype, bytes(name)), &golden);
    }
    for (import, name) in IMPORTED {
        let golden = floats(&file, &format!("{name}.dequant"));
        let mut ours = vec![f32::NAN; golden.len()];
        import.decode_row(bytes(name), &mut ours);
        assert_decodes(name, &ours, &golden);
    }
}

#[test]
fn golden_blocks_encode_as_well() {
    let data = golden_file("ggml_quants.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let facts: serde_json::Value =
        serde_json::from_slice(&golden_file("ggml_quants.json")).unwrap();
    let source = floats(&file, "source");
    for (dtype, name) in WRITTEN {
        let ours = encoded(dtype, &source);
        let golden = file.tensor(&format!("{name}.bytes")).unwrap().data();
        let same = ours.iter().zip(golden).filter(|(a, b)| a == b).count();
        let error = rms(&decoded(dtype, &ours), &source);
        let reference = facts["types"][name]["rms_err"].as_f64().unwrap();
        eprintln!("{name}: rms {error:.9}, golden {reference:.9}, {same}/{} bytes", golden.len());
        assert!(error <= reference * (1.0 + 1e-6), "{name}: rms {error}, golden {reference}");
        if matches!(dtype, DType::Q8_0 | DType::Q4_0 | DType::Q4_1) {
            assert_eq!(ours, golden, "{name} differs from ggml's bytes");
        }
    }
}

#[test]
fn halves_round_to_nearest_even_and_decode_exactly() {
    for bits in 0..=u16::MAX {
        let half = half::f16::from_bits(bits);
        let ours = decoded(DType::F16, &bits.to_le_bytes())[0];
        assert!(ours == half.to_f32() || (ours.is_nan() && half.is_nan()), "f16 bits {bits:#x}");
    }
    // 1 + 2^-11 lies between two halves and goes to the even one; so does 1 + 3 · 2^-11.
    let tie = [1.0 + 0.5f32.powi(11), 1.0 + 3.0 * 0.5f32.powi(11)];
    assert_eq!(decoded(DType::F16, &encoded(DType::F16, &tie)), [1.0, 1.0 + 0.5f32.powi(9)]);
    let tie = [1.0 + 0.5f32.powi(8), 1.0 + 3.0 * 0.5f32.powi(8)];
    assert_eq!(decoded(DType::BF16, &encoded(DType::BF16, &tie)), [1.0, 1.0 + 0.5f32.powi(6)]);
}

#[test]
fn zeros_stay_zero_in_every_format() {
    let zeros = [0.0; 512];
    for dtype in DType::WEIGHTS.into_iter().chain([DType::I8Row]) {
        assert!(decoded(dtype, &encoded(dtype, &zeros)).iter().all(|&v| v == 0.0), "{dtype}");
    }
}

#[test]
fn non_finite_input_is_found() {
    assert_eq!(first_non_finite(&[1.0, -2.0, 0.0]), None);
    assert_eq!(first_non_finite(&[1.0, f32::NAN, f32::INFINITY]), Some(1));
    assert_eq!(first_non_finite(&[f32::NEG_INFINITY]), Some(0));
}

#[test]
#[should_panic(expected = "33 bytes do not hold 32 elements of q8_0")]
fn wrong_lengths_are_rejected() {
    decode_row(DType::Q8_0, &[0; 33], &mut [0.0; 32]);
}

/// NF4's scale takes 4 bytes, or one for a little more error, on weights as they are distributed.
#[test]
fn nf4_rounds_normal_weights_by_a_tenth() {
    let x: Vec<f32> = puyu_tests::numbers(1 << 16, 7).iter().map(|v| v * 0.02).collect();
    let size = rms(&x, &vec![0.0; x.len()]);
    for (dtype, bits, error) in [(DType::Nf4, 4.5, 0.095), (DType::Nf4Dq, 4.125, 0.098)] {
        let bytes = encoded(dtype, &x);
        assert_eq!(bytes.len() as f64 * 8.0 / x.len() as f64, bits, "{dtype}");
        let off = rms(&x, &decoded(dtype, &bytes)) / size;
        assert!(off <= error, "{dtype} is off by {off}");
    }
}

/// The largest error of an element in units of its sub-block's range, by the number of levels; K
/// formats lose a little more to their coarse scales.
fn error_bound(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 0.0,
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 | DType::Q8_0 | DType::I8Row => 1.0 / 250.0,
        DType::Q6K => 1.0 / 15.0,
        DType::Q5_0 => 1.0 / 15.0,
        DType::Q5_1 => 1.0 / 60.0,
        DType::Q4_0 => 1.0 / 7.0,
        DType::Q4_1 => 1.0 / 29.0,
        DType::Nf4 | DType::Nf4Dq => 1.0 / 11.0,
        _ => 1.0 / 5.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn round_trip_error_is_bounded(
        x in prop::collection::vec(-1.0f32..1.0, 512),
        exponent in -8i32..8,
        shift in -1.0f32..1.0,
    ) {
        let x: Vec<f32> = x.iter().map(|v| (v + shift) * 2f32.powi(exponent)).collect();
        for dtype in DType::WEIGHTS.into_iter().chain([DType::I8Row]) {
            let back = decoded(dtype, &encoded(dtype, &x));
            // K formats share one f16 scale over 256 elements, the others over 32.
            for (x, back) in x.chunks(dtype.block_len().max(32)).zip(back.chunks(dtype.block_len().max(32))) {
                let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let range = 2.0 * largest;
                for (a, b) in x.iter().zip(back) {
                    prop_assert!((a - b).abs() <= error_bound(dtype) * range + 1e-6, "{dtype}: {a} became {b}, range {range}");
                }
            }
        }
    }

    #[test]
    fn encoding_a_decoded_row_changes_little(x in prop::collection::vec(-4.0f32..4.0, 256)) {
        for (dtype, _) in WRITTEN {
            let once = decoded(dtype, &encoded(dtype, &x));
            let twice = decoded(dtype, &encoded(dtype, &once));
            prop_assert!(rms(&once, &twice) <= rms(&once, &x) + 1e-3, "{dtype}");
        }
    }

    #[test]
    fn arbitrary_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 420)) {
        for dtype in DType::ALL.into_iter().filter(|&d| d != DType::U32) {
            let whole = bytes.len() / dtype.block_bytes() * dtype.block_bytes();
            decoded(dtype, &bytes[..whole]);
        }
        for import in ImportType::ALL {
            let blocks = bytes.len() / import.block_bytes();
            let mut out = vec![0.0; blocks * import.block_len()];
            import.decode_row(&bytes[..blocks * import.block_bytes()], &mut out);
        }
    }

    #[test]
    fn finite_extremes_encode(scale in prop::sample::select(vec![1e-42f32, 1e-30, 1e-8, 6e4, 1e30, 1e38]), x in prop::collection::vec(-3.0f32..3.0, 256)) {
        let x: Vec<f32> = x.iter().map(|v| v * scale).collect();
        for dtype in DType::WEIGHTS {
            encoded(dtype, &x);
        }
    }
}
