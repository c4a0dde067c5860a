//! A full store buffer: what shows, on a processor that keeps all other orders, that a store must
//! not be overtaken by a later load.

use std::hint;
use std::ptr;

/// Bytes too many for the caches: stores into them wait in the store buffer, and the store that
/// enters a section or a gate waits behind them.
const LEN: usize = 64 << 20;
const WORDS: usize = LEN / size_of::<u64>();

/// The stores of one thread.
#[derive(Debug)]
pub struct Backlog {
    far: *mut u64,
    round: usize,
}

impl Backlog {
    /// A thread's own memory to store into, which lives as long as the process.
    pub fn new() -> Self {
        // SAFETY: a fresh anonymous mapping.
        let far = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(far, libc::MAP_FAILED, "mmap");
        // In large pages, where there are any: what waits for a translation does not wait in the
        // store buffer.
        // SAFETY: advice about a mapping of our own.
        unsafe { libc::madvise(far, LEN, libc::MADV_HUGEPAGE) };
        let far = far.cast::<u64>();
        for at in (0..WORDS).step_by(512) {
            // SAFETY: inside the mapping.
            unsafe { far.add(at).write_volatile(1) };
        }
        Self { far, round: 0 }
    }

    /// Fills the store buffer with stores that miss every cache.
    pub fn build_up(&mut self) {
        self.round += 1;
        // Of varying length, or both sides fall into step.
        for _ in 0..self.round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 {
            hint::spin_loop();
        }
        for n in 0..40 {
            let at = (self.round * 40 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) % WORDS;
            // SAFETY: inside the mapping.
            unsafe { self.far.add(at).write_volatile(n as u64) };
        }
    }
}

/// The line that the table of sections gives a thread first.
pub fn home_of(thread_pointer: usize) -> usize {
    (thread_pointer.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 256
}
