//! Muon beside a plain version of its formulas in F64, and what it is for.

use puyu_autograd::backward;
use puyu_nn::{Optimizer, OptimizerOptions, Param};
use puyu_tensor::{DType, Tensor, ops};

const DECAY: f64 = 0.1;
const MOMENTUM: f64 = 0.95;

fn adamw() -> ops::AdamW {
    ops::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: DECAY as f32 }
}

fn optimizer(muon: bool, params: &[Param]) -> Optimizer {
    let muon = muon.then_some(MOMENTUM as f32);
    let options = OptimizerOptions { muon, ..OptimizerOptions::from(adamw()) };
    Optimizer::new(options, params.to_vec()).unwrap()
}

fn param(name: &str, shape: &[usize]) -> Param {
    let n: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..n).map(|i| ((i * 37 + name.len()) % 19) as f32 / 9.0 - 1.0).collect();
    Param::new(name, Tensor::new(&values, shape))
}

fn params() -> Vec<Param> {
    vec![
        param("layers.0.wo.weight", &[6, 4]),
        param("layers.0.w1.weight", &[3, 5]),
        param("tok_embeddings.weight", &[7, 4]),
        param("output.weight", &[7, 4]),
        param("v_head.weight", &[1, 4]),
        param("norm.weight", &[4]),
    ]
}

/// Gradients of step `t` for a parameter.
fn gradient(p: &Param, t: usize) -> Vec<f32> {
    let n = p.get().spec().numel();
    (0..n).map(|i| ((i * 53 + t * 29 + p.name().len()) % 23) as f32 / 7.0 - 1.5).collect()
}

/// A step whose gradients are [`gradient`]: those of Σ p·g.
fn step(optimizer: &mut Optimizer, params: &[Param], t: usize, lr: f32, scale: f32) {
    let mut loss = Tensor::scalar(0.0);
    for p in params {
        let g = Tensor::new(&gradient(p, t), p.get().spec().shape);
        loss = &loss + &(&p.get() * &g).sum_all();
    }
    let grads = backward(loss).unwrap();
    optimizer.step(grads, lr, scale).unwrap();
}

/// Rows of numbers, multiplied the plain way.
type Matrix = Vec<Vec<f64>>;

fn matrix(values: &[f32], columns: usize) -> Matrix {
    values.chunks(columns).map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect()
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let dot = |row: &[f64], j: usize| row.iter().zip(b).map(|(x, b)| x * b[j]).sum();
    a.iter().map(|row| (0..b[0].len()).map(|j| dot(row, j)).collect()).collect()
}

fn transposed(a: &Matrix) -> Matrix {
    (0..a[0].len()).map(|j| a.iter().map(|r| r[j]).collect()).collect()
}

/// Σ cᵢ·mᵢ.
fn sum(terms: &[(f64, &Matrix)]) -> Matrix {
    let at = |i: usize, j: usize| terms.iter().map(|(c, m)| c * m[i][j]).sum();
    let (rows, columns) = (terms[0].1.len(), terms[0].1[0].len());
    (0..rows).map(|i| (0..columns).map(|j| at(i, j)).collect()).collect()
}

/// X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X five times, from m over its Frobenius norm.
fn orthogonalized(m: &Matrix) -> Matrix {
    let norm = m.iter().flatten().map(|v| v * v).sum::<f64>().sqrt();
    let mut x = sum(&[(1.0 / norm, m)]);
    for _ in 0..5 {
        let square = product(&x, &transposed(&x));
        let even = sum(&[(-4.7750, &square), (2.0315, &product(&square, &square))]);
        x = sum(&[(3.4445, &x), (1.0, &product(&even, &x))]);
    }
    x
}

