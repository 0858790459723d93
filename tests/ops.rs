//! The loops over the op catalog: every case of every op, at fixed and at random sizes, against what
//! an op promises. `gpu == cpu` is in `gpu_ops.rs`, the same cases on a device.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use puyu_autograd::backward_from;
use puyu_tensor::op::Entry;
use puyu_tensor::ops::CATALOG;
use puyu_tensor::{DType, Device, Dims, Tensor, cpu::pool, fill_scratch, no_grad};
use puyu_tests::{Run, SIZES, bits, close, numbers, other_layouts, tolerance, values};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Sizes that proptest draws beside the fixed ones.
const RANDOM: u32 = 16;

/// Calls `check` with every case of the catalog at `sizes`; it answers what is wrong.
fn each(sizes: &[[usize; 4]], check: impl Fn(&Run) -> Result<(), String>) {
    let mut failures = Vec::new();
    for entry in CATALOG {
        for &size in sizes {
            for (seed, case) in (1..).zip((entry.cases)(size)) {
                let run = Run::new(case, seed);
                if let Err(why) = check(&run) {
                    failures.push(format!("{} at {size:?}: {run:?}: {why}", entry.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// [`each`] at random sizes; reports the smallest that fail.
fn each_random(check: impl Fn(&Run) -> Result<(), String>) {
    let config = Config { cases: RANDOM, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let checked = runner.run(&(prop::array::uniform4(1usize..=33), 1u64..1000), |(size, seed)| {
        for Entry { name, cases, .. } in CATALOG {
            for case in cases(size) {
                let run = Run::new(case, seed);
                check(&run)
                    .map_err(|why| TestCaseError::fail(format!("{name}: {run:?}: {why}")))?;
            }
        }
        Ok(())
    });
    checked.unwrap_or_else(|e| panic!("{e}"));
}

fn equals_compose(run: &Run) -> Result<(), String> {
    let Some(expected) = no_grad(|| run.op.compose(&run.x)) else { return Ok(()) };
    let found = run.run();
    assert_eq!(found.len(), expected.len(), "{run:?}: the number of outputs");
    for (i, (y, expected)) in found.iter().zip(&expected).enumerate() {
        let same = y.shape() == expected.shape() && y.dtype() == expected.dtype();
        if !same {
            return Err(format!("output {i} is {}, composed {}", y.spec(), expected.spec()));
        }
        let allowed = tolerance(if rounds(run) { DType::BF16 } else { y.dtype() });
        close(&values(y), &values(expected), allowed).map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(())
}

#[test]
fn equals_its_composition() {
    each(&SIZES, equals_compose);
    each_random(equals_compose);
}

/// Ops that give no gradient to a number that goes in, and why.
const NO_GRADIENT: [(&str, &str); 6] = [
    ("argmax", "an index does not move"),
    ("max", "it only stabilizes"),
    ("paged_attention", "it reads a cache, which serves inference"),
    ("round_rows", "it serves inference"),
    ("project_rounded", "it serves inference"),
    ("rope", "angles are those of positions"),
];

/// The projection of output `i` that makes a scalar of it.
fn projection(i: usize, y: &Tensor) -> Tensor {
    Tensor::new(&numbers(y.spec().numel(), 77 + i as u64), y.spec().shape)
}

/// The gradients of Σ projection · f(x) for the inputs named in `which`; `None` if one has none.
fn gradients(
    x: &[Tensor],
    which: &[usize],
    f: impl Fn(&[Tensor]) -> Vec<Tensor>,
) -> Option<Vec<Tensor>> {
    let mut x = x.to_vec();
    which.iter().for_each(|&i| x[i] = x[i].trainable());
    let y = f(&x);
    let numbers = y.into_iter().enumerate().filter(|(_, y)| y.dtype() != DType::U32);
    let pairs: Vec<_> = numbers.map(|(i, y)| (projection(i, &y), y)).map(|(r, y)| (y, r)).collect();
    let mut grads = backward_from(pairs).ok()?;
    which.iter().map(|&i| grads.take(&x[i])).collect()
}

/// Ops that round what goes into them: no small change shows, and another order of the same shows more.
fn rounds(run: &Run) -> bool {
    run.op.name().ends_with("_bf16")
}

/// The terms of Σ projection · y.
fn projected(run: &Run, x: &[Tensor]) -> Vec<f64> {
    let mut terms = Vec::new();
    for (i, y) in run.run_on(x).iter().enumerate().filter(|(_, y)| y.dtype() == DType::F32) {
        let r = values(&projection(i, y));
        terms.extend(values(y).iter().zip(r).map(|(&y, r)| f64::from(y) * f64::from(r)));
    }
    terms
}

/// The derivative of the sum of [`projected`] along direction `d` of input `i`: central differences at two
/// distances, combined so that the error is of fourth order (Richardson 1911).
fn slope(run: &Run, i: usize, d: &[f32]) -> f64 {
    let at = |h: f32| {
        let mut x = run.x.clone();
        let moved: Vec<f32> = values(&x[i]).iter().zip(d).map(|(x, d)| x + h * d).collect();
        x[i] = Tensor::new(&moved, x[i].spec().shape);
        projected(run, &x).iter().sum::<f64>()
    };
    let central = |h: f32| (at(h) - at(-h)) / (2.0 * f64::from(h));
    (4.0 * central(STEP / 2.0) - central(STEP)) / 3.0
}

/// The distance of finite differences: far enough that f32 rounding of the outputs is small beside
/// the change, near enough that the error of fourth order is too.
const STEP: f32 = 0.02;

fn norm(x: impl IntoIterator<Item = f64>) -> f64 {
    x.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The gradient `g` of input `i` along two dense random directions and a few single elements.
fn check_slopes(run: &Run, i: usize, g: &[f32]) -> Result<(), String> {
    let n = g.len();
    let typical = norm(g.iter().map(|&g| f64::from(g))) / (n as f64).sqrt();
    // What the last few bits of the outputs make of a difference quotient.
    let noise = 1e-6 * norm(projected(run, &run.x)) / f64::from(STEP);
    let sign = |v: f32| if v < 0.0 { -1.0 } else { 1.0 };
    let dense = (0..2).map(|s| numbers(n, s).into_iter().map(sign).collect());
    let one = |at: usize| (0..n).map(|j| if j == at { 1.0 } else { 0.0 }).collect();
    let single = (0..n.min(8)).map(|s| one(s * 7919 % n));
    for d in dense.chain(single).collect::<Vec<Vec<f32>>>() {
        let found: f64 = g.iter().zip(&d).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        let expected = slope(run, i, &d);
        let length = d.iter().map(|d| d.abs()).sum::<f32>().sqrt();
        let allowed = 1e-3 * (found.abs() + (typical + 0.1) * f64::from(length)) + noise;
        if (found - expected).abs() > allowed {
            return Err(format!("gradient of input {i} is {found}, by differences {expected}"));
        }
    }
    Ok(())
}

/// The gradient of every input against finite differences and against the composition's gradient.
fn gradients_hold(run: &Run) -> Result<(), String> {
    if !run.y.is_empty() {
        return Ok(());
    }
    let forward = |x: &[Tensor]| run.run_on(x);
    let smooth = run.run().iter().all(|y| matches!(y.dtype(), DType::F32 | DType::U32));
    let smooth = smooth && !rounds(run);
    let composed = no_grad(|| run.op.compose(&run.x)).is_some();
    let of = |i: usize| run.x[i].dtype();
    // Tables of BF16 are looked up, and do not learn.
    let learns = |i: &usize| match of(*i) {
        DType::BF16 => !["embedding", "gather"].contains(&run.op.name()),
        dtype => dtype == DType::F32,
    };
    let floats = (0..run.x.len()).filter(learns);
    let mut with_gradient = Vec::new();
    for i in floats {
        let Some(g) = gradients(&run.x, &[i], forward) else {
            if NO_GRADIENT.iter().any(|(name, _)| *name == run.op.name()) {
                continue;
            }
            return Err(format!("input {i} has no gradient"));
        };
        with_gradient.push((i, bits(&g[0])));
        if g[0].shape() != run.x[i].shape() {
            return Err(format!("the gradient of input {i} is {}", g[0].spec()));
        }
        let g = values(&g[0]);
        if smooth && of(i) == DType::F32 && g.len() <= 1 << 12 {
            check_slopes(run, i, &g)?;
        }
        if composed {
            let compose = |x: &[Tensor]| run.op.compose(x).expect("it has one");
            let expected = gradients(&run.x, &[i], compose)
                .ok_or_else(|| format!("the composition gives input {i} no gradient"))?;
            let allowed = match of(i) {
                DType::BF16 => 5e-2,
                _ if rounds(run) => 2e-2,
                _ => 1e-4,
            };
            close(&g, &values(&expected[0]), allowed)
                .map_err(|e| format!("gradient of input {i} against the composition's: {e}"))?;
        }
    }
    let which: Vec<usize> = with_gradient.iter().map(|(i, _)| *i).collect();
    let together =
        gradients(&run.x, &which, forward).ok_or("no gradient for all inputs at once")?;
    for ((i, alone), g) in with_gradient.iter().zip(&together) {
        if bits(g) != *alone {
            return Err(format!("the gradient of input {i} changes when others have one"));
        }
    }
    Ok(())
}

#[test]
fn gradients_equal_finite_differences_and_the_compositions() {
    each(&SIZES[..2], gradients_hold);
    each_random(gradients_hold);
}

fn writes_all(run: &Run) -> Result<(), String> {
    let ones = fill_scratch(0xff, || run.bits());
    let other = fill_scratch(0x5a, || run.bits());
    if ones == other { Ok(()) } else { Err("leaves part of its output unwritten".into()) }
}

#[test]
fn every_element_is_written() {
    each(&SIZES, writes_all);
    each_random(writes_all);
}

fn views_equal(run: &Run) -> Result<(), String> {
    let expected = run.bits();
    for i in 0..run.x.len() {
        for view in other_layouts(&run.x[i], &Device::Cpu) {
            let (strides, packing) = (view.spec().strides, view.spec().packing);
            let mut x = run.x.clone();
            x[i] = view;
            let found: Vec<_> = run.run_on(&x).iter().map(bits).collect();
            if found != expected {
                return Err(format!("differs when input {i} has strides {strides}, {packing:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn views_equal_contiguous_inputs() {
    each(&SIZES[..2], views_equal);
    each_random(views_equal);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    each(&SIZES, |run| {
        let alone = pool::with_threads(1, || run.bits());
        for threads in [2, 3] {
            if pool::with_threads(threads, || run.bits()) != alone {
                return Err(format!("{threads} threads give other bits than one"));
            }
        }
        Ok(())
    });
}

/// The message of the panic that `f` ends with, if it does.
fn refusal(f: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(f)).err()?;
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_string()))
}

#[test]
fn what_does_not_fit_is_refused_with_name_and_shapes() {
    for entry in CATALOG {
        let cases = (entry.bad)();
        assert!(!cases.is_empty(), "{} has no bad cases", entry.name);
        for case in cases {
            let run = Run::new(case, 1);
            let message = refusal(|| drop(run.run()));
            let message = message.unwrap_or_else(|| panic!("{run:?} was not refused"));
            let shapes: Vec<Dims> = run.y.iter().chain(&run.x).map(|t| t.spec().shape).collect();
            let named = shapes.iter().filter(|s| message.contains(&s.to_string())).count();
            let enough = message.contains(run.op.name()) && named >= shapes.len().min(2);
            assert!(enough, "{run:?} was refused without its name and shapes: {message}");
        }
    }
}

#[test]
fn an_op_in_place_changes_only_what_nobody_else_sees() {
    let mut tried = 0;
    for entry in CATALOG {
        for case in (entry.cases)(SIZES[0]) {
            let run = Run::new(case, 1);
            for i in 0..run.y.len() {
                let mut y: Vec<Tensor> =
                    run.y.iter().map(|y| Tensor::from_bytes(y.bytes(), *y.spec())).collect();
                let other = y[i].detach();
                let message = refusal(|| {
                    let x: Vec<&Tensor> = run.x.iter().collect();
                    let mut y: Vec<&mut Tensor> = y.iter_mut().collect();
                    puyu_tensor::apply_to_dyn(&*run.op, &mut y, &x);
                });
                let message = message.unwrap_or_else(|| panic!("{run:?} changed a shared tensor"));
                assert!(message.contains("shared"), "{run:?}: {message}");
                assert_eq!(bits(&other), bits(&run.y[i]), "{run:?}: output {i} was changed");
                tried += 1;
            }
        }
    }
    assert!(tried > 0, "the catalog has no op that works in place");
}

#[test]
fn every_op_is_in_the_catalog_once() {
    let mut names: Vec<_> = CATALOG.iter().map(|e| e.name).collect();
    assert!(names.is_sorted(), "the catalog is not in order: {names:?}");
    names.dedup();
    assert_eq!(names.len(), CATALOG.len(), "a line is in the catalog twice");
}
