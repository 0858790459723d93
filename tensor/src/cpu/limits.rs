//! What this machine can do at most: bytes read from memory and multiply-adds per second, measured by
//! loops that do nothing else. Every claim of speed is a share of one of these numbers, taken in the
//! same run, because shared machines change by the hour.

use super::pool::{par, threads};
#[cfg(target_arch = "x86_64")]
use super::simd::amx;
use super::simd::{AHEAD, Isa, Kind, ask, versions};
use crate::storage::Owned;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A machine's ceilings, all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that were used.
    pub threads: usize,
    /// Bytes read from memory, in 10⁹ per second.
    pub read_gb_s: f64,
    /// F32 multiplications and additions, in 10⁹ per second.
    pub f32_gflop_s: f64,
    /// The same of BF16 dot products with F32 sums, or of tiles of BF16, where the CPU has them.
    pub bf16_gflop_s: Option<f64>,
    /// The same of int8 dot products with int32 sums.
    pub i8_gop_s: f64,
}

/// Runs of each loop, of which the median counts.
const RUNS: usize = 5;

/// How long a run should take.
const RUN: Duration = Duration::from_millis(60);

/// Memory read by all threads: far more than any cache holds.
const BYTES: usize = 512 << 20;

/// A loop of `n` rounds and what it gives, so that it is not optimized away.
type Loop = fn(u64) -> f32;

impl Limits {
    /// Measures, for about two seconds, with the threads that ops would use.
    pub fn measure() -> Self {
        let kind = Isa::detect().kind();
        Self {
            threads: threads(),
            read_gb_s: read_rate() / 1e9,
            f32_gflop_s: rate(f32_loop(kind)) / 1e9,
            bf16_gflop_s: bf16_loop(kind).map(|l| rate(l) / 1e9),
            i8_gop_s: rate(i8_loop(kind)) / 1e9,
        }
    }

    /// The most that products of numbers rounded to BF16 can reach: where products of pairs are no faster, or the CPU
    /// has none, floats are multiplied.
    pub fn rounded_gflop_s(&self) -> f64 {
        self.bf16_gflop_s.unwrap_or(0.0).max(self.f32_gflop_s)
    }
}

/// Operations per second of a loop with so many operations in a round, on all threads.
fn rate((one, operations): (Loop, usize)) -> f64 {
    let threads = threads();
    let time = |n: u64| {
        let start = Instant::now();
        par(threads, |_| {
            black_box(one(black_box(n)));
        });
        start.elapsed().as_secs_f64()
    };
    let mut n = 1 << 12;
    while time(n) < RUN.as_secs_f64() {
        n *= 2;
    }
    let work = operations as f64 * n as f64 * threads as f64;
    work / median((0..RUNS).map(|_| time(n)).collect())
}

/// Bytes per second that all threads read together.
fn read_rate() -> f64 {
    const PIECE: usize = 1 << 17;
    let mut memory = Owned::large_pages(BYTES);
    memory.bytes_mut().fill(1);
    let pieces: Vec<&[u64]> = bytemuck::cast_slice(memory.bytes()).chunks(PIECE).collect();
    let time = || {
        let start = Instant::now();
        par(pieces.len(), |i| {
            black_box(sum(pieces[i]));
        });
        start.elapsed().as_secs_f64()
    };
    BYTES as f64 / median((0..=RUNS).map(|_| time()).skip(1).collect())
}

versions! {
    /// Asks for memory ahead, as the kernels do, so that they do not exceed what is called the limit.
    fn sum(x: &[u64]) -> u64 {
        let mut sums = [0u64; 32];
        for x in x.as_chunks::<32>().0 {
            for line in 0..4 {
                ask(x.as_ptr().wrapping_byte_offset(AHEAD + 64 * line));
            }
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
        }
        sums.iter().fold(0, |a, b| a.wrapping_add(*b))
    }
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Independent chains: enough to hide the latency of a multiply-add on two units.
const CHAINS: usize = 12;

fn f32_loop(kind: Kind) -> (Loop, usize) {
    match kind {
        Kind::Portable => (portable::f32s, 2 * 4 * CHAINS),
        // SAFETY: an `Isa` exists only if the CPU has the set.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => (|n| unsafe { x86::f32s_avx2(n) }, 2 * 8 * CHAINS),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => (|n| unsafe { x86::f32s_avx512(n) }, 2 * 16 * CHAINS),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon | Kind::I8mm => (arm::f32s, 2 * 4 * CHAINS),
    }
}

fn bf16_loop(kind: Kind) -> Option<(Loop, usize)> {
    #[cfg(target_arch = "x86_64")]
    if Isa::detect().matrices() {
        // SAFETY: `matrices` has looked for tiles.
        return Some((|n| unsafe { amx::rounds(n) }, amx::OPERATIONS));
    }
    #[cfg(target_arch = "x86_64")]
    if kind == Kind::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the CPU has AVX-512 and was just asked for the rest.
        return Some((|n| unsafe { x86::bf16s_avx512(n) }, 2 * 32 * CHAINS));
    }
    let _ = kind;
    None
}

fn i8_loop(kind: Kind) -> (Loop, usize) {
    match kind {
        Kind::Portable => (portable::i8s, 2 * 16 * CHAINS),
        // SAFETY: an `Isa` exists only if the CPU has the set.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => (|n| unsafe { x86::i8s_avx2(n) }, 2 * 32 * CHAINS),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => (|n| unsafe { x86::i8s_avx512(n) }, 2 * 64 * CHAINS),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => (|n| unsafe { arm::i8s(n) }, 2 * 16 * CHAINS),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::I8mm => (|n| unsafe { arm::i8mms(n) }, 2 * 32 * CHAINS),
    }
}

