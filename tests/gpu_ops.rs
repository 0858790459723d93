//! `gpu == cpu`: every case of every op that has a kernel, at fixed and at random sizes and in every
//! layout, on a device in check mode: outputs start out as NaN, and writes past their end are found.
//! Without a GPU these tests skip aloud; `REQUIRE_GPU=1` makes that a failure.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use puyu_tensor::ops::CATALOG;
use puyu_tensor::{Device, Spec, Tensor};
use puyu_tests::{Run, SIZES, close, gpu, other_layouts, tolerance, values};
use std::collections::BTreeSet;

/// Sizes that proptest draws beside the fixed ones.
const RANDOM: u32 = 8;

fn has_kernel(run: &Run) -> bool {
    let specs = |t: &[Tensor]| t.iter().map(|t| *t.spec()).collect::<Vec<Spec>>();
    let (x, y) = (specs(&run.x), specs(&run.y));
    let y = if y.is_empty() { run.op.infer(&x).outputs } else { y };
    run.op.gpu(&x, &y).is_some()
}

fn same(run: &Run, x: &[Tensor]) -> Result<(), String> {
    let (found, expected) = (run.run_on(x), run.run());
    assert_eq!(found.len(), expected.len(), "{run:?}: the number of outputs");
    for (i, (y, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!((y.shape(), y.dtype()), (expected.shape(), expected.dtype()), "{run:?}");
        close(&values(y), &values(expected), tolerance(y.dtype()))
            .map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(())
}

fn equals_cpu(run: &Run, device: &Device, layouts: bool) -> Result<(), String> {
    let x: Vec<Tensor> = run.x.iter().map(|t| t.to_device(device)).collect();
    same(run, &x)?;
    for i in 0..if layouts { x.len() } else { 0 } {
        for view in other_layouts(&run.x[i], device) {
            let mut x = x.clone();
            let strides = view.spec().strides;
            x[i] = view;
            same(run, &x).map_err(|e| format!("input {i} with strides {strides}: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn every_kernel_equals_the_cpu() {
    let Some((_turn, gpu)) = gpu(true) else { return };
    let device = Device::Gpu(gpu);
    let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
    for entry in CATALOG {
        for (size, layouts) in [(SIZES[0], true), (SIZES[1], true), (SIZES[2], false)] {
            for (seed, case) in (1..).zip((entry.cases)(size)) {
                let run = Run::new(case, seed);
                // A view runs nothing, on any device.
                let view = run.x.len() == 1 && run.op.view(run.x[0].spec()).is_some();
                if !view && !has_kernel(&run) {
                    without.insert(run.op.name());
                    continue;
                }
                with.insert(run.op.name());
                if let Err(why) = equals_cpu(&run, &device, layouts) {
                    panic!("{} at {size:?}: {run:?}: {why}", entry.name);
                }
            }
        }
    }
    eprintln!("on {device}: {with:?}\nin some case without a kernel: {without:?}");
    let proved = ["add", "affine", "cast", "copy", "matmul", "rms_norm", "silu", "swiglu"];
    assert!(proved.iter().all(|op| with.contains(op)), "the loop left out an op that has a kernel");
}

#[test]
fn every_kernel_equals_the_cpu_at_random_sizes() {
    let Some((_turn, gpu)) = gpu(true) else { return };
    let device = Device::Gpu(gpu);
    let config = Config { cases: RANDOM, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let checked = runner.run(&(prop::array::uniform4(1usize..=40), 1u64..1000), |(size, seed)| {
        for entry in CATALOG {
            for case in (entry.cases)(size) {
                let run = Run::new(case, seed);
                if has_kernel(&run) {
                    equals_cpu(&run, &device, false)
                        .map_err(|why| TestCaseError::fail(format!("{run:?}: {why}")))?;
                }
            }
        }
        Ok(())
    });
    checked.unwrap_or_else(|e| panic!("{e}"));
}
