//! An allocator that counts what each thread asks for, so that a test can hold a parser to the size of
//! its input. A test binary installs it with `#[global_allocator]`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static BUFFERS: Cell<usize> = const { Cell::new(0) };
}

/// Bytes from which on a request is for a buffer: more than what describes an op and its tensors.
pub const BUFFER: usize = 1 << 10;

/// The system's allocator, counting.
pub struct Counting;

/// What [`Counting`] saw while a closure ran, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The most that was held at once beyond what was held before.
    pub peak: usize,
    /// The largest single request.
    pub largest: usize,
    /// Requests of [`BUFFER`] and more.
    pub buffers: usize,
}

fn count(grown: isize, asked: usize) {
    // A thread that is ending has no counters any more; nothing is measured then.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + grown);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(asked)));
    let _ = BUFFERS.try_with(|n| n.set(n.get() + usize::from(asked >= BUFFER)));
}

// SAFETY: every call is handed to the system's allocator unchanged; counting does not allocate,
// because the counters are constant-initialised cells.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, layout.size());
        // SAFETY: the caller's promise about `layout` is the one the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, layout.size());
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize), 0);
        // SAFETY: the caller's promise about `at` and `layout` is the one the system asks for.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize, size);
        // SAFETY: as for `dealloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs `f` and tells what this thread asked for meanwhile.
pub fn measured<T>(f: impl FnOnce() -> T) -> (T, Usage) {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    BUFFERS.set(0);
    let out = f();
    let peak = (PEAK.get() - before).max(0) as usize;
    (out, Usage { peak, largest: LARGEST.get(), buffers: BUFFERS.get() })
}
