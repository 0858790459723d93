//! Shared helpers of the benches.

pub mod llama_cpp;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The path in the variable `name`. Cargo runs a bench in its package's folder, while a command is typed
/// at the root, so relative paths are taken from there.
pub fn path(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
    Some(from_root(value))
}

/// The program in the variable `name`: a path as in [`path`], or a name that is looked up.
pub fn program(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
    let is_path = Path::new(&value).components().count() > 1;
    Some(if is_path { from_root(value) } else { value.into() })
}

/// A path that was typed at the root.
pub fn from_root(value: OsString) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root is above");
    root.join(value)
}

/// The number in the variable `name`.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// What `command` printed.
///
/// # Panics
/// If it cannot be started or fails, with what it said.
pub fn output(command: &mut Command) -> Output {
    let program = command.get_program().to_owned();
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed:\n{said}", program.display());
    output
}
