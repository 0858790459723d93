//! How ops use the CPU: threads (`pool`) and instruction sets (`simd`).

pub mod attention;
mod columns;
pub mod gemm;
pub mod limits;
pub(crate) mod math;
pub mod panel;
pub mod pool;
pub mod simd;
