//! What a GPU runs for an op, as plain data: no type of the GPU library appears here, so every op
//! states its kernels in its own file, and a test can compare them with the shaders without a GPU.

use crate::Spec;
use puyu_shaders::Shader;

/// What a GPU runs for one op: dispatches in order, and the scratch memory they share.
#[derive(Clone, Debug, Default)]
pub struct Kernels {
    /// Buffers that live only for these dispatches.
    pub scratch: Vec<Spec>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
}

impl Kernels {
    /// One dispatch without scratch memory.
    pub(crate) fn one(
        shader: &'static Shader,
        bind: impl Into<Vec<Bind>>,
        params: impl Into<Vec<Param>>,
        groups: [u32; 3],
    ) -> Option<Self> {
        let dispatch = Dispatch { shader, bind: bind.into(), params: params.into(), groups };
        Some(Self { scratch: Vec::new(), dispatches: vec![dispatch] })
    }
}

/// One dispatch of one shader.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The shader: `puyu_shaders::RMS_NORM`.
    pub shader: &'static Shader,
    /// Buffers in binding order: 0, 1, ...; the uniform params follow as the last binding.
    pub bind: Vec<Bind>,
    /// The fields of the shader's `Params` struct, in order.
    pub params: Vec<Param>,
    /// Workgroups along x, y, z.
    pub groups: [u32; 3],
}

/// A buffer of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Input `i`.
    X(usize),
    /// Output `i` (saved outputs follow the outputs).
    Y(usize),
    /// Scratch `i`.
    Scratch(usize),
}

/// One 32-bit field of a params struct.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    /// An unsigned integer.
    U32(u32),
    /// A float.
    F32(f32),
    /// Where the view of this buffer starts in its binding, in blocks of its dtype (elements, for a
    /// plain one); known when the op is recorded. Every input has one, since any may be a view.
    Offset(Bind),
}

impl From<u32> for Param {
    fn from(v: u32) -> Self {
        Self::U32(v)
    }
}

impl From<usize> for Param {
    fn from(v: usize) -> Self {
        Self::U32(u32::try_from(v).expect("sizes on a GPU fit in 32 bits"))
    }
}

impl From<f32> for Param {
    fn from(v: f32) -> Self {
        Self::F32(v)
    }
}

/// Invocations per workgroup of the kernels in which an invocation owns one output: `WG` in WGSL.
const WG: usize = 256;

/// Workgroups for `invocations` that own one output each, folded to two dimensions above the limit of WebGPU. The shader takes
/// its index from `invocation()` in `grid.wgsl` and leaves when that is past the end.
pub(crate) fn grid(invocations: usize) -> [u32; 3] {
    fold(invocations.div_ceil(WG))
}

/// `groups` workgroups, folded to two dimensions above the limit of WebGPU.
pub(crate) fn fold(groups: usize) -> [u32; 3] {
    const LIMIT: usize = 65_535;
    let rows = groups.div_ceil(LIMIT).max(1);
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}

/// How a kernel finds the elements of row-major index i of `shape` in strided inputs: per input 8
/// strides, then 8 sizes (all innermost dimension first), and apart the number of dimensions.
/// Neighbouring dimensions that lie as one in every input become one.
pub(crate) fn strided(shape: &[usize], strides: &[&[usize]]) -> (Vec<Param>, Param) {
    let mut sizes: Vec<usize> = Vec::new();
    let mut steps: Vec<Vec<usize>> = vec![Vec::new(); strides.len()];
    for d in (0..shape.len()).rev().filter(|&d| shape[d] != 1) {
        let joins = sizes.last().is_some_and(|&n| {
            steps.iter().zip(strides).all(|(s, from)| s.last().map(|s| s * n) == Some(from[d]))
        });
        if joins {
            sizes.last_mut().into_iter().for_each(|n| *n *= shape[d]);
        } else {
            sizes.push(shape[d]);
            steps.iter_mut().zip(strides).for_each(|(s, from)| s.push(from[d]));
        }
    }
    let rank = sizes.len();
    let eight = |v: Vec<usize>| v.into_iter().chain(std::iter::repeat(0)).take(8).map(Param::from);
    (steps.into_iter().chain([sizes]).flat_map(eight).collect(), rank.into())
}
