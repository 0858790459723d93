//! Threads. Ops reach them only through [`par`] and its slices, so the pool behind can change without
//! touching an op. The body is rayon, entered once per step by [`install`]: a parallel region costs
//! 6 to 60 us from outside the pool and 0.5 to 2 us from inside.
//!
//! Chunks are claimed by a counter: the caller can finish alone and never waits for a thread that
//! has not begun. Which thread runs a chunk never changes a result.

use crate::{Error, Result};
use rayon::ThreadPool;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

/// More threads than any machine puyu knows has cores; a larger number is a slip.
const MOST_THREADS: usize = 1024;

static POOL: RwLock<Option<Arc<ThreadPool>>> = RwLock::new(None);

fn build(threads: usize) -> Result<Arc<ThreadPool>> {
    let builder = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.clamp(1, MOST_THREADS))
        .thread_name(|i| format!("puyu-{i}"));
    let refused =
        |e| Error::resource(format!("cannot start {threads} threads: {e}; ask for fewer"));
    builder.build().map(Arc::new).map_err(refused)
}

fn pool() -> Arc<ThreadPool> {
    if let Some(pool) = &*POOL.read().unwrap_or_else(|e| e.into_inner()) {
        return pool.clone();
    }
    let wanted = build(default_threads()).or_else(|_| build(1));
    let pool = wanted.expect("a process that runs can start one thread");
    *POOL.write().unwrap_or_else(|e| e.into_inner()) = Some(pool.clone());
    pool
}

/// The number of threads used when nobody chose: `PUYU_THREADS`, else the physical parallelism.
pub fn default_threads() -> usize {
    let chosen = std::env::var("PUYU_THREADS").ok().and_then(|s| s.parse().ok());
    chosen.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}

/// Sets the number of threads, at most 1024, for all following work of this process.
///
/// # Errors
/// If the system does not give that many; the number stays what it was.
pub fn set_threads(threads: usize) -> Result<()> {
    *POOL.write().unwrap_or_else(|e| e.into_inner()) = Some(build(threads)?);
    Ok(())
}

/// The number of threads that [`par`] would use here.
pub fn threads() -> usize {
    match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => pool().current_num_threads(),
    }
}

/// Runs `f` inside the pool, so that the parallel regions in it start cheaply.
pub fn install<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    match rayon::current_thread_index() {
        Some(_) => f(),
        None => run_in(&pool(), f),
    }
}

/// Runs `f` in `pool`, recording for gradients as the caller does.
fn run_in<R: Send>(pool: &ThreadPool, f: impl FnOnce() -> R + Send) -> R {
    let grad = crate::apply::grad();
    pool.install(|| crate::apply::with_grad(grad, f))
}

/// Runs `f` with exactly `threads` threads (at most 1024), whatever the process uses otherwise.
///
/// # Panics
/// If the system does not give that many.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    run_in(&build(threads).expect("the system starts a few threads"), f)
}

/// Calls `f(0)` to `f(chunks - 1)`, each once, on the pool's threads; panics are rethrown here.
pub fn par(chunks: usize, f: impl Fn(usize) + Sync) {
    if chunks <= 1 {
        return (0..chunks).for_each(f);
    }
    let next = AtomicUsize::new(0);
    let claim = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= chunks {
                break;
            }
            f(i);
        }
    };
    install(|| {
        rayon::scope(|s| {
            for _ in 1..rayon::current_num_threads().min(chunks) {
                s.spawn(|_| claim());
            }
            claim();
        });
    });
}

/// Splits `0..n` into pieces of at least `grain` and calls `f` for each in parallel.
pub fn par_ranges(n: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
    let pieces = (n / grain.max(1)).clamp(1, threads() * 4);
    let len = n.div_ceil(pieces);
    if len == 0 {
        return;
    }
    par(n.div_ceil(len), |i| f(i * len..((i + 1) * len).min(n)));
}

/// Calls `f(first_row, rows)` in parallel on pieces of `y`, whole rows of `row_len` each, at least
/// `grain` rows to a piece.
///
/// # Panics
/// If `y` is not whole rows.
pub fn par_rows<T: Send>(
    y: &mut [T],
    row_len: usize,
    grain: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if y.is_empty() {
        return;
    }
    assert!(y.len().is_multiple_of(row_len), "{} elements in rows of {row_len}", y.len());
    let rows = y.len() / row_len;
    let y = SharedMut::new(y);
    par_ranges(rows, grain, |r| {
        // SAFETY: the ranges of `par_ranges` are disjoint, so no two pieces overlap.
        let piece = unsafe { y.slice(r.start * row_len..r.end * row_len) };
        f(r.start, piece);
    });
}

/// Calls `f` with each of `items` in parallel: for ops whose pieces come from several outputs.
pub fn par_each<T: Send>(items: impl IntoIterator<Item = T>, f: impl Fn(T) + Sync) {
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    par_rows(&mut items, 1, 1, |_, piece| piece.iter_mut().filter_map(Option::take).for_each(&f));
}

/// A mutable slice that threads may cut disjoint pieces from.
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer stands for an exclusive borrow of `T: Send` data, and `slice` leaves it to its
// caller that pieces are disjoint: sharing the handle itself grants no access.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Wraps `data` for the time of the borrow.
    pub fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), life: std::marker::PhantomData }
    }

    /// Where the elements of `range` begin.
    ///
    /// # Panics
    /// If `range` reaches past the end.
    pub fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds by the check above.
        unsafe { self.start.add(range.start) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two pieces alive at the same time may overlap.
    ///
    /// # Panics
    /// If `range` reaches past the end.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: `pointer` checks the bounds, and the caller promises that nobody else has these.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(range.clone()), range.len()) }
    }
}
