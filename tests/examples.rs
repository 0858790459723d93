//! The examples that a learner reads, run as they are, only shorter.

use puyu::engine::{Engine, LoadOptions, greedy};
use puyu_nn::Compute;
use puyu_tensor::DType;

#[path = "../pipeline/examples/train_text.rs"]
#[allow(dead_code, reason = "its main reads the command line")]
mod train_text;

#[test]
fn a_text_file_is_learnt() {
    let text = include_bytes!("../README.md");
    let (losses, written) = train_text::train(text, 12).unwrap();
    // Guessing evenly costs ln 256 = 5.55 nats a byte; the first weights prefer some bytes.
    assert!((5.5..6.6).contains(&losses[0]) && losses[11] < 4.5, "{losses:?}");
    assert!(written.starts_with("# puyu\n\n"), "{written}");
    assert!(train_text::train(b"short", 1).is_err());
    let source = include_str!("../pipeline/examples/train_text.rs");
    assert!(source.lines().count() <= 60, "train_text.rs is longer than 60 lines");
}

#[path = "../pipeline/examples/lora.rs"]
#[allow(dead_code, reason = "its main reads the command line")]
mod lora;

#[test]
fn an_answer_is_learnt_by_lora() {
    let model = puyu_tests::fixtures().join("internlm2");
    let out = tempfile::tempdir().unwrap();
    let losses = lora::lora(model.to_str().unwrap(), out.path(), "What is it?", "a cup").unwrap();
    assert!(losses[0] > 3.0 && losses[39] < 0.1, "{losses:?}");
    // The adapter that was written says what was learnt, and the model alone does not.
    let says = |adapter| {
        let options =
            LoadOptions { compute: Compute::Exact, cache: DType::F32, ..Default::default() };
        let engine = Engine::open_adapted(&model, adapter, options, &|_, _| ()).unwrap();
        let prompt = engine.encode("What is it?", false);
        let mut said = Vec::new();
        greedy(&engine, &[prompt], 8, &mut |_, ids| {
            said = ids.to_vec();
            true
        })
        .unwrap();
        engine.tokenizer.decode(&said, true)
    };
    assert_eq!(says(Some(out.path())).trim(), "a cup");
    assert_ne!(says(None).trim(), "a cup");
    let source = include_str!("../pipeline/examples/lora.rs");
    assert!(source.lines().count() <= 60, "lora.rs is longer than 60 lines");
}

#[path = "../pipeline/examples/new_op.rs"]
#[allow(dead_code, reason = "its main prints what is checked here")]
mod new_op;

#[test]
fn a_new_op_has_the_gradient_it_claims() {
    let (y, worst) = new_op::check().unwrap();
    assert_eq!(y, [0.0, 0.0, 0.25, 9.0]);
    assert!(worst < 5e-3, "{worst}");
}

/// The documents of the chain show the tour's commands, in its order.
#[test]
fn the_chain_is_documented_as_the_tour_runs_it() {
    for text in [include_str!("../docs/chain.md"), include_str!("../docs/chain.zh-CN.md")] {
        let shown = text.lines().filter_map(|line| line.strip_prefix("$ puyu "));
        let commands = puyu::cli::tour::STEPS.iter().map(|(_, command)| *command);
        assert!(shown.eq(commands), "the commands differ");
    }
}
