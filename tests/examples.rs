//! The examples that a learner reads, run as they are, only shorter.

#[path = "../pipeline/examples/train_text.rs"]
#[allow(dead_code, reason = "its main reads the command line")]
mod train_text;

#[test]
fn a_text_file_is_learnt() {
    let text = include_bytes!("../README.md");
    let (losses, written) = train_text::train(text, 12).unwrap();
    // Guessing costs ln 256 = 5.55 nats a byte.
    assert!((losses[0] - 5.55).abs() < 0.3 && losses[11] < losses[0] - 1.0, "{losses:?}");
    assert!(written.starts_with("# puyu\n\n"), "{written}");
    assert!(train_text::train(b"short", 1).is_err());
    let source = include_str!("../pipeline/examples/train_text.rs");
    assert!(source.lines().count() <= 60, "train_text.rs is longer than 60 lines");
}
