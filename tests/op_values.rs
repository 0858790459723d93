//! What single ops must give on inputs chosen for it: rules that no composition states, and formulas
//! written again in double precision.

use puyu_tensor::ops::{AdamW, LinearCrossEntropy, NO_INDEX};
use puyu_tensor::{DType, Tensor, apply, cpu::pool, no_grad, quant};
use puyu_tests::{bits, close, numbers, values};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn u32s(v: &[u32]) -> Tensor {
    Tensor::new(v, [v.len()])
}

#[test]
fn softmax_survives_large_and_minus_infinite_logits() {
    let x = [1e4, 1e4 - 1.0, f32::NEG_INFINITY, -1e4];
    let y = values(&Tensor::new(&x, [1, 4]).softmax());
    let p = 1.0 / (1.0 + (-1.0f32).exp());
    close(&y, &[p, 1.0 - p, 0.0, 0.0], 1e-6).unwrap();
}

#[test]
fn cross_entropy_of_known_logits() {
    let x = Tensor::new(&[0.0, 0.0, 0.0, 0.0, 1e4, 0.0, -1e4, 3.0], [2, 4]).trainable();
    let (sum, count) = x.cross_entropy_sum(&u32s(&[2, 0]));
    assert_eq!(count.item().unwrap(), 2.0);
    close(&values(&sum), &[4f32.ln()], 1e-6).unwrap();
    // Ignored rows count nowhere and have no gradient.
    let mean = x.cross_entropy(&u32s(&[2, NO_INDEX]));
    close(&values(&mean), &[4f32.ln()], 1e-6).unwrap();
    let dx = puyu_autograd::backward(&mean).unwrap().take(&x).unwrap();
    assert_eq!(values(&dx), [0.25, 0.25, -0.75, 0.25, 0.0, 0.0, 0.0, 0.0]);
    assert!(x.cross_entropy(&u32s(&[NO_INDEX; 2])).item().unwrap().is_nan());
}

#[test]
fn the_fused_head_equals_head_and_loss_for_any_number_of_rows_at_a_time() {
    let (t, h, v) = (23, 12, 40);
    let target = |i: u32| if i % 5 == 2 { NO_INDEX } else { i * 7 % v as u32 };
    let targets = u32s(&(0..t as u32).map(target).collect::<Vec<_>>());
    let results = |loss: &dyn Fn(&Tensor, &Tensor) -> (Tensor, Tensor)| {
        let x = Tensor::new(&numbers(t * h, 1), [t, h]).trainable();
        let w = Tensor::new(&numbers(v * h, 2), [v, h]).trainable();
        let (sum, count) = loss(&x, &w);
        let mean = &sum / &count;
        let mut grads = puyu_autograd::backward(&mean).unwrap();
        [mean, grads.take(&x).unwrap(), grads.take(&w).unwrap()].map(|t| values(&t))
    };
    let plain = results(&|x, w| x.matmul_transposed(w).cross_entropy_sum(&targets));
    let whole = results(&|x, w| x.linear_cross_entropy(w, &targets, false));
    let pieces = [1, 5, 22, 23].map(|rows| {
        results(&|x, w| {
            let y = apply(LinearCrossEntropy { rows, bf16: false }, &[x, w, &targets]);
            (y[0].clone(), y[1].clone())
        })
    });
    for fused in pieces.iter().chain([&whole]) {
        for (fused, plain) in fused.iter().zip(&plain) {
            close(fused, plain, 1e-5).unwrap();
        }
    }
}

#[test]
fn the_largest_come_in_falling_order_and_equals_by_index() {
    let nan = f32::NAN;
    let x = Tensor::new(&[1.0, 3.0, nan, 3.0, 2.0, -0.0, 0.0, f32::INFINITY], [2, 4]);
    assert_eq!(x.argmax().data::<u32>(), [1, 3]);
    let (y, index) = x.top_k(3);
    assert_eq!(index.data::<u32>(), [1, 3, 0, 3, 0, 1]);
    assert_eq!(y.data::<f32>(), [3.0, 3.0, 1.0, f32::INFINITY, 2.0, 0.0]);
    assert_eq!(Tensor::full([5], nan).argmax().data::<u32>(), [0]);
    // A long row: the same as sorting it.
    let row: Vec<f32> = numbers(1000, 3).iter().map(|v| (v * 20.0).round() + 0.0).collect();
    let mut order: Vec<u32> = (0..1000).collect();
    order.sort_by(|&i, &j| row[j as usize].total_cmp(&row[i as usize]).then(i.cmp(&j)));
    let (_, index) = Tensor::new(&row, [1, 1000]).top_k(50);
    assert_eq!(index.data::<u32>(), &order[..50]);
}

