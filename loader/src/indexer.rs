//! The background thread that builds searches by address, so that no load pays for them.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::{Deadline, lock_until};
use crate::index::OwnedIndex;
use crate::sys::thread::Thread;

/// Indexes that wait for their search.
#[derive(Debug, Default)]
pub(crate) struct Indexer {
    queue: Mutex<Queue>,
    /// Something waits, or nothing does any more.
    changed: Condvar,
}

/// What the lock protects.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Arc<OwnedIndex>>,
    is_building: bool,
}

impl Queue {
    /// Whoever built a search is not in the child of a fork: readers go on scanning.
    pub(crate) fn reset_after_fork(&mut self) {
        self.is_building = false;
    }
}

impl Indexer {
    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<MutexGuard<'_, Queue>> {
        lock_until(&self.queue, deadline)
    }

    /// Asks for the search of `index`; readers scan its symbols until it is there.
    pub(crate) fn ask(&self, index: Arc<OwnedIndex>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.push_back(index);
        drop(queue);
        self.changed.notify_all();
    }

    /// Starts the thread; it lives as long as the process.
    ///
    /// # Errors
    /// The operating system's, when no thread could be started.
    pub(crate) fn start(&'static self) -> std::io::Result<()> {
        let _detached = Thread::start(c"plug-indexer", move || {
            // Readers get the same answers meanwhile, so that everybody else goes first.
            if let Err(error) = rustix::process::nice(10) {
                tracing::debug!(target: "plug::load", %error, "the indexer is as eager as others");
            }
            loop {
                self.build_next();
            }
        })?;
        Ok(())
    }

    fn build_next(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let index = loop {
            match queue.waiting.pop_front() {
                Some(index) => break index,
                None => {
                    queue = self
                        .changed
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        queue.is_building = true;
        drop(queue);
        // One that only this queue still holds belongs to a plugin that has left.
        if Arc::strong_count(&index) > 1 {
            index.build_search();
        }
        drop(index);
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_building = false;
        self.changed.notify_all();
    }

    /// Waits until every search asked for is built.
    pub(crate) fn settle(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.is_building || !queue.waiting.is_empty() {
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
