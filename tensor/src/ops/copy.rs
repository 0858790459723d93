//! Copies: a strided tensor made contiguous, and a change of element type. To a block dtype this is
//! quantization, from one it is decoding.

use crate::cpu::pool::par_ranges;
use crate::kernels::{Bind, Kernels, Param, grid, strided};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1, cpu::pool::SharedMut, quant};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "copy",
    cases: |[a, b, c, _]| {
        let mut cases = vec![
            Case::new(Copy, [Arg::f32([a, b, c])]),
            Case::new(Copy, [Arg::of([a, b], DType::F16)]),
            Case::new(Copy, [Arg::below([a, c], 1000)]),
        ];
        for dtype in DType::WEIGHTS {
            let n = c.next_multiple_of(dtype.block_len());
            cases.push(Case::new(Cast { dtype }, [Arg::f32([a, b, n])]));
            cases.push(Case::new(Cast { dtype: DType::F32 }, [Arg::of([b, n], dtype)]));
        }
        cases
    },
    bad: || {
        vec![
            Case::new(Cast { dtype: DType::Q8_0 }, [Arg::f32([2, 33])]),
            Case::new(Cast { dtype: DType::F32 }, [Arg::below([2, 3], 9)]),
        ]
    },
};

/// The elements in row-major order, without gaps.
#[derive(Debug)]
pub struct Copy;

impl Op for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let rows_whole = !x[0].dtype.is_block() || x[0].strides.last() == Some(&1);
        assert!(rows_whole, "copy: {} is transposed, and its blocks lie along rows", x[0]);
        Spec::new(x[0].shape, x[0].dtype).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, y) = (x[0], &mut y[0]);
        let dtype = x.spec.dtype;
        let (len, size) = (dtype.block_len(), dtype.block_bytes());
        let n = x.spec.last();
        let row_bytes = dtype.bytes(n);
        let step = x.spec.strides.last().copied().unwrap_or(1);
        let rows = x.spec.rows();
        let out = SharedMut::new(y.bytes);
        par_ranges(rows, (1 << 15) / row_bytes.max(1), |range| {
            for r in range {
                let from = x.spec.row_offset(r) / len * size;
                // SAFETY: every row is written by one piece only.
                let to = unsafe { out.slice(r * row_bytes..(r + 1) * row_bytes) };
                if step == 1 || n == 1 {
                    to.copy_from_slice(&x.bytes[from..from + row_bytes]);
                } else {
                    for (i, t) in to.chunks_exact_mut(size).enumerate() {
                        let at = from + i * step * size;
                        t.copy_from_slice(&x.bytes[at..at + size]);
                    }
                }
            }
        });
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let x = &x[0];
        let (len, bytes) = (x.dtype.block_len(), x.dtype.block_bytes());
        let unit = if bytes == 4 { 4 } else { 2 };
        // A block is a row of units; for plain dtypes that row has one.
        let units = bytes / unit;
        let mut shape = x.shape.to_vec();
        shape.last_mut().into_iter().for_each(|n| *n /= len);
        shape.push(units);
        let mut strides: Vec<usize> = x.strides.iter().map(|s| s / len * units).collect();
        strides.last_mut().into_iter().for_each(|s| *s = x.strides[x.rank() - 1] * units);
        strides.push(1);
        let (mut params, rank) = strided(&shape, &[&strides]);
        let n = y[0].bytes() / unit;
        let offset = Param::Offset(Bind::X(0));
        params.extend([rank, n.into(), offset, units.into(), unit.into()]);
        let words = y[0].bytes().div_ceil(4);
        Kernels::one(&puyu_shaders::COPY, [Bind::X(0), Bind::Y(0)], params, grid(words))
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].clone()])
    }
}

/// The same values, rounded to another dtype.
#[derive(Debug)]
pub struct Cast {
    /// The dtype of the result.
    pub dtype: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let number = |d: DType| d != DType::U32;
        let fits = number(x[0].dtype) && number(self.dtype) && self.dtype != DType::I8Row;
        assert!(fits, "cast: {} to {}", x[0], self.dtype);
        let whole = x[0].last().is_multiple_of(self.dtype.block_len());
        assert!(whole, "cast: rows of {} are not whole blocks of {}", x[0], self.dtype);
        Spec::new(x[0].shape, self.dtype).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (x, y) = (x[0], &mut y[0]);
        let n = x.spec.last();
        let row_bytes = self.dtype.bytes(n);
        let out = SharedMut::new(y.bytes);
        par_ranges(x.spec.rows(), (1 << 14) / n.max(1), |range| {
            let mut row = Vec::new();
            for r in range {
                // SAFETY: every row is written by one piece only.
                let to = unsafe { out.slice(r * row_bytes..(r + 1) * row_bytes) };
                if self.dtype == DType::F32 {
                    quant::decode_row(x.spec.dtype, x.row_bytes(r), bytemuck::cast_slice_mut(to));
                } else if x.spec.dtype == DType::F32 {
                    quant::encode_row(self.dtype, x.row(r), to);
                } else {
                    row.resize(n, 0.0);
                    quant::decode_row(x.spec.dtype, x.row_bytes(r), &mut row);
                    quant::encode_row(self.dtype, &row, to);
                }
            }
        });
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let n = y[0].numel();
        let bind = [Bind::X(0), Bind::Y(0)];
        let params = [n.into(), Param::Offset(Bind::X(0))];
        match self.dtype {
            DType::F32 => {
                let shader = puyu_shaders::CAST.get(x[0].dtype.name())?;
                Kernels::one(shader, bind, params, grid(n.div_ceil(4)))
            }
            DType::F16 | DType::BF16 if x[0].dtype == DType::F32 => {
                let bf16 = Param::U32((self.dtype == DType::BF16).into());
                let params = [params[0], params[1], bf16];
                Kernels::one(&puyu_shaders::ROUND, bind, params, grid(n.div_ceil(2)))
            }
            _ => None,
        }
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| dy.to_dtype(x[0].dtype()))])
    }
}

impl Tensor {
    /// The same tensor if its elements lie in row-major order without gaps, else a copy that does.
    ///
    /// # Panics
    /// If it is the transpose of a block dtype.
    #[track_caller]
    #[must_use]
    pub fn contiguous(&self) -> Self {
        let rows = self.unpack();
        if rows.spec().is_contiguous() { rows } else { apply1(Copy, &[&rows]) }
    }

    /// The values in another dtype: rounded to nearest even for floats, encoded for block formats.
    ///
    /// # Panics
    /// If either is U32, or rows are not whole blocks.
    #[track_caller]
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if self.dtype() == dtype { self.clone() } else { apply1(Cast { dtype }, &[self]) }
    }
}
