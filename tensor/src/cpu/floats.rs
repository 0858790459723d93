//! Operands of BF16 for kernels that compute in F32: copies of inputs, and sums that are rounded at the end.

use crate::cpu::pool::par_each;
use crate::storage::Owned;
use crate::{DType, View, ViewMut, quant};
use std::ops::Deref;

/// Elements that one thread converts at a time.
const PIECE: usize = 1 << 14;

/// A contiguous input as F32.
pub(crate) enum Floats<'a> {
    /// It is F32.
    Lent(&'a [f32]),
    /// It was BF16.
    Copied(Owned),
}

impl<'a> Floats<'a> {
    /// The elements of `x`, which is F32 or BF16.
    pub fn of(x: &View<'a>) -> Self {
        if x.spec.dtype == DType::F32 {
            return Self::Lent(x.data());
        }
        let mut copy = Owned::scratch(DType::F32.bytes(x.spec.numel()));
        let to: &mut [f32] = bytemuck::cast_slice_mut(copy.bytes_mut());
        let pieces = to.chunks_mut(PIECE).zip(x.bytes.chunks(DType::BF16.bytes(PIECE)));
        par_each(pieces, |(to, from)| quant::decode_row(DType::BF16, from, to));
        Self::Copied(copy)
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Self::Lent(x) => x,
            Self::Copied(x) => bytemuck::cast_slice(x.bytes()),
        }
    }
}

/// Calls `f` with memory for the elements of each `y`, F32 or BF16: as F32, which it must fill.
pub(crate) fn fill<const N: usize>(y: [&mut ViewMut; N], f: impl FnOnce([&mut [f32]; N])) {
    if y.iter().all(|y| y.spec.dtype == DType::F32) {
        return f(y.map(|y| y.data()));
    }
    let mut sums = y.each_ref().map(|y| Owned::scratch(DType::F32.bytes(y.spec.numel())));
    f(sums.each_mut().map(|sums| bytemuck::cast_slice_mut(sums.bytes_mut())));
    for (y, sums) in y.into_iter().zip(&sums) {
        let (dtype, sums): (_, &[f32]) = (y.spec.dtype, bytemuck::cast_slice(sums.bytes()));
        let pieces = sums.chunks(PIECE).zip(y.bytes.chunks_mut(dtype.bytes(PIECE)));
        par_each(pieces, |(from, to)| quant::encode_row(dtype, from, to));
    }
}
