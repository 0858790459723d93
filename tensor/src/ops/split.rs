//! A tensor taken apart along one dimension, as `torch.split`: queries, keys and values out of their common
//! product. It is narrowing several times, but with one gradient, the parts' joined, where each narrowing
//! would make one of full size and all would be added.

use crate::op::{Arg, Case, Entry, Grad, Op, Outs};
use crate::{Spec, Tensor, apply};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "split",
    cases: |[a, b, c, d]| {
        vec![
            Case::new(Split { axis: 0, sizes: vec![a, b] }, [Arg::f32([a + b, c])]),
            Case::new(Split { axis: 1, sizes: vec![b, 1, d] }, [Arg::f32([a, b + 1 + d, c])]),
        ]
    },
    bad: || {
        vec![
            Case::new(Split { axis: 1, sizes: vec![1, 3] }, [Arg::f32([2, 3])]),
            Case::new(Split { axis: 2, sizes: vec![1, 2] }, [Arg::f32([2, 3])]),
        ]
    },
};

/// Pieces of `sizes` one after another along dimension `axis`.
#[derive(Debug)]
pub struct Split {
    axis: usize,
    sizes: Vec<usize>,
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }
    fn strided(&self) -> bool {
        true
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let Self { axis, sizes } = self;
        let fits = *axis < x[0].rank() && sizes.iter().sum::<usize>() == x[0].shape[*axis];
        assert!(fits, "split: dimension {axis} of {} into {sizes:?}", x[0]);
        let part = |n: &usize| Spec::new(x[0].shape.with(*axis, *n), x[0].dtype);
        Outs { outputs: sizes.iter().map(part).collect(), saved: Vec::new() }
    }
    fn run(&self, x: &[&Tensor], _: bool) -> Option<Vec<Tensor>> {
        let mut start = 0;
        let parts = self.sizes.iter().map(|n| {
            start += n;
            x[0].narrow(self.axis as isize, start - n, *n).contiguous()
        });
        Some(parts.collect())
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let part = |(n, dy): (&usize, &Option<Tensor>)| match dy {
            Some(dy) => dy.clone(),
            None => {
                let shape = x[0].spec().shape.with(self.axis, *n);
                Tensor::zeros(shape, x[0].dtype()).to_device(&x[0].device())
            }
        };
        let parts: Vec<Tensor> = self.sizes.iter().zip(dy).map(part).collect();
        Grad::one(Tensor::cat(&parts.iter().collect::<Vec<_>>(), self.axis as isize))
    }
}

impl Tensor {
    /// Pieces of `sizes` one after another along dimension `axis`.
    ///
    /// # Panics
    /// If the sizes do not add up to the dimension.
    #[track_caller]
    #[must_use]
    pub fn split<const N: usize>(&self, sizes: [usize; N], axis: isize) -> [Self; N] {
        let parts = apply(Split { axis: self.axis(axis), sizes: sizes.into() }, &[self]);
        parts.try_into().expect("one part for each size")
    }
}
