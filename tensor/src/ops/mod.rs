//! Every op, one file each, and the [`CATALOG`] that the tests loop over.

use crate::op::Entry;

mod attention;
mod attention_grad;
mod binary;
mod cat;
mod copy;
mod kv_write;
mod matmul;
mod paged_attention;
mod reduce;
mod rms_norm;
mod rope;
mod swiglu;
mod unary;
mod views;

pub use attention::Attention;
pub use attention_grad::AttentionGrad;
pub use binary::Binary;
pub use cat::Cat;
pub use copy::{Cast, Copy};
pub use kv_write::{KvWrite, kv_write};
pub use matmul::{Matmul, MatmulTransposed};
pub use paged_attention::{PagedAttention, Pages};
pub use reduce::{Max, Sum};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, Rotate, Scaling};
pub use swiglu::Swiglu;
pub use unary::Unary;
pub use views::{BroadcastTo, Narrow, Reshape, Transpose};

/// Every op with its cases.
pub const CATALOG: &[Entry] = &[
    attention::ENTRY,
    binary::ENTRY,
    cat::ENTRY,
    copy::ENTRY,
    kv_write::ENTRY,
    matmul::ENTRY,
    paged_attention::ENTRY,
    reduce::ENTRY,
    rms_norm::ENTRY,
    rope::ENTRY,
    swiglu::ENTRY,
    unary::ENTRY,
    views::ENTRY,
];
