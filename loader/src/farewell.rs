//! A plugin's `exit` and what follows it on the same thread: how it went, and whether that thread
//! is still there.
//!
//! One that does not return in time is not given up: when it does, and its thread has ended, the
//! plugin is closed after all.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::sys::task;

/// What has been said, or why not all of it.
pub(crate) type Outcome = Result<Said, String>;

/// How `exit` went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// How long it took.
    pub(crate) exited: Duration,
    /// Whether the destructors ran as well. They wait for threads that have thread-locals of the
    /// plugin's to destroy.
    pub(crate) destroyed: bool,
}

/// The last calls into one plugin.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    outcome: Mutex<Option<Outcome>>,
    /// The thread's id, 0 until it began. Written once by that thread (SeqCst: cold), read by
    /// whoever asks whether it is over.
    tid: AtomicU32,
    /// When that thread started, as the kernel counts, so that its successor under the same id is
    /// not taken for it; none where it had ended at the first look.
    started: OnceLock<Option<u64>>,
}

impl Farewell {
    /// The running thread is the one that says it.
    pub(crate) fn begin(&self) {
        self.tid.store(task::id(), Ordering::SeqCst);
    }

    /// It has been said.
    pub(crate) fn end(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// Whether its thread, with what the plugin left on it, is gone: whether all was said or the
    /// plugin ended the thread.
    ///
    /// To be asked a first time while the thread is likely to be there. Never, where the kernel
    /// does not tell about threads.
    pub(crate) fn is_over(&self) -> bool {
        let tid = self.tid.load(Ordering::SeqCst);
        if tid == 0 || task::started(task::id()).is_none() {
            return false;
        }
        let now = task::started(tid);
        let first = *self.started.get_or_init(|| now);
        now.is_none() || now != first
    }

    /// How it went, once it did.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SAID: Said = Said {
        exited: Duration::ZERO,
        destroyed: true,
    };

    #[test]
    fn it_is_over_when_its_thread_has_ended_and_not_before() {
        let farewell = Farewell::default();
        assert!(!farewell.is_over());
        let (stop, stopped) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let (said, heard) = mpsc::channel();
            let thread = scope.spawn({
                let farewell = &farewell;
                move || {
                    farewell.begin();
                    farewell.end(Ok(SAID));
                    let _heard = said.send(());
                    stopped.recv()
                }
            });
            let _said = heard.recv();
            assert!(!farewell.is_over());
            drop(stop);
            let _ended = thread.join();
        });
        // A joined thread may still be on its way out of the kernel's list.
        while !farewell.is_over() {
            std::thread::yield_now();
        }
        assert_eq!(farewell.outcome(), Some(Ok(SAID)));
    }
}
