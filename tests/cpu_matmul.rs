//! The CPU's matrix kernels: every instruction set of this machine against plain loops and against
//! the portable kernels, in the same run; and that no bit depends on the batch or on the threads.

use half::bf16;
use puyu_tensor::cpu::gemm::{matmul_bf16_with, matmul_with};
use puyu_tensor::cpu::panel::{LANES, Weight, pack_panel};
use puyu_tensor::cpu::pool::with_threads;
use puyu_tensor::cpu::simd::{Isa, Panel};
use puyu_tensor::quant::{decode_row, encode_row};
use puyu_tensor::{DType, Packing, Spec, View, ViewMut};

/// The block formats.
const BLOCKS: [DType; 8] = [
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
];

/// A repeatable stream of numbers around zero with a few outliers, as activations have.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let v = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            if i % 61 == 7 { 6.0 * v } else { v }
        })
        .collect()
}

fn encoded(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes(x.len())];
    encode_row(dtype, x, &mut bytes);
    bytes
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    decode_row(dtype, bytes, &mut out);
    out
}

/// A weight of `n` rows of `k` elements, in one of its packings.
struct Matrix {
    spec: Spec,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Matrix {
    fn new(dtype: DType, [n, k]: [usize; 2], packing: Packing, seed: u64) -> Self {
        Self::of(dtype, [n, k], packing, &numbers(n * k, seed))
    }

    fn of(dtype: DType, [n, k]: [usize; 2], packing: Packing, values: &[f32]) -> Self {
        let mut bytes = encoded(dtype, values);
        let values = decoded(dtype, &bytes);
        let spec = Spec { packing, ..Spec::new([n, k], dtype) };
        if packing == Packing::Panel16 {
            let row = dtype.bytes(k);
            for panel in bytes.chunks_exact_mut(row * LANES) {
                let rows = panel.to_vec();
                pack_panel(dtype, &rows.chunks(row).collect::<Vec<_>>(), panel);
            }
        }
        Self { spec, bytes, values }
    }

    fn view(&self) -> View<'_> {
        View { spec: self.spec, bytes: &self.bytes }
    }

    /// The same matrix seen as `[K, N]`.
    fn transposed(&self) -> View<'_> {
        let mut spec = self.spec;
        spec.shape.swap(0, 1);
        spec.strides.swap(0, 1);
        View { spec, bytes: &self.bytes }
    }
}

fn product(isa: Isa, x: &View, w: &View) -> Vec<f32> {
    let spec = Spec::f32([x.spec.rows(), w.spec.last()]);
    let mut bytes = vec![0xffu8; spec.bytes() + 4];
    // `Vec<u8>` promises no alignment for floats.
    let skip = bytes.as_ptr().align_offset(4);
    let bytes = &mut bytes[skip..skip + spec.bytes()];
    matmul_with(isa, x, w, &mut ViewMut { spec, bytes });
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The product of operands that are rounded to BF16; as BF16 it must be the nearest.
fn rounding(isa: Isa, x: &View, w: &View) -> Vec<f32> {
    let spec = Spec::f32([x.spec.rows(), w.spec.last()]);
    let mut y = vec![f32::NAN; spec.numel()];
    let bytes = bytemuck::cast_slice_mut(&mut y);
    matmul_bf16_with(isa, x, w, &mut ViewMut { spec, bytes }, false);
    let spec = Spec::new(spec.shape, DType::BF16);
    let mut halves = vec![bf16::NAN; spec.numel()];
    let bytes = bytemuck::cast_slice_mut(&mut halves);
    matmul_bf16_with(isa, x, w, &mut ViewMut { spec, bytes }, false);
    assert!(y.iter().zip(&halves).all(|(y, half)| bf16::from_f32(*y) == *half), "not rounded");
    y
}

fn floats(data: &[f32], shape: [usize; 2]) -> View<'_> {
    View { spec: Spec::f32(shape), bytes: as_bytes(data) }
}

fn as_bytes(data: &[f32]) -> &[u8] {
    bytemuck::cast_slice(data)
}

/// Σ x(i, k) · w(j, k) in f64, and Σ |x · w|, which rounding errors are measured by.
fn plain(x: &[f32], w: &[f32], [m, n, k]: [usize; 3]) -> Vec<[f64; 2]> {
    let terms =
        |i: usize, j: usize| (0..k).map(move |l| f64::from(x[i * k + l]) * f64::from(w[j * k + l]));
    let sum = |(i, j): (usize, usize)| [terms(i, j).sum(), terms(i, j).map(f64::abs).sum()];
    (0..m * n).map(|at| sum((at / n, at % n))).collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[[f64; 2]], k: usize) {
    assert_eq!(found.len(), expected.len(), "{what}");
    // Each of the k additions of a chain rounds by half a unit in the last place at most.
    let bound = k as f64 * f64::from(f32::EPSILON);
    for (i, (a, [b, size])) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() <= bound * size + 1e-30, "{what}: [{i}] {a}, not {b}");
    }
}

