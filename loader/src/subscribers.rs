//! Those in the host who are told of events, each on a thread of its own, so that one that blocks or
//! panics harms nobody.
//!
//! Thread context. No lock of the loader's is held while a subscriber runs, and none of them is waited
//! for beyond its patience: one that is late is not waited for again until it has come back.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::events::{Event, EventKind, Events};
use crate::sys::task;

/// Events kept for a subscriber that is slow, as many as for everybody; of more the first are left out.
const KEPT: usize = 1024;

/// What a subscriber says to an event.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Vote {
    /// Let it be.
    #[default]
    Go,
    /// Refuse the load, because of this. Heeded where a plugin is [`EventKind::Coming`], and nowhere
    /// else.
    Veto(Box<str>),
}

/// That somebody is told of events, until this is dropped.
///
/// Dropping it does not wait: a call that has begun comes to its end by itself.
#[must_use = "nobody is told any more when this is dropped"]
pub struct Subscription {
    events: &'static Events,
    subscriber: Arc<Subscriber>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({})", self.subscriber.name)
    }
}

impl Subscription {
    /// Ends it and waits for a call that has begun: whether that has come to its end, so that nothing
    /// of the subscriber's runs any more. False from inside of it.
    #[must_use = "the subscriber may still run"]
    pub fn end(self, deadline: Deadline) -> bool {
        let subscriber = Arc::clone(&self.subscriber);
        drop(self);
        subscriber.wait_for_end(deadline)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriber.close();
        self.events.prune();
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) name: Box<str>,
    /// Whose thread it has: a forked child has no such thread, and must not touch the rest.
    process: u32,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<(u64, Arc<Event>)>,
    /// The number of the last event that was put in.
    posted: u64,
    /// That of the last one that it has come back from.
    answered: u64,
    /// Those that somebody waits for the vote on, and the veto, if it came to one.
    asked: Vec<(u64, Option<Box<str>>)>,
    /// Somebody gave up waiting for what it is doing.
    is_late: bool,
    is_closed: bool,
    has_ended: bool,
    thread: Option<ThreadId>,
}

/// What became of an event that was put in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It came back from it, or is not there any more.
    Back,
    /// It came back with a veto.
    Vetoed(Box<str>),
    /// It did not come back in time.
    Late,
}

impl Inner {
    /// Puts an event in; its number.
    fn put(&mut self, event: Arc<Event>) -> u64 {
        if self.queue.len() == KEPT {
            self.queue.pop_front();
        }
        self.posted += 1;
        self.queue.push_back((self.posted, event));
        self.posted
    }
}

/// The end of its thread, however that comes about.
struct End<'a>(&'a Subscriber);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.is_closed = true;
        inner.has_ended = true;
        inner.queue.clear();
        drop(inner);
        self.0.changed.notify_all();
    }
}

impl Subscriber {
    /// Starts its thread.
    ///
    /// # Errors
    /// [`ErrorKind::Thread`].
    pub(crate) fn start(
        name: &str,
        call: impl FnMut(&Event) -> Vote + Send + 'static,
    ) -> Result<Arc<Self>, Error> {
        let subscriber = Arc::new(Self {
            name: name.into(),
            process: task::process(),
            inner: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&subscriber);
        thread::Builder::new()
            .name("plug-subscriber".into())
            .spawn(move || own.run(call))
            .map_err(|error| {
                Error::new(ErrorKind::Thread, "no thread for the subscriber").because(error)
            })?;
        Ok(subscriber)
    }

    /// A subscription of it to `events`.
    pub(crate) fn subscription(self: Arc<Self>, events: &'static Events) -> Subscription {
        Subscription {
            events,
            subscriber: self,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is one of the running process's, and is still told.
    pub(crate) fn is_here(&self) -> bool {
        self.process == task::process() && !self.lock().is_closed
    }

    /// Puts an event in. Never waits.
    pub(crate) fn post(&self, event: Arc<Event>) {
        self.lock().put(event);
        self.changed.notify_all();
    }

    /// Puts an event in and waits for the vote on it. Does not wait from inside of it, nor while it is
    /// late.
    pub(crate) fn ask(&self, event: Arc<Event>, deadline: Deadline) -> Heard {
        let mut inner = self.lock();
        let number = inner.put(event);
        inner.asked.push((number, None));
        drop(inner);
        self.changed.notify_all();
        let heard = self.wait(Some(number), deadline);
        let mut inner = self.lock();
        let place = inner.asked.iter().position(|(of, _)| *of == number);
        let asked = place.map(|at| inner.asked.swap_remove(at));
        match (heard, asked) {
            (Heard::Back, Some((_, Some(reason)))) => Heard::Vetoed(reason),
            (heard, _) => heard,
        }
    }

    /// Waits until it has come back from the event with this number, or from all that it was told so
    /// far. Does not wait from inside of it, nor while it is late.
    pub(crate) fn wait(&self, number: Option<u64>, deadline: Deadline) -> Heard {
        let mut inner = self.lock();
        let number = number.unwrap_or(inner.posted);
        if inner.is_late || inner.thread == Some(thread::current().id()) {
            return Heard::Back;
        }
        while inner.answered < number && !inner.is_closed {
            if deadline.has_passed() {
                inner.is_late = true;
                return Heard::Late;
            }
            inner = self
                .changed
                .wait_timeout(inner, deadline.remaining())
                .map_or_else(|poison| poison.into_inner().0, |(inner, _)| inner);
        }
        Heard::Back
    }

    /// It is told nothing any more.
    fn close(&self) {
        if self.process == task::process() {
            let mut inner = self.lock();
            inner.is_closed = true;
            inner.queue.clear();
            drop(inner);
            self.changed.notify_all();
        }
    }

    fn wait_for_end(&self, deadline: Deadline) -> bool {
        if self.process != task::process() {
            return true;
        }
        let mut inner = self.lock();
        while !inner.has_ended {
            if deadline.has_passed() || inner.thread == Some(thread::current().id()) {
                return false;
            }
            inner = self
                .changed
                .wait_timeout(inner, deadline.remaining())
                .map_or_else(|poison| poison.into_inner().0, |(inner, _)| inner);
        }
        true
    }

    /// What its thread does.
    fn run(&self, call: impl FnMut(&Event) -> Vote) {
        let _end = End(self);
        let mut call = call;
        self.lock().thread = Some(thread::current().id());
        while let Some((number, event)) = self.next() {
            // Nothing of it is used again once it has panicked. What it panicked with may panic, too.
            let vote = catch_unwind(AssertUnwindSafe(|| call(&event))).map_err(drop);
            let mut inner = self.lock();
            inner.answered = number;
            inner.is_late = false;
            match vote {
                Ok(Vote::Veto(reason)) if event.kind == EventKind::Coming => {
                    let mut asked = inner.asked.iter_mut();
                    match asked.find(|(of, _)| *of == number) {
                        Some((_, veto)) => *veto = Some(reason),
                        None => {
                            let plugin = &*event.plugin;
                            tracing::warn!(target: "plug::events", subscriber = &*self.name, plugin, %reason, "vetoed too late");
                        }
                    }
                }
                Ok(_) => {}
                Err(()) => {
                    inner.is_closed = true;
                    tracing::error!(target: "plug::events", subscriber = &*self.name, event = event.kind.name(), "panicked, and is told nothing any more");
                }
            }
            drop(inner);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<(u64, Arc<Event>)> {
        let mut inner = self.lock();
        loop {
            if inner.is_closed {
                return None;
            }
            if let Some(next) = inner.queue.pop_front() {
                return Some(next);
            }
            inner = self
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
