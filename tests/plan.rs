//! What `puyu plan` counts, against published numbers.

use puyu::plan::{NF4_BITS, Parameters, train_flops};
use puyu_models::Config;
use serde_json::json;

/// Parameters counted from a shape are those of the published models.
#[test]
fn parameters_are_the_published_ones() {
    let internlm = json!({ "model_type": "internlm", "vocab_size": 103_168, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11_008, "bias": true });
    let c = Config::from_json(&internlm).unwrap();
    assert_eq!(Parameters::of(&c).total(), 7_321_948_160);
    // 6 for each weight that multiplies, and 12·L·H·S/2 for causal attention, within a thousandth.
    let weights = (7_321_948_160u64 - 103_168 * 4096) as f64;
    let wanted = 6.0 * weights + 6.0 * 32.0 * 4096.0 * 2048.0;
    assert!((train_flops(&c, 2048) / wanted - 1.0).abs() < 1e-3);
}

/// NF4 with double quantization is at most 4.13 bits a weight.
#[test]
fn nf4_takes_what_its_paper_says() {
    assert!((4.126..=4.13).contains(&NF4_BITS), "{NF4_BITS}");
}
