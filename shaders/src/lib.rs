//! The WGSL compute kernels of puyu: one file per kernel, one constant per file.
//!
//! This crate holds text only and depends on nothing, so that a shader can be read, validated and
//! reused without the engine.
