//! Standard output that may close early (`puyu ... | head`), and progress on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use puyu_tensor::{Error, ErrorKind, Result};
use std::io::{IsTerminal, Write};
use std::time::Duration;

const CLOSED: &str = "standard output was closed";

/// Writes bytes to standard output, at once.
///
/// # Errors
/// If it is closed or full.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Error::new(ErrorKind::Io, CLOSED),
        _ => Error::from(e).context("cannot write to standard output"),
    })
}

/// Writes text to standard output, at once.
///
/// # Errors
/// If it is closed or full.
pub fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Whether `e` only says that nobody reads standard output any more.
pub fn is_closed_pipe(e: &Error) -> bool {
    e.kind() == ErrorKind::Io && e.to_string().ends_with(CLOSED)
}

/// A progress bar on standard error; nothing off a terminal.
pub fn bar(what: &str, total: u64, unit: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = format!("{what} {{wide_bar}} {{pos}}/{{len}} {unit}, {{eta}} left");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(&style) {
        bar.set_style(style);
    }
    bar
}

/// Tokens per second, 0 for no time.
pub fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
