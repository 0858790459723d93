//! The WGSL compute kernels of puyu: one file per kernel, one constant per file.
//!
//! This crate holds text only and depends on nothing, so that a shader can be read, validated and
//! reused without the engine. A kernel is its file with at most a few pieces put in front: the grid's
//! index, or the `load4()` of a weight's dtype.
#![forbid(unsafe_code)]

/// One kernel: its name (the op's name, or the op's name and what is special) and its WGSL text with
/// the pieces it includes put in front.
#[derive(Debug)]
pub struct Shader {
    /// The file's name without `.wgsl`, and the weight's dtype if it has one; the key of the pipeline
    /// cache.
    pub name: &'static str,
    /// WGSL parts, concatenated in order to give the module.
    pub parts: &'static [&'static str],
}

/// A kernel over weights: the same file behind the piece of each dtype.
#[derive(Debug)]
pub struct PerDtype(&'static [(&'static str, Shader)]);

impl PerDtype {
    /// The kernel for weights of the dtype with this name (`q4_0`), if there is one.
    pub fn get(&self, dtype: &str) -> Option<&'static Shader> {
        self.0.iter().find(|(name, _)| *name == dtype).map(|(_, shader)| shader)
    }
}

const GRID: &str = include_str!("../grid.wgsl");
const STRIDED: &str = include_str!("../strided.wgsl");
const WORDS: &str = include_str!("../words.wgsl");
const K_SCALES: &str = include_str!("../k_scales.wgsl");

macro_rules! shaders {
    ($($constant:ident = $name:literal, [$($piece:ident),*];)*) => {
        $(
            #[doc = concat!("`", $name, ".wgsl`.")]
            pub static $constant: Shader = Shader {
                name: $name,
                parts: &[$($piece,)* include_str!(concat!("../", $name, ".wgsl"))],
            };
        )*
        const PLAIN: &[&Shader] = &[$(&$constant),*];
    };
}
shaders! {
    BINARY = "binary", [GRID, STRIDED];
    COPY = "copy", [GRID, STRIDED];
    RMS_NORM = "rms_norm", [GRID];
    ROUND = "round", [GRID];
    SWIGLU = "swiglu", [GRID];
    UNARY = "unary", [GRID];
}

macro_rules! per_dtype {
    ($constant:ident = $name:literal: $($dtype:literal [$($piece:ident),*])*) => {
        #[doc = concat!("`", $name, ".wgsl` over `weight_*.wgsl`.")]
        pub static $constant: PerDtype = PerDtype(&[$((
            $dtype,
            Shader {
                name: concat!($name, "_", $dtype),
                parts: &[
                    GRID,
                    STRIDED,
                    $($piece,)*
                    include_str!(concat!("../weight_", $dtype, ".wgsl")),
                    include_str!(concat!("../", $name, ".wgsl")),
                ],
            },
        )),*]);
    };
    ($($constant:ident = $name:literal;)*) => {
        $(
            per_dtype! {
                $constant = $name:
                "f32" []
                "f16" [WORDS]
                "bf16" [WORDS]
                "q8_0" [WORDS]
                "q4_0" [WORDS]
                "q4_1" [WORDS]
                "q5_0" [WORDS]
                "q5_1" [WORDS]
                "q4_k" [WORDS, K_SCALES]
                "q5_k" [WORDS, K_SCALES]
                "q6_k" [WORDS]
            }
        )*
        const WEIGHTED: &[&PerDtype] = &[$(&$constant),*];
    };
}
per_dtype! {
    CAST = "cast";
    MATMUL = "matmul";
}

/// Every kernel in every variant.
pub fn all() -> impl Iterator<Item = &'static Shader> {
    let weighted = WEIGHTED.iter().flat_map(|k| k.0.iter().map(|(_, shader)| shader));
    PLAIN.iter().copied().chain(weighted)
}
