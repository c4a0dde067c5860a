//! The latest moment a wait may end.

#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, RwLock, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::clock;

/// The latest moment a wait may end. Every wait of the loader takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Instant);

impl Deadline {
    /// `duration` from now; at most a hundred years.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Self(Instant::now() + duration.min(CENTURY))
    }

    /// This very moment: look once, do not wait.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// Time left, zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Locks `mutex` unless the deadline passes first: for whoever may be needed by the one that holds it.
pub(crate) fn lock_until<T>(mutex: &Mutex<T>, deadline: Deadline) -> Option<MutexGuard<'_, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poison)) => return Some(poison.into_inner()),
            Err(TryLockError::WouldBlock) if deadline.has_passed() => return None,
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

/// As [`lock_until`], excluding all who read.
pub(crate) fn write_until<T>(
    lock: &RwLock<T>,
    deadline: Deadline,
) -> Option<RwLockWriteGuard<'_, T>> {
    loop {
        match lock.try_write() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poison)) => return Some(poison.into_inner()),
            Err(TryLockError::WouldBlock) if deadline.has_passed() => return None,
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

/// Waits between looks at something that another thread changes without telling: spins, then
/// yields, then sleeps up to half a millisecond.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Deadline,
    looks: u32,
}

impl Patience {
    pub(crate) fn until(deadline: Deadline) -> Self {
        Self { deadline, looks: 0 }
    }

    /// Waits a little; false when the deadline has passed.
    pub(crate) fn pause(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        match self.looks {
            0..=64 => std::hint::spin_loop(),
            65..=80 => thread::yield_now(),
            _ => {
                if self.deadline.has_passed() {
                    return false;
                }
                let nap = Duration::from_micros(u64::from(self.looks.min(500)).max(50));
                clock::nap(nap.min(self.deadline.remaining()));
            }
        }
        true
    }
}
