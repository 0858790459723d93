//! Asking memory for what will be read soon, while there is something else to compute.

/// Bytes of weights that are asked for ahead of their use by a single row, which is as fast as memory.
pub(crate) const AHEAD: isize = 2048;

/// Asks memory for the line at `at`, which may be anywhere, into the second-level cache.
#[inline(always)]
pub(crate) fn ask<T>(at: *const T) {
    // SAFETY: a prefetch has no effect that a program could see, whatever the address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks memory for the lines of the value at `at`, which may be anywhere.
pub fn prefetch<T>(at: *const T) {
    (0..size_of::<T>()).step_by(Lines::LINE).for_each(|i| ask(at.cast::<u8>().wrapping_add(i)));
}

/// Rows of memory: where the first begins, bytes from one to the next, how many, and bytes of each.
#[derive(Clone, Copy)]
pub struct Lines {
    /// The first byte.
    pub at: *const u8,
    /// From a row to the next.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Bytes of a row.
    pub bytes: usize,
}

impl Lines {
    /// Bytes that come from memory together.
    pub(crate) const LINE: usize = 64;

    /// Asks for part `i` of `parts`.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn ask(self, i: usize, parts: usize) {
        for row in i * self.rows / parts..(i + 1) * self.rows / parts {
            let row = self.at.wrapping_add(row * self.stride);
            (0..self.bytes).step_by(Self::LINE).for_each(|at| ask(row.wrapping_add(at)));
        }
    }
}