mod portable {
    use super::CHAINS;
    use std::hint::black_box;

    pub fn f32s(n: u64) -> f32 {
        let (a, b) = black_box((0.999f32, 1e-3f32));
        let mut y = [0.5f32; 4 * CHAINS];
        for _ in 0..n {
            y.iter_mut().for_each(|y| *y = *y * a + b);
        }
        y.iter().sum()
    }

    pub fn i8s(n: u64) -> f32 {
        let a = black_box([3i8; 16 * CHAINS]);
        let mut y = [0i32; 16 * CHAINS];
        for _ in 0..n {
            let b = i32::from(black_box(5i8));
            y.iter_mut().zip(&a).for_each(|(y, a)| *y = y.wrapping_add(i32::from(*a) * b));
        }
        y.iter().fold(0i32, |a, b| a.wrapping_add(*b)) as f32
    }
}

/// Repeats `step` on independent chains of `zero`, and gives a number that depends on them all.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! chains {
    ($n:expr, $zero:expr, $step:expr, $add:expr, $float:expr) => {{
        let mut y = [$zero; CHAINS];
        for _ in 0..$n {
            for y in &mut y {
                *y = $step(*y);
            }
        }
        let [first, rest @ ..] = y;
        $float(rest.into_iter().fold(first, |a, b| $add(a, b)))
    }};
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub fn f32s_avx2(n: u64) -> f32 {
        let (a, b) = black_box((_mm256_set1_ps(0.999), _mm256_set1_ps(1e-3)));
        let zero = black_box(_mm256_set1_ps(0.5));
        let step = |y| _mm256_fmadd_ps(y, a, b);
        chains!(n, zero, step, |a, b| _mm256_add_ps(a, b), |y| _mm256_cvtss_f32(y))
    }

    #[target_feature(enable = "avx2")]
    pub fn i8s_avx2(n: u64) -> f32 {
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(5)));
        let one = black_box(_mm256_set1_epi16(1));
        let zero = black_box(_mm256_setzero_si256());
        // The sum goes into the product, so that no product can be taken out of the loop.
        let step = |y| {
            let pairs = _mm256_maddubs_epi16(a, _mm256_xor_si256(b, y));
            _mm256_add_epi32(y, _mm256_madd_epi16(pairs, one))
        };
        chains!(n, zero, step, |a, b| _mm256_add_epi32(a, b), |y| _mm256_cvtsi256_si32(y) as f32)
    }

    #[target_feature(enable = "avx512f")]
    pub fn f32s_avx512(n: u64) -> f32 {
        let (a, b) = black_box((_mm512_set1_ps(0.999), _mm512_set1_ps(1e-3)));
        let zero = black_box(_mm512_set1_ps(0.5));
        let step = |y| _mm512_fmadd_ps(y, a, b);
        chains!(n, zero, step, |a, b| _mm512_add_ps(a, b), |y| _mm512_cvtss_f32(y))
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16s_avx512(n: u64) -> f32 {
        let one = _mm512_set1_ps(0.5);
        let (a, b) = black_box((_mm512_cvtne2ps_pbh(one, one), _mm512_cvtne2ps_pbh(one, one)));
        let zero = black_box(_mm512_setzero_ps());
        let step = |y| _mm512_dpbf16_ps(y, a, b);
        chains!(n, zero, step, |a, b| _mm512_add_ps(a, b), |y| _mm512_cvtss_f32(y))
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn i8s_avx512(n: u64) -> f32 {
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        let zero = black_box(_mm512_setzero_si512());
        let step = |y| _mm512_dpbusd_epi32(y, a, b);
        chains!(n, zero, step, |a, b| _mm512_add_epi32(a, b), |y| _mm512_cvtsi512_si32(y) as f32)
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::CHAINS;
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    pub fn f32s(n: u64) -> f32 {
        // SAFETY: every aarch64 CPU that Rust builds for has NEON.
        unsafe {
            let (a, b) = black_box((vdupq_n_f32(0.999), vdupq_n_f32(1e-3)));
            let zero = black_box(vdupq_n_f32(0.5));
            let step = |y| vfmaq_f32(b, y, a);
            chains!(n, zero, step, |a, b| vaddq_f32(a, b), |y| vgetq_lane_f32::<0>(y))
        }
    }

    /// A loop over an instruction that adds products of bytes to four sums.
    macro_rules! i8_loop {
        ($name:ident, $feature:literal, $instruction:literal) => {
            #[target_feature(enable = $feature)]
            pub fn $name(n: u64) -> f32 {
                let (a, b) = black_box((vdupq_n_s8(3), vdupq_n_s8(5)));
                let zero = black_box(vdupq_n_s32(0));
                let step = |mut y: int32x4_t| {
                    // SAFETY: the instruction reads three registers and writes one of them.
                    unsafe {
                        asm!(concat!($instruction, " {y:v}.4s, {a:v}.16b, {b:v}.16b"),
                            y = inout(vreg) y, a = in(vreg) a, b = in(vreg) b,
                            options(pure, nomem, nostack, preserves_flags));
                    }
                    y
                };
                chains!(n, zero, step, |a, b| vaddq_s32(a, b), |y| vgetq_lane_s32::<0>(y) as f32)
            }
        };
    }
    i8_loop!(i8s, "dotprod", "sdot");
    i8_loop!(i8mms, "neon,i8mm", "smmla");
}
