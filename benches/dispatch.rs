//! What one op costs on the GPU: each submitted singly, against many recorded and submitted at once.
//! The work of an op is tiny here, so the time is that of recording, submitting and starting it.

use puyu_tensor::gpu::Gpu;
use puyu_tensor::{DType, Device, Result, Tensor};
use std::time::Instant;

/// Ops per measurement.
const OPS: usize = 2000;

/// Measurements, interleaved; the median of each kind is printed.
const ROUNDS: usize = 9;

/// Microseconds per op until all results are there; `after` is called after each op.
fn time(x: &Tensor, after: impl Fn(&Tensor) -> Result<()>) -> Result<f64> {
    let mut y = x.clone();
    let start = Instant::now();
    for _ in 0..OPS {
        y = y.affine(1.0, 1.0);
        after(&y)?;
    }
    y.to_vec::<f32>()?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / OPS as f64)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<()> {
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(e) => {
            eprintln!("SKIPPED: {e}");
            return Ok(());
        }
    };
    let device = Device::Gpu(gpu.clone());
    let x = Tensor::zeros([64], DType::F32).to_device(&device);
    let submit = |_: &Tensor| {
        gpu.flush();
        Ok(())
    };
    let read = |y: &Tensor| y.to_vec::<f32>().map(drop);
    time(&x, |_| Ok(()))?;
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(time(&x, read)?);
        times[1].push(time(&x, submit)?);
        times[2].push(time(&x, |_| Ok(()))?);
    }
    let [read, single, recorded] = times.map(median);
    println!("{device}, microseconds per dispatch, medians of {ROUNDS} runs of {OPS}:");
    println!("  submitted singly, each result read  {read:8.2}");
    println!("  submitted singly                    {single:8.2}");
    println!("  recorded, one submit for many       {recorded:8.2}");
    Ok(())
}
