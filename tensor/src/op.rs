//! What an op is. One trait, one file per op: its meaning on the CPU, its kernels on a GPU as plain
//! data, its composition from smaller ops, and its gradient.
//!
//! Fields of an op are constants of a model. Whatever varies between steps (positions, lengths,
//! counts) is a U32 input, so that a recorded plan serves every position and every session.

pub use crate::kernels::{Bind, Dispatch, Kernels, Param};
use crate::{Dims, Spec, Tensor, View, ViewMut};
use std::fmt::Debug;

/// An operation on tensors.
pub trait Op: Debug + Send + Sync + 'static {
    /// The one word shared by op, shader, test and trace label.
    fn name(&self) -> &'static str;

    /// The specs of the outputs, and of what is saved for the gradient. The only place inputs are
    /// checked.
    ///
    /// # Panics
    /// If the inputs do not fit, with the op's name and the shapes.
    fn infer(&self, x: &[Spec]) -> Outs;

    /// For an op that only renames elements: the spec of its output over the input's storage, and
    /// how many elements later it starts. Such an op runs nothing on any device.
    fn view(&self, _x: &Spec) -> Option<(Spec, usize)> {
        None
    }

    /// Whether `cpu` and `gpu` take inputs with any strides. Otherwise they are made contiguous
    /// first.
    fn strided(&self) -> bool {
        false
    }

    /// Whether `cpu` takes input `i`, a weight, in any [`crate::Packing`]. Others are unpacked first.
    fn packed(&self, _i: usize) -> bool {
        false
    }

    /// For an op that works in place (through [`crate::apply_to`]): checks `y` against `x`.
    ///
    /// # Panics
    /// Always, unless the op works in place; then if the specs do not fit.
    #[track_caller]
    fn check_to(&self, _y: &[Spec], _x: &[Spec]) {
        panic!("{} does not work in place", self.name());
    }

    /// For an op that is other ops in an order its composition has not, in pieces say, and so has no
    /// kernel of its own: runs them and gives the outputs, followed by what is saved if `keep`.
    fn run(&self, _x: &[&Tensor], _keep: bool) -> Option<Vec<Tensor>> {
        None
    }

    /// The meaning: fills every element of `y`. Saved outputs follow the outputs and are present
    /// only if a gradient will flow.
    fn cpu(&self, _x: &[View], _y: &mut [ViewMut]) {
        unreachable!("{} has no kernel of its own", self.name());
    }

    /// What a run moves and computes, for `PUYU_TRACE`: by default all inputs and outputs once, and no
    /// operation that counts.
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        let all = x.iter().map(|v| &v.spec).chain(y);
        Work { bytes: all.map(Spec::bytes).sum(), ..Work::default() }
    }

    /// The dispatches that do the same on a GPU; `None` only until they are written.
    fn gpu(&self, _x: &[Spec], _y: &[Spec]) -> Option<Kernels> {
        None
    }

    /// The same result from smaller ops: gradient, fallback and oracle of a fused op.
    fn compose(&self, _x: &[Tensor]) -> Option<Vec<Tensor>> {
        None
    }

    /// Whether the gradient reads the elements of input `i`. Of others only shape, dtype and device are kept for it,
    /// so that their memory is free when nothing else needs it.
    fn reads(&self, _i: usize) -> bool {
        true
    }

    /// Whether running it again costs little beside what reads its output: then the output is not kept for the
    /// gradients that read it, but computed again for each ([`crate::Node::restored`]). Its own gradient must read all
    /// of its inputs, for they are what it is computed from.
    fn cheap(&self) -> bool {
        false
    }

    /// Outputs that the gradient reads; they follow what [`Op::infer`] says is saved, and take no memory of their own.
    fn saves(&self) -> &'static [usize] {
        &[]
    }

    /// The gradients of the inputs from those of the outputs (`None`: no gradient reached it).
    fn grad(&self, _x: &[Tensor], _saved: &[Tensor], _dy: &[Option<Tensor>]) -> Grad {
        Grad::Compose
    }
}

/// What [`Op::work`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read and written.
    pub bytes: usize,
    /// Multiplications and additions.
    pub operations: usize,
    /// What they are of, if not of the first input's dtype.
    pub operands: Option<crate::DType>,
}

/// What [`Op::infer`] answers.
#[derive(Clone, Debug, Default)]
pub struct Outs {
    /// Specs of the outputs.
    pub outputs: Vec<Spec>,
    /// Specs of what the gradient needs besides the inputs.
    pub saved: Vec<Spec>,
}

impl From<Spec> for Outs {
    fn from(spec: Spec) -> Self {
        Self { outputs: vec![spec], saved: Vec::new() }
    }
}

