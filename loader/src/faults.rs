//! Calls of a plugin that failed, for whoever has it on trial. Only a call that fails comes here.
//!
//! Thread context.

#![forbid(unsafe_code)]

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::deadline::{Deadline, lock_until};

/// The first call of one load that failed, if any did.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    first: Mutex<Option<Raised>>,
    noted: Condvar,
}

/// A call that raised.
#[derive(Clone, Debug)]
pub(crate) struct Raised {
    /// The function or table that was called.
    pub(crate) address: usize,
    pub(crate) message: Box<str>,
    pub(crate) at: Instant,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Option<Raised>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.first, deadline)
    }

    /// Notes that a call of what is at `address` raised this.
    pub(crate) fn note(&self, address: usize, message: &str) {
        let mut first = self.lock();
        if first.is_none() {
            *first = Some(Raised {
                address,
                message: message.into(),
                at: Instant::now(),
            });
            self.noted.notify_all();
        }
    }

    /// The first one, waited for until the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) -> Option<Raised> {
        let mut first = self.lock();
        while first.is_none() && !deadline.has_passed() {
            first = self
                .noted
                .wait_timeout(first, deadline.remaining())
                .map_or_else(|poison| poison.into_inner().0, |(first, _)| first);
        }
        first.clone()
    }
}
