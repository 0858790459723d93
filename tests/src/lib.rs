//! Shared helpers of the test suite.

mod cases;
mod gguf;
mod golden;
mod gpu;
pub mod memory;
mod torch;
mod train_goldens;
mod vocab;
pub mod world;

pub use cases::{Run, SIZES, bits, close, make, numbers, other_layouts, tolerance, values};
pub use gguf::GgufBuilder;
pub use golden::{Golden, fixtures, shared, smollm2, worst};
pub use gpu::{Turn, gpu};
pub use torch::{TorchTensor, torch_pickle, torch_zip};
pub use train_goldens::{TrainGolden, train_data, train_goldens};
pub use vocab::{byte_vocab, gguf_vocab};
