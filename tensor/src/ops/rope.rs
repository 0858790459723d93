//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34) in the half-split form: the
//! pair (x[j], x[j + D/2]) of each head turns by position · frequency[j].
//!
//! The angles' cosines and sines are the same for all layers, and so are tensors of a step. A length per token is
//! an input because dynamic NTK makes the base depend on it, and sequences of one batch differ (models.md section 3
//! of the reference; DESIGN section 8).

use crate::cpu::pool::par_rows;
use crate::cpu::simd::versions;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::view::Real;
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};
use half::bf16;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "rope",
    cases: |[t, h, d, _]| {
        let kinds = [
            Scaling::None,
            Scaling::Linear { factor: 2.0 },
            Scaling::Dynamic { factor: 2.0, max_positions: 8 },
            Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32 },
        ];
        let angles = |scaling| {
            let op = Angles { rope: Rope { base: 10_000.0, scaling }, d: 2 * d };
            Case::new(op, [Arg::below([t], 40), Arg::below([t], 60)])
        };
        let turns = |dtype| {
            let x = || [Arg::of([t, h, 2 * d], dtype), Arg::f32([t, 2 * d])];
            [false, true].map(|inverse| Case::new(Rotate { inverse }, x()))
        };
        let turns = DType::ACTIVATIONS.into_iter().flat_map(turns);
        kinds.map(angles).into_iter().chain(turns).collect()
    },
    bad: || {
        let rope = Rope { base: 1e4, scaling: Scaling::None };
        let op = || Rotate { inverse: false };
        vec![
            Case::new(op(), [Arg::f32([2, 3, 5]), Arg::f32([2, 5])]),
            Case::new(op(), [Arg::f32([2, 3, 4]), Arg::f32([3, 4])]),
            Case::new(Angles { rope, d: 4 }, [Arg::below([2], 9), Arg::below([3], 9)]),
        ]
    },
};

/// How the frequencies change with the length of the sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// They do not.
    None,
    /// Position interpolation (Chen et al. 2023, arXiv 2306.15595): position / factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Dynamic NTK: beyond P positions, base' = base·(f·L/P - (f - 1))^(D/(D-2)) for length L.
    Dynamic {
        /// f
        factor: f32,
        /// P
        max_positions: u32,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, smooth between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above original/low are divided.
        low: f32,
        /// Wavelengths below original/high are kept.
        high: f32,
        /// The context length before scaling.
        original: u32,
    },
}

/// The frequencies of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// The base θ.
    pub base: f32,
    /// The change with length.
    pub scaling: Scaling,
}

impl Rope {
    /// The frequencies base^(-2j/D), j < D/2, for a sequence of `length` tokens.
    pub fn frequencies(&self, d: usize, length: u32) -> Vec<f32> {
        let mut base = self.base;
        if let Scaling::Dynamic { factor: f, max_positions: p } = self.scaling
            && length > p
        {
            let stretch = f * length as f32 / p as f32 - (f - 1.0);
            base *= stretch.powf(d as f32 / (d as f32 - 2.0));
        }
        (0..d / 2).map(|j| self.scale(1.0 / base.powf((2 * j) as f32 / d as f32))).collect()
    }

    fn scale(&self, frequency: f32) -> f32 {
        match self.scaling {
            Scaling::None | Scaling::Dynamic { .. } => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                let turns = original as f32 / wavelength;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - keep) * frequency / factor + keep * frequency
            }
        }
    }

    /// Whether the frequencies are the same at both lengths.
    pub fn same(&self, a: u32, b: u32) -> bool {
        match self.scaling {
            Scaling::Dynamic { max_positions, .. } => a.max(max_positions) == b.max(max_positions),
            _ => true,
        }
    }
}

versions! {
    /// Turns the pairs of one head by the angles whose cosines and then sines are `angles`, or with `sign` -1 back.
    pub(crate) fn rotate<T: Real>(x: &[T], angles: &[f32], sign: f32, y: &mut [T]) {
        let n = x.len() / 2;
        let ((x1, x2), (y1, y2)) = (x.split_at(n), y.split_at_mut(n));
        let (cos, sin) = angles.split_at(n);
        let (x2, y2, cos, sin) = (&x2[..n], &mut y2[..n], &cos[..n], &sin[..n]);
        for j in 0..n {
            let (a, b, sin) = (x1[j].get(), x2[j].get(), sin[j] * sign);
            y1[j] = T::nearest(a * cos[j] - b * sin);
            y2[j] = T::nearest(b * cos[j] + a * sin);
        }
    }
}

/// Cosines, then sines, of position · frequency.
pub(crate) fn angles(frequencies: &[f32], position: u32, y: &mut [f32]) {
    let (cos, sin) = y.split_at_mut(frequencies.len());
    for ((c, s), f) in cos.iter_mut().zip(sin).zip(frequencies) {
        (*s, *c) = (position as f32 * f).sin_cos();
    }
}

/// positions `[T]`, lengths `[T]` -> cosines, then sines, `[T, D]`
#[derive(Debug)]
pub struct Angles {
    rope: Rope,
    /// D
    d: usize,
}

