//! The loops over the op catalog: every case of every op, at fixed and at random sizes, against what
//! an op promises. `gpu == cpu` is in `gpu.rs`, the same cases on a device.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use puyu_tensor::op::Entry;
use puyu_tensor::ops::CATALOG;
use puyu_tensor::{DType, Dims, Spec, Tensor, cpu::pool, fill_scratch, no_grad};
use puyu_tests::{Run, SIZES, bits, close, values};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Sizes that proptest draws beside the fixed ones.
const RANDOM: u32 = 24;

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

/// Rounded outputs agree to a step of their dtype, f32 to summation order.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F32 { 2e-5 } else { 1e-2 }
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
        close(&values(y), &values(expected), tolerance(y.dtype()))
            .map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(())
}

#[test]
fn equals_its_composition() {
    each(&SIZES, equals_compose);
    each_random(equals_compose);
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

/// The elements of `x` laid out otherwise: inside larger tensors of 0xff bytes (NaN for floats,
/// out of range for indices), along the first and the last dimension, and transposed.
fn other_layouts(x: &Tensor) -> Vec<Tensor> {
    let spec = *x.spec();
    let rank = spec.rank() as isize;
    let whole_rows = spec.dtype.is_block();
    let inside = |axis: isize| {
        let n = x.dim(axis);
        let pad = |n: usize| {
            let pad = Spec::new(spec.shape.with(axis as usize, n), spec.dtype);
            Tensor::from_bytes(&vec![0xff; pad.bytes()], pad)
        };
        let unit = if axis + 1 == rank { spec.dtype.block_len() } else { 1 };
        Tensor::cat(&[&pad(unit), x, &pad(2 * unit)], axis).narrow(axis, unit, n)
    };
    let swapped = |a: isize, b: isize| x.transpose(a, b).contiguous().transpose(a, b);
    let mut layouts: Vec<Tensor> = (0..rank).map(inside).collect();
    if rank >= 2 && !whole_rows {
        layouts.push(swapped(-2, -1));
    }
    if rank >= 3 {
        layouts.push(swapped(0, 1));
    }
    layouts
}

fn views_equal(run: &Run) -> Result<(), String> {
    let expected = run.bits();
    for i in 0..run.x.len() {
        for view in other_layouts(&run.x[i]) {
            let strides = view.spec().strides;
            let mut x = run.x.clone();
            x[i] = view;
            let found: Vec<_> = run.run_on(&x).iter().map(bits).collect();
            if found != expected {
                return Err(format!("differs when input {i} has strides {strides}"));
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
            }
        }
    }
}

#[test]
fn every_op_is_in_the_catalog_once() {
    let mut names: Vec<_> = CATALOG.iter().map(|e| e.name).collect();
    assert!(names.is_sorted(), "the catalog is not in order: {names:?}");
    names.dedup();
    assert_eq!(names.len(), CATALOG.len(), "a line is in the catalog twice");
}
