//! What a tensor is, what an op is, and how CPU and GPU run it.
//!
//! One concrete [`Tensor`], one [`Op`] trait, no backend parameter: an op is one Rust file (meaning,
//! shape rule, CPU loop, gradient, sample cases) and one WGSL file, listed once in [`ops::CATALOG`].

mod apply;
pub mod cpu;
mod device;
mod dtype;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
mod kernels;
mod layout;
pub mod op;
pub mod ops;
pub mod quant;
mod storage;
mod tensor;
mod trace;
mod view;

pub use apply::{apply, apply_dyn, apply_to, apply_to_dyn, apply1, no_grad, with_origin};
pub use cpu::simd::prefetch;
pub use device::{Device, Gpu, wait};
pub use dtype::DType;
pub use error::{Context, Error, ErrorKind, Result};
pub use layout::{Dims, MAX_DIMS, Packing, Spec};
pub use op::{Grad, Op, Outs, SparseRows};
pub use storage::{FileBytes, fill_scratch};
pub use tensor::{Node, Origin, Tensor};
pub use trace::{trace_reset, trace_sums};
pub use view::{Element, View, ViewMut};
