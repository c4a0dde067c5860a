//! What happened to plugins, kept in a ring for whoever wants to know.
//!
//! Reporting never waits for a subscriber: one that is too slow sees a gap in the sequence.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use crate::crash::signal::CrashSignal;
use crate::deadline::{Deadline, lock_until};
use crate::error::Stage;

/// Events kept: an hour of one load and unload every seven seconds.
const KEPT: usize = 1024;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Another process rehearsed its load; what it found.
    Probed(Box<str>),
    /// Readers see it; its constructors are about to run.
    Coming,
    /// It is usable; how long each stage of the load took.
    Live(Vec<(Stage, Duration)>),
    /// A load failed; where and why.
    Failed(Option<Stage>, Box<str>),
    /// It is being unloaded: calls and pins refuse.
    Going,
    /// An unload has waited long; for whom, and what they are doing.
    Stalled(Box<str>),
    /// An unload gave up; it is Live again; why.
    Stayed(Box<str>),
    /// It left the process; how long each stage of the unload took.
    Unloaded(Vec<(Stage, Duration)>),
    /// It is closed but still mapped; why.
    Zombie(Vec<String>),
    /// It is closed but stays mapped for ever; why.
    Pinned(Vec<String>),
    /// A zombie left the process.
    Collected,
    /// Somebody replaced the loader's crash handler for these signals; seen after the load of the
    /// plugin that the event names, if it names one.
    CrashHandlerReplaced(Vec<CrashSignal>),
    /// A thread that the plugin had the host start ended in a panic, an exception or an error;
    /// which, and its message.
    ThreadFailed(Box<str>),
}

impl EventKind {
    /// The kind in one word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Probed(_) => "probed",
            Self::Coming => "coming",
            Self::Live(_) => "live",
            Self::Failed(..) => "failed",
            Self::Going => "going",
            Self::Stalled(_) => "stalled",
            Self::Stayed(_) => "stayed",
            Self::Unloaded(_) => "unloaded",
            Self::Zombie(_) => "zombie",
            Self::Pinned(_) => "pinned",
            Self::Collected => "collected",
            Self::CrashHandlerReplaced(_) => "crash-handler-replaced",
            Self::ThreadFailed(_) => "thread-failed",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Its number; grows by one.
    pub sequence: u64,
    /// When it happened.
    pub at: SystemTime,
    /// The plugin's name; the file as given where a load failed before the name was known.
    pub plugin: Box<str>,
    /// The load it belongs to; 0 where there was none yet.
    pub generation: u64,
    /// What happened.
    pub kind: EventKind,
}

/// The ring.
#[derive(Debug, Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
    pushed: Condvar,
    /// Called after every event, on the thread that reports it. None of them waits.
    wakers: Mutex<Vec<Waker>>,
}

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Arc<Event>>,
    sequence: u64,
}

impl Events {
    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        Some((
            lock_until(&self.inner, deadline)?,
            lock_until(&self.wakers, deadline)?,
        ))
    }

    pub(crate) fn push(&self, plugin: &str, generation: u64, kind: EventKind) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sequence += 1;
        let event = Event {
            sequence: inner.sequence,
            at: SystemTime::now(),
            plugin: plugin.into(),
            generation,
            kind,
        };
        if inner.ring.len() == KEPT {
            inner.ring.pop_front();
        }
        inner.ring.push_back(Arc::new(event));
        drop(inner);
        self.pushed.notify_all();
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Calls `waker` after every event from now on; it must not wait.
    #[cfg(feature = "control")]
    pub(crate) fn add_waker(&self, waker: Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.push(waker);
    }

    /// Calls `waker` no more.
    #[cfg(feature = "control")]
    pub(crate) fn remove_waker(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.retain(|other| !other.will_wake(waker));
    }

    /// Events after number `sequence` that are still kept.
    pub(crate) fn after(&self, sequence: u64) -> Vec<Arc<Event>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let from = inner
            .ring
            .partition_point(|event| event.sequence <= sequence);
        inner.ring.iter().skip(from).cloned().collect()
    }

    /// As `after`, waiting for the first one until the deadline.
    pub(crate) fn wait_after(&self, sequence: u64, deadline: Deadline) -> Vec<Arc<Event>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.sequence <= sequence && !deadline.has_passed() {
            inner = self
                .pushed
                .wait_timeout(inner, deadline.remaining())
                .map_or_else(|poison| poison.into_inner().0, |(inner, _)| inner);
        }
        drop(inner);
        self.after(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_full_ring_shows_the_gap_by_its_sequence() {
        let events = Events::default();
        for _ in 0..KEPT + 3 {
            events.push("p", 1, EventKind::Going);
        }
        let kept = events.after(0);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept.first().map(|event| event.sequence), Some(4));
        assert_eq!(events.after(KEPT as u64 + 2).len(), 1);
        assert!(
            events
                .wait_after(KEPT as u64 + 3, Deadline::now())
                .is_empty()
        );
    }
}