#[test]
fn muon_moves_matrices_by_its_formula_and_the_rest_as_adamw_does() {
    let (muon, plain) = (params(), params());
    let mut by_muon = optimizer(true, &muon);
    let mut by_adamw = optimizer(false, &plain);
    let mut expected: Vec<(Matrix, Matrix)> = muon[..2]
        .iter()
        .map(|p| {
            let columns = p.get().dim(1);
            let values = matrix(&p.get().to_vec::<f32>().unwrap(), columns);
            let zeros = sum(&[(0.0, &values)]);
            (values, zeros)
        })
        .collect();
    for t in 0..4 {
        let (lr, scale) = (0.01 / (t + 1) as f64, 0.5);
        step(&mut by_muon, &muon, t, lr as f32, scale as f32);
        step(&mut by_adamw, &plain, t, lr as f32, scale as f32);
        for (p, (value, momentum)) in muon.iter().zip(&mut expected) {
            let [rows, columns] = *p.get().shape() else { unreachable!("a matrix") };
            let g = sum(&[(scale, &matrix(&gradient(p, t), columns))]);
            *momentum = sum(&[(MOMENTUM, momentum), (1.0, &g)]);
            let u = orthogonalized(&sum(&[(MOMENTUM, momentum), (1.0, &g)]));
            let rate = lr * 0.2 * (rows.max(columns) as f64).sqrt();
            *value = sum(&[(1.0 - lr * DECAY, value), (-rate, &u)]);
            let got = p.get().to_vec::<f32>().unwrap();
            for (got, want) in got.iter().zip(value.iter().flatten()) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{}: {got}, not {want}", p.name());
            }
        }
    }
    for (a, b) in muon.iter().zip(&plain) {
        let equal = a.get().to_vec::<f32>().unwrap() == b.get().to_vec::<f32>().unwrap();
        assert_eq!(equal, !a.name().starts_with("layers"), "{}", a.name());
    }
}

#[test]
fn muon_moves_as_far_where_the_gradient_is_small() {
    let p = Param::new("layers.0.wo.weight", Tensor::zeros([2, 2], DType::F32));
    let mut optimizer = optimizer(true, std::slice::from_ref(&p));
    let g = Tensor::new(&[-3.0f32, 0.0, 0.0, -0.1], [2, 2]);
    let grads = backward((&p.get() * &g).sum_all()).unwrap();
    optimizer.step(grads, 1.0, 1.0).unwrap();
    let moved = p.get().to_vec::<f32>().unwrap();
    let full = 0.2 * 2f32.sqrt();
    assert!(moved[1] == 0.0 && moved[2] == 0.0, "{moved:?}");
    for v in [moved[0], moved[3]] {
        assert!((0.6 * full..1.3 * full).contains(&v), "{moved:?}");
    }
}

#[test]
fn muon_s_state_is_one_moment_and_the_master_and_goes_on_to_the_bit() {
    let whole = params();
    let mut optimizer_a = optimizer(true, &whole);
    (0..2).for_each(|t| step(&mut optimizer_a, &whole, t, 0.01, 1.0));
    let names: Vec<String> = optimizer_a.state_specs().into_iter().map(|(n, _)| n).collect();
    assert!(!names.contains(&"v.layers.0.wo.weight".to_owned()), "{names:?}");
    assert!(names.contains(&"v.output.weight".to_owned()), "{names:?}");
    let again = params();
    let mut optimizer_b = optimizer(true, &again);
    let part = |name: &str, _: &_| {
        let part = optimizer_a.state(name).unwrap().to_vec::<f32>().unwrap();
        let n = part.len();
        Ok(Tensor::new(&part, [n]))
    };
    optimizer_b.restore(2, &mut { part }).unwrap();
    (2..4).for_each(|t| step(&mut optimizer_a, &whole, t, 0.01, 1.0));
    (2..4).for_each(|t| step(&mut optimizer_b, &again, t, 0.01, 1.0));
    for (a, b) in whole.iter().zip(&again) {
        let bits = |p: &Param| p.get().to_vec::<f32>().unwrap();
        assert_eq!(bits(a), bits(b), "{}", a.name());
    }
}

