//! Every op, one file each, and the [`CATALOG`] that the tests loop over.

use crate::{Tensor, op::Entry};

mod accumulate;
mod accumulate_rows;
mod adamw;
mod along;
mod argmax;
mod attention;
mod attention_grad;
mod binary;
mod cat;
mod copy;
mod cross_entropy;
mod dropout;
mod embedding;
mod gather;
mod kv_write;
mod linear_cross_entropy;
mod matmul;
mod pack;
mod paged_attention;
mod project;
mod reduce;
mod rms_norm;
mod rope;
mod round_rows;
mod scatter_add;
mod softmax;
mod split;
mod square_sums;
mod swiglu;
mod unary;
mod views;

pub use accumulate::Accumulate;
pub use accumulate_rows::AccumulateRows;
pub use adamw::AdamW;
pub use along::{NO_INDEX, PutAlong, TakeAlong};
pub use argmax::{Argmax, TopK};
pub use attention::Attention;
pub use attention_grad::AttentionGrad;
pub use binary::Binary;
pub use cat::Cat;
pub use copy::{Cast, Copy};
pub use cross_entropy::{CrossEntropy, CrossEntropyGrad, CrossEntropyInto};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use gather::Gather;
pub use kv_write::{KvWrite, kv_write};
pub use linear_cross_entropy::{LinearCrossEntropy, rows_of_logits};
pub use matmul::{Matmul, MatmulAdd, MatmulTransposed};
pub use pack::{Pack, pack_all};
pub use paged_attention::{PagedAttention, Pages};
pub use project::{Factor, Left, Project};
pub use reduce::{Max, Sum};
pub use rms_norm::{RmsNorm, RmsNormGrad};
pub use rope::{Rope, Rotate, Scaling};
pub use round_rows::RoundRows;
pub use scatter_add::ScatterAdd;
pub use softmax::Softmax;
pub use split::Split;
pub use square_sums::SquareSums;
pub use swiglu::{Swiglu, SwigluGrad};
pub use unary::Unary;
pub use views::{BroadcastTo, Narrow, Reshape, Transpose};

/// Every op with its cases.
pub const CATALOG: &[Entry] = &[
    accumulate::ENTRY,
    accumulate_rows::ENTRY,
    adamw::ENTRY,
    along::ENTRY,
    argmax::ENTRY,
    attention::ENTRY,
    binary::ENTRY,
    cat::ENTRY,
    copy::ENTRY,
    cross_entropy::ENTRY,
    dropout::ENTRY,
    embedding::ENTRY,
    gather::ENTRY,
    kv_write::ENTRY,
    linear_cross_entropy::ENTRY,
    matmul::ENTRY,
    pack::ENTRY,
    paged_attention::ENTRY,
    project::ENTRY,
    reduce::ENTRY,
    rms_norm::ENTRY,
    rope::ENTRY,
    round_rows::ENTRY,
    scatter_add::ENTRY,
    softmax::ENTRY,
    split::ENTRY,
    square_sums::ENTRY,
    swiglu::ENTRY,
    unary::ENTRY,
    views::ENTRY,
];

/// The outputs of an op that has two.
fn pair(outputs: Vec<Tensor>) -> (Tensor, Tensor) {
    let mut y = outputs.into_iter();
    y.next().zip(y.next()).expect("the op has two outputs")
}