/// What [`Op::grad`] answers.
pub enum Grad {
    /// Differentiate [`Op::compose`] instead.
    Compose,
    /// One gradient per input, `None` where there is none to give.
    Inputs(Vec<Option<Tensor>>),
    /// That of the first input, a table, is zero but for these rows.
    Sparse(SparseRows),
}

/// A sparse gradient of a table: rows to add to zeros, as PyTorch's embeddings have it with `sparse=True`.
#[derive(Clone, Debug)]
pub struct SparseRows {
    /// F32 `[.., D]`.
    pub rows: Tensor,
    /// Where each goes: U32 `[..]`.
    pub index: Tensor,
    /// How many the table has.
    pub count: usize,
}

impl SparseRows {
    /// The table.
    pub fn whole(&self) -> Tensor {
        self.rows.scatter_add(&self.index, self.count)
    }
}

impl Grad {
    /// The gradient of an op with one input.
    pub fn one(dx: Tensor) -> Self {
        Self::Inputs(vec![Some(dx)])
    }
}

/// One op with the inputs to try it on; what the loops in `tests/ops.rs` run.
#[derive(Debug)]
pub struct Case {
    /// The op.
    pub op: Box<dyn Op>,
    /// Its inputs.
    pub x: Vec<Arg>,
    /// For an op that works in place: the tensors it changes.
    pub y: Vec<Arg>,
}

impl Case {
    /// A case of `op` on `x`.
    pub fn new(op: impl Op, x: impl Into<Vec<Arg>>) -> Self {
        Self { op: Box::new(op), x: x.into(), y: Vec::new() }
    }

    /// A case of `op` working on `y` in place.
    pub fn in_place(op: impl Op, y: impl Into<Vec<Arg>>, x: impl Into<Vec<Arg>>) -> Self {
        Self { op: Box::new(op), x: x.into(), y: y.into() }
    }
}

/// An input of a [`Case`].
#[derive(Clone, Debug)]
pub struct Arg {
    /// Shape and dtype.
    pub spec: Spec,
    /// What is in it.
    pub fill: Fill,
}

/// What a test puts into an input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Random values around zero, rounded to the dtype.
    Normal,
    /// Random values in 0.5 to 2.
    Positive,
    /// In each row a quarter of the integers around zero, each once, in random order: no small change
    /// alters which is larger.
    Distinct,
    /// Random integers below the bound.
    Below(u32),
    /// Exactly these integers.
    Exact(Vec<u32>),
    /// Zeros.
    Zero,
}

impl Arg {
    /// Random F32 values around zero.
    pub fn f32(shape: impl Into<Dims>) -> Self {
        Self { spec: Spec::f32(shape), fill: Fill::Normal }
    }

    /// Random values around zero in any dtype.
    pub fn of(shape: impl Into<Dims>, dtype: crate::DType) -> Self {
        Self { spec: Spec::new(shape, dtype), fill: Fill::Normal }
    }

    /// Random positive F32 values.
    pub fn positive(shape: impl Into<Dims>) -> Self {
        Self { spec: Spec::f32(shape), fill: Fill::Positive }
    }

    /// F32 values that are well apart in each row, in random order.
    pub fn distinct(shape: impl Into<Dims>) -> Self {
        Self { spec: Spec::f32(shape), fill: Fill::Distinct }
    }

    /// Random U32 values below `bound`.
    pub fn below(shape: impl Into<Dims>, bound: usize) -> Self {
        Self { spec: Spec::new(shape, crate::DType::U32), fill: Fill::Below(bound as u32) }
    }

    /// These U32 values, one-dimensional.
    pub fn exact(values: impl IntoIterator<Item = u32>) -> Self {
        let v: Vec<u32> = values.into_iter().collect();
        Self { spec: Spec::new([v.len()], crate::DType::U32), fill: Fill::Exact(v) }
    }

    /// The same values in another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[track_caller]
    #[must_use]
    pub fn shaped(self, shape: impl Into<Dims>) -> Self {
        let spec = Spec::new(shape, self.spec.dtype);
        assert!(spec.numel() == self.spec.numel(), "{} elements for {spec}", self.spec.numel());
        Self { spec, ..self }
    }

    /// F32 zeros.
    pub fn zero(shape: impl Into<Dims>) -> Self {
        Self { spec: Spec::f32(shape), fill: Fill::Zero }
    }
}

/// All cases of one op; a line of the catalog.
pub struct Entry {
    /// The op's name.
    pub name: &'static str,
    /// Cases from four sizes, each at least 1; the loops vary them.
    pub cases: fn([usize; 4]) -> Vec<Case>,
    /// Cases whose inputs do not fit: each must be refused with the op's name and its shapes.
    pub bad: fn() -> Vec<Case>,
}
