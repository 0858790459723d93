//! What a CPU kernel sees of its inputs and outputs: a spec and a slice of bytes.

use crate::quant::nearest_bf16;
use crate::{DType, Spec};
use half::{bf16, f16};

/// A Rust type that stores one element of a plain dtype.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The dtype it stores.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// An element that is computed with as an F32.
pub(crate) trait Real: Element {
    /// Its value.
    fn get(self) -> f32;

    /// The nearest to `x`.
    fn nearest(x: f32) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
    #[inline(always)]
    fn nearest(x: f32) -> Self {
        x
    }
}

impl Real for bf16 {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn nearest(x: f32) -> Self {
        Self::from_bits(nearest_bf16(x) as u16)
    }
}

/// An input: its spec, and the bytes from its first element to just past its last.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Shape, strides, dtype, packing.
    pub spec: Spec,
    /// The bytes it spans.
    pub bytes: &'a [u8],
}

/// An output: contiguous, filled by the kernel.
pub struct ViewMut<'a> {
    /// Shape, strides, dtype, packing.
    pub spec: Spec,
    /// Its bytes.
    pub bytes: &'a mut [u8],
}

#[track_caller]
fn check(spec: &Spec, dtype: DType) {
    assert!(spec.dtype == dtype, "elements of {spec} read as {dtype}");
}

impl<'a> View<'a> {
    /// The elements it spans; element `i` along each dimension lies `strides · i` from the first.
    ///
    /// # Panics
    /// If the dtype is another.
    #[track_caller]
    pub fn data<T: Element>(&self) -> &'a [T] {
        check(&self.spec, T::DTYPE);
        bytemuck::cast_slice(self.bytes)
    }

    /// Row `r` of a contiguous view of rank 1 or more, all leading dimensions taken as one.
    #[track_caller]
    pub fn row<T: Element>(&self, r: usize) -> &'a [T] {
        let n = self.spec.last();
        &self.data()[r * n..(r + 1) * n]
    }

    /// The bytes of row `r` of a contiguous view, for block formats.
    #[track_caller]
    pub fn row_bytes(&self, r: usize) -> &'a [u8] {
        let n = self.spec.dtype.bytes(self.spec.last());
        &self.bytes[r * n..(r + 1) * n]
    }
}

impl ViewMut<'_> {
    /// All elements.
    ///
    /// # Panics
    /// If the dtype is another.
    #[track_caller]
    pub fn data<T: Element>(&mut self) -> &mut [T] {
        check(&self.spec, T::DTYPE);
        bytemuck::cast_slice_mut(self.bytes)
    }
}
