//! Every op, one file each, and the [`CATALOG`] that the tests loop over.

use crate::op::Entry;

mod binary;
mod cat;
mod copy;
mod matmul;
mod reduce;
mod rms_norm;
mod rope;
mod swiglu;
mod unary;
mod views;

pub use binary::Binary;
pub use cat::Cat;
pub use copy::{Cast, Copy};
pub use matmul::{Matmul, MatmulTransposed};
pub use reduce::{Max, Sum};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, Rotate, Scaling};
pub use swiglu::Swiglu;
pub use unary::Unary;
pub use views::{BroadcastTo, Narrow, Reshape, Transpose};

/// Every op with its cases.
pub const CATALOG: &[Entry] = &[
    binary::ENTRY,
    cat::ENTRY,
    copy::ENTRY,
    matmul::ENTRY,
    reduce::ENTRY,
    rms_norm::ENTRY,
    rope::ENTRY,
    swiglu::ENTRY,
    unary::ENTRY,
    views::ENTRY,
];
