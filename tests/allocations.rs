//! What a decoded token allocates: small lists and reference-counted records, but no buffer. What ops write comes
//! from the free list, where the token before left it; only the logits are the caller's own.

use puyu::engine::{Engine, LoadOptions, Session};
use puyu_tensor::cpu::pool::with_threads;
use puyu_tests::memory::{BUFFER, Counting, measured};
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decoded_token_allocates_its_logits_alone() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/assets/puyu.gguf");
    let engine = Engine::open(&file, LoadOptions::default(), &|_, _| ()).expect("the model loads");
    let logits = engine.config().vocab_size * size_of::<f32>();
    assert!(logits > BUFFER, "logits are a buffer");
    // What is counted is what this thread allocates; alone it does all the work.
    with_threads(1, || {
        let mut session = Session::new(&engine, 128).expect("the cache is small");
        session.feed(&[1, 2, 3], &mut |_, _| true).expect("three tokens fit");
        for id in 4..80 {
            let (token, usage) = measured(|| session.push(id).expect("the token fits"));
            assert_eq!(token.map(|logits| logits.len()), Some(engine.config().vocab_size));
            // The first tokens leave their memory to the others.
            if id >= 8 {
                assert_eq!((usage.buffers, usage.largest), (1, logits), "token {id}");
            }
        }
    });
}
