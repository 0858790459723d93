//! `PUYU_TRACE=1`: every op with its shapes and time, on stderr.

use crate::{Op, View, ViewMut};
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
    let join = |specs: &mut dyn Iterator<Item = String>| specs.collect::<Vec<_>>().join(" ");
    let inputs = join(&mut x.iter().map(|v| v.spec.to_string()));
    let outputs = join(&mut y.iter().map(|v| v.spec.to_string()));
    eprintln!("{us:>10.1} us  {:<16} {inputs} -> {outputs}", op.name());
}