fn packings() -> [Packing; 2] {
    [Packing::Rows, Packing::Panel16]
}

#[test]
fn exact_products_equal_plain_loops() {
    for isa in Isa::available() {
        for dtype in DType::WEIGHTS {
            for packing in packings() {
                let odd = (5, 40, 259);
                let sizes = [(1, 33, 256), (3, 16, 512), (13, 40, 768), odd];
                for (m, n, k) in sizes.into_iter().take(if dtype.is_block() { 3 } else { 4 }) {
                    let w = Matrix::new(dtype, [n, k], packing, 3);
                    let x = numbers(m * k, 5);
                    let what = format!("{} {dtype} {packing:?} {m}x{n}x{k}", isa.name());
                    let y = product(isa, &floats(&x, [m, k]), &w.transposed());
                    assert_close(&what, &y, &plain(&x, &w.values, [m, n, k]), k);
                }
            }
        }
    }
}

#[test]
fn gradients_of_the_input_equal_plain_loops() {
    for isa in Isa::available() {
        for dtype in DType::WEIGHTS {
            for packing in packings() {
                let (m, n, k) = (5, 40, 512);
                let w = Matrix::new(dtype, [n, k], packing, 3);
                let dy = numbers(m * n, 5);
                let columns: Vec<f32> = (0..k * n).map(|i| w.values[i % n * k + i / n]).collect();
                let what = format!("{} {dtype} {packing:?}", isa.name());
                let dx = product(isa, &floats(&dy, [m, n]), &w.view());
                assert_close(&what, &dx, &plain(&dy, &columns, [m, k, n]), n);
            }
        }
    }
}

#[test]
fn rounded_products_equal_decoded_ones() {
    for isa in Isa::available() {
        for dtype in BLOCKS {
            for packing in packings() {
                for (m, n, k) in [(1, 33, 256), (15, 40, 768)] {
                    let w = Matrix::new(dtype, [n, k], packing, 7);
                    let x = encoded(DType::I8Row, &numbers(m * k, 11));
                    let values = decoded(DType::I8Row, &x);
                    let x = View { spec: Spec::new([m, k], DType::I8Row), bytes: &x };
                    let what = format!("{} {dtype} {packing:?} {m}x{n}x{k}", isa.name());
                    let y = product(isa, &x, &w.transposed());
                    assert_close(&what, &y, &plain(&values, &w.values, [m, n, k]), k);
                }
            }
        }
    }
}

/// With activations rounded to BF16, weights of BF16 are multiplied in pairs where the CPU can.
#[test]
fn products_of_bf16_equal_decoded_ones() {
    for isa in Isa::available() {
        for packing in packings() {
            for (m, n, k) in [(1, 33, 258), (7, 40, 255), (30, 40, 768), (290, 70, 1040)] {
                let w = Matrix::new(DType::BF16, [n, k], packing, 7);
                let x = encoded(DType::BF16, &numbers(m * k, 11));
                let values = decoded(DType::BF16, &x);
                let x = View { spec: Spec::new([m, k], DType::BF16), bytes: &x };
                let what = format!("{} {packing:?} {m}x{n}x{k}", isa.name());
                let y = product(isa, &x, &w.transposed());
                assert_close(&what, &y, &plain(&values, &w.values, [m, n, k]), k);
            }
        }
    }
}

/// Rows by several panels have the bits of one row by one panel, whatever their numbers.
#[test]
fn rows_by_panels_equal_tiles() {
    let (k, a_row) = (38, 40);
    let a = numbers(8 * a_row, 3);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        // Panels with a row of all of them after another, as a cache of values has them, or one by one.
        for (panels, dense) in (1..8).flat_map(|n| [(n, false), (n, true)]) {
            let step = if dense { LANES } else { panels * LANES };
            if dtype == DType::BF16 && !dense {
                continue;
            }
            let bytes = encoded(dtype, &numbers(k * panels * LANES, panels as u64));
            let stride = dtype.bytes(if dense { k * LANES } else { LANES });
            let panel = Panel { dtype, bytes: &bytes, k, step, dots: false, ahead: 64 };
            for isa in Isa::available() {
                for rows in 1..=8 {
                    let mut sums = vec![[0.5; LANES]; rows * panels];
                    isa.rows(&a, [a_row, 1], panel, [panels, stride], &mut sums);
                    for (at, sums) in sums.iter().enumerate() {
                        let (row, p) = (at / panels, at % panels);
                        let mut one = [[0.5; LANES]];
                        let panel = Panel { bytes: &bytes[p * stride..], ..panel };
                        isa.tile(&a[row * a_row..], [a_row, 1], panel, &mut one);
                        assert_eq!(
                            *sums, one[0],
                            "{isa:?} {dtype}: row {row} of {rows}, panel {p}"
                        );
                    }
                }
            }
        }
    }
}

