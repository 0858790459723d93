//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34) in the half-split form: the
//! pair (x[j], x[j + D/2]) of each head turns by position · frequency[j].
//!
//! A length per token is an input because dynamic NTK makes the base depend on it, and sequences of
//! one batch differ (models.md section 3 of the reference; DESIGN section 8).

use crate::cpu::pool::par_rows;
use crate::cpu::simd::versions;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1};

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
        let x = || [Arg::f32([t, h, 2 * d]), Arg::below([t], 40), Arg::below([t], 60)];
        let rope = |scaling| Rope { base: 10_000.0, scaling };
        kinds.map(|k| Case::new(Rotate { rope: rope(k), inverse: false }, x())).into()
    },
    bad: || {
        let rope = Rope { base: 1e4, scaling: Scaling::None };
        let op = || Rotate { rope, inverse: false };
        vec![
            Case::new(op(), [Arg::f32([2, 3, 5]), Arg::below([2], 9), Arg::below([2], 9)]),
            Case::new(op(), [Arg::f32([2, 3, 4]), Arg::below([3], 9), Arg::below([2], 9)]),
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
    /// Turns the pairs of one head by angles with these cosines and sines.
    pub(crate) fn rotate(x: &[f32], cos: &[f32], sin: &[f32], y: &mut [f32]) {
        let n = x.len() / 2;
        let ((x1, x2), (y1, y2)) = (x.split_at(n), y.split_at_mut(n));
        let (x2, y2, cos, sin) = (&x2[..n], &mut y2[..n], &cos[..n], &sin[..n]);
        for j in 0..n {
            y1[j] = x1[j] * cos[j] - x2[j] * sin[j];
            y2[j] = x2[j] * cos[j] + x1[j] * sin[j];
        }
    }
}

/// Cosines and sines of position · frequency.
pub(crate) fn angles(frequencies: &[f32], position: u32, cos: &mut [f32], sin: &mut [f32]) {
    for ((c, s), f) in cos.iter_mut().zip(sin).zip(frequencies) {
        (*s, *c) = (position as f32 * f).sin_cos();
    }
}

/// x `[T, H, D]`, positions `[T]`, lengths `[T]` -> y `[T, H, D]`
#[derive(Debug)]
pub struct Rotate {
    rope: Rope,
    /// Turn backwards: the gradient of a rotation.
    inverse: bool,
}

impl Op for Rotate {
    fn name(&self) -> &'static str {
        "rope"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let t = x[0].shape.first().copied().unwrap_or(0);
        let counts = |s: &Spec| s.dtype == DType::U32 && *s.shape == [t] && s.is_contiguous();
        let fits = x[0].rank() == 3
            && x[0].dtype == DType::F32
            && x[0].last().is_multiple_of(2)
            && counts(&x[1])
            && counts(&x[2]);
        assert!(fits, "rope: {} with positions {} and lengths {}", x[0], x[1], x[2]);
        Spec::f32(x[0].shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [_, h, d] = *x[0].spec.shape else { unreachable!("infer checked the rank") };
        let strides = x[0].spec.strides;
        let (positions, lengths) = (x[1].data::<u32>(), x[2].data::<u32>());
        let x = x[0].data::<f32>();
        par_rows(y[0].data(), h * d, 4096 / (h * d).max(1), |first, y| {
            let mut length = lengths[first];
            let mut frequencies = self.rope.frequencies(d, length);
            let (mut cos, mut sin) = (vec![0.0; d / 2], vec![0.0; d / 2]);
            let mut strided = vec![0.0; d];
            for (r, y) in y.chunks_exact_mut(h * d).enumerate() {
                let t = first + r;
                if !self.rope.same(length, lengths[t]) {
                    length = lengths[t];
                    frequencies = self.rope.frequencies(d, length);
                }
                angles(&frequencies, positions[t], &mut cos, &mut sin);
                if self.inverse {
                    sin.iter_mut().for_each(|s| *s = -*s);
                }
                for (head, y) in y.chunks_exact_mut(d).enumerate() {
                    let at = t * strides[0] + head * strides[1];
                    if strides[2] == 1 {
                        rotate(&x[at..at + d], &cos, &sin, y);
                    } else {
                        strided
                            .iter_mut()
                            .enumerate()
                            .for_each(|(i, v)| *v = x[at + i * strides[2]]);
                        rotate(&strided, &cos, &sin, y);
                    }
                }
            }
        });
    }
    fn reads(&self, i: usize) -> bool {
        i > 0
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let back = || Self { rope: self.rope, inverse: !self.inverse };
        let dx = dy[0].as_ref().map(|dy| apply1(back(), &[dy, &x[1], &x[2]]));
        Grad::Inputs(vec![dx, None, None])
    }
}

impl Tensor {
    /// `self [T, H, D]` turned by the token's `positions [T]`; `lengths [T]` is the length each token's
    /// base is derived from.
    ///
    /// # Panics
    /// If the shapes do not fit or D is odd.
    #[track_caller]
    #[must_use]
    pub fn rope(&self, rope: Rope, positions: &Self, lengths: &Self) -> Self {
        apply1(Rotate { rope, inverse: false }, &[self, positions, lengths])
    }
}
