//! Shared helpers of the test suite.

mod cases;
pub mod memory;
mod torch;

use std::path::PathBuf;

pub use cases::{Run, SIZES, bits, close, make, numbers, values};
pub use torch::{TorchTensor, torch_pickle, torch_zip};

/// The folder of golden checkpoints: `PUYU_FIXTURES`, or the copy beside these tests.
pub fn fixtures() -> PathBuf {
    std::env::var_os("PUYU_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/models"),
        PathBuf::from,
    )
}
