//! The optimizer of all trainable parameters at once, in flat memories: matrices, which decay, and the
//! rest, which by default does not. AdamW updates them, or Muon those that are maps between hidden states.
//!
//! Parameters are views of a flat F32 master in name order; moments and the gradient are flat too. A step
//! takes the views back, updates the memory in one pass, and hands out new views. A large matrix has a memory of
//! its own, and its gradient is taken as it comes, not copied. A rank of a larger run would own a range of each.

use crate::{Param, muon};
use puyu_autograd::{Grads, Piece, backward_into};
use puyu_tensor::{DType, Dims, Error, Result, SparseRows, Spec, Tensor, no_grad, ops};
use std::collections::{HashMap, HashSet};

/// How [`Optimizer`] updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerOptions {
    /// AdamW's constants; its decay is that of matrices.
    pub op: ops::AdamW,
    /// The momentum of Muon, if it updates the matrices that are maps between hidden states.
    pub muon: Option<f32>,
    /// Tensors of one dimension (norms, biases) decay too.
    pub decay_vectors: bool,
}

impl From<ops::AdamW> for OptimizerOptions {
    fn from(op: ops::AdamW) -> Self {
        Self { op, muon: None, decay_vectors: false }
    }
}

/// The optimizer: per memory the master weights, the moments and the gradient, `[n]` in F32.
pub struct Optimizer {
    groups: Vec<Group>,
    steps: u64,
}

/// How a group is updated.
#[derive(Clone, Copy)]
enum Rule {
    AdamW(ops::AdamW),
    Muon { momentum: f32, weight_decay: f32 },
}

/// Names of what is saved of a parameter.
const MOMENTS: [&str; 2] = ["m", "v"];
const MASTER: &str = "master";

/// Parameters that are updated alike.
struct Group {
    rule: Rule,
    slots: Vec<Slot>,
    master: Tensor,
    /// The first moment, and AdamW's second.
    moments: Vec<Tensor>,
    /// None between a step and the gradients of the next if it is one parameter's.
    grad: Option<Tensor>,
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

/// Zeros beside `master`.
fn zeros(master: &Tensor) -> Tensor {
    Tensor::zeros(master.spec().shape, DType::F32).to_device(&master.device())
}

/// Zeros for a moment, which the first step reads before it writes them: each small page would be mapped twice.
fn moment(master: &Tensor) -> Tensor {
    Tensor::zeros_in_large_pages(master.spec().shape).to_device(&master.device())
}

impl Group {
    fn new(rule: Rule, params: Vec<Param>) -> Self {
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
        let count = if matches!(rule, Rule::AdamW(_)) { 2 } else { 1 };
        let moments = (0..count).map(|_| moment(&master)).collect();
        Self { rule, slots, master, moments, grad: None }
    }

    /// Adds `dx` to the gradient of the parameter that begins at `start`; without `keep`, what was there is
    /// forgotten. Rows of a table are added in place.
    fn gather(&mut self, start: usize, dx: Piece, keep: bool) {
        if let (Piece::Sparse(SparseRows { rows, index, .. }), true, Some(grad)) =
            (&dx, keep, &mut self.grad)
        {
            return grad.accumulate_rows(start, rows, index);
        }
        let mut dx = dx.whole();
        let whole = !keep && dx.shape() == &*self.slots[0].shape && self.slots.len() == 1;
        if whole && dx.is_alone() && dx.spec().is_contiguous() {
            self.grad = Some(dx.reshape([dx.spec().numel()]).detach());
        } else {
            let grad = self.grad.get_or_insert_with(|| zeros(&self.master));
            grad.accumulate(start, &dx, keep);
        }
    }

    /// What is saved of each parameter, with the kinds' names: the moments, and the master weight, which is
    /// all that a run needs to go on, whatever form the model itself is written in.
    fn state(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        MOMENTS.into_iter().zip(&self.moments).chain([(MASTER, &self.master)])
    }

    /// One step, while no parameter is a view.
    fn apply(&mut self, step: u64, lr: f64, scale: f64) {
        let Self { rule, slots, master, moments, grad } = self;
        let grad = grad.as_ref().expect("Optimizer::apply looks whether there is one");
        match *rule {
            Rule::AdamW(op) => {
                let [m, v] = &mut moments[..] else { unreachable!("AdamW has two moments") };
                let step = op.step(step, lr as f32, scale as f32).to_device(&grad.device());
                op.update([master, m, v], grad, &step);
            }
            Rule::Muon { momentum, weight_decay } => {
                let m = &mut moments[0];
                for slot in slots {
                    let g = slot.view(grad).affine(scale as f32, 0.0);
                    let sum = &slot.view(m).affine(momentum, 0.0) + &g;
                    // Nesterov's: what the momentum will be if the gradient stays.
                    let ahead = &sum.affine(momentum, 0.0) + &g;
                    let moved = muon::direction(&ahead).affine(-lr as f32, 0.0);
                    let decayed =
                        slot.view(master).affine((-lr * f64::from(weight_decay)) as f32, 0.0);
                    m.accumulate(slot.start, &sum, false);
                    master.accumulate(slot.start, &(&moved + &decayed), true);
                }
            }
        }
        if self.slots.len() == 1 {
            self.grad = None;
        }
    }

    /// Gives every parameter its view.
    fn hand_out(&self) {
        for slot in &self.slots {
            slot.param.set(slot.view(&self.master).trainable());
        }
    }
}

impl Optimizer {
    /// Elements from which on a matrix that AdamW updates has a memory of its own: 16 MB.
    pub const LARGE: usize = 1 << 22;

