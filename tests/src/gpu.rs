//! The GPU that the tests run on.

use puyu_tensor::gpu::{Gpu, Options};
use puyu_tensor::wait;

/// The GPU that the environment chooses, in check mode or not; `None`, said aloud, on a machine
/// without one.
///
/// # Panics
/// If there is none and `REQUIRE_GPU` is set.
pub fn gpu(check: bool) -> Option<Gpu> {
    let options = Options { check, ..Options::from_env() };
    match wait(Gpu::request(&options)) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            let required = std::env::var_os("REQUIRE_GPU").is_some_and(|v| !v.is_empty());
            assert!(!required, "REQUIRE_GPU is set, but {e}");
            eprintln!("SKIPPED: a test of the GPU: {e}");
            None
        }
    }
}
