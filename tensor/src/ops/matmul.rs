//! Matrix product. A weight is any dtype: the product means f32 activations times decoded weights, on
//! every device. The fast path is the same product on an input that `round_rows` has rounded.

use crate::cpu::gemm;
use crate::kernels::{Bind, Dispatch, Kernels, Param, strided};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::{DType, Dims, Spec, Tensor, View, ViewMut, apply1};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "matmul",
    cases: |[a, b, c, d]| {
        let mut cases = vec![Case::new(
            MATMUL,
            [Arg::of([a, b, c], DType::BF16), Arg::of([a, c, d], DType::BF16)],
        )];
        for bf16 in [None, Some(DType::F32), Some(DType::BF16)] {
            let op = || Matmul { bf16 };
            cases.push(Case::new(op(), [Arg::f32([b, c]), Arg::f32([c, d])]));
            cases.push(Case::new(op(), [Arg::f32([a, b, c]), Arg::f32([c, d])]));
            cases.push(Case::new(op(), [Arg::f32([a, b, c]), Arg::f32([a, c, d])]));
            if bf16.is_some() {
                for (one, other) in [(DType::BF16, DType::F32), (DType::F32, DType::BF16)] {
                    let x = [Arg::of([a, b, c], one), Arg::of([c, d], other)];
                    cases.push(Case::new(op(), x));
                    let x = [Arg::of([a, b, c], one), Arg::of([d, c], other)];
                    cases.push(Case::new(MatmulTransposed { bf16 }, x));
                }
            }
        }
        for bf16 in [false, true] {
            let x = [Arg::f32([b, c]), Arg::f32([c, d])];
            cases.push(Case::in_place(MatmulAdd { bf16 }, [Arg::f32([b, d])], x));
        }
        for dtype in DType::WEIGHTS {
            let k = c.next_multiple_of(dtype.block_len());
            let nt = MatmulTransposed { bf16: None };
            cases.push(Case::new(nt, [Arg::f32([b, k]), Arg::of([d * 4, k], dtype)]));
        }
        cases
    },
    bad: || {
        vec![
            Case::new(MATMUL, [Arg::f32([2, 3]), Arg::f32([4, 5])]),
            Case::new(MATMUL, [Arg::f32([2, 3, 4]), Arg::f32([3, 4, 5])]),
            Case::new(
                Matmul { bf16: Some(DType::F32) },
                [Arg::f32([2, 32]), Arg::of([32, 32], DType::Q8_0)],
            ),
            Case::new(
                MatmulTransposed { bf16: None },
                [Arg::f32([2, 32]), Arg::of([3, 64], DType::Q8_0)],
            ),
            Case::in_place(
                MatmulAdd { bf16: false },
                [Arg::f32([2, 4])],
                [Arg::f32([2, 3]), Arg::f32([3, 5])],
            ),
        ]
    },
};

/// `x [.., M, K] · w [K, N]`, or with leading dimensions equal to those of `x`.
#[derive(Debug)]
pub struct Matmul {
    /// Operands, F32 or BF16, are multiplied as BF16, to which they are rounded as they are read, and so are those of
    /// the gradients' products; sums are F32, and the result is of this dtype, F32 or BF16. It is how bf16 training
    /// multiplies (Micikevicius et al. 2018, arXiv 1710.03740).
    pub bf16: Option<DType>,
}

const MATMUL: Matmul = Matmul { bf16: None };

/// `x [.., K] · w [N, K]ᵀ`: a linear layer's product, for weights stored row by row as in files.
#[derive(Debug)]
pub struct MatmulTransposed {
    /// As [`Matmul::bf16`].
    pub bf16: Option<DType>,
}

/// `y [M, N] += x [M, K] · w [K, N]` in place, all F32: a gradient that comes in pieces. Each element goes
/// on with its chain, so pieces of k in ascending order give the bits of one product.
#[derive(Debug)]
pub struct MatmulAdd {
    /// Whether operands are rounded, as for [`Matmul::bf16`]; then pieces of whole 32 k give the bits of one product.
    pub bf16: bool,
}

