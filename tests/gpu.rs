//! The GPU device itself: recording, uploads, views, errors. Without a GPU these tests skip aloud;
//! `REQUIRE_GPU=1` makes that a failure.

use puyu_tensor::gpu::{Gpu, Options};
use puyu_tensor::op::{Bind, Dispatch, Grad, Kernels, Outs, Param};
use puyu_tensor::{
    DType, Device, ErrorKind, Op, Spec, Tensor, View, ViewMut, apply_to, apply1, wait,
};
use puyu_tests::{Turn, gpu, numbers};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn open() -> Option<(Turn, Gpu, Device)> {
    let (turn, gpu) = gpu(false)?;
    Some((turn, gpu.clone(), Device::Gpu(gpu)))
}

#[test]
fn many_ops_are_one_submit() {
    let Some((_turn, gpu, device)) = open() else { return };
    let mut x = Tensor::zeros([100], DType::F32).to_device(&device);
    let before = gpu.counts();
    for _ in 0..300 {
        x = x.affine(1.0, 1.0);
    }
    assert_eq!(gpu.counts().submits, before.submits);
    assert_eq!(x.to_vec::<f32>().unwrap(), vec![300.0; 100]);
    assert_eq!(gpu.counts().submits, before.submits + 1);
    assert_eq!(gpu.counts().dispatches, before.dispatches + 300);
}

#[test]
fn a_long_recording_is_submitted_in_parts() {
    let Some((_turn, gpu, device)) = open() else { return };
    let mut x = Tensor::zeros([3], DType::F32).to_device(&device);
    let before = gpu.counts();
    for _ in 0..5000 {
        x = x.affine(1.0, 1.0);
    }
    let submits = gpu.counts().submits - before.submits;
    assert!((2..100).contains(&submits), "{submits} submits");
    assert_eq!(x.to_vec::<f32>().unwrap(), [5000.0; 3]);
}

#[test]
fn uploads_between_ops_keep_their_order() {
    let Some((_turn, _, device)) = open() else { return };
    // Each round frees a buffer that a command still waiting to be submitted reads; an upload that
    // took it at once would change what that command sees.
    let mut sums = Vec::new();
    for i in 0..200 {
        let x = Tensor::full([64], i as f32).to_device(&device);
        sums.push(x.affine(2.0, 1.0));
    }
    for (i, sum) in sums.iter().enumerate() {
        assert_eq!(sum.to_vec::<f32>().unwrap(), vec![2.0 * i as f32 + 1.0; 64]);
    }
}

#[test]
fn every_dtype_comes_back_as_it_was() {
    let Some((_turn, _, device)) = open() else { return };
    let x = Tensor::new(&numbers(3 * 256, 1), [3, 256]);
    for dtype in DType::WEIGHTS {
        let x = x.to_dtype(dtype);
        let back = wait(x.to_device(&device).read_bytes()).unwrap();
        assert_eq!(back, x.bytes(), "{dtype}");
    }
    let odd = Tensor::new(&numbers(7, 2), [7]).to_dtype(DType::F16);
    assert_eq!(wait(odd.to_device(&device).read_bytes()).unwrap(), odd.bytes());
    let last = odd.to_device(&device).narrow(0, 3, 3);
    assert_eq!(wait(last.read_bytes()).unwrap(), odd.bytes()[6..12]);
    let none = Tensor::zeros([0, 4], DType::F32).to_device(&device).exp();
    assert!(none.to_vec::<f32>().unwrap().is_empty());
}

#[test]
fn rounding_to_half_precision_is_that_of_the_cpu() {
    let Some((_turn, _, device)) = open() else { return };
    // Every sign and exponent, with mantissas at and beside the ties.
    let mantissas = [0, 1, 0xfff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0x7fffff];
    let bits = (0..512u32).flat_map(|e| mantissas.map(|m| e << 23 | m));
    let x: Vec<f32> = bits.map(f32::from_bits).collect();
    let x = Tensor::new(&x, [x.len()]);
    for dtype in [DType::F16, DType::BF16] {
        let (want, got) = (x.to_dtype(dtype), x.to_device(&device).to_dtype(dtype));
        let got = Tensor::from_bytes(&wait(got.read_bytes()).unwrap(), *want.spec());
        let (want, got) = (want.to_dtype(DType::F32), got.to_dtype(DType::F32));
        for ((x, w), g) in x.data::<f32>().iter().zip(want.data::<f32>()).zip(got.data::<f32>()) {
            assert!(w == g || (w.is_nan() && g.is_nan()), "{x:e} to {dtype}: {g:e} for {w:e}");
        }
    }
}