#[test]
fn an_id_outside_the_table_is_named() {
    let w = Tensor::zeros([4, 3], DType::F32);
    let payload = catch_unwind(AssertUnwindSafe(|| w.embedding(&u32s(&[1, 9])))).unwrap_err();
    let message = payload.downcast_ref::<String>().unwrap();
    assert!(message.contains("index 9") && message.contains("4 rows"), "{message}");
}

#[test]
fn rows_with_the_same_index_are_added_in_order() {
    // In this order the sum is 1; in another the small number is lost.
    let x = Tensor::new(&[1e8, -1e8, 1.0, 5.0], [4, 1]);
    let y = x.scatter_add(&u32s(&[2, 2, 2, 0]), 3);
    assert_eq!(y.data::<f32>(), [5.0, 0.0, 1.0]);
}

/// The formula of PyTorch's AdamW, in double precision.
fn adamw_reference(op: &AdamW, p: &mut [f64], g: impl Fn(u64) -> Vec<f32>, steps: u64, lr: f64) {
    let [b1, b2, eps, decay] = [op.beta1, op.beta2, op.eps, op.weight_decay].map(f64::from);
    let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
    for t in 1..=steps {
        for (i, g) in g(t).into_iter().map(f64::from).enumerate() {
            p[i] -= lr * decay * p[i];
            m[i] = b1 * m[i] + (1.0 - b1) * g;
            v[i] = b2 * v[i] + (1.0 - b2) * g * g;
            let (c1, c2) = (1.0 - b1.powf(t as f64), 1.0 - b2.powf(t as f64));
            p[i] -= lr * (m[i] / c1) / ((v[i] / c2).sqrt() + eps);
        }
    }
}

#[test]
fn adamw_follows_its_formula() {
    let n = 40_000; // Several pieces for several threads.
    let op = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let gradient = |t: u64| numbers(n, 100 + t);
    let start = numbers(n, 5);
    let mut expected: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
    adamw_reference(&op, &mut expected, gradient, 3, 1e-3);
    let mut p = Tensor::new(&start, [n]);
    let [mut m, mut v] = [(); 2].map(|()| Tensor::zeros([n], DType::F32));
    for t in 1..=3 {
        // The gradient comes scaled by 8, as a loss scale would do; the step undoes it.
        let g = Tensor::new(&gradient(t), [n]).affine(8.0, 0.0);
        op.update([&mut p, &mut m, &mut v], &g, &op.step(t, 1e-3, 0.125));
    }
    let moved = |p: &[f64]| -> Vec<f32> {
        p.iter().zip(&start).map(|(p, s)| (p - f64::from(*s)) as f32).collect()
    };
    let found: Vec<f64> = values(&p).iter().map(|&v| f64::from(v)).collect();
    close(&moved(&found), &moved(&expected), 5e-4).unwrap();
}

#[test]
fn int8_rows_hold_scale_sum_and_codes_rounded_to_even() {
    let mut x = vec![0.0f32; 64];
    x[..5].copy_from_slice(&[127.0, -2.5, 3.5, -0.5, 1.2]);
    x[20] = 7.0;
    x[40] = -63.5;
    let y = int8_rows(&x);
    let codes: Vec<i8> = y[16..48].iter().map(|&b| b as i8).collect();
    assert_eq!(codes[..6], [127, -2, 4, 0, 1, 0]);
    assert_eq!(codes[20], 7);
    let number = |at: usize| i32::from_le_bytes(y[at..at + 4].try_into().unwrap());
    // Scale, sum of all codes, of the first half, and scale times sum.
    assert_eq!(f32::from_bits(number(0) as u32), 1.0);
    assert_eq!([number(4), number(8)], [137, 130]);
    assert_eq!(f32::from_bits(number(12) as u32), 137.0);
    assert_eq!(y[48 + 16 + 8] as i8, -127);
    // The error is at most half a step of the block's scale.
    let x = numbers(1 << 12, 9);
    let mut decoded = vec![0.0; x.len()];
    quant::decode_row(DType::I8Row, &int8_rows(&x), &mut decoded);
    for (x, y) in x.as_chunks::<32>().0.iter().zip(decoded.as_chunks::<32>().0) {
        let half = x.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 254.0;
        assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= half * 1.0001), "{x:?} {y:?}");
    }
}

#[test]
fn int8_rows_do_not_hide_what_is_not_finite() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = numbers(64, 4);
        x[37] = bad;
        let mut decoded = vec![0.0; 64];
        quant::decode_row(DType::I8Row, &int8_rows(&x), &mut decoded);
        assert!(decoded[37].is_nan() && decoded[..32].iter().all(|v| v.is_finite()), "{bad}");
    }
}