/// The op's name: another if operands are rounded.
fn name(bf16: bool, names: [&'static str; 2]) -> &'static str {
    names[usize::from(bf16)]
}

/// The spec of `x [.., K]` by `w [.., K, N]`, which is `stored` as another view of it, if need be as BF16.
fn product(name: &str, bf16: Option<DType>, x: &Spec, stored: &Spec, w: &Spec) -> Spec {
    let Some(dtype) = bf16 else { return infer(name, x, stored, w) };
    let fits = [x, w].iter().all(|x| DType::ACTIVATIONS.contains(&x.dtype));
    assert!(fits, "{name}: {x} by {stored}, which are not both f32 or bf16");
    Spec { dtype, ..infer(name, &Spec { dtype: DType::F32, ..*x }, stored, w) }
}

/// Checks `x [.., K]` against `w [.., K, N]` and gives `[.., N]`.
pub(super) fn infer(name: &str, x: &Spec, w: &Spec, w_kn: &Spec) -> Spec {
    let (xr, wr) = (x.rank(), w_kn.rank());
    let rounded = x.dtype == DType::I8Row && w.dtype.has_integer_codes() || x.dtype == DType::BF16;
    let fits = xr >= 1
        && wr >= 2
        && (wr == 2 || (wr == xr && x.shape[..xr - 2] == w_kn.shape[..wr - 2]))
        && x.last() == w_kn.shape[wr - 2]
        && (x.dtype == DType::F32 || rounded)
        && DType::WEIGHTS.contains(&w.dtype);
    assert!(fits, "{name}: {x} by {w}");
    Spec::f32(x.shape.with(xr - 1, w_kn.last()))
}

/// Operands and outputs once, and a multiplication and an addition for each step of each chain.
pub(super) fn work(x: &[View], y: &[Spec]) -> Work {
    let all = x.iter().map(|v| &v.spec).chain(y);
    let outputs: usize = y.iter().map(Spec::numel).sum();
    let operations = 2 * outputs * x[0].spec.last();
    Work { bytes: all.map(Spec::bytes).sum(), operations, operands: None }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        name(self.bf16.is_some(), ["matmul", "matmul_bf16"])
    }
    fn strided(&self) -> bool {
        true
    }
    fn packed(&self, i: usize) -> bool {
        i == 1 && self.bf16.is_none()
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        product(self.name(), self.bf16, &x[0], &x[1], &x[1]).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        multiply(self.bf16, &x[0], &x[1], &mut y[0]);
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        work(x, y)
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let dispatches = vec![dispatch(x, &x[1], y, 0).filter(|_| self.bf16.is_none())?];
        Some(Kernels { dispatches, ..Kernels::default() })
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let dtype = self.bf16?;
        Some(vec![rounded(&x[0]).matmul(&rounded(&x[1])).to_dtype(dtype)])
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None, None]) };
        let (x, w) = (&x[0], &x[1]);
        let product = |to: &Tensor, x: &Tensor, w: &Tensor| gradient(self.bf16, to, x, w);
        let dx = x.requires_grad().then(|| product(x, dy, &w.t()));
        // (dyᵀ·x)ᵀ, so that the gradient of a transposed weight lies in the weight's own order.
        let dw = w.requires_grad().then(|| {
            let (x, dy) =
                if w.shape().len() == 2 { (x.rows(), dy.rows()) } else { (x.clone(), dy.clone()) };
            product(w, &dy.t(), &x).t()
        });
        Grad::Inputs(vec![dx, dw])
    }
}

impl Op for MatmulTransposed {
    fn name(&self) -> &'static str {
        name(self.bf16.is_some(), ["matmul_transposed", "matmul_transposed_bf16"])
    }
    fn packed(&self, i: usize) -> bool {
        i == 1 && self.bf16.is_none()
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        product(self.name(), self.bf16, &x[0], &x[1], &transposed(&x[1])).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let w = View { spec: transposed(&x[1].spec), ..x[1] };
        multiply(self.bf16, &x[0], &w, &mut y[0]);
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        work(x, y)
    }
    fn gpu(&self, x: &[Spec], y: &[Spec]) -> Option<Kernels> {
        let dispatches =
            vec![dispatch(x, &transposed(&x[1]), y, 0).filter(|_| self.bf16.is_none())?];
        Some(Kernels { dispatches, ..Kernels::default() })
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let dtype = self.bf16?;
        Some(vec![rounded(&x[0]).matmul_transposed(&rounded(&x[1])).to_dtype(dtype)])
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None, None]) };
        let (x, w) = (&x[0], &x[1]);
        let product = |to: &Tensor, x: &Tensor, w: &Tensor| gradient(self.bf16, to, x, w);
        let dx = x.requires_grad().then(|| product(x, dy, w));
        let dw = w.requires_grad().then(|| product(w, &dy.rows().t(), &x.rows()));
        Grad::Inputs(vec![dx, dw])
    }
}

