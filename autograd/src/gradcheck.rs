//! Gradients against finite differences.

use crate::backward;
use puyu_tensor::{Result, Tensor, no_grad};

/// How far a gradient is from the finite difference along one direction.
#[derive(Clone, Copy, Debug)]
pub struct GradError {
    /// Which input.
    pub input: usize,
    /// The derivative along the direction, from `backward`.
    pub analytic: f64,
    /// The same from central differences.
    pub numeric: f64,
    /// |analytic - numeric| over max(1, |analytic|, |numeric|).
    pub relative: f64,
}

/// For each F32 input of the scalar function `f` the error of its gradient along `direction(input)`:
/// (f(x + eps·d) - f(x - eps·d)) / 2eps beside d · ∇f.
///
/// # Errors
/// If `backward` fails or the device does.
pub fn gradcheck(
    f: impl Fn(&[Tensor]) -> Tensor,
    x: &[Tensor],
    eps: f32,
    direction: impl Fn(usize) -> Option<Tensor>,
) -> Result<Vec<GradError>> {
    let mut errors = Vec::new();
    for (input, value) in x.iter().enumerate() {
        let Some(d) = direction(input) else { continue };
        let mut leaves = x.to_vec();
        leaves[input] = value.trainable();
        let mut grads = backward(f(&leaves))?;
        let analytic = match grads.take(&leaves[input]) {
            Some(dx) => dot(&dx, &d)?,
            None => 0.0,
        };
        let at = |eps: f32| -> Result<f64> {
            let mut moved = x.to_vec();
            moved[input] = value + &d.affine(eps, 0.0);
            Ok(f64::from(no_grad(|| f(&moved)).item()?))
        };
        let numeric = (at(eps)? - at(-eps)?) / (2.0 * f64::from(eps));
        let relative = (analytic - numeric).abs() / analytic.abs().max(numeric.abs()).max(1.0);
        errors.push(GradError { input, analytic, numeric, relative });
    }
    Ok(errors)
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    Ok(a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum())
}
