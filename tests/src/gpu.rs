//! The GPU that the tests run on.

use puyu_tensor::gpu::{Gpu, Options};
use puyu_tensor::wait;
use std::sync::{Mutex, MutexGuard};

/// The right to have a device, which ends with this. NVIDIA's driver can hang when one device is destroyed while
/// another works (seen with 580.159 and twelve at once), so tests take turns.
pub type Turn = MutexGuard<'static, ()>;

static TURN: Mutex<()> = Mutex::new(());

/// The GPU that the environment chooses, in check mode or not, to be dropped before the turn; `None`, said aloud,
/// on a machine without one.
///
/// # Panics
/// If there is none and `REQUIRE_GPU` is set.
pub fn gpu(check: bool) -> Option<(Turn, Gpu)> {
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let options = Options { check, ..Options::from_env() };
    match wait(Gpu::request(&options)) {
        Ok(gpu) => Some((turn, gpu)),
        Err(e) => {
            let required = std::env::var_os("REQUIRE_GPU").is_some_and(|v| !v.is_empty());
            assert!(!required, "REQUIRE_GPU is set, but {e}");
            eprintln!("SKIPPED: a test of the GPU: {e}");
            None
        }
    }
}
