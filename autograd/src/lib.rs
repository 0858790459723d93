//! Reverse-mode automatic differentiation over the record that ops leave on their results.
//!
//! [`backward`] walks that record once, in reverse topological order. Gradients are themselves written
//! in tensor ops, so they run wherever the forward pass ran.
#![forbid(unsafe_code)]

mod backward;
mod checkpoint;
mod gradcheck;

pub use backward::{Grads, Piece, Sink, backward, backward_from, backward_into};
pub use checkpoint::checkpoint;
pub use gradcheck::{GradError, gradcheck};
