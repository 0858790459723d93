//! How ops use the CPU: threads (`pool`) and instruction sets (`simd`).

pub(crate) mod ahead;
pub mod attention;
pub(crate) mod attention_grad;
mod columns;
pub(crate) mod floats;
pub mod gemm;
mod gemm_f32;
pub mod limits;
pub(crate) mod math;
mod operands;
mod pairs;
pub mod panel;
pub mod pool;
pub mod simd;
