//! Dropout (Srivastava et al. 2014, JMLR 15:1929): elements become zero with probability p, and the others are divided
//! by 1 − p, so that the mean stays. Which ones follows from a seed and an element's place, so the gradient draws
//! the same ones again, nothing is kept for it, and a run that goes on draws as if it had not stopped.

use crate::cpu::pool::par_rows;
use crate::cpu::simd::versions;
use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::view::Real;
use crate::{DType, Device, Spec, Tensor, View, ViewMut, apply1};
use half::bf16;

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "dropout",
    cases: |[a, b, c, _]| {
        let case = |p, dtype| {
            let x = [Arg::of([a, b, c], dtype), Arg::exact([7, 3])];
            Case::new(Dropout { p, salt: 5 }, x)
        };
        vec![case(0.0, DType::F32), case(0.3, DType::F32), case(0.3, DType::BF16)]
    },
    bad: || {
        vec![
            Case::new(Dropout { p: 0.5, salt: 0 }, [Arg::f32([2, 3]), Arg::exact([7])]),
            Case::new(Dropout { p: 0.5, salt: 0 }, [Arg::below([2, 3], 9), Arg::exact([7, 3])]),
        ]
    },
};

/// x `[..]` of F32 or BF16, seed `[2]` -> y `[..]` of the same dtype
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability that an element becomes zero, below 1.
    pub p: f32,
    /// Makes other draws of a seed than other layers make.
    pub salt: u32,
}

/// Mixes the bits of a word: Wellons 2018, "Prospecting for hash functions", lowbias32 with later constants.
#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x21f0_aaad);
    x = (x ^ x >> 15).wrapping_mul(0x735a_2d97);
    x ^ x >> 15
}

/// What element `i` is multiplied by.
#[inline(always)]
fn factor(keys: [u32; 2], i: u32, least: u32, scale: f32) -> f32 {
    let drawn = mix(mix(i.wrapping_add(keys[0])) ^ keys[1]);
    if drawn >= least { scale } else { 0.0 }
}

versions! {
    /// `x`, whose first element has the place `first`, times the elements' factors.
    fn drop<T: Real>(x: &[T], first: u32, keys: [u32; 2], least: u32, scale: f32, y: &mut [T]) {
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            *y = T::nearest(x.get() * factor(keys, first.wrapping_add(i as u32), least, scale));
        }
    }
}

impl Dropout {
    /// Two keys of all draws, the least draw that keeps its element, and what that is multiplied by.
    fn rule(self, seed: &[u32]) -> ([u32; 2], u32, f32) {
        let first = mix(mix(seed[0] ^ mix(self.salt)) ^ seed[1]);
        let least = (f64::from(self.p) * 2f64.powi(32)) as u32;
        ([first, mix(!first)], least, 1.0 / (1.0 - self.p))
    }

    fn of<T: Real>(self, x: &[View], y: &mut [T]) {
        let (keys, least, scale) = self.rule(x[1].data());
        let x = x[0].data();
        par_rows(y, 1, 1 << 13, |first, y| {
            drop(&x[first..], first as u32, keys, least, scale, y);
        });
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let fits = DType::ACTIVATIONS.contains(&x[0].dtype)
            && x[1].dtype == DType::U32
            && *x[1].shape == [2]
            && (0.0..1.0).contains(&self.p);
        assert!(fits, "dropout: {} with seed {} and probability {}", x[0], x[1], self.p);
        Spec::new(x[0].shape, x[0].dtype).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        match x[0].spec.dtype {
            DType::BF16 => self.of::<bf16>(x, y[0].data()),
            _ => self.of::<f32>(x, y[0].data()),
        }
    }
    fn compose(&self, x: &[Tensor]) -> Option<Vec<Tensor>> {
        let (keys, least, scale) = self.rule(&x[1].to_device(&Device::Cpu).to_vec().ok()?);
        let spec = x[0].spec();
        let mask: Vec<f32> =
            (0..spec.numel() as u32).map(|i| factor(keys, i, least, scale)).collect();
        let mask = Tensor::new(&mask, spec.shape).to_device(&x[0].device());
        Some(vec![(&x[0].to_dtype(DType::F32) * &mask).to_dtype(spec.dtype)])
    }
    fn cheap(&self) -> bool {
        true
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![dy[0].as_ref().map(|dy| apply1(*self, &[dy, &x[1]])), None])
    }
}

impl Tensor {
    /// Elements become zero with probability `p`, the others are divided by 1 − p; which ones follows from the seed
    /// `[2]` of U32 and the `salt`.
    ///
    /// # Panics
    /// If a dtype or the seed's shape is another, or `p` is not in 0 to less than 1.
    #[track_caller]
    #[must_use]
    pub fn dropout(&self, p: f32, salt: u32, seed: &Self) -> Self {
        apply1(Dropout { p, salt }, &[self, seed])
    }
}
