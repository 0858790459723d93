//! `PUYU_TRACE=1`: every op with its shapes and time, on stderr; on a GPU as it is recorded.

use crate::{Op, Spec, View, ViewMut};
use std::sync::LazyLock;
use std::time::Instant;

static ON: LazyLock<bool> =
    LazyLock::new(|| std::env::var("PUYU_TRACE").is_ok_and(|v| !v.is_empty() && v != "0"));

/// Runs `f`, and prints what it did when tracing is on.
pub(crate) fn timed(
    op: &dyn Op,
    x: &[View],
    y: &mut [ViewMut],
    f: impl FnOnce(&[View], &mut [ViewMut]),
) {
    if !*ON {
        return f(x, y);
    }
    let start = Instant::now();
    f(x, y);
    let us = start.elapsed().as_secs_f64() * 1e6;
    let specs = |x: &mut dyn Iterator<Item = Spec>| x.collect::<Vec<_>>();
    let (x, y) = (specs(&mut x.iter().map(|v| v.spec)), specs(&mut y.iter().map(|v| v.spec)));
    print(&format!("{us:>10.1} us"), op, &x, &y);
}

/// Prints what will run on a GPU when tracing is on; its time is not known yet.
#[cfg(feature = "gpu")]
pub(crate) fn recorded(op: &dyn Op, x: &[Spec], y: &[Spec]) {
    if *ON {
        print("     recorded", op, x, y);
    }
}

fn print(time: &str, op: &dyn Op, x: &[Spec], y: &[Spec]) {
    let join = |specs: &[Spec]| specs.iter().map(Spec::to_string).collect::<Vec<_>>().join(" ");
    eprintln!("{time}  {:<16} {} -> {}", op.name(), join(x), join(y));
}
