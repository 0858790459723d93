//! How an op runs: check, make inputs contiguous, allocate outputs, run the kernel, remember where the
//! result came from.

use crate::storage::{Owned, Storage};
use crate::tensor::{Inner, Node, Origin};
use crate::{Device, Op, Packing, Spec, Tensor, View, ViewMut, trace};
use std::array::from_fn;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    static GRAD: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording anything for gradients.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            GRAD.set(self.0);
        }
    }
    let _restore = Restore(GRAD.replace(false));
    f()
}

/// Runs `op` on `x` and returns its outputs.
///
/// # Panics
/// If the inputs do not fit the op, with its name and the shapes.
#[track_caller]
pub fn apply(op: impl Op, x: &[&Tensor]) -> Vec<Tensor> {
    match recorded(x) {
        true => apply_dyn(Arc::new(op), x),
        false => run_laid_out(&op, x),
    }
}

/// Runs `op`, which has one output, on `x`.
///
/// # Panics
/// If the inputs do not fit the op, with its name and the shapes.
#[track_caller]
pub fn apply1(op: impl Op, x: &[&Tensor]) -> Tensor {
    let mut y = apply(op, x);
    y.pop().expect("an op has an output")
}

/// [`apply`] for an op known only by its trait.
///
/// # Panics
/// If the inputs do not fit the op, with its name and the shapes.
#[track_caller]
pub fn apply_dyn(op: Arc<dyn Op>, x: &[&Tensor]) -> Vec<Tensor> {
    if !recorded(x) {
        return run_laid_out(&*op, x);
    }
    let x = match as_they_lie(&*op, x) {
        true => x.iter().map(|t| (*t).clone()).collect(),
        false => laid_out(&*op, x),
    };
    let refs: Vec<&Tensor> = x.iter().collect();
    let (y, mut saved) = no_grad(|| run(&*op, &refs, true));
    saved.extend(op.saves().iter().map(|i| y[*i].clone()));
    with_origin(op, x, y, saved)
}

/// Whether a gradient can flow to one of `x`.
fn recorded(x: &[&Tensor]) -> bool {
    GRAD.get() && x.iter().any(|x| x.requires_grad())
}

/// Runs `op` without recording it.
#[track_caller]
fn run_laid_out(op: &dyn Op, x: &[&Tensor]) -> Vec<Tensor> {
    if as_they_lie(op, x) {
        return run(op, x, false).0;
    }
    let x = laid_out(op, x);
    run(op, &x.iter().collect::<Vec<_>>(), false).0
}

/// Whether `op` takes the inputs without any change.
fn as_they_lie(op: &dyn Op, x: &[&Tensor]) -> bool {
    x.iter().enumerate().all(|(i, t)| match t.spec().packing {
        Packing::Rows => op.strided() || t.spec().is_contiguous(),
        _ => op.packed(i),
    })
}

/// The inputs as `op` takes them.
fn laid_out(op: &dyn Op, x: &[&Tensor]) -> Vec<Tensor> {
    let lay_out = |(i, t): (usize, &&Tensor)| match t.spec().packing {
        Packing::Rows if op.strided() => (*t).clone(),
        Packing::Rows => t.contiguous(),
        _ if op.packed(i) => (*t).clone(),
        _ => t.unpack(),
    };
    x.iter().enumerate().map(lay_out).collect()
}

/// The outputs of `op`, and if `keep` what it saves for its gradient.
#[track_caller]
fn run(op: &dyn Op, x: &[&Tensor], keep: bool) -> (Vec<Tensor>, Vec<Tensor>) {
    if let [only] = x
        && let Some((spec, skip)) = op.view(only.spec())
    {
        let y = Tensor::build(spec, only.0.offset + skip, only.0.storage.clone(), None);
        return (vec![y], Vec::new());
    }
    let outs = listed(x.iter().map(|x| *x.spec()), |specs| op.infer(specs));
    let (count, mut specs) = (outs.outputs.len(), outs.outputs);
    if keep {
        specs.extend(outs.saved);
    }
    let mut y = match (op.run(x, keep), device(op.name(), x.iter().copied())) {
        (Some(y), _) => y,
        (None, Device::Cpu) => run_cpu(op, x, &specs),
        #[cfg(feature = "gpu")]
        (None, Device::Gpu(gpu)) => gpu.run(op, x, &specs),
    };
    let saved = y.split_off(count);
    (y, saved)
}

/// Calls `f` with `items` in a list, which is on the stack if it is short: an op of a decoded token takes a
/// microsecond, of which lists on the heap would be a good part.
fn listed<T, R>(mut items: impl ExactSizeIterator<Item = T>, f: impl FnOnce(&mut [T]) -> R) -> R {
    let len = items.len();
    let mut next = |_| items.next().expect("an iterator is as long as it says");
    match len {
        1 => f(&mut [next(0)]),
        2 => f(&mut from_fn::<_, 2, _>(next)),
        3 => f(&mut from_fn::<_, 3, _>(next)),
        4 => f(&mut from_fn::<_, 4, _>(next)),
        // Attention's.
        8 => f(&mut from_fn::<_, 8, _>(next)),
        _ => f(&mut items.collect::<Vec<_>>()),
    }
}