/// Kernels that add products in 16 bits must have room for the largest codes.
#[test]
fn the_largest_codes_do_not_overflow() {
    let (m, n, k) = (9, 16, 512);
    // One element of another size or sign in 32 drives all others to the end of their codes.
    for (odd, sign) in [(1.0, 1.0), (1.0, -1.0), (-16.0 / 15.0, 1.0), (-8.0 / 7.0, -1.0)] {
        let w: Vec<f32> = (0..n * k).map(|i| if i % 32 == 0 { odd } else { 1.0 }).collect();
        let x = encoded(DType::I8Row, &vec![sign; m * k]);
        let values = decoded(DType::I8Row, &x);
        for (isa, dtype) in Isa::available().into_iter().flat_map(|i| BLOCKS.map(|d| (i, d))) {
            let w = Matrix::of(dtype, [n, k], Packing::Panel16, &w);
            let x = View { spec: Spec::new([m, k], DType::I8Row), bytes: &x };
            let y = product(isa, &x, &w.transposed());
            let what = format!("{} {dtype}, one of 32 is {odd}, x is {sign}", isa.name());
            assert_close(&what, &y, &plain(&values, &w.values, [m, n, k]), k);
        }
    }
}

#[test]
fn no_bit_depends_on_batch_packing_or_threads() {
    for isa in Isa::available() {
        for dtype in DType::WEIGHTS {
            let (m, n, k) = (77, 70, 512);
            let x = numbers(m * k, 5);
            let (rounded, halves) = (encoded(DType::I8Row, &x), encoded(DType::BF16, &x));
            let mut inputs = vec![(Spec::f32([m, k]), as_bytes(&x))];
            if dtype.has_integer_codes() {
                inputs.push((Spec::new([m, k], DType::I8Row), &rounded));
            }
            if dtype == DType::BF16 {
                inputs.push((Spec::new([m, k], DType::BF16), &halves));
            }
            for (spec, bytes) in inputs {
                let what = format!("{} {dtype} by {}", isa.name(), spec.dtype);
                let rows = Matrix::new(dtype, [n, k], Packing::Rows, 3);
                let x = View { spec, bytes };
                let whole = with_threads(1, || product(isa, &x, &rows.transposed()));
                for packing in packings() {
                    let w = Matrix::new(dtype, [n, k], packing, 3);
                    for threads in [1, 2, 3] {
                        let y = with_threads(threads, || product(isa, &x, &w.transposed()));
                        assert_eq!(y, whole, "{what}, {packing:?}, {threads} threads");
                    }
                    let row_bytes = spec.dtype.bytes(k);
                    for (first, count) in [(0, 1), (5, 1), (3, 2), (8, 8), (70, 7)] {
                        let part = View {
                            spec: Spec::new([count, k], spec.dtype),
                            bytes: &bytes[first * row_bytes..(first + count) * row_bytes],
                        };
                        let y = product(isa, &part, &w.transposed());
                        let same = &whole[first * n..(first + count) * n];
                        assert_eq!(y, same, "{what}, {packing:?}, rows {first}+{count}");
                    }
                }
            }
        }
    }
}

#[test]
fn panels_decode_alike_and_give_their_rows_back() {
    for dtype in BLOCKS {
        let k = 512;
        let rows = Matrix::new(dtype, [LANES, k], Packing::Rows, 3);
        let packed = Matrix::new(dtype, [LANES, k], Packing::Panel16, 3);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; LANES * k];
            isa.decode_panel(dtype, &packed.bytes, &mut out);
            for (at, &v) in rows.values.iter().enumerate() {
                let found = out[at % k * LANES + at / k];
                assert!(found == v, "{} {dtype}: row {} [{}]", isa.name(), at / k, at % k);
            }
        }
    }
    for dtype in DType::WEIGHTS {
        let (n, k) = (37, if dtype.is_block() { 256 } else { 255 });
        let rows = Matrix::new(dtype, [n, k], Packing::Rows, 3);
        let packed = Matrix::new(dtype, [n, k], Packing::Panel16, 3);
        let mut row = vec![0; dtype.bytes(k)];
        for r in 0..n {
            Weight::new(&packed.spec, &packed.bytes).row(r, &mut row);
            assert_eq!(row, rows.bytes[r * row.len()..][..row.len()], "{dtype}: row {r}");
        }
    }
}

