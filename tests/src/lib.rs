//! Shared helpers of the test suite.

mod cases;

pub use cases::{Run, SIZES, bits, close, make, numbers, values};
