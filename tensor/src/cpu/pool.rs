//! Threads. Ops reach them only through [`par`] and its slices. A region is entered by the thread that calls
//! it; helpers that have nothing to do look for one for a moment, then park: while they look, a region costs
//! about a microsecond, and waking one that is parked 40 to 60.
//!
//! Chunks are claimed by counters: every thread goes through a share of its own, so that what it reads lies
//! side by side, then helps with the others'. The caller can finish alone and never waits for a thread that
//! has not begun. Which thread runs a chunk never changes a result.

use crate::cpu::ahead::Asking;
use crate::{Error, Result};
use std::any::Any;
use std::cell::RefCell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More threads than any machine puyu knows has cores; a larger number is a slip.
const MOST_THREADS: usize = 1024;

/// How long a helper looks for work before it parks: longer than most of what one thread does between two
/// regions of a decoded token.
const LOOKING: Duration = Duration::from_micros(50);

/// Looks at the helpers of a closed region before the caller lets other programs run.
const LOOKS: u32 = 4096;

static POOL: RwLock<Option<Arc<Pool>>> = RwLock::new(None);

thread_local! {
    /// What this thread uses instead of [`POOL`].
    static OWN: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
}

/// The next chunk of a thread's share, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Next(AtomicUsize);

/// Work that helpers may join: chunks of a function, a share for each thread.
struct Region<'a> {
    f: &'a (dyn Fn(usize) + Sync),
    shares: &'a [Next],
    chunks: usize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Region<'a> {
    fn new(f: &'a (dyn Fn(usize) + Sync), shares: &'a [Next], chunks: usize) -> Self {
        let region = Self { f, shares, chunks, panic: Mutex::new(None) };
        for (i, share) in shares.iter().enumerate() {
            share.0.store(region.start(i), Ordering::Relaxed);
        }
        region
    }

    /// The first chunk of share `i`; the one before it ends there.
    fn start(&self, i: usize) -> usize {
        i * self.chunks / self.shares.len()
    }

    /// Runs chunks as long as there are any, those of share `own` first; a panic is kept, and ends the
    /// region.
    fn work(&self, own: usize) {
        let claim = || {
            for i in (own..self.shares.len()).chain(0..own) {
                let (next, end) = (&self.shares[i].0, self.start(i + 1));
                while next.load(Ordering::Relaxed) < end {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    if chunk < end {
                        (self.f)(chunk);
                    }
                }
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(claim)) {
            self.shares.iter().for_each(|share| share.0.store(self.chunks, Ordering::Relaxed));
            self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(panic);
        }
    }
}

/// The gate's bit that says that a region may be joined.
const OPEN: u64 = 1 << 63;
/// The unit of a region's number; below it helpers are counted.
const TURN: u64 = 1 << 32;

/// What caller and helpers share.
struct Shared {
    /// [`OPEN`], the number of the region, and how many helpers are in it.
    gate: AtomicU64,
    /// The region, which is there as long as the gate is open or a helper is in it.
    region: AtomicPtr<Region<'static>>,
    /// Whether a region is being worked on.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Whether each helper is parked or about to be.
    parked: Vec<AtomicBool>,
}