/// Operands of BF16, and of F32 that are rounded to it, with any strides: products of decoded values, and the same
/// bits for all of them.
#[test]
fn strided_bf16_equal_plain_loops() {
    let turn = |v: &[f32], [r, c]: [usize; 2]| -> Vec<f32> {
        (0..r * c).map(|i| v[i % r * c + i / r]).collect()
    };
    for (m, n, k) in [(1, 33, 7), (19, 21, 300), (550, 150, 335), (23, 70, 1040)] {
        let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
        let [x, w] = [x, w].map(|v| decoded(DType::BF16, &encoded(DType::BF16, &v)));
        let expected = plain(&x, &w, [m, n, k]);
        // What rounds to these values, a little beside them.
        let beside = |v: &f32| f32::from_bits(v.to_bits() + 0x7fff);
        let views = |rows: &[f32], [r, c]: [usize; 2]| {
            let columns = turn(rows, [r, c]);
            [(rows.to_vec(), [c, 1]), (columns, [1, r])].map(|(v, strides)| {
                let floats: Vec<f32> = v.iter().map(beside).collect();
                let forms = [
                    (DType::BF16, encoded(DType::BF16, &v)),
                    (DType::F32, as_bytes(&floats).to_vec()),
                ];
                forms.map(|(dtype, bytes)| {
                    let mut spec = Spec::new([r, c], dtype);
                    spec.strides = strides.into();
                    (spec, bytes)
                })
            })
        };
        let (lefts, rights) = (views(&x, [m, k]), views(&turn(&w, [n, k]), [k, n]));
        let aligned = |bytes: &[u8]| -> Vec<f32> {
            let words = bytes.chunks(4).map(|b| std::array::from_fn(|i| *b.get(i).unwrap_or(&0)));
            words.map(f32::from_le_bytes).collect()
        };
        for isa in Isa::available() {
            let mut first = None;
            for (left, right) in lefts.iter().flat_map(|l| rights.iter().map(move |r| (l, r))) {
                for form @ [of_left, of_right] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                    let ((xs, xb), (ws, wb)) = (&left[of_left], &right[of_right]);
                    let (xb, wb) = (aligned(xb), aligned(wb));
                    let x = View { spec: *xs, bytes: &as_bytes(&xb)[..xs.bytes()] };
                    let w = View { spec: *ws, bytes: &as_bytes(&wb)[..ws.bytes()] };
                    let what = format!("{} {xs} by {ws} {} {}", isa.name(), xs.strides, ws.strides);
                    let y = rounding(isa, &x, &w);
                    assert_close(&what, &y, &expected, k);
                    if form == [0, 0] {
                        assert_close(&what, &product(isa, &x, &w), &expected, k);
                    }
                    if isa.dots() || isa.matrices() {
                        let first = first.get_or_insert_with(|| y.clone());
                        assert_eq!(first, &y, "{what}: other bits");
                    }
                }
            }
        }
    }
}

#[test]
fn strided_floats_equal_plain_loops() {
    // The second is longer than one block in each direction.
    for (m, n, k) in [(19, 21, 300), (281, 150, 330)] {
        let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
        let expected = plain(&x, &w, [m, n, k]);
        let turn = |v: &[f32], [r, c]: [usize; 2]| -> Vec<f32> {
            (0..r * c).map(|i| v[i % r * c + i / r]).collect()
        };
        let (xt, wt) = (turn(&x, [m, k]), turn(&w, [n, k]));
        let mut x_spec = Spec::f32([m, k]);
        x_spec.strides = [1, m].into();
        let mut w_spec = Spec::f32([k, n]);
        w_spec.strides = [1, k].into();
        let lefts = [floats(&x, [m, k]), View { spec: x_spec, bytes: as_bytes(&xt) }];
        let rights = [floats(&wt, [k, n]), View { spec: w_spec, bytes: as_bytes(&w) }];
        for isa in Isa::available() {
            let mut first = None;
            for (left, right) in lefts.iter().flat_map(|l| rights.iter().map(move |r| (l, r))) {
                let what =
                    format!("{} {} by {}", isa.name(), left.spec.strides, right.spec.strides);
                let y = product(isa, left, right);
                assert_close(&what, &y, &expected, k);
                assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{what}: other bits");
            }
        }
    }
}