/// A matrix with a memory of its own takes its gradient over as it comes, copied or not, and adds to it what comes
/// later; its neighbours are updated as without it.
#[test]
fn large_matrix_learns_as_a_small_one() {
    const ROWS: usize = Optimizer::LARGE / 8;
    let make = || [param("output.weight", &[ROWS, 8]), param("layers.0.wo.weight", &[4, 8])];
    // Two uses of the matrix, so that its gradient comes in two pieces; the first 4 rows stand for a small one.
    let x = |n: usize| Tensor::new(&gradient(&param("x", &[3, n]), n), [3, n]);
    let loss = |p: &[Param], seed: usize| {
        let (w, wo) = (p[0].get(), p[1].get());
        let first = x(4).matmul(&w.narrow(0, 0, 4)).sum_all();
        let second = x(8).matmul_transposed(&w).narrow(1, 0, 4).sum_all();
        &(&first.affine(seed as f32, 0.0) + &second) + &wo.sum_all()
    };
    let learn = |p: &[Param], given: bool| {
        let mut optimizer = optimizer(false, p);
        for step in 0..3 {
            for part in 0..2 {
                let loss = loss(p, 1 + step + part);
                match given {
                    true => optimizer.gather(loss, part == 0).unwrap(),
                    false => optimizer.gather(&loss, part == 0).unwrap(),
                }
            }
            let norm = optimizer.grad_norm().unwrap();
            assert!(norm > 1.0, "{norm}");
            optimizer.apply(1e-2, 0.5).unwrap();
            if p[0].get().dim(0) == ROWS {
                assert!(optimizer.grad(&p[0]).is_none(), "the gradient is held on");
                let message = optimizer.apply(1e-2, 0.5).unwrap_err().to_string();
                assert!(message.contains("gather them first"), "{message}");
            }
        }
        [p[0].get().narrow(0, 0, 4), p[1].get()].map(|t| t.to_vec::<f32>().unwrap())
    };
    let large = make();
    let small = [Param::new("output.weight", large[0].get().narrow(0, 0, 4)), make()[1].clone()];
    let [w, wo] = learn(&small, true);
    for given in [true, false] {
        let p = make();
        let [got, got_wo] = learn(&p, given);
        assert_eq!(got_wo, wo);
        for (got, want) in got.iter().zip(&w) {
            assert!((got - want).abs() <= 1e-6, "{got}, not {want}");
        }
    }
}

/// A table that is looked up and multiplied with, as a model's whose head is tied: rows that the lookup's gradient has
/// are added to what the product gave, whether the table has a memory of its own or not.
#[test]
fn rows_of_a_tied_table_are_added_in_place() {
    for rows in [12, Optimizer::LARGE / 8] {
        let p = [param("tok_embeddings.weight", &[rows, 8]), param("norm.weight", &[8])];
        let ids = Tensor::new(&[3u32, 9, 3, 0], [4]);
        let loss = || {
            let (table, norm) = (p[0].get(), p[1].get());
            let x = &table.embedding(&ids) * &norm;
            x.matmul_transposed(&table.narrow(0, 0, 12)).exp().sum_all()
        };
        let mut optimizer = optimizer(false, &p);
        let wanted = backward(loss()).unwrap();
        for part in 0..2 {
            optimizer.gather(loss(), part == 0).unwrap();
            for p in &p {
                let wanted = wanted.get(&p.get()).unwrap().to_vec::<f32>().unwrap();
                let found = optimizer.grad(p).unwrap().to_vec::<f32>().unwrap();
                for (found, wanted) in found.iter().zip(wanted) {
                    let wanted = wanted * (part + 1) as f32;
                    let off = (found - wanted).abs() / wanted.abs().max(1.0);
                    assert!(off < 1e-5, "{}: {found}, not {wanted}", p.name());
                }
            }
        }
    }
}
