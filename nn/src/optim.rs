//! AdamW over all trainable parameters at once, in two flat memories: matrices, which decay, and the
//! rest, which by default does not.
//!
//! Parameters are views of a flat F32 master in name order, or of its BF16 copy; moments and the
//! gradient are flat too. A step takes the views back, updates the memory in one pass, and hands out
//! new views. A rank of a larger run would own a range of each memory.

use crate::Param;
use puyu_autograd::{Grads, backward_into};
use puyu_tensor::{DType, Dims, Error, Result, Spec, Tensor, ops};
use std::collections::{HashMap, HashSet};

/// How [`AdamW`] updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// The op's constants; its decay is that of matrices.
    pub op: ops::AdamW,
    /// Tensors of one dimension (norms, biases) decay too.
    pub decay_vectors: bool,
    /// The element type of the matrices that the model computes with: F32, or BF16 beside an F32
    /// master.
    pub dtype: DType,
}

impl From<ops::AdamW> for AdamWOptions {
    fn from(op: ops::AdamW) -> Self {
        Self { op, decay_vectors: false, dtype: DType::F32 }
    }
}

/// The optimizer: per memory the master weights, both moments and the gradient, `[n]` in F32.
pub struct AdamW {
    groups: Vec<Group>,
    steps: u64,
}

/// Parameters that are updated alike.
struct Group {
    op: ops::AdamW,
    slots: Vec<Slot>,
    master: Tensor,
    m: Tensor,
    v: Tensor,
    /// What the parameters are views of, if that is not the master.
    copy: Option<Tensor>,
    grad: Tensor,
}

/// A parameter's place in the flat memory.
struct Slot {
    param: Param,
    shape: Dims,
    start: usize,
}

impl Slot {
    fn view(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.start, self.shape.numel()).reshape(self.shape)
    }
}

impl Group {
    fn new(op: ops::AdamW, params: Vec<Param>, dtype: DType) -> Self {
        let mut start = 0;
        let slot = |param: Param| {
            let shape = param.get().spec().shape;
            let slot = Slot { param, shape, start };
            start += shape.numel();
            slot
        };
        let slots: Vec<Slot> = params.into_iter().map(slot).collect();
        let value = |s: &Slot| s.param.get().to_dtype(DType::F32).reshape([s.shape.numel()]);
        let parts: Vec<Tensor> = slots.iter().map(value).collect();
        let master = Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0).detach();
        let zeros = || Tensor::zeros(master.spec().shape, DType::F32).to_device(&master.device());
        let (m, v, grad) = (zeros(), zeros(), zeros());
        let copy = (dtype != DType::F32).then(|| master.to_dtype(dtype));
        Self { op, slots, master, m, v, copy, grad }
    }

    /// Gives every parameter its view.
    fn hand_out(&self) {
        for slot in &self.slots {
            slot.param.set(slot.view(self.copy.as_ref().unwrap_or(&self.master)).trainable());
        }
    }
}

/// What is saved of each parameter: the moments, and the master weight, which is all that a run needs
/// to go on, whatever form the model itself is written in.
const STATE: [&str; 3] = ["m", "v", "master"];

impl AdamW {
    /// Makes `params` trainable; they become views of the flat memory.
    ///
    /// # Errors
    /// If there are none, a parameter is not a float, or the dtype is neither F32 nor BF16.
    pub fn new(options: impl Into<AdamWOptions>, mut params: Vec<Param>) -> Result<Self> {
        let AdamWOptions { op, decay_vectors, dtype } = options.into();
        params.sort_by(|a, b| a.name().cmp(b.name()));
        params.dedup_by(|a, b| a.same(b));
        if params.is_empty() {
            return Err(Error::invalid("there are no parameters to train"));
        }
        if let Some(p) = params.iter().find(|p| !p.get().dtype().is_float()) {
            return Err(Error::invalid(format!(
                "{} is {} and cannot be trained; load the model with f32 weights",
                p.name(),
                p.get().dtype()
            )));
        }
        if !matches!(dtype, DType::F32 | DType::BF16) {
            return Err(Error::unsupported(format!("training in {dtype}; use f32 or bf16")));
        }
        let (matrices, rest): (Vec<_>, Vec<_>) =
            params.into_iter().partition(|p| p.get().shape().len() >= 2);
        let still = ops::AdamW { weight_decay: 0.0, ..op };
        let plain = if decay_vectors { op } else { still };
        let groups = [(op, matrices, dtype), (plain, rest, DType::F32)].into_iter();
        let groups = groups.filter(|(_, params, _)| !params.is_empty());
        let groups: Vec<_> = groups.map(|(op, params, d)| Group::new(op, params, d)).collect();
        groups.iter().for_each(Group::hand_out);
        Ok(Self { groups, steps: 0 })
    }

    fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.groups.iter().enumerate().flat_map(|(i, g)| g.slots.iter().map(move |s| (i, s)))
    }

    /// The parameters, matrices first, in order of their names.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.slots().map(|(_, slot)| &slot.param)
    }

    /// How many numbers are trained.
    pub fn numel(&self) -> usize {
        self.groups.iter().map(|g| g.master.spec().numel()).sum()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Runs the backward pass of `loss` and adds its gradients to those gathered so far; the first
    /// micro-batch of a step forgets the last step's. A loss that is given away frees its activations
    /// on the way.
    ///
    /// # Errors
    /// If a trainable parameter takes no part in `loss`.
    pub fn gather(&mut self, loss: impl Into<Tensor>, first: bool) -> Result<()> {
        let place = |(i, s): (usize, &Slot)| (s.param.get().id(), (i, s.start));
        let places: HashMap<u64, (usize, usize)> = self.slots().map(place).collect();
        let mut fresh: HashSet<u64> = HashSet::new();
        let groups = &mut self.groups;
        backward_into(loss, &mut |id, dx| {
            if let Some(&(group, start)) = places.get(&id) {
                let keep = !first || !fresh.insert(id);
                groups[group].grad.accumulate(start, &dx, keep);
            }
        })?;
        let missing = |s: &&Slot| first && !fresh.contains(&s.param.get().id());
        match self.slots().map(|(_, s)| s).find(missing) {
            Some(slot) => Err(Error::invalid(format!(
                "{} takes no part in the loss, so it cannot be trained",
                slot.param.name()
            ))),
            None => Ok(()),
        }
    }

    /// The gathered gradient of a parameter.
    pub fn grad(&self, param: &Param) -> Option<Tensor> {
        let (i, slot) = self.slots().find(|(_, s)| s.param.same(param))?;
        Some(slot.view(&self.groups[i].grad))
    }

    /// The L2 norm of all gathered gradients, √Σ g², in one order for any number of threads; not
    /// finite if one of them is not.
    ///
    /// # Errors
    /// If the device failed.
    pub fn grad_norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for group in &self.groups {
            sum += group.grad.square_sum()?;
        }
        Ok(sum.sqrt())
    }

    /// One step with learning rate `lr` on the gathered gradients multiplied by `scale` (one over the
    /// weight of the batch, times a clipping factor).
    ///
    /// # Errors
    /// If `lr` or `scale` is not finite; nothing is changed then.
    ///
    /// # Panics
    /// If a parameter's value is still held elsewhere, such as by the loss: drop that first.
    pub fn apply(&mut self, lr: f64, scale: f64) -> Result<()> {
        if !(lr.is_finite() && scale.is_finite()) {
            return Err(Error::invalid(format!("a step with learning rate {lr}, scale {scale}")));
        }
        self.steps += 1;
        for group in &mut self.groups {
            group.slots.iter().for_each(|s| s.param.set(Tensor::scalar(0.0)));
            let step = group.op.step(self.steps, lr as f32, scale as f32);
            let Group { op, master, m, v, copy, grad, .. } = group;
            op.update([master, m, v], copy.as_mut(), grad, &step.to_device(&grad.device()));
            group.hand_out();
        }
        Ok(())
    }

    /// One step on the gradients `grads` of one batch.
    ///
    /// # Errors
    /// If a parameter has no gradient, or a number is not finite.
    ///
    /// # Panics
    /// As [`AdamW::apply`].
    pub fn step(&mut self, mut grads: Grads, lr: f32, scale: f32) -> Result<()> {
        for group in &mut self.groups {
            for slot in &group.slots {
                let g = grads.take(&slot.param.get()).ok_or_else(|| {
                    let name = slot.param.name();
                    Error::invalid(format!("{name} has no gradient in this step"))
                })?;
                group.grad.accumulate(slot.start, &g, false);
            }
        }
        drop(grads);
        self.apply(lr.into(), scale.into())
    }

    /// Names and specs of what [`AdamW::state`] gives: for each parameter both moments and the master
    /// weight.
    pub fn state_specs(&self) -> Vec<(String, Spec)> {
        let specs = self.slots().flat_map(|(_, s)| {
            let name = s.param.name();
            STATE.iter().map(move |kind| (format!("{kind}.{name}"), Spec::f32(s.shape)))
        });
        specs.collect()
    }

    /// A part of the state by its name in [`AdamW::state_specs`]. It must be dropped before the next
    /// step.
    pub fn state(&self, name: &str) -> Option<Tensor> {
        let (kind, name) = name.split_once('.')?;
        let (i, slot) = self.slots().find(|(_, s)| s.param.name() == name)?;
        let Group { m, v, master, .. } = &self.groups[i];
        let flat = match kind {
            "m" => m,
            "v" => v,
            "master" => master,
            _ => return None,
        };
        Some(slot.view(&flat.detach()))
    }

    /// Puts back the state after `steps` steps: `part(name, spec)` gives what was saved.
    ///
    /// # Errors
    /// If a part cannot be had; the optimizer is of no use then.
    pub fn restore(
        &mut self,
        steps: u64,
        part: &mut dyn FnMut(&str, &Spec) -> Result<Tensor>,
    ) -> Result<()> {
        for group in &mut self.groups {
            group.slots.iter().for_each(|s| s.param.set(Tensor::scalar(0.0)));
            let flats = [&mut group.m, &mut group.v, &mut group.master];
            for (kind, flat) in STATE.into_iter().zip(flats) {
                for slot in &group.slots {
                    let name = format!("{kind}.{}", slot.param.name());
                    let saved = part(&name, &Spec::f32(slot.shape))?;
                    flat.accumulate(slot.start, &saved.to_device(&flat.device()), false);
                }
            }
            if let Some(copy) = &mut group.copy {
                *copy = group.master.to_dtype(copy.dtype());
            }
            group.hand_out();
        }
        self.steps = steps;
        Ok(())
    }
}

/// The factor that limits a gradient's norm to `most`: min(1, most/(norm + 1e-6)), as PyTorch's
/// `clip_grad_norm_` has it.
pub fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}

/// The L2 norm over the gradients of all `params`: √Σ g².
///
/// # Errors
/// If a parameter has no gradient, or the device failed.
pub fn grad_norm(params: &[Param], grads: &Grads) -> Result<f32> {
    let mut sum = 0.0f64;
    for param in params {
        let missing = || Error::invalid(format!("{} has no gradient", param.name()));
        sum += grads.get(&param.get()).ok_or_else(missing)?.square_sum()?;
    }
    Ok(sum.sqrt() as f32)
}
