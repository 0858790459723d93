//! What will be read next. A decoded token reads the same weights in the same order as the one before, so what
//! came after a weight then comes after it again. Between two products one thread does all the work, for there is
//! little of it, and memory would be idle: threads that wait meanwhile ask it for their part of the next weights.

use crate::cpu::simd::{Lines, ask};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Weights that are read in one region at most; of more, the first.
const WEIGHTS: usize = 4;

/// Bytes that a thread asks for ahead: half of the second-level cache of most CPUs.
const MOST: usize = 512 << 10;

/// Bytes between two looks for work.
const AT_ONCE: usize = 1 << 10;

/// Where bytes lie; they may be gone by the time they are asked for, which does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    address: usize,
    len: usize,
}

/// What one region reads.
type Reads = [Place; WEIGHTS];

/// The regions that were met, each with the index of the one after it, the last time.
#[derive(Debug)]
struct Order {
    regions: Vec<(Reads, usize)>,
    /// The index of the last one.
    last: usize,
}

/// More regions than any model has; then all are forgotten.
const REGIONS: usize = 1 << 12;

impl Order {
    const NEW: Self = Self { regions: Vec::new(), last: 0 };

    /// Notes what is read now, and tells what was read after it the last time.
    fn then(&mut self, now: Reads) -> Reads {
        if self.regions.len() == REGIONS {
            *self = Self::NEW;
        }
        let expected = self.regions.get(self.last).map(|(_, next)| *next);
        let is_now = |i: &usize| self.regions.get(*i).is_some_and(|(region, _)| *region == now);
        let known = expected.filter(is_now).or_else(|| (0..self.regions.len()).find(is_now));
        let index = known.unwrap_or(self.regions.len());
        if known.is_none() {
            self.regions.push((now, index));
        }
        self.regions[self.last].1 = index;
        self.last = index;
        self.regions[self.regions[index].1].0
    }
}

static ORDER: Mutex<Order> = Mutex::new(Order::NEW);

/// What comes next, which threads look at without waiting, and how often that was said: whoever sees a part of one
/// and a part of another asks for bytes that nobody reads, no more.
struct Next {
    turn: AtomicUsize,
    places: [[AtomicUsize; 2]; WEIGHTS],
}

static NEXT: Next = Next {
    turn: AtomicUsize::new(0),
    places: [const { [const { AtomicUsize::new(0) }; 2] }; WEIGHTS],
};

/// Says that the next region reads `weights`, a few rows by each.
pub(crate) fn reading<'a>(weights: impl Iterator<Item = &'a [u8]>) {
    let mut now = Reads::default();
    for (place, bytes) in now.iter_mut().zip(weights) {
        *place = Place { address: bytes.as_ptr().addr(), len: bytes.len() };
    }
    let mut order = ORDER.lock().unwrap_or_else(|e| e.into_inner());
    let next = order.then(now);
    for ([address, len], place) in NEXT.places.iter().zip(next) {
        address.store(place.address, Ordering::Relaxed);
        len.store(place.len, Ordering::Relaxed);
    }
    NEXT.turn.fetch_add(1, Ordering::Release);
}

/// A thread's part of what comes next.
#[derive(Default)]
pub(crate) struct Asking {
    turn: usize,
    /// What is left of it.
    left: Reads,
}

impl Asking {
    /// Asks for a little of it.
    pub(crate) fn step(&mut self, thread: usize, threads: usize) {
        let turn = NEXT.turn.load(Ordering::Acquire);
        if turn != self.turn {
            self.turn = turn;
            let places = NEXT.places.each_ref();
            let places = places.map(|place| place.each_ref().map(|v| v.load(Ordering::Relaxed)));
            self.left = part(places.map(|[address, len]| Place { address, len }), thread, threads);
        }
        let Some(place) = self.left.iter_mut().find(|place| place.len > 0) else { return };
        let now = place.len.min(AT_ONCE);
        for at in (place.address..place.address + now).step_by(Lines::LINE) {
            ask(std::ptr::without_provenance::<u8>(at));
        }
        *place = Place { address: place.address + now, len: place.len - now };
    }
}

/// The beginning of the share of `thread` of `threads`, each of which takes as many bytes of the whole.
fn part(all: Reads, thread: usize, threads: usize) -> Reads {
    let total: usize = all.iter().map(|place| place.len).sum();
    let start = total / threads * thread;
    let end = start + (total / threads).min(MOST);
    let mut before = 0;
    all.map(|Place { address, len }| {
        let [from, to] = [start, end].map(|at| at.saturating_sub(before).min(len));
        before += len;
        Place { address: address + from, len: to - from }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(address: usize) -> Reads {
        let mut reads = Reads::default();
        reads[0] = Place { address, len: 10 };
        reads
    }

    #[test]
    fn a_region_is_followed_by_what_followed_it_before() {
        let mut order = Order::NEW;
        let mut token = |weights: &[usize]| -> Vec<usize> {
            weights.iter().map(|w| order.then(reads(*w))[0].address).collect()
        };
        token(&[1, 2, 3]);
        assert_eq!(token(&[1, 2, 3]), [2, 3, 1]);
        // Another model, and the first one again.
        token(&[7, 8]);
        assert_eq!(token(&[7, 8, 7]), [8, 7, 8]);
        token(&[1, 2, 3]);
        assert_eq!(token(&[1, 2, 3, 1]), [2, 3, 1, 2]);
        assert_eq!(order.regions.len(), 5);
        for w in 0..REGIONS {
            order.then(reads(w));
        }
        assert!(order.regions.len() <= REGIONS);
    }

    #[test]
    fn parts_are_the_shares_of_threads() {
        let mut all = reads(100);
        all[1] = Place { address: 1000, len: 30 };
        let of = |thread| part(all, thread, 2).map(|p| (p.address, p.len));
        assert_eq!(of(0)[..2], [(100, 10), (1000, 10)]);
        assert_eq!(of(1)[..2], [(110, 0), (1010, 20)]);
        all[1].len = 1 << 24;
        assert_eq!(part(all, 1, 2).iter().map(|p| p.len).sum::<usize>(), MOST);
    }
}