fn int8_rows(x: &[f32]) -> Vec<u8> {
    bits(&Tensor::new(x, [1, x.len()]).round_rows(DType::I8Row))
}

#[test]
fn nothing_is_recorded_without_gradients() {
    let x = Tensor::full([4], 2.0).trainable();
    assert!(x.square().requires_grad());
    assert!(!no_grad(|| x.square()).requires_grad());
    assert!(!no_grad(|| pool::with_threads(2, || x.square())).requires_grad());
}

#[test]
fn pieces_gather_in_a_flat_memory_and_one_norm_is_taken() {
    let mut flat = Tensor::full([40_000], 9.0);
    flat.accumulate(0, &Tensor::full([20_000], 3.0), false);
    flat.accumulate(20_000, &Tensor::full([100, 200], 1.0), false);
    flat.accumulate(20_000, &Tensor::full([200, 100], 3.0), true);
    let (found, wanted) = (flat.norm().unwrap(), (20_000.0f64 * (9.0 + 16.0)).sqrt());
    assert!((found / wanted - 1.0).abs() < 1e-6, "{found}, not {wanted}");
    for threads in [1, 3] {
        assert_eq!(pool::with_threads(threads, || flat.norm().unwrap()), found);
    }
    flat.accumulate(39_999, &Tensor::full([1], f32::NAN), true);
    assert!(flat.norm().unwrap().is_nan());
}

#[test]
fn rows_gather_in_a_flat_memory() {
    let (rows, d, before) = (5000, 3, 7);
    let index: Vec<u32> = (0..400).map(|i| i * i % 97 * 51).collect();
    let x = Tensor::new(&numbers(400 * d, 1), [400, d]);
    let index = u32s(&index);
    for threads in [1, 3] {
        let mut flat = Tensor::full([before + rows * d + 1], 0.0);
        pool::with_threads(threads, || flat.accumulate_rows(before, &x, &index));
        let found = flat.to_vec::<f32>().unwrap();
        let table = x.scatter_add(&index, rows).to_vec::<f32>().unwrap();
        assert_eq!(found[before..before + rows * d], table);
        assert!(found[..before].iter().all(|&v| v == 0.0) && found.last() == Some(&0.0));
    }
}

#[test]
fn dropout_keeps_the_mean_and_draws_anew_for_each_seed_and_salt() {
    let (n, p) = (100_000, 0.1);
    let ones = Tensor::full([n], 1.0);
    let drawn = |salt, seed: [u32; 2]| ones.dropout(p, salt, &u32s(&seed)).to_vec::<f32>().unwrap();
    let draws = [drawn(1, [0, 0]), drawn(2, [0, 0]), drawn(1, [1, 0]), drawn(1, [0, 1])];
    for (i, draw) in draws.iter().enumerate() {
        let zeros = draw.iter().filter(|&&y| y == 0.0).count() as f32;
        // A share of n draws is off by √(p(1 − p)/n) one time in three, by five times that in none.
        assert!((zeros / n as f32 - p).abs() < 5.0 * (p * (1.0 - p) / n as f32).sqrt());
        assert!(draw.iter().all(|&y| y == 0.0 || y == 1.0 / (1.0 - p)));
        // Two draws both drop an element, or one does and its neighbour, as often as chance has it.
        let both = |other: &[f32], by: usize| {
            let pairs = draw.iter().zip(&other[by..]);
            pairs.filter(|(a, b)| **a == 0.0 && **b == 0.0).count() as f32 / n as f32
        };
        let by = [(&draws[(i + 1) % 4], 0), (&draws[(i + 2) % 4], 0), (draw, 1), (draw, 64)];
        assert!(by.iter().all(|(other, by)| (both(other, *by) - p * p).abs() < 2e-3));
    }
}

#[test]
fn attention_gradients_have_the_same_bits_on_any_number_of_threads() {
    let (t, h, g, d) = (210, 4, 2, 20);
    let run = |threads: usize| {
        pool::with_threads(threads, || {
            let tensor = |heads: usize, seed| {
                Tensor::new(&numbers(t * heads * d, seed), [t, heads, d]).trainable()
            };
            let (q, k, v) = (tensor(h, 1), tensor(g, 2), tensor(g, 3));
            let y = q.attention(&k, &v, &u32s(&[0, 70, t as u32]), 0.2);
            let mut grads = puyu_autograd::backward(y.square().sum_all()).unwrap();
            [q, k, v].map(|x| bits(&grads.take(&x).unwrap()))
        })
    };
    // One thread takes whole sequences, several take blocks of them.
    let alone = run(1);
    [2, 3, 8].into_iter().for_each(|threads| assert_eq!(run(threads), alone, "{threads} threads"));
}
