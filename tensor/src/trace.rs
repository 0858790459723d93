//! `PUYU_TRACE=1`: every op with its shapes and time, on stderr; on a GPU as it is recorded. When the program
//! ends, the sums of each kind of op beside what the machine can do; `PUYU_TRACE=sums` prints these alone.

use crate::cpu::limits::Limits;
use crate::{DType, Op, Spec, View, ViewMut};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(PartialEq, Eq)]
enum Mode {
    Off,
    Sums,
    All,
}

static MODE: LazyLock<Mode> = LazyLock::new(|| match std::env::var("PUYU_TRACE") {
    Ok(v) if v == "sums" => Mode::Sums,
    Ok(v) if !v.is_empty() && v != "0" => Mode::All,
    _ => Mode::Off,
});

/// All runs of one kind of op.
#[derive(Default)]
struct Sum {
    runs: u64,
    time: Duration,
    bytes: f64,
    operations: f64,
}

/// An op's name, the dtype of its weight, and the dtype of what is multiplied with it.
type Kind = (&'static str, Option<[&'static str; 2]>);

#[derive(Default)]
struct Sums {
    kinds: BTreeMap<Kind, Sum>,
    /// When the first op began and the last one ended.
    span: Option<[Instant; 2]>,
}

static SUMS: LazyLock<Mutex<Sums>> = LazyLock::new(Mutex::default);

/// Runs `f`, and notes what it did when tracing is on.
pub(crate) fn timed(
    op: &dyn Op,
    x: &[View],
    y: &mut [ViewMut],
    f: impl FnOnce(&[View], &mut [ViewMut]),
) {
    if *MODE == Mode::Off {
        return f(x, y);
    }
    let specs = |x: &mut dyn Iterator<Item = Spec>| x.collect::<Vec<_>>();
    let (xs, ys) = (specs(&mut x.iter().map(|v| v.spec)), specs(&mut y.iter().map(|v| v.spec)));
    let work = op.work(x, &ys);
    let start = Instant::now();
    f(x, y);
    let end = Instant::now();
    let time = end - start;
    if *MODE == Mode::All {
        let rate = work.bytes as f64 / time.as_secs_f64() / 1e9;
        print(&format!("{:>10.1} us {rate:>6.1} GB/s", time.as_secs_f64() * 1e6), op, &xs, &ys);
    }
    let weight = (1..xs.len())
        .find(|i| op.packed(*i))
        .map(|i| [xs[i].dtype, work.operands.unwrap_or(xs[0].dtype)]);
    let kind = (op.name(), weight.map(|dtypes| dtypes.map(DType::name)));
    // A sum is whole after every line, so one that a panic left is good.
    let mut sums = SUMS.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = sums.kinds.entry(kind).or_default();
    sum.runs += 1;
    sum.time += time;
    sum.bytes += work.bytes as f64;
    sum.operations += work.operations as f64;
    let first = sums.span.map_or(start, |[first, _]| first);
    sums.span = Some([first, end]);
}

/// Prints what will run on a GPU when tracing is on; its time is not known yet.
#[cfg(feature = "gpu")]
pub(crate) fn recorded(op: &dyn Op, x: &[Spec], y: &[Spec]) {
    if *MODE == Mode::All {
        print("     recorded", op, x, y);
    }
}

fn print(time: &str, op: &dyn Op, x: &[Spec], y: &[Spec]) {
    let join = |specs: &[Spec]| specs.iter().map(Spec::to_string).collect::<Vec<_>>().join(" ");
    eprintln!("{time}  {:<16} {} -> {}", op.name(), join(x), join(y));
}

/// Forgets all ops so far, such as those of loading a model.
pub fn trace_reset() {
    *SUMS.lock().unwrap_or_else(PoisonError::into_inner) = Sums::default();
}

/// A table of all ops since the last one by kind: time, bytes and operations per second, and which share of the
/// machine's ceilings (measured now) the nearer of the two is. `None` where tracing is off or no op ran on
/// the CPU.
pub fn trace_sums() -> Option<String> {
    let sums = std::mem::take(&mut *SUMS.lock().unwrap_or_else(PoisonError::into_inner));
    let [first, last] = sums.span?;
    let limits = Limits::measure();
    let all: f64 = sums.kinds.values().map(|s| s.time.as_secs_f64()).sum();
    let wall = (last - first).as_secs_f64();
    let mut text = "| op | runs | ms | share | GB/s | GFLOP/s | of the limit |\n".to_owned();
    text.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
    let mut kinds: Vec<(&Kind, &Sum)> = sums.kinds.iter().collect();
    kinds.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.time));
    for ((op, weight), sum) in kinds {
        let seconds = sum.time.as_secs_f64().max(1e-9);
        let (read, computed) = (sum.bytes / seconds / 1e9, sum.operations / seconds / 1e9);
        let ceiling = match weight {
            Some([_, "i8_row"]) => limits.i8_gop_s,
            Some([_, "bf16"]) => limits.bf16_gflop_s.unwrap_or(limits.f32_gflop_s),
            _ => limits.f32_gflop_s,
        };
        let nearer = f64::max(read / limits.read_gb_s, computed / ceiling);
        let of = weight.map(|[weight, _]| format!(" {weight}")).unwrap_or_default();
        let flops = if computed > 0.0 { format!("{computed:.1}") } else { "-".into() };
        let _ = writeln!(
            text,
            "| {op}{of} | {} | {:.1} | {:.1} % | {read:.1} | {flops} | {:.0} % |",
            sum.runs,
            1e3 * seconds,
            100.0 * seconds / wall,
            100.0 * nearer,
        );
    }
    let _ = writeln!(
        text,
        "| between ops | | {:.1} | {:.1} % | | | |\n{} threads, {:.1} GB/s, {:.0} GFLOP/s in f32, {:.0} GOP/s in int8",
        1e3 * (wall - all),
        100.0 * (wall - all) / wall,
        limits.threads,
        limits.read_gb_s,
        limits.f32_gflop_s,
        limits.i8_gop_s,
    );
    Some(text)
}