impl Op for MatmulAdd {
    fn name(&self) -> &'static str {
        name(self.bf16, ["matmul_add", "matmul_add_bf16"])
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let name = self.name();
        panic!("{name}: works in place, and was asked for a new tensor from {}", x[0]);
    }
    fn check_to(&self, y: &[Spec], x: &[Spec]) {
        let (y, x, w) = (&y[0], &x[0], &x[1]);
        let fits = [y, x, w].iter().all(|s| s.dtype == DType::F32 && s.rank() == 2)
            && *y.shape == [x.shape[0], w.shape[1]]
            && x.shape[1] == w.shape[0];
        assert!(fits, "{}: {x} by {w} added to {y}", self.name());
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        if self.bf16 {
            gemm::matmul_bf16(&x[0], &x[1], &mut y[0], true);
        } else {
            gemm::matmul_add(&x[0], &x[1], &mut y[0]);
        }
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        work(x, y)
    }
}

/// The product `x · w` that is a gradient of `of`, and has its dtype if operands are rounded.
fn gradient(bf16: Option<DType>, of: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    apply1(Matmul { bf16: bf16.map(|_| of.dtype()) }, &[x, w])
}

fn multiply(bf16: Option<DType>, x: &View, w: &View, y: &mut ViewMut) {
    if bf16.is_some() {
        gemm::matmul_bf16(x, w, y, false);
    } else {
        gemm::matmul(x, w, y);
    }
}

/// `x` rounded to BF16, as F32.
fn rounded(x: &Tensor) -> Tensor {
    x.to_dtype(DType::BF16).to_dtype(DType::F32)
}

/// The GPU's `x[0] [.., M, K] · w [.., K, N]` to output `i`, `w` being a view of input `i + 1`.
pub(super) fn dispatch(x: &[Spec], w: &Spec, y: &[Spec], i: usize) -> Option<Dispatch> {
    let (x, y) = (&x[0], &y[i]);
    let shader = puyu_shaders::MATMUL.get(w.dtype.name()).filter(|_| x.dtype == DType::F32)?;
    let (xr, wr) = (x.rank() - 1, w.rank() - 2);
    let batch: usize = w.shape[..wr].iter().product();
    let (k, n) = (w.shape[wr], w.shape[wr + 1]);
    let m = x.rows() / batch.max(1);
    let (mut params, x_rank) = strided(&x.shape[..xr], &[&x.strides[..xr]]);
    let (matrices, w_rank) = strided(&w.shape[..wr], &[&w.strides[..wr]]);
    params.extend(matrices);
    params.extend([x_rank, w_rank, m.into(), n.into(), k.into()]);
    params.extend([Param::Offset(Bind::X(0)), x.strides[xr].into(), Param::Offset(Bind::X(i + 1))]);
    params.extend([Param::from(w.strides[wr]), w.strides[wr + 1].into()]);
    // One workgroup owns 16 by 16 outputs.
    let groups = [n.div_ceil(16), m.div_ceil(16), batch];
    let groups = groups.map(|g| u32::try_from(g).ok().filter(|g| *g <= 65_535));
    let [Some(gx), Some(gy), Some(gz)] = groups else { return None };
    debug_assert_eq!(y.numel(), batch * m * n);
    let bind = vec![Bind::X(0), Bind::X(i + 1), Bind::Y(i)];
    Some(Dispatch { shader, bind, params, groups: [gx, gy, gz] })
}

/// `spec` with its last two dimensions exchanged.
pub(super) fn transposed(spec: &Spec) -> Spec {
    let mut s = *spec;
    let n = s.rank();
    s.shape.swap(n - 1, n - 2);
    s.strides.swap(n - 1, n - 2);
    s
}

impl Tensor {
    /// `self [.., M, K] · w [K, N]`, or `w` with the same leading dimensions as `self`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[track_caller]
    #[must_use]
    pub fn matmul(&self, w: &Self) -> Self {
        apply1(MATMUL, &[self, w])
    }

    /// `self [.., K] · w [N, K]ᵀ -> [.., N]`, `w` in any weight dtype.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[track_caller]
    #[must_use]
    pub fn matmul_transposed(&self, w: &Self) -> Self {
        apply1(MatmulTransposed { bf16: None }, &[self, w])
    }

    /// [`Tensor::matmul_transposed`] of F32 or BF16 operands that are rounded to BF16 as they are read, as `dtype`; see
    /// [`Matmul::bf16`].
    ///
    /// # Panics
    /// If the shapes do not fit, or a dtype is neither F32 nor BF16.
    #[track_caller]
    #[must_use]
    pub fn matmul_transposed_bf16(&self, w: &Self, dtype: DType) -> Self {
        apply1(MatmulTransposed { bf16: Some(dtype) }, &[self, w])
    }

    /// All leading dimensions taken as one: `[.., N] -> [R, N]`.
    ///
    /// # Panics
    /// If the rank is 0.
    #[track_caller]
    #[must_use]
    pub fn rows(&self) -> Self {
        let n = self.dim(-1);
        self.reshape(Dims::new(&[self.spec().numel() / n.max(1), n]))
    }
}
