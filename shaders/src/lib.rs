//! The WGSL compute kernels of puyu: one file per kernel, one constant per file.
//!
//! This crate holds text only and depends on nothing, so that a shader can be read, validated and
//! reused without the engine.

/// One kernel: its name (the op's name, or the op's name and what is special) and its WGSL text with
/// the pieces it includes put in front.
#[derive(Debug)]
pub struct Shader {
    /// The file's name without `.wgsl`; the key of the pipeline cache.
    pub name: &'static str,
    /// WGSL parts, concatenated in order to give the module.
    pub parts: &'static [&'static str],
}
