//! What a tensor is, what an op is, and how CPU and GPU run it.
//!
//! One concrete `Tensor`, one `Op` trait, no backend parameter: an op is one Rust file (meaning,
//! shape rule, CPU loop, gradient, sample cases) and one WGSL file, listed once in `ops::CATALOG`.

mod dtype;
mod error;
mod layout;
pub mod quant;

pub use dtype::DType;
pub use error::{Context, Error, ErrorKind, Result};
pub use layout::{Dims, MAX_DIMS, Packing, Spec};
