//! Shapes, strides and [`Spec`]: everything about a tensor but its bytes.
//!
//! Shapes are small inline arrays (`Copy`), so that describing a tensor never allocates. Strides count
//! elements. A block dtype keeps whole rows contiguous: only its leading dimensions may be strided,
//! and its transpose is a view that matmul alone understands.

use crate::DType;
use std::fmt;
use std::ops::{Deref, Range};

/// The most dimensions a tensor has.
pub const MAX_DIMS: usize = 6;

/// An inline list of dimension sizes or strides.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    len: u8,
    dims: [usize; MAX_DIMS],
}

impl Dims {
    /// The list holding `dims`.
    ///
    /// # Panics
    /// If there are more than [`MAX_DIMS`].
    #[track_caller]
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_DIMS, "{} dimensions, the most is {MAX_DIMS}", dims.len());
        let mut d = [0; MAX_DIMS];
        d[..dims.len()].copy_from_slice(dims);
        Self { len: dims.len() as u8, dims: d }
    }

    /// The product of the sizes; 1 for a scalar.
    pub fn numel(&self) -> usize {
        self.iter().product()
    }

    /// Row-major strides of this shape.
    pub fn contiguous_strides(&self) -> Self {
        let mut s = *self;
        let mut step = 1;
        for i in (0..self.len()).rev() {
            s.dims[i] = step;
            step *= self.dims[i];
        }
        s
    }

    /// A copy with dimension `i` set to `n`.
    #[must_use]
    pub fn with(mut self, i: usize, n: usize) -> Self {
        self[i] = n;
        self
    }
}

impl Deref for Dims {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.len as usize]
    }
}

impl std::ops::DerefMut for Dims {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.dims[..self.len as usize]
    }
}

impl From<&[usize]> for Dims {
    #[track_caller]
    fn from(d: &[usize]) -> Self {
        Self::new(d)
    }
}

impl<const N: usize> From<[usize; N]> for Dims {
    #[track_caller]
    fn from(d: [usize; N]) -> Self {
        Self::new(&d)
    }
}

impl FromIterator<usize> for Dims {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Self {
        Self::new(&iter.into_iter().collect::<Vec<_>>())
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// How a weight's rows are arranged on its device. Never written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Packing {
    /// Row after row, as in files.
    #[default]
    Rows,
    /// Panels of 16 rows, interleaved for the CPU kernels (`cpu/panel.rs`).
    Panel16,
}

/// Shape, dtype, strides and packing: everything an op's `infer` may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Sizes, outermost first.
    pub shape: Dims,
    /// Distance in elements between neighbours along each dimension.
    pub strides: Dims,
    /// Element type.
    pub dtype: DType,
    /// Arrangement of rows on the device.
    pub packing: Packing,
}

impl Spec {
    /// A contiguous, unpacked spec.
    pub fn new(shape: impl Into<Dims>, dtype: DType) -> Self {
        let shape = shape.into();
        Self { shape, strides: shape.contiguous_strides(), dtype, packing: Packing::Rows }
    }

    /// A contiguous F32 spec.
    pub fn f32(shape: impl Into<Dims>) -> Self {
        Self::new(shape, DType::F32)
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: elements over [`Spec::last`].
    pub fn rows(&self) -> usize {
        self.shape[..self.rank().saturating_sub(1)].iter().product()
    }

    /// Bytes of a contiguous tensor with this shape and dtype.
    pub fn bytes(&self) -> usize {
        self.rows() * self.dtype.bytes(self.last())
    }

    /// Whether elements lie in row-major order without gaps (sizes of one do not count).
    pub fn is_contiguous(&self) -> bool {
        if self.packing != Packing::Rows {
            return false;
        }
        let mut step = 1;
        for i in (0..self.rank()).rev() {
            if self.shape[i] != 1 {
                if self.strides[i] != step {
                    return false;
                }
                step *= self.shape[i];
            }
        }
        true
    }

    /// The elements a view with this spec spans, from its first to just past its last.
    pub fn extent(&self) -> usize {
        if self.numel() == 0 {
            return 0;
        }
        1 + self.shape.iter().zip(self.strides.iter()).map(|(n, s)| (n - 1) * s).sum::<usize>()
    }

    /// The bytes a view with this spec spans, the first element lying `offset` elements from the
    /// start of its storage.
    pub fn byte_range(&self, offset: usize) -> Range<usize> {
        let (len, bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        let start = offset / len * bytes;
        start..start + self.extent().div_ceil(len) * bytes
    }

    /// The element where row `r` starts, all leading dimensions taken as one in row-major order.
    pub fn row_offset(&self, mut r: usize) -> usize {
        let mut at = 0;
        for i in (0..self.rank().saturating_sub(1)).rev() {
            at += r % self.shape[i] * self.strides[i];
            r /= self.shape[i];
        }
        at
    }

    /// `x` broadcast to `shape` by NumPy's rule (sizes of one stretch with stride 0), or `None`.
    pub fn broadcast_to(&self, shape: Dims) -> Option<Self> {
        let lead = shape.len().checked_sub(self.rank())?;
        let mut strides = Dims::new(&[0; MAX_DIMS][..shape.len()]);
        for i in 0..self.rank() {
            if self.shape[i] == shape[lead + i] {
                strides[lead + i] = self.strides[i];
            } else if self.shape[i] != 1 {
                return None;
            }
        }
        Some(Self { shape, strides, ..*self })
    }

    /// The shape two specs broadcast to, or `None`.
    pub fn broadcast_with(&self, other: &Self) -> Option<Dims> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Self, i: usize| (i + s.rank()).checked_sub(rank).map_or(1, |j| s.shape[j]);
        let mut out = Dims::new(&[1; MAX_DIMS][..rank]);
        for i in 0..rank {
            out[i] = match (at(self, i), at(other, i)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(out)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}