impl Shared {
    /// Waits for an open gate that is not that of region `seen`, asking memory for what that will read; nothing
    /// when the pool ends.
    fn wait(&self, helper: usize, seen: u64, asking: &mut Asking) -> Option<u64> {
        let open = || {
            let gate = self.gate.load(Ordering::SeqCst);
            (gate & OPEN != 0 && gate / TURN != seen).then_some(gate)
        };
        loop {
            let start = Instant::now();
            while start.elapsed() < LOOKING {
                for _ in 0..16 {
                    if let Some(gate) = open() {
                        return Some(gate);
                    }
                    asking.step(helper + 1, self.parked.len() + 1);
                    spin_loop();
                }
            }
            let parked = &self.parked[helper];
            parked.store(true, Ordering::SeqCst);
            // Whoever opens the gate or stops the pool after this look sees that this thread is parked.
            while open().is_none() && parked.load(Ordering::SeqCst) {
                if self.stop.load(Ordering::SeqCst) {
                    return None;
                }
                std::thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
    }

    /// What a helper does.
    fn help(&self, helper: usize) {
        let (mut seen, mut asking) = (0, Asking::default());
        while let Some(gate) = self.wait(helper, seen, &mut asking) {
            // Fails if the region was closed meanwhile, or another helper was faster.
            let entered =
                self.gate.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_ok() {
                seen = gate / TURN;
                // SAFETY: the gate was open, so the region was there; it stays until the count that was
                // just raised is lowered again.
                unsafe { &*self.region.load(Ordering::Acquire) }.work(helper + 1);
                self.gate.fetch_sub(1, Ordering::Release);
            }
        }
    }
}

/// Threads that wait for regions.
struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// The caller's share of a region, then the helpers'.
    shares: Vec<Next>,
}

impl Pool {
    /// `threads` threads, the caller among them.
    fn new(threads: usize) -> Result<Arc<Self>> {
        let count = threads.clamp(1, MOST_THREADS) - 1;
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            region: AtomicPtr::new(std::ptr::null_mut()),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (0..count).map(|_| AtomicBool::new(false)).collect(),
        });
        let shares = (0..=count).map(|_| Next::default()).collect();
        let mut pool = Self { shared, helpers: Vec::with_capacity(count), shares };
        for helper in 0..count {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("puyu-{}", helper + 1));
            let started = thread.spawn(move || shared.help(helper));
            pool.helpers.push(started.map_err(|e| {
                Error::resource(format!("cannot start {threads} threads: {e}; ask for fewer"))
            })?);
        }
        Ok(Arc::new(pool))
    }

    /// The pool that this thread uses.
    fn current() -> Arc<Self> {
        if let Some(pool) = OWN.with_borrow(Clone::clone) {
            return pool;
        }
        if let Some(pool) = &*POOL.read().unwrap_or_else(|e| e.into_inner()) {
            return pool.clone();
        }
        let wanted = Self::new(default_threads()).or_else(|_| Self::new(1));
        let pool = wanted.expect("one thread is there already");
        *POOL.write().unwrap_or_else(|e| e.into_inner()) = Some(pool.clone());
        pool
    }

    fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `f` for all chunks, with helpers if they are not at work already.
    fn run(&self, chunks: usize, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if self.helpers.is_empty() || shared.busy.swap(true, Ordering::Acquire) {
            return (0..chunks).for_each(f);
        }
        let region = Region::new(f, &self.shares, chunks);
        shared.region.store((&raw const region).cast_mut().cast(), Ordering::Release);
        let turn = (shared.gate.load(Ordering::Relaxed) / TURN + 1) % (OPEN / TURN);
        shared.gate.store(OPEN | (turn * TURN), Ordering::SeqCst);
        for (helper, parked) in self.helpers.iter().zip(&shared.parked).take(chunks - 1) {
            if parked.swap(false, Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        region.work(0);
        // Closed, so that nobody joins any more; then those who did are waited for, since they use `region`.
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while !shared.gate.load(Ordering::Acquire).is_multiple_of(TURN) {
            looks += 1;
            if looks == LOOKS {
                looks = 0;
                std::thread::yield_now();
            }
            spin_loop();
        }
        shared.busy.store(false, Ordering::Release);
        let panic = region.panic.into_inner().unwrap_or_else(|e| e.into_inner());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            helper.join().expect("a helper keeps every panic");
        }
    }
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
    *POOL.write().unwrap_or_else(|e| e.into_inner()) = Some(Pool::new(threads)?);
    Ok(())
}

/// The number of threads that [`par`] would use here.
pub fn threads() -> usize {
    Pool::current().threads()
}

/// Runs `f` with exactly `threads` threads (at most 1024), whatever the process uses otherwise.
///
/// # Panics
/// If the system does not give that many.
pub fn with_threads<R>(threads: usize, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Pool>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OWN.set(self.0.take());
        }
    }
    let pool = Pool::new(threads).expect("the system starts a few threads");
    let _restore = Restore(OWN.replace(Some(pool)));
    f()
}

/// Calls `f(0)` to `f(chunks - 1)`, each once, on the pool's threads; panics are rethrown here. Inside
/// another region, and while another thread is in one, the caller does all of it.
pub fn par(chunks: usize, f: impl Fn(usize) + Sync) {
    if chunks <= 1 {
        return (0..chunks).for_each(f);
    }
    Pool::current().run(chunks, &f);
}

/// Splits `0..n` into pieces of at least `grain` and calls `f` for each in parallel.
pub fn par_ranges(n: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
    let pieces = n / grain.max(1);
    if pieces <= 1 {
        return if n > 0 {
            f(0..n)
        };
    }
    let pieces = pieces.min(threads() * 4);
    let len = n.div_ceil(pieces);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of `n` chunks ran.
    fn counts(n: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
        par(n, |i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_chunk_runs_once_in_each_of_many_regions() {
        for threads in [1, 2, 3, 8] {
            with_threads(threads, || {
                for n in (0..400).map(|i| i % 41) {
                    assert_eq!(counts(n), vec![1; n], "{threads} threads");
                    // Long enough for helpers to park now and then.
                    if n == 40 {
                        std::thread::sleep(2 * LOOKING);
                    }
                }
            });
        }
    }

    #[test]
    fn regions_within_regions_and_beside_others_are_whole() {
        let pool = Pool::new(3).unwrap();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    OWN.set(Some(pool.clone()));
                    par(50, |_| assert_eq!(counts(20), [1; 20]));
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        with_threads(4, || {
            for bad in [0, 7, 99] {
                let all = || par(100, |i| assert!(i != bad, "chunk {i}"));
                let panic = catch_unwind(AssertUnwindSafe(all)).unwrap_err();
                assert_eq!(panic.downcast_ref::<String>(), Some(&format!("chunk {bad}")));
                assert_eq!(counts(100), [1; 100]);
            }
        });
    }
}