impl Op for Angles {
    fn name(&self) -> &'static str {
        "rope_angles"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let counts = |s: &Spec| s.dtype == DType::U32 && s.rank() == 1;
        let fits = x.iter().all(counts) && x[0].shape == x[1].shape && self.d.is_multiple_of(2);
        assert!(fits, "rope_angles: {} positions and lengths {} in D {}", x[0], x[1], self.d);
        Spec::f32([x[0].numel(), self.d]).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let (positions, lengths) = (x[0].data::<u32>(), x[1].data::<u32>());
        let d = self.d;
        if d == 0 {
            return;
        }
        par_rows(y[0].data(), d, 512 / d, |first, y| {
            let mut length = lengths[first];
            let mut frequencies = self.rope.frequencies(d, length);
            for (t, y) in (first..).zip(y.chunks_exact_mut(d)) {
                if !self.rope.same(length, lengths[t]) {
                    length = lengths[t];
                    frequencies = self.rope.frequencies(d, length);
                }
                angles(&frequencies, positions[t], y);
            }
        });
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![None, None])
    }
}

/// Whether `angles` are those of the tokens and heads of `x [T, H, D]`.
pub(super) fn turns(x: &Spec, angles: &Spec) -> bool {
    x.rank() == 3
        && x.dtype == DType::F32
        && x.last().is_multiple_of(2)
        && angles.dtype == DType::F32
        && *angles.shape == [x.shape[0], x.shape[2]]
}

/// The first elements of `x`, `step` apart, as many as `room` has; copied there if they do not follow each other.
fn dense<'a, T: Real>(x: &'a [T], step: usize, room: &'a mut [T]) -> &'a [T] {
    if step == 1 {
        return &x[..room.len()];
    }
    room.iter_mut().enumerate().for_each(|(i, to)| *to = x[i * step]);
    room
}

/// x `[T, H, D]` of F32 or BF16, angles `[T, D]` -> y `[T, H, D]` of the same dtype
#[derive(Debug)]
pub struct Rotate {
    /// Turn backwards: the gradient of a rotation.
    inverse: bool,
}

impl Rotate {
    /// The rotation itself.
    pub(super) const FORWARD: Self = Self { inverse: false };

    fn turn<T: Real>(&self, x: &[View], y: &mut [T]) {
        let [_, h, d] = *x[0].spec.shape else { unreachable!("infer checked the rank") };
        let [strides, steps] = [0, 1].map(|i| x[i].spec.strides);
        let (x, angles) = (x[0].data::<T>(), x[1].data::<f32>());
        let sign = if self.inverse { -1.0 } else { 1.0 };
        par_rows(y, h * d, 4096 / (h * d).max(1), |first, y| {
            let (mut head_room, mut angle_room) = (vec![T::zeroed(); d], vec![0.0; d]);
            for (t, y) in (first..).zip(y.chunks_exact_mut(h * d)) {
                let angles = dense(&angles[t * steps[0]..], steps[1], &mut angle_room);
                for (head, y) in y.chunks_exact_mut(d).enumerate() {
                    let x = &x[t * strides[0] + head * strides[1]..];
                    rotate(dense(x, strides[2], &mut head_room), angles, sign, y);
                }
            }
        });
    }
}

impl Op for Rotate {
    fn name(&self) -> &'static str {
        "rope"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let known = DType::ACTIVATIONS.contains(&x[0].dtype);
        let fits = known && turns(&Spec { dtype: DType::F32, ..x[0] }, &x[1]);
        assert!(fits, "rope: {} with angles {}", x[0], x[1]);
        Spec::new(x[0].shape, x[0].dtype).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        match x[0].spec.dtype {
            DType::BF16 => self.turn::<bf16>(x, y[0].data()),
            _ => self.turn::<f32>(x, y[0].data()),
        }
    }
    fn reads(&self, i: usize) -> bool {
        i > 0
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let back = || Self { inverse: !self.inverse };
        let dx = dy[0].as_ref().map(|dy| apply1(back(), &[dy, &x[1]]));
        Grad::Inputs(vec![dx, None])
    }
}

impl Rope {
    /// Cosines and sines `[T, D]` of the angles by which tokens at `positions [T]` are turned; `lengths [T]` is the
    /// length each token's base is derived from.
    ///
    /// # Panics
    /// If the shapes do not fit or D is odd.
    #[track_caller]
    #[must_use]
    pub fn angles(self, d: usize, positions: &Tensor, lengths: &Tensor) -> Tensor {
        apply1(Angles { rope: self, d }, &[positions, lengths])
    }
}

impl Tensor {
    /// `self [T, H, D]` turned by the tokens' `angles [T, D]` ([`Rope::angles`]).
    ///
    /// # Panics
    /// If the shapes do not fit or D is odd.
    #[track_caller]
    #[must_use]
    pub fn rope(&self, angles: &Self) -> Self {
        apply1(Rotate::FORWARD, &[self, angles])
    }
}
