//! The `puyu` command.
fn main() {}
