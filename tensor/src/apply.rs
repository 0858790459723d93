//! How an op runs: check, make inputs contiguous, allocate outputs, run the kernel, remember where the
//! result came from.

use crate::storage::{Owned, Storage};
use crate::tensor::{Inner, Node, Origin};
use crate::{Device, Op, Packing, Spec, Tensor, ViewMut, trace};
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
    apply_dyn(Arc::new(op), x)
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
    let x = laid_out(&*op, x);
    let grad = GRAD.get() && x.iter().any(Tensor::requires_grad);
    if let [only] = &x[..]
        && let Some((spec, skip)) = op.view(only.spec())
    {
        let y = Tensor::build(spec, only.0.offset + skip, only.0.storage.clone(), None);
        return if grad { with_origin(op, x, vec![y], Vec::new()) } else { vec![y] };
    }
    let specs: Vec<Spec> = x.iter().map(|t| *t.spec()).collect();
    let outs = op.infer(&specs);
    let kept = if grad { outs.saved.len() } else { 0 };
    let specs: Vec<Spec> = outs.outputs.iter().chain(&outs.saved[..kept]).copied().collect();
    let mut y = match (no_grad(|| op.run(&x, grad)), device(op.name(), x.iter())) {
        (Some(y), _) => y,
        (None, Device::Cpu) => run_cpu(&*op, &x, &specs),
        #[cfg(feature = "gpu")]
        (None, Device::Gpu(gpu)) => gpu.run(&*op, &x, &specs),
    };
    let mut saved = y.split_off(outs.outputs.len());
    if grad {
        saved.extend(op.saves().iter().map(|i| y[*i].clone()));
    }
    if grad { with_origin(op, x, y, saved) } else { y }
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

pub(crate) fn run_cpu(op: &dyn Op, x: &[Tensor], specs: &[Spec]) -> Vec<Tensor> {
    let views: Vec<_> = x.iter().map(Tensor::view).collect();
    let mut memory: Vec<Owned> = specs.iter().map(|s| Owned::scratch(s.bytes())).collect();
    let mut y: Vec<_> = memory
        .iter_mut()
        .zip(specs)
        .map(|(m, s)| ViewMut { spec: *s, bytes: m.bytes_mut() })
        .collect();
    trace::timed(op, &views, &mut y, |views, y| op.cpu(views, y));
    memory
        .into_iter()
        .zip(specs)
        .map(|(m, s)| Tensor::build(*s, 0, Arc::new(Storage::Owned(m)), None))
        .collect()
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
    let ys: Vec<Spec> = y.iter().map(|t| *t.spec()).collect();
    let x = laid_out(op, x);
    let xs: Vec<Spec> = x.iter().map(|t| *t.spec()).collect();
    op.check_to(&ys, &xs);
    let device = device(op.name(), y.iter().map(|t| &**t).chain(&x));
    let mut y: Vec<InPlace> = y.iter_mut().map(|t| exclusive(op.name(), t)).collect();
    match device {
        Device::Cpu => run_cpu_to(op, &mut y, &x),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.run_to(op, &y, &x),
    }
}

/// A tensor that an op changes in place.
pub(crate) struct InPlace<'a> {
    pub(crate) spec: Spec,
    pub(crate) offset: usize,
    pub(crate) storage: &'a mut Storage,
}

#[track_caller]
pub(crate) fn exclusive<'a>(op: &str, t: &'a mut Tensor) -> InPlace<'a> {
    let spec = *t.spec();
    assert!(spec.is_contiguous(), "{op}: changes a strided tensor {spec} in place");
    let inner = Arc::get_mut(&mut t.0).and_then(|Inner { storage, offset, origin, .. }| {
        assert!(origin.is_none(), "{op}: changes a tensor {spec} that a gradient flows through");
        Some(InPlace { spec, offset: *offset, storage: Arc::get_mut(storage)? })
    });
    let alone = inner.filter(|y| !matches!(y.storage, Storage::File { .. }));
    alone.unwrap_or_else(|| {
        panic!("{op}: changes a tensor {spec} in place whose storage is shared or mapped")
    })
}

pub(crate) fn run_cpu_to(op: &dyn Op, y: &mut [InPlace], x: &[Tensor]) {
    let x: Vec<_> = x.iter().map(Tensor::view).collect();
    let y = y.iter_mut().map(|y| match y.storage {
        Storage::Owned(memory) => {
            ViewMut { spec: y.spec, bytes: &mut memory.bytes_mut()[y.spec.byte_range(y.offset)] }
        }
        _ => unreachable!("{}: a tensor in CPU memory is owned or was refused", op.name()),
    });
    let mut y: Vec<_> = y.collect();
    trace::timed(op, &x, &mut y, |x, y| op.cpu(x, y));
}