/// The device that all of `tensors` lie on.
#[track_caller]
fn device<'a>(op: &str, mut tensors: impl Iterator<Item = &'a Tensor>) -> Device {
    let device = tensors.next().map_or(Device::Cpu, Tensor::device);
    for t in tensors {
        let other = t.device();
        assert!(other == device, "{op}: one tensor on {device} and another on {other}");
    }
    device
}

pub(crate) fn run_cpu(op: &dyn Op, x: &[&Tensor], specs: &[Spec]) -> Vec<Tensor> {
    let fresh = |spec: &Spec| {
        let memory = Storage::Owned(Owned::scratch(spec.bytes()));
        Tensor::build(*spec, 0, Arc::new(memory), None)
    };
    let mut y: Vec<Tensor> = specs.iter().map(fresh).collect();
    let alone = |y| alone(y).expect("nobody else has a fresh tensor");
    listed(y.iter_mut().map(alone), |y| run_cpu_to(op, y, x));
    y
}

/// `y` marked as the outputs of a run of `op` on `inputs`, so that a gradient flows through it. For
/// ops whose value was computed another way, such as checkpointed blocks.
pub fn with_origin(
    op: Arc<dyn Op>,
    inputs: Vec<Tensor>,
    y: Vec<Tensor>,
    saved: Vec<Tensor>,
) -> Vec<Tensor> {
    let outputs = y.iter().map(|t| *t.spec()).collect();
    let cheap = |x: &Tensor| x.origin().is_some_and(|o| o.node.op.cheap());
    let keep = |(i, x): (usize, Tensor)| match x.is_trainable() || op.reads(i) && !cheap(&x) {
        true => x,
        false => x.without_elements(),
    };
    let inputs = inputs.into_iter().enumerate().map(keep).collect();
    let node = Arc::new(Node { op, inputs, saved, outputs });
    y.into_iter()
        .enumerate()
        .map(|(index, t)| {
            let origin = Some(Origin { node: node.clone(), index });
            Tensor::build(*t.spec(), t.0.offset, t.0.storage.clone(), origin)
        })
        .collect()
}

/// Runs `op` on existing tensors: `y` is changed in place.
///
/// # Panics
/// If the specs do not fit; if an element of `y` is shared with another tensor (an input, a view, a
/// clone), mapped from a file, or part of a recorded gradient.
#[track_caller]
pub fn apply_to(op: impl Op, y: &mut [&mut Tensor], x: &[&Tensor]) {
    apply_to_dyn(&op, y, x);
}

/// [`apply_to`] for an op known only by its trait.
///
/// # Panics
/// As [`apply_to`].
#[track_caller]
pub fn apply_to_dyn(op: &dyn Op, y: &mut [&mut Tensor], x: &[&Tensor]) {
    if as_they_lie(op, x) {
        return run_to(op, y, x);
    }
    let x = laid_out(op, x);
    run_to(op, y, &x.iter().collect::<Vec<_>>());
}

#[track_caller]
fn run_to(op: &dyn Op, y: &mut [&mut Tensor], x: &[&Tensor]) {
    let check = |ys: &mut [Spec]| listed(x.iter().map(|x| *x.spec()), |xs| op.check_to(ys, xs));
    listed(y.iter().map(|y| *y.spec()), check);
    let device = device(op.name(), y.iter().map(|t| &**t).chain(x.iter().copied()));
    let run = |y: &mut [InPlace]| match device {
        Device::Cpu => run_cpu_to(op, y, x),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.run_to(op, y, x),
    };
    listed(y.iter_mut().map(|y| exclusive(op.name(), y)), run);
}

/// A tensor that an op changes in place.
pub(crate) struct InPlace<'a> {
    pub(crate) spec: Spec,
    pub(crate) offset: usize,
    pub(crate) storage: &'a mut Storage,
}

impl InPlace<'_> {
    fn view(&mut self, op: &dyn Op) -> ViewMut<'_> {
        let Storage::Owned(memory) = &mut *self.storage else {
            unreachable!("{}: a tensor in CPU memory is owned or was refused", op.name())
        };
        let bytes = &mut memory.bytes_mut()[self.spec.byte_range(self.offset)];
        ViewMut { spec: self.spec, bytes }
    }
}

#[track_caller]
pub(crate) fn exclusive<'a>(op: &str, t: &'a mut Tensor) -> InPlace<'a> {
    let spec = *t.spec();
    assert!(spec.is_contiguous(), "{op}: changes a strided tensor {spec} in place");
    assert!(t.origin().is_none(), "{op}: changes a tensor {spec} that a gradient flows through");
    alone(t).unwrap_or_else(|| {
        panic!("{op}: changes a tensor {spec} in place whose storage is shared or mapped")
    })
}

/// The elements of `t` if no other tensor has them.
pub(crate) fn alone(t: &mut Tensor) -> Option<InPlace<'_>> {
    let Inner { spec, storage, offset, .. } = Arc::get_mut(&mut t.0)?;
    let storage = Arc::get_mut(storage).filter(|s| !matches!(s, Storage::File { .. }))?;
    Some(InPlace { spec: *spec, offset: *offset, storage })
}

pub(crate) fn run_cpu_to(op: &dyn Op, y: &mut [InPlace], x: &[&Tensor]) {
    let timed = |x: &[View], y: &mut [ViewMut]| trace::timed(op, x, y, |x, y| op.cpu(x, y));
    listed(y.iter_mut().map(|y| y.view(op)), |y| {
        listed(x.iter().map(|x| x.view()), |x| timed(x, y))
    });
}
