//! AdamW over all trainable parameters at once.
//!
//! Parameters are views of one flat F32 master in name order; moments and gradients are flat too. A
//! step takes the views back, updates the flat memory in one pass, and hands out new views. A rank of
//! a larger run would own a range of it.

use crate::Param;
use puyu_autograd::Grads;
use puyu_tensor::{DType, Dims, Error, Result, Tensor, ops};

/// The optimizer: master weights and moments, all `[n]` in F32.
pub struct AdamW {
    op: ops::AdamW,
    params: Vec<(Param, Dims)>,
    master: Tensor,
    m: Tensor,
    v: Tensor,
    steps: u64,
}

impl AdamW {
    /// Makes `params` trainable, in order of their names; they become views of the master.
    ///
    /// # Errors
    /// If a parameter is not a float.
    pub fn new(op: ops::AdamW, mut params: Vec<Param>) -> Result<Self> {
        params.sort_by(|a, b| a.name().cmp(b.name()));
        params.dedup_by(|a, b| a.same(b));
        if let Some(p) = params.iter().find(|p| !p.get().dtype().is_float()) {
            return Err(Error::invalid(format!(
                "{} is {} and cannot be trained; load the model with f32 weights",
                p.name(),
                p.get().dtype()
            )));
        }
        let params: Vec<_> = params.into_iter().map(|p| (p.get().spec().shape, p)).collect();
        let flat =
            |(_, p): &(Dims, Param)| p.get().to_dtype(DType::F32).reshape([p.get().spec().numel()]);
        let parts: Vec<_> = params.iter().map(flat).collect();
        let master = Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0).detach();
        let zeros = || Tensor::zeros(master.spec().shape, DType::F32);
        let (m, v) = (zeros(), zeros());
        let params = params.into_iter().map(|(shape, p)| (p, shape)).collect();
        let this = Self { op, params, master, m, v, steps: 0 };
        this.hand_out();
        Ok(this)
    }

    /// Gives every parameter its view of the master.
    fn hand_out(&self) {
        let mut start = 0;
        for (param, shape) in &self.params {
            let view = self.master.narrow(0, start, shape.numel()).reshape(*shape);
            param.set(view.trainable());
            start += shape.numel();
        }
    }

    /// One step with learning rate `lr` on gradients multiplied by `scale` (1, or a clipping factor).
    ///
    /// # Errors
    /// If a parameter has no gradient.
    ///
    /// # Panics
    /// If a parameter's value is still held elsewhere, such as by the loss: drop that first.
    pub fn step(&mut self, mut grads: Grads, lr: f32, scale: f32) -> Result<()> {
        let mut flat = Vec::with_capacity(self.params.len());
        for (param, shape) in &self.params {
            let g = grads.take(&param.get()).ok_or_else(|| {
                Error::invalid(format!("{} has no gradient in this step", param.name()))
            })?;
            flat.push(g.reshape([shape.numel()]));
        }
        let g = Tensor::cat(&flat.iter().collect::<Vec<_>>(), 0);
        drop((flat, grads));
        for (param, _) in &self.params {
            param.set(Tensor::scalar(0.0));
        }
        self.steps += 1;
        let step = self.op.step(self.steps, lr, scale);
        self.op.update([&mut self.master, &mut self.m, &mut self.v], None, &g, &step);
        self.hand_out();
        Ok(())
    }
}

/// The L2 norm over the gradients of all `params`: √Σ g².
///
/// # Errors
/// If a parameter has no gradient, or the device failed.
pub fn grad_norm(params: &[Param], grads: &Grads) -> Result<f32> {
    let mut sum = 0.0f64;
    for param in params {
        let missing = || Error::invalid(format!("{} has no gradient", param.name()));
        let g = grads.get(&param.get()).ok_or_else(missing)?;
        sum += f64::from(g.square().sum_all().item()?);
    }
    Ok(sum.sqrt() as f32)
}
