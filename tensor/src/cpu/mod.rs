//! How ops use the CPU: threads (`pool`) and instruction sets (`simd`).

pub(crate) mod gemm;
pub mod pool;
