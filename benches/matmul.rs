//! Matrix products of one layer's shape (SmolLM2-135M's MLP), decode and prefill, for every weight
//! dtype, packed as at inference. Compare bytes per second with the memory, products per second with
//! the instruction widths.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use puyu_tensor::{DType, Tensor, no_grad};

const N: usize = 1536;
const K: usize = 768;

/// Numbers in -1 to 1 that repeat after 97.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 31 % 97) as f32 / 48.0 - 1.0).collect()
}

fn matmul(c: &mut Criterion) {
    for rows in [1, 512] {
        let mut group = c.benchmark_group(format!("matmul_{rows}x{N}x{K}"));
        group.throughput(Throughput::Elements((2 * rows * N * K) as u64));
        let x = Tensor::new(&numbers(rows * K), [rows, K]);
        let rounded = x.round_rows(DType::I8Row);
        let w = Tensor::new(&numbers(N * K), [N, K]);
        for dtype in DType::WEIGHTS {
            let packed = w.to_dtype(dtype).pack();
            let x = if dtype.has_integer_codes() { &rounded } else { &x };
            group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
                no_grad(|| b.iter(|| x.matmul_transposed(&packed)));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = matmul
}
criterion_main!(benches);
