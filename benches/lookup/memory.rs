//! An allocator that tells how much memory something holds, and where.

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::x86_64::{_mm_clflush, _mm_mfence};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The system's allocator, watched while somebody asks.
pub struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Whether bytes are counted.
static COUNTING: AtomicBool = AtomicBool::new(false);
static NET: AtomicIsize = AtomicIsize::new(0);

/// Whether allocations are written down.
static RECORDING: AtomicBool = AtomicBool::new(false);
/// How many are; checked before the lock is taken by a free.
static N_RECORDED: AtomicUsize = AtomicUsize::new(0);
/// Start and length of what was allocated while recording and is not freed.
static RECORDED: Mutex<[(usize, usize); ROOM]> = Mutex::new([(0, 0); ROOM]);
const ROOM: usize = 1 << 14;

fn allocated(start: usize, len: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        NET.fetch_add(len as isize, Ordering::Relaxed);
    }
    if RECORDING.load(Ordering::Relaxed) && start != 0 {
        let mut recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
        let n = N_RECORDED.load(Ordering::Relaxed);
        if let Some(slot) = recorded.get_mut(n) {
            *slot = (start, len);
            N_RECORDED.store(n + 1, Ordering::Relaxed);
        }
    }
}

fn freed(start: usize, len: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        NET.fetch_sub(len as isize, Ordering::Relaxed);
    }
    if N_RECORDED.load(Ordering::Relaxed) != 0 {
        let mut recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
        let n = N_RECORDED.load(Ordering::Relaxed);
        if let Some(at) = recorded[..n].iter().rposition(|range| range.0 == start) {
            recorded[at] = recorded[n - 1];
            N_RECORDED.store(n - 1, Ordering::Relaxed);
        }
    }
}

// SAFETY: hands every request to the system's allocator unchanged; what happens around it does
// not allocate.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to our caller.
        let start = unsafe { System.alloc(layout) };
        allocated(start as usize, layout.size());
        start
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to our caller.
        let start = unsafe { System.alloc_zeroed(layout) };
        allocated(start as usize, layout.size());
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        freed(start as usize, layout.size());
        // SAFETY: passed on to our caller.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        freed(start as usize, layout.size());
        // SAFETY: passed on to our caller.
        let start = unsafe { System.realloc(start, layout, size) };
        allocated(start as usize, size);
        start
    }
}

/// Bytes that `make` left allocated, on whatever thread, beside what it made.
pub fn held<T>(make: impl FnOnce() -> T) -> (T, isize) {
    NET.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    let made = make();
    COUNTING.store(false, Ordering::Relaxed);
    (made, NET.load(Ordering::Relaxed))
}

/// What was allocated and is not freed; ends with this value.
pub struct Traces {
    _only_here: (),
}

impl Traces {
    /// Writes down what `make` leaves allocated.
    pub fn of<T>(make: impl FnOnce() -> T) -> (T, Self) {
        N_RECORDED.store(0, Ordering::Relaxed);
        RECORDING.store(true, Ordering::Relaxed);
        let made = make();
        RECORDING.store(false, Ordering::Relaxed);
        (made, Self { _only_here: () })
    }

    /// Ranges of at least `least` bytes.
    pub fn ranges(&self, least: usize) -> Vec<(usize, usize)> {
        // Copied out first: the lock is taken by every free, also by one in here.
        let mut ranges = Vec::with_capacity(ROOM);
        let recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
        let n = N_RECORDED.load(Ordering::Relaxed);
        ranges.extend(recorded[..n].iter().filter(|range| range.1 >= least));
        ranges
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        N_RECORDED.store(0, Ordering::Relaxed);
    }
}

/// Readable mappings of files whose path contains `path`.
pub fn mapped(path: &str) -> Vec<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    let lines = maps.lines().filter(|line| line.contains(path));
    lines
        .filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let start = usize::from_str_radix(start, 16).ok()?;
            let end = usize::from_str_radix(end, 16).ok()?;
            rest.starts_with('r').then_some((start, end - start))
        })
        .collect()
}

/// Throws ranges of memory out of every cache.
pub fn flush(ranges: &[(usize, usize)]) {
    for &(start, len) in ranges {
        for line in (start & !63..start + len).step_by(64) {
            // SAFETY: the line belongs to memory that our caller knows to be allocated.
            unsafe { _mm_clflush(line as *const u8) };
        }
    }
    // SAFETY: every x86-64 processor has it.
    unsafe { _mm_mfence() };
}
