//! An op of one's own in one file: meaning, shape rule, CPU loop, gradient, and the check of all three.
//! `cargo run --release -p puyu --example new_op`. CONTRIBUTING.md says what an op of puyu's own has besides:
//! cases, from which every test is made, and a shader.

use puyu_autograd::gradcheck;
use puyu_tensor::cpu::pool::par_rows;
use puyu_tensor::{DType, Grad, Op, Outs, Result, Spec, Tensor, View, ViewMut, apply1};

/// The squared ReLU (So et al. 2021, "Primer", arXiv 2109.08668): y = max(x, 0)², x `[..]` -> y `[..]`.
#[derive(Debug)]
struct SquaredRelu;

impl Op for SquaredRelu {
    fn name(&self) -> &'static str {
        "squared_relu"
    }

    fn infer(&self, x: &[Spec]) -> Outs {
        assert!(x[0].dtype == DType::F32, "squared_relu: {}", x[0]);
        Spec::f32(x[0].shape).into()
    }

    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let x = x[0].data::<f32>();
        par_rows(y[0].data(), 1, 4096, |first, y| {
            y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = x.max(0.0) * x.max(0.0));
        });
    }

    /// dx = 2·max(x, 0)·dy, in tensor ops: max(x, 0) = (x + |x|)/2, and |x| = √(x²).
    fn grad(&self, x: &[Tensor], _: &[Tensor], dy: &[Option<Tensor>]) -> Grad {
        let Some(dy) = &dy[0] else { return Grad::Inputs(vec![None]) };
        let twice = &x[0] + &(&x[0] * &x[0]).sqrt();
        Grad::one(&twice * dy)
    }
}

/// What a model would call.
fn squared_relu(x: &Tensor) -> Tensor {
    apply1(SquaredRelu, &[x])
}

fn main() -> Result<()> {
    println!("{:?}", check()?);
    Ok(())
}

/// max(x, 0)² of four numbers, and the largest relative error of a gradient through a matmul and the op.
pub fn check() -> Result<(Vec<f32>, f64)> {
    let x = Tensor::new(&[-1.0f32, 0.5, 2.0, -3.0, 1.5, 0.25], [2, 3]);
    let w = Tensor::new(&[0.5f32, -1.0, 2.0, 1.0, 0.75, -0.5], [3, 2]);
    let direction = |i: usize| Some(Tensor::full([[2, 3], [3, 2]][i].as_slice(), 0.3));
    let loss = |x: &[Tensor]| squared_relu(&x[0].matmul(&x[1])).reshape([4]).sum(0);
    let errors = gradcheck(loss, &[x, w], 1e-3, direction)?;
    let worst = errors.iter().map(|e| e.relative).fold(0.0, f64::max);
    let y = squared_relu(&Tensor::new(&[-2.0f32, 0.0, 0.5, 3.0], [4]));
    Ok((y.to_vec()?, worst))
}
