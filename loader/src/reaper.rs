//! What threads left behind that died inside a section or a call, and how much of it there was.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plug_readside::snapshot;

use crate::sys::{clock, membarrier, task};

/// Whether somebody reaps. Taken and given back by whoever does (Acquire, Release), cleared in a
/// forked child.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Sections and calls reaped. Written by whoever reaps, read by reports (Relaxed: numbers).
static SECTIONS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// What was taken from dead threads since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// Read sections that a thread died in.
    pub sections: u64,
    /// Calls of plugins that a worker died in.
    pub calls: u64,
}

/// Nanoseconds of the clock when lines were last reaped for a registration. Written and read by
/// whoever registers (Relaxed: a measure against looking too often).
static LAST_WANT: AtomicU64 = AtomicU64::new(0);

/// As [`reap_sections`], for a thread that found no free line: at most ten times a second, since
/// all lines may well be owned by the living.
pub(crate) fn reap_for_a_line() {
    const OFTEN: u64 = 100_000_000;
    let now = clock::monotonic();
    if now.saturating_sub(LAST_WANT.load(Ordering::Relaxed)) >= OFTEN {
        LAST_WANT.store(now, Ordering::Relaxed);
        reap_sections();
    }
}

/// Frees the lines and slots of dead readers; does nothing while another thread does it.
///
/// A few microseconds a reader; a membarrier where a dead one is found.
pub(crate) fn reap_sections() {
    // Acquire: what the reaper before this one did.
    if BUSY.swap(true, Ordering::Acquire) {
        return;
    }
    // SAFETY: one at a time, by `BUSY`; of the dead the kernel says that they are no more.
    let reaped = unsafe { snapshot::sections().reap(task::is_dead, membarrier::expedited) };
    // Release: for the next reaper.
    BUSY.store(false, Ordering::Release);
    match reaped {
        Ok(reaped) if reaped.sections > 0 => {
            let sections = reaped.sections;
            SECTIONS.fetch_add(sections as u64, Ordering::Relaxed);
            tracing::warn!(target: "plug::reclaim", sections, "readers died inside their sections");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(target: "plug::reclaim", %error, "dead readers cannot be reaped");
        }
    }
}

/// Notes that calls of a dead worker are no longer waited for.
pub(crate) fn count_calls(calls: u64) {
    CALLS.fetch_add(calls, Ordering::Relaxed);
}

/// What was taken from dead threads until now.
pub(crate) fn reaped() -> Reaped {
    Reaped {
        sections: SECTIONS.load(Ordering::Relaxed),
        calls: CALLS.load(Ordering::Relaxed),
    }
}

/// Whoever reaped is not in the child of a fork. Async-signal-safe.
pub(crate) fn reset_after_fork() {
    BUSY.store(false, Ordering::Release);
}
