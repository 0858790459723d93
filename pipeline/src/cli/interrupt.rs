//! Ctrl-C: the first one stops the work at hand, one that finds nothing to stop ends the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static WORKING: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// From now on until [`finish`], Ctrl-C asks the work to stop.
pub fn start() {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // Without a handler Ctrl-C simply ends the program, which is safe too.
        let _ = ctrlc::set_handler(|| {
            if !WORKING.load(Ordering::SeqCst) || STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
    });
    STOP.store(false, Ordering::SeqCst);
    WORKING.store(true, Ordering::SeqCst);
}

/// Whether the work was asked to stop.
pub fn asked() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Ends the time in which Ctrl-C only stops the work; says whether it was asked to.
pub fn finish() -> bool {
    WORKING.store(false, Ordering::SeqCst);
    asked()
}
