//! How an op runs on a GPU: outputs from the pool, each dispatch recorded with the places of its
//! views.

use super::recording::Binding;
use super::{Buffer, Gpu, check};
use crate::apply::InPlace;
use crate::op::{Bind, Kernels, Param};
use crate::storage::Storage;
use crate::{Error, Op, Spec, Tensor, trace};
use std::ops::Range;
use std::sync::Arc;

/// One tensor of an op: where it lies, and as what.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(super) spec: Spec,
    pub(super) buffer: &'a Buffer,
    /// Elements from the start of the buffer.
    pub(super) offset: usize,
}

impl<'a> Place<'a> {
    fn start(spec: &Spec, buffer: &'a Buffer) -> Self {
        Self { spec: *spec, buffer, offset: 0 }
    }

    fn of(tensor: &'a Tensor) -> Self {
        Self { spec: *tensor.spec(), buffer: buffer(&tensor.0.storage), offset: tensor.0.offset }
    }

    /// The bytes from the first element to just past the last.
    pub(super) fn bytes(&self) -> Range<usize> {
        self.spec.byte_range(self.offset)
    }
}

fn buffer(storage: &Storage) -> &Buffer {
    match storage {
        Storage::Gpu(buffer) => buffer,
        _ => unreachable!("the tensors of a GPU op were checked to lie on the GPU"),
    }
}

fn specs_of(places: &[Place]) -> Vec<Spec> {
    places.iter().map(|p| p.spec).collect()
}

fn tensor((buffer, spec): (Buffer, &Spec)) -> Tensor {
    Tensor::build(*spec, 0, Arc::new(Storage::Gpu(buffer)), None)
}

impl Gpu {
    /// Runs `op` on `x`; outputs of `specs`. If it has no kernel, or the device has failed, there is
    /// nothing in them, and no read will return it.
    pub(crate) fn run(&self, op: &dyn Op, x: &[&Tensor], specs: &[Spec]) -> Vec<Tensor> {
        let inputs: Vec<Place> = x.iter().map(|x| Place::of(x)).collect();
        trace::recorded(op, &specs_of(&inputs), specs);
        let Some(kernels) = self.kernels(op, &inputs, specs) else {
            return specs.iter().map(|s| tensor((self.scratch(0), s))).collect();
        };
        let y: Vec<Buffer> = specs.iter().map(|s| self.output(s.bytes())).collect();
        let places: Vec<Place> = specs.iter().zip(&y).map(|(s, b)| Place::start(s, b)).collect();
        self.dispatch(op, &kernels, &inputs, &places);
        if self.0.check {
            check::outputs(op, &inputs, &places);
        }
        y.into_iter().zip(specs).map(tensor).collect()
    }

    /// Runs `op`, which works in place, on `y`.
    pub(crate) fn run_to(&self, op: &dyn Op, y: &[InPlace], x: &[&Tensor]) {
        let y: Vec<Place> = y
            .iter()
            .map(|y| Place { spec: y.spec, buffer: buffer(y.storage), offset: y.offset })
            .collect();
        let x: Vec<Place> = x.iter().map(|x| Place::of(x)).collect();
        trace::recorded(op, &specs_of(&x), &specs_of(&y));
        let Some(kernels) = self.kernels(op, &x, &specs_of(&y)) else { return };
        let before = self.0.check.then(|| check::copies(&y));
        self.dispatch(op, &kernels, &x, &y);
        if let Some(before) = before {
            check::in_place(op, &x, &y, before);
        }
    }

    /// The kernels of `op`; without any, the device fails.
    fn kernels(&self, op: &dyn Op, x: &[Place], y: &[Spec]) -> Option<Kernels> {
        let name = op.name();
        // Kernels count elements in 32 bits.
        if let Some(long) = y.iter().find(|s| u32::try_from(s.numel()).is_err()) {
            self.fail(Error::resource(format!(
                "{name} gives {long}, more elements than a GPU kernel counts; use --device cpu"
            )));
            return None;
        }
        let kernels = op.gpu(&specs_of(x), y);
        if kernels.is_none() {
            let inputs = specs_of(x).iter().map(Spec::to_string).collect::<Vec<_>>().join(" and ");
            self.fail(Error::unsupported(format!(
                "{name} of {inputs} has no GPU kernel yet; use --device cpu"
            )));
        }
        kernels
    }

    /// Memory for an output; in check mode poisoned, and longer than asked for.
    fn output(&self, len: usize) -> Buffer {
        if self.0.check { check::poisoned(self, len) } else { self.scratch(len) }
    }

    fn dispatch(&self, op: &dyn Op, kernels: &Kernels, x: &[Place], y: &[Place]) {
        if y.iter().all(|y| y.spec.numel() == 0) {
            return;
        }
        let Kernels { scratch, dispatches } = kernels;
        let memory: Vec<Buffer> = scratch.iter().map(|s| self.scratch(s.bytes())).collect();
        let scratch: Vec<Place> =
            scratch.iter().zip(&memory).map(|(s, b)| Place::start(s, b)).collect();
        let place = |bind: Bind| match bind {
            Bind::X(i) => x[i],
            Bind::Y(i) => y[i],
            Bind::Scratch(i) => scratch[i],
        };
        for dispatch in dispatches {
            let bindings: Vec<Binding> =
                dispatch.bind.iter().map(|&b| self.binding(op, &place(b))).collect();
            let offset = |bind: Bind| {
                let i = dispatch.bind.iter().position(|&b| b == bind);
                let start = bindings[i.expect("an offset is that of a bound buffer")].bytes.start;
                let place = place(bind);
                (place.bytes().start - start) / place.spec.dtype.block_bytes()
            };
            let params = dispatch.params.iter().map(|p| match *p {
                Param::U32(v) => v,
                Param::F32(v) => v.to_bits(),
                Param::Offset(bind) => offset(bind) as u32,
            });
            self.record(op.name(), dispatch, &bindings, &params.collect::<Vec<_>>());
        }
    }

    /// The part of a buffer to bind for a view: from the last place before it that the device can
    /// bind and that is a whole number of blocks from it.
    fn binding<'a>(&self, op: &dyn Op, place: &Place<'a>) -> Binding<'a> {
        let limits = &self.0.limits;
        let (align, block) =
            (limits.min_storage_buffer_offset_alignment as usize, place.spec.dtype.block_bytes());
        let bytes = place.bytes();
        let mut start = bytes.start;
        while !start.is_multiple_of(align) {
            start -= block;
        }
        let end = bytes.end.max(start + 4).next_multiple_of(4);
        let limit = limits.max_storage_buffer_binding_size;
        if (end - start) as u64 > limit {
            self.fail(Error::resource(format!(
                "{} binds {} bytes for {}, over the limit of {limit} bytes of {}; use --device cpu",
                op.name(),
                end - start,
                place.spec,
                self.name()
            )));
        }
        Binding { buffer: place.buffer, bytes: start..end }
    }
}