    /// Makes `params` trainable; they become views of the flat memory.
    ///
    /// # Errors
    /// If there are none, or a parameter is not a float.
    pub fn new(options: impl Into<OptimizerOptions>, mut params: Vec<Param>) -> Result<Self> {
        let OptimizerOptions { op, muon, decay_vectors } = options.into();
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
        let (matrices, rest): (Vec<_>, Vec<_>) =
            params.into_iter().partition(|p| p.get().shape().len() >= 2);
        let (maps, tables): (Vec<_>, Vec<_>) = matrices
            .into_iter()
            .partition(|p| muon.is_some() && muon::suits(p.name(), p.get().shape()));
        let still = ops::AdamW { weight_decay: 0.0, ..op };
        let plain = if decay_vectors { op } else { still };
        let muon = Rule::Muon { momentum: muon.unwrap_or(0.0), weight_decay: op.weight_decay };
        let (large, tables): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|p| p.get().spec().numel() >= Self::LARGE);
        let large = large.into_iter().map(|p| (Rule::AdamW(op), vec![p]));
        let groups = [(muon, maps), (Rule::AdamW(op), tables), (Rule::AdamW(plain), rest)];
        let groups = large.chain(groups).filter(|(_, params)| !params.is_empty());
        let groups: Vec<_> = groups.map(|(rule, params)| Group::new(rule, params)).collect();
        groups.iter().for_each(Group::hand_out);
        Ok(Self { groups, steps: 0 })
    }

    fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.groups.iter().enumerate().flat_map(|(i, g)| g.slots.iter().map(move |s| (i, s)))
    }

    /// The parameters, matrices first, the large ones before the others, in order of their names.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.slots().map(|(_, slot)| &slot.param)
    }

    /// How many numbers are trained.
    pub fn numel(&self) -> usize {
        self.groups.iter().map(|g| g.master.spec().numel()).sum()
    }

    /// Bytes of the memories: masters, moments and gradients.
    pub fn bytes(&self) -> usize {
        let of = |g: &Group| {
            // Master, gradient and moments are of one size.
            g.master.spec().bytes() * (2 + g.moments.len())
        };
        self.groups.iter().map(of).sum()
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
                groups[group].gather(start, dx, keep);
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

    /// The gathered gradient of a parameter; none before the first is gathered, and after a step maybe none.
    pub fn grad(&self, param: &Param) -> Option<Tensor> {
        let (i, slot) = self.slots().find(|(_, s)| s.param.same(param))?;
        self.groups[i].grad.as_ref().map(|grad| slot.view(grad))
    }

    /// The L2 norm of all gathered gradients, √Σ g², in one order for any number of threads; not
    /// finite if one of them is not.
    ///
    /// # Errors
    /// If the device failed.
    pub fn grad_norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for grad in self.groups.iter().filter_map(|g| g.grad.as_ref()) {
            sum += grad.square_sum()?;
        }
        Ok(sum.sqrt())
    }

    /// One step with learning rate `lr` on the gathered gradients multiplied by `scale` (one over the
    /// weight of the batch, times a clipping factor).
    ///
    /// # Errors
    /// If `lr` or `scale` is not finite, or no gradients were gathered; nothing is changed then.
    ///
    /// # Panics
    /// If a parameter's value is still held elsewhere, such as by the loss: drop that first.
    pub fn apply(&mut self, lr: f64, scale: f64) -> Result<()> {
        if !(lr.is_finite() && scale.is_finite()) {
            return Err(Error::invalid(format!("a step with learning rate {lr}, scale {scale}")));
        }
        if self.groups.iter().any(|g| g.grad.is_none()) {
            return Err(Error::invalid("a step without gradients; gather them first"));
        }
        self.steps += 1;
        for group in &mut self.groups {
            group.slots.iter().for_each(|s| s.param.set(Tensor::scalar(0.0)));
            no_grad(|| group.apply(self.steps, lr, scale));
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
    /// As [`Optimizer::apply`].
    pub fn step(&mut self, mut grads: Grads, lr: f32, scale: f32) -> Result<()> {
        for group in &mut self.groups {
            for i in 0..group.slots.len() {
                let Slot { param, start, .. } = &group.slots[i];
                let g = grads.take(&param.get()).ok_or_else(|| {
                    Error::invalid(format!("{} has no gradient in this step", param.name()))
                })?;
                group.gather(*start, Piece::Whole(g), false);
            }
        }
        drop(grads);
        self.apply(lr.into(), scale.into())
    }

    /// Names and specs of what [`Optimizer::state`] gives: for each parameter its moments and the master
    /// weight.
    pub fn state_specs(&self) -> Vec<(String, Spec)> {
        let of = |g: &Group, s: &Slot| -> Vec<_> {
            let name = |kind: &str| (format!("{kind}.{}", s.param.name()), Spec::f32(s.shape));
            g.state().map(|(kind, _)| name(kind)).collect()
        };
        self.slots().flat_map(|(i, s)| of(&self.groups[i], s)).collect()
    }

    /// A part of the state by its name in [`Optimizer::state_specs`]. It must be dropped before the next
    /// step.
    pub fn state(&self, name: &str) -> Option<Tensor> {
        let (kind, name) = name.split_once('.')?;
        let (i, slot) = self.slots().find(|(_, s)| s.param.name() == name)?;
        let (_, flat) = self.groups[i].state().find(|(k, _)| *k == kind)?;
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
            let moments = MOMENTS.into_iter().zip(&mut group.moments);
            for (kind, flat) in moments.chain([(MASTER, &mut group.master)]) {
                for slot in &group.slots {
                    let name = format!("{kind}.{}", slot.param.name());
                    let saved = part(&name, &Spec::f32(slot.shape))?;
                    flat.accumulate(slot.start, &saved.to_device(&flat.device()), false);
                }
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