#[test]
fn large_grids_fold() {
    let Some((_turn, _, device)) = open() else { return };
    let n = 65_535 * 256 + 300;
    let x = Tensor::full([1], 1.0).to_device(&device).broadcast_to([n]);
    let y = (&x + &x).to_vec::<f32>().unwrap();
    assert_eq!(y.len(), n);
    assert!(y.iter().all(|&v| v == 2.0));
}

#[test]
fn an_op_without_a_kernel_is_an_error_of_the_next_read() {
    let Some((_turn, gpu, device)) = open() else { return };
    let x = Tensor::zeros([2, 32], DType::F32).to_device(&device);
    let y = x.exp();
    let z = apply1(Wrong { kernel: false }, &[&x]).exp();
    let e = z.to_vec::<f32>().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert_eq!(e.to_string(), "wrong of f32[2, 32] has no GPU kernel yet; use --device cpu");
    // The device has failed as a whole: what ran before is not trusted either.
    assert_eq!(y.to_vec::<f32>().unwrap_err().to_string(), e.to_string());
    assert_eq!(gpu.status().unwrap_err().to_string(), e.to_string());
}

#[test]
fn a_tensor_over_the_limits_is_an_error_of_the_next_read() {
    let Some((_turn, _, device)) = open() else { return };
    let one = Tensor::full([1], 1.0).to_device(&device);
    let huge = one.broadcast_to([1 << 20, 1 << 20]).contiguous();
    let e = huge.to_vec::<f32>().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Resource, "{e}");
}

#[test]
fn an_unknown_adapter_is_an_error_that_lists_the_others() {
    let none = Options { adapter: Some("no such adapter".into()), check: false };
    let e = wait(Gpu::request(&none)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    for name in wait(Gpu::list()) {
        assert!(e.to_string().contains(&name), "{e}");
    }
}

/// An op whose kernel, if it has one, is that of another op.
#[derive(Debug)]
struct Wrong {
    kernel: bool,
}

impl Op for Wrong {
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        x[0].into()
    }
    fn check_to(&self, _: &[Spec], _: &[Spec]) {}
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        y[0].data::<f32>().copy_from_slice(x[0].data());
    }
    fn gpu(&self, x: &[Spec], _: &[Spec]) -> Option<Kernels> {
        let bind = vec![Bind::X(0), Bind::Y(0)];
        let params = [x[0].numel().into(), Param::Offset(bind[0]), 3u32.into()];
        let params = params.into_iter().chain([0.0.into(), 0.0.into()]).collect();
        let dispatch = Dispatch { shader: &puyu_shaders::UNARY, bind, params, groups: [1, 1, 1] };
        self.kernel.then(|| Kernels { scratch: Vec::new(), dispatches: vec![dispatch] })
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Compose
    }
}

#[test]
fn check_mode_stops_at_the_first_op_that_differs() {
    let Some((_turn, gpu)) = gpu(true) else { return };
    let device = Device::Gpu(gpu);
    let x = Tensor::full([5], 3.0).to_device(&device).affine(1.0, 1.0);
    let wrong = catch_unwind(AssertUnwindSafe(|| apply1(Wrong { kernel: true }, &[&x])));
    let message = *wrong.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("Wrong") && message.contains("16 for 4"), "{message}");
}

#[test]
fn an_op_in_place_changes_what_it_was_given() {
    let Some((_turn, _, device)) = open() else { return };
    let x = Tensor::full([5], 3.0).to_device(&device);
    let mut y = Tensor::zeros([5], DType::F32).to_device(&device);
    apply_to(Wrong { kernel: true }, &mut [&mut y], &[&x]);
    assert_eq!(y.to_vec::<f32>().unwrap(), [9.0; 5]);
    let other = y.detach();
    let shared = catch_unwind(AssertUnwindSafe(|| {
        apply_to(Wrong { kernel: true }, &mut [&mut y], &[&x]);
    }));
    let message = *shared.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("shared"), "{message}");
    assert_eq!(other.to_vec::<f32>().unwrap(), [9.0; 5]);
}

#[test]
fn inputs_on_two_devices_are_refused() {
    let Some((_turn, _, device)) = open() else { return };
    let x = Tensor::zeros([2], DType::F32);
    let mixed = catch_unwind(AssertUnwindSafe(|| &x + &x.to_device(&device)));
    let message = *mixed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.starts_with("add: one tensor on "), "{message}");
}
