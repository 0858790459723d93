//! Turns the catalog's cases into tensors. Everything is a function of a seed, so that a failure
//! repeats, and so that a CPU and a GPU run see the same inputs.

use puyu_tensor::op::{Arg, Case, Fill};
use puyu_tensor::{DType, Device, Op, Spec, Tensor, apply_dyn, apply_to_dyn, quant, wait};
use std::fmt;
use std::sync::Arc;

/// Random 64-bit words: SplitMix64 (Steele, Lea and Flood 2014), a bijection of a counter.
struct Words(u64);

impl Words {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in 0 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Around zero with variance one and no far tail: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    /// 0 to n - 1 in random order.
    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            p.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        p
    }
}

/// Random numbers around zero.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut words = Words(seed);
    (0..n).map(|_| words.normal()).collect()
}

/// The tensor that `arg` describes.
pub fn make(arg: &Arg, seed: u64) -> Tensor {
    let (spec, n) = (arg.spec, arg.spec.numel());
    let mut words = Words(seed);
    let floats: Vec<f32> = match &arg.fill {
        Fill::Normal => numbers(n, seed),
        Fill::Positive => (0..n).map(|_| 0.5 + 1.5 * words.unit()).collect(),
        Fill::Distinct => {
            let n = spec.last();
            let row =
                |_| words.permutation(n).into_iter().map(|i| (i as f32 - n as f32 / 2.0) / 4.0);
            (0..spec.rows()).flat_map(row).collect()
        }
        Fill::Zero => vec![0.0; n],
        Fill::Below(bound) => {
            let bound = u64::from((*bound).max(1));
            let v: Vec<u32> = (0..n).map(|_| (words.next() % bound) as u32).collect();
            return Tensor::new(&v, spec.shape);
        }
        Fill::Exact(v) => return Tensor::new(v, spec.shape),
    };
    encoded(&floats, spec)
}

fn encoded(floats: &[f32], spec: Spec) -> Tensor {
    let mut bytes = vec![0; spec.bytes()];
    let row_bytes = spec.dtype.bytes(spec.last());
    if !bytes.is_empty() {
        let rows = floats.chunks_exact(spec.last()).zip(bytes.chunks_exact_mut(row_bytes));
        rows.for_each(|(x, y)| quant::encode_row(spec.dtype, x, y));
    }
    Tensor::from_bytes(&bytes, spec)
}

/// The bytes of a tensor's elements in row-major order, whatever its device.
pub fn bits(x: &Tensor) -> Vec<u8> {
    wait(x.read_bytes()).unwrap_or_else(|e| panic!("{x:?}: {e}"))
}

/// The elements as numbers, whatever the dtype.
pub fn values(x: &Tensor) -> Vec<f32> {
    let x = Tensor::from_bytes(&bits(x), Spec::new(x.spec().shape, x.dtype()));
    if x.dtype() == DType::U32 {
        return x.data::<u32>().iter().map(|&v| v as f32).collect();
    }
    x.to_dtype(DType::F32).data().to_vec()
}

/// Rounded outputs agree to a step of their dtype, f32 to summation order.
pub fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F32 { 2e-5 } else { 1e-2 }
}

/// Checks that `a` is near `b`: within `tolerance` of its magnitude, plus `tolerance` of the typical
/// magnitude in `b`. Equal infinities are near.
///
/// # Errors
/// The first element that is not, and both values.
pub fn close(a: &[f32], b: &[f32], tolerance: f32) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("{} elements against {}", a.len(), b.len()));
    }
    let square = b.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v).powi(2)).sum::<f64>();
    let typical = (square / b.len().max(1) as f64).sqrt() as f32;
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        let near = a == b || (a - b).abs() <= tolerance * (b.abs() + typical) + 1e-30;
        if !near {
            return Err(format!("element {i} is {a}, expected {b} (typical magnitude {typical})"));
        }
    }
    Ok(())
}

/// The elements of `x` on `device`, laid out otherwise: inside larger tensors of 0xff bytes (NaN for
/// floats, out of range for indices), along each dimension; transposed; and on the CPU packed, if it
/// may be a weight.
pub fn other_layouts(x: &Tensor, device: &Device) -> Vec<Tensor> {
    let spec = *x.spec();
    let rank = spec.rank() as isize;
    let whole_rows = spec.dtype.is_block();
    let inside = |axis: isize| {
        let n = x.dim(axis);
        let pad = |n: usize| {
            let pad = Spec::new(spec.shape.with(axis as usize, n), spec.dtype);
            Tensor::from_bytes(&vec![0xff; pad.bytes()], pad)
        };
        let unit = if axis + 1 == rank { spec.dtype.block_len() } else { 1 };
        Tensor::cat(&[&pad(unit), x, &pad(2 * unit)], axis).to_device(device).narrow(axis, unit, n)
    };
    let swapped =
        |a: isize, b: isize| x.transpose(a, b).contiguous().to_device(device).transpose(a, b);
    let mut layouts: Vec<Tensor> = (0..rank).map(inside).collect();
    if rank >= 2 && !whole_rows {
        layouts.push(swapped(-2, -1));
    }
    if rank >= 3 {
        layouts.push(swapped(0, 1));
    }
    if rank == 2 && *device == Device::Cpu && DType::WEIGHTS.contains(&spec.dtype) {
        layouts.push(x.pack());
    }
    layouts
}

/// A case with its tensors made: what a loop runs, as often as it likes.
pub struct Run {
    /// The op.
    pub op: Arc<dyn Op>,
    /// Its inputs.
    pub x: Vec<Tensor>,
    /// What it starts from, if it works in place.
    pub y: Vec<Tensor>,
}

impl Run {
    /// The tensors of `case`, from `seed`.
    pub fn new(case: Case, seed: u64) -> Self {
        let make_all = |args: &[Arg], seed: u64| -> Vec<Tensor> {
            args.iter().zip(0..).map(|(a, i)| make(a, seed.wrapping_mul(1 << 8) + i)).collect()
        };
        let (x, y) = (make_all(&case.x, seed), make_all(&case.y, !seed));
        Self { op: case.op.into(), x, y }
    }

    /// Runs the op on its inputs; for one in place, gives the changed tensors.
    #[track_caller]
    pub fn run(&self) -> Vec<Tensor> {
        self.run_on(&self.x)
    }

    /// [`Run::run`] on other inputs.
    #[track_caller]
    pub fn run_on(&self, x: &[Tensor]) -> Vec<Tensor> {
        let x: Vec<&Tensor> = x.iter().collect();
        if self.y.is_empty() {
            return apply_dyn(self.op.clone(), &x);
        }
        let mut y: Vec<Tensor> =
            self.y.iter().map(|y| Tensor::from_bytes(y.bytes(), *y.spec())).collect();
        if let Some(x) = x.first() {
            y.iter_mut().for_each(|y| *y = y.to_device(&x.device()));
        }
        apply_to_dyn(&*self.op, &mut y.iter_mut().collect::<Vec<_>>(), &x);
        y
    }

    /// The bytes of everything the op writes.
    #[track_caller]
    pub fn bits(&self) -> Vec<Vec<u8>> {
        self.run().iter().map(bits).collect()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on", self.op)?;
        self.y.iter().chain(&self.x).try_for_each(|t| write!(f, " {}", t.spec()))
    }
}

/// The sizes every loop tries: small and odd, all ones, and large enough for several threads.
pub const SIZES: [[usize; 4]; 3] = [[2, 3, 5, 7], [1, 1, 1, 1], [37, 33, 41, 19]];
