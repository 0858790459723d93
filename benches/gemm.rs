//! Matrix products of F32 and of BF16 in all transposed forms beside PyTorch's, in turns, with the ceilings of
//! multiply-adds measured in the same run.
//!
//! PUYU_PYTHON=a Python that has torch (python3)  cargo bench --bench gemm -- [f32] [bf16] [512] [1024] [2048]
//! PUYU_PAIRS sets the number of pairs (default 7), PUYU_THREADS the threads (default 2).

use puyu_tensor::cpu::{limits::Limits, pool, simd::Isa};
use puyu_tensor::{DType, Result, Tensor, no_grad};
use std::process::Command;
use std::time::Instant;

/// The forms: whether the left and the right operand is the transpose of what lies in memory.
const FORMS: [(&str, bool, bool); 4] =
    [("a·b", false, false), ("a·bᵀ", false, true), ("aᵀ·b", true, false), ("aᵀ·bᵀ", true, true)];

/// Prints the best GFLOP/s of three for each form.
const PYTHON: &str = "
import sys, time, torch
n, threads, dtype = int(sys.argv[1]), int(sys.argv[2]), {'f32': torch.float32, 'bf16': torch.bfloat16}[sys.argv[3]]
torch.set_num_threads(threads)
a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
for x, y in ((a, b), (a, b.t()), (a.t(), b), (a.t(), b.t())):
    torch.matmul(x, y)
    times = []
    for _ in range(3):
        start = time.perf_counter(); torch.matmul(x, y); times.append(time.perf_counter() - start)
    print(2 * n**3 / min(times) / 1e9)
";

/// The same for puyu.
fn puyu(n: usize, dtype: DType) -> Vec<f64> {
    let numbers: Vec<f32> = (0..n * n).map(|i| (i * 31 % 97) as f32 / 48.0 - 1.0).collect();
    let [a, b] = [(); 2].map(|()| Tensor::new(&numbers, [n, n]).to_dtype(dtype));
    let turned = |x: &Tensor, turn: bool| if turn { x.t() } else { x.clone() };
    let rate = |(_, left, right)| {
        let (x, y) = (turned(&a, left), turned(&b, right));
        let time = |_| {
            let start = Instant::now();
            drop(x.matmul(&y));
            start.elapsed().as_secs_f64()
        };
        let best = (0..4).map(time).fold(f64::INFINITY, f64::min);
        2.0 * (n as f64).powi(3) / best / 1e9
    };
    no_grad(|| FORMS.into_iter().map(rate).collect())
}

fn torch(python: &str, n: usize, dtype: DType, threads: &str) -> Option<Vec<f64>> {
    let args = ["-c", PYTHON, &n.to_string(), threads, dtype.name()];
    let output = Command::new(python).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rates: Vec<f64> = text.split_whitespace().filter_map(|v| v.parse().ok()).collect();
    (rates.len() == FORMS.len()).then_some(rates)
}

/// The middle value; NaN if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut sizes: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    if sizes.is_empty() {
        sizes.extend([512, 1024, 2048]);
    }
    let both = [DType::F32, DType::BF16];
    let named = |dtype: &DType| args.iter().any(|a| a == dtype.name());
    let dtypes = both.into_iter().filter(|d| named(d) || !both.iter().any(named));
    let variable =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let (python, threads) = (variable("PUYU_PYTHON", "python3"), variable("PUYU_THREADS", "2"));
    let pairs: usize = variable("PUYU_PAIRS", "7").parse().unwrap_or(7);
    pool::set_threads(threads.parse().unwrap_or(2))?;
    let isa = Isa::detect();
    let limits = Limits::measure();
    let ceiling = |dtype| match dtype {
        DType::BF16 => limits.rounded_gflop_s(),
        _ => limits.f32_gflop_s,
    };
    let [f32s, bf16s] = both.map(ceiling);
    let isa = isa.name();
    println!("{threads} threads, {isa}, multiply-adds: f32 {f32s:.0} GFLOP/s, bf16 {bf16s:.0}");
    println!(
        "| dtype | n | form | puyu GFLOP/s | of the ceiling | PyTorch GFLOP/s | puyu / PyTorch |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (dtype, n) in dtypes.flat_map(|dtype| sizes.iter().map(move |n| (dtype, *n))) {
        let pair = |_| (puyu(n, dtype), torch(&python, n, dtype, &threads));
        let both: Vec<_> = (0..pairs).map(pair).collect();
        if both.iter().any(|(_, theirs)| theirs.is_none()) {
            eprintln!("SKIPPED: PyTorch, which {python} (PUYU_PYTHON) does not have");
        }
        for (i, (form, _, _)) in FORMS.into_iter().enumerate() {
            let ours = median(both.iter().map(|(a, _)| a[i]));
            let theirs = median(both.iter().filter_map(|(_, b)| Some(b.as_ref()?[i])));
            let ratio = median(both.iter().filter_map(|(a, b)| Some(a[i] / b.as_ref()?[i])));
            let share = 100.0 * ours / ceiling(dtype);
            println!(
                "| {dtype} | {n} | {form} | {ours:.0} | {share:.0} % | {theirs:.0} | {ratio:.2} |"
            );
        }
    }
    println!("medians of {pairs} interleaved pairs, each the best of several products");
    Ok(())
}
