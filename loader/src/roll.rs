//! What of a load's can be given up by request: its tasks, and the wakers of its own that futures
//! of the host's keep.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::deadline::{Deadline, lock_until};

/// What can be given up.
pub(crate) trait Cancel: Send + Sync {
    /// Gives the plugin's part up, at once or as soon as nobody is in it.
    fn cancel(&self);
}

/// The list of one load.
#[derive(Default)]
pub(crate) struct Roll(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// By address, which is nobody else's while the entry is there.
    entries: HashMap<usize, Weak<dyn Cancel>>,
    /// Whether an unload has been asked to cancel everything, also what comes.
    is_cancelling: bool,
}

impl fmt::Debug for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roll")
            .field(&self.lock().entries.len())
            .finish()
    }
}

impl Roll {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.0, deadline)
    }

    /// Writes `entry` down; cancels it at once where everything is cancelled.
    pub(crate) fn add<T: Cancel + 'static>(&self, entry: &Arc<T>) {
        let known: Weak<dyn Cancel> = Arc::downgrade(entry) as Weak<T>;
        let mut inner = self.lock();
        inner.entries.insert(Arc::as_ptr(entry).addr(), known);
        let is_cancelling = inner.is_cancelling;
        drop(inner);
        if is_cancelling {
            entry.cancel();
        }
    }

    /// Forgets the entry at `address`, which is being dropped.
    pub(crate) fn remove(&self, address: usize) {
        let mut inner = self.lock();
        let removed = inner.entries.remove(&address);
        if inner.entries.is_empty() {
            inner.entries = HashMap::new();
        }
        drop(inner);
        drop(removed);
    }

    /// Says whether what is added from now on is cancelled at once.
    pub(crate) fn set_cancelling(&self, is_cancelling: bool) {
        self.lock().is_cancelling = is_cancelling;
    }

    /// Cancels everything that is there.
    pub(crate) fn cancel_all(&self) {
        let inner = self.lock();
        let entries: Vec<_> = inner.entries.values().filter_map(Weak::upgrade).collect();
        drop(inner);
        // Without the lock: it is somebody else's code.
        entries.iter().for_each(|entry| entry.cancel());
    }
}
