//! How ops use the CPU: threads (`pool`) and instruction sets (`simd`).

pub mod attention;
pub(crate) mod gemm;
pub(crate) mod math;
pub mod pool;
