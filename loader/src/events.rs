//! What happened to plugins, kept in a ring for whoever wants to know, and told to subscribers.
//!
//! Reporting waits for nobody: who asks the ring too rarely sees a gap in the sequence. Two things wait,
//! a moment each: a load asks subscribers about a plugin that is Coming, and one that failed afterwards
//! has those told that it goes before it is unmapped.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use crate::crash::signal::CrashSignal;
use crate::deadline::{Deadline, lock_until};
use crate::error::Stage;
use crate::subscribers::{Heard, Subscriber};

/// Events kept: an hour of one load and unload every seven seconds.
const KEPT: usize = 1024;

/// How long each stage took.
type Times = Arc<[(Stage, Duration)]>;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Another process rehearsed its load; what it found.
    Probed(Box<str>),
    /// Readers see it; its constructors are about to run.
    Coming,
    /// It is usable: its `init` has succeeded.
    Live,
    /// Another version has its place, the load with this number: that is Live and has its name and its
    /// handles. Told in one step with that one's [`EventKind::Live`], right after it; what becomes of
    /// this one is told as in an unload.
    Replaced(u64),
    /// A load failed; where and why.
    Failed(Option<Stage>, Box<str>),
    /// It is being unloaded, or its load failed after it was Coming: calls and pins refuse.
    Going,
    /// An unload has waited long; for whom, and what they are doing.
    Stalled(Box<str>),
    /// An unload gave up; it is Live again; why.
    Stayed(Box<str>),
    /// It left the process.
    Unloaded,
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
            Self::Live => "live",
            Self::Replaced(_) => "replaced",
            Self::Failed(..) => "failed",
            Self::Going => "going",
            Self::Stalled(_) => "stalled",
            Self::Stayed(_) => "stayed",
            Self::Unloaded => "unloaded",
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
    /// How long each stage took: of its load, as far as that has come; of its unload where it was
    /// unloaded.
    pub stages: Arc<[(Stage, Duration)]>,
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
    /// How long the stages of loads took, by generation, until the plugin has left.
    times: HashMap<u64, Times>,
    subscribers: Vec<Arc<Subscriber>>,
}

impl Inner {
    /// Puts an event into the ring.
    fn add(&mut self, plugin: &str, generation: u64, kind: EventKind, stages: Times) -> Arc<Event> {
        self.sequence += 1;
        let event = Arc::new(Event {
            sequence: self.sequence,
            at: SystemTime::now(),
            plugin: plugin.into(),
            generation,
            kind,
            stages,
        });
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(Arc::clone(&event));
        event
    }

    fn times(&self, generation: u64) -> Times {
        self.times
            .get(&generation)
            .map(Arc::clone)
            .unwrap_or_default()
    }
}

/// Who has been told that a plugin is Coming.
#[derive(Debug)]
pub(crate) struct Told {
    event: Arc<Event>,
    subscribers: Vec<Arc<Subscriber>>,
}

impl Events {
    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        Some((
            lock_until(&self.inner, deadline)?,
            lock_until(&self.wakers, deadline)?,
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports an event, with the times of the load that it belongs to.
    pub(crate) fn push(&self, plugin: &str, generation: u64, kind: EventKind) {
        let times = self.lock().times(generation);
        self.push_timed(plugin, generation, kind, &times);
    }

    /// Reports an event, with these times; those of a load that goes on are kept for later ones.
    pub(crate) fn push_timed(
        &self,
        plugin: &str,
        generation: u64,
        kind: EventKind,
        stages: &[(Stage, Duration)],
    ) {
        let times = Times::from(stages);
        let mut inner = self.lock();
        match kind {
            EventKind::Live => {
                inner.times.insert(generation, Arc::clone(&times));
            }
            EventKind::Unloaded | EventKind::Collected | EventKind::Failed(..) => {
                inner.times.remove(&generation);
            }
            _ => {}
        }
        let event = inner.add(plugin, generation, kind, times);
        // Under the lock, so that everybody hears in the order of the numbers; none of them waits.
        for subscriber in inner.subscribers.iter().filter(|other| other.is_here()) {
            subscriber.post(Arc::clone(&event));
        }
        drop(inner);
        self.wake();
    }

    fn wake(&self) {
        self.pushed.notify_all();
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Tells that a plugin is Coming: the ring at once, subscribers one after the other, in the order
    /// in which they came. Each has `patience` for its answer. The first part says who was told, and is
    /// for [`Events::retract`]; whoever vetoes is not among them.
    ///
    /// # Errors
    /// Who vetoed it, and why.
    pub(crate) fn announce(
        &self,
        plugin: &str,
        generation: u64,
        stages: &[(Stage, Duration)],
        patience: Duration,
    ) -> (Told, Result<(), String>) {
        let times = Times::from(stages);
        let mut inner = self.lock();
        inner.times.insert(generation, Arc::clone(&times));
        let event = inner.add(plugin, generation, EventKind::Coming, times);
        let subscribers = inner.subscribers.clone();
        drop(inner);
        self.wake();
        let mut told = Told {
            event,
            subscribers: Vec::with_capacity(subscribers.len()),
        };
        for subscriber in subscribers.into_iter().filter(|other| other.is_here()) {
            match subscriber.ask(Arc::clone(&told.event), Deadline::after(patience)) {
                Heard::Vetoed(reason) => {
                    let why = format!("vetoed by the subscriber {}: {reason}", subscriber.name);
                    return (told, Err(why));
                }
                heard => Self::note(&subscriber, &heard, "coming"),
            }
            told.subscribers.push(subscriber);
        }
        (told, Ok(()))
    }

    /// Tells that a plugin goes whose load failed: those who were told that it comes, and nobody else.
    /// Each has `patience` to come back from it.
    pub(crate) fn retract(&self, told: Told, patience: Duration) {
        let coming = &told.event;
        let mut inner = self.lock();
        let times = inner.times(coming.generation);
        let kind = EventKind::Going;
        let event = inner.add(&coming.plugin, coming.generation, kind, times);
        drop(inner);
        self.wake();
        for subscriber in told.subscribers {
            if subscriber.is_here() {
                let heard = subscriber.ask(Arc::clone(&event), Deadline::after(patience));
                Self::note(&subscriber, &heard, "going");
            }
        }
    }

    /// Waits until subscribers have come back from all that they were told so far, `patience` for each.
    pub(crate) fn settle(&self, patience: Duration) {
        let subscribers = self.lock().subscribers.clone();
        for subscriber in subscribers.into_iter().filter(|other| other.is_here()) {
            let heard = subscriber.wait(None, Deadline::after(patience));
            Self::note(&subscriber, &heard, "going");
        }
    }

    fn note(subscriber: &Subscriber, heard: &Heard, event: &'static str) {
        if *heard == Heard::Late {
            let subscriber = &*subscriber.name;
            tracing::warn!(target: "plug::events", subscriber, event, "late; not waited for until it comes back");
        }
    }

    /// Tells `subscriber` all from now on.
    pub(crate) fn subscribe(&self, subscriber: Arc<Subscriber>) {
        self.lock().subscribers.push(subscriber);
    }

    /// Forgets subscribers that are told nothing any more.
    pub(crate) fn prune(&self) {
        self.lock().subscribers.retain(|other| other.is_here());
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
        let inner = self.lock();
        let from = inner
            .ring
            .partition_point(|event| event.sequence <= sequence);
        inner.ring.iter().skip(from).cloned().collect()
    }

    /// As `after`, waiting for the first one until the deadline.
    pub(crate) fn wait_after(&self, sequence: u64, deadline: Deadline) -> Vec<Arc<Event>> {
        let mut inner = self.lock();
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
