//! Clients that are asked about plugins that are Coming, and their votes.
//!
//! A guard is a subscriber of the loader's whose thread waits for what its client says. One that says
//! nothing is late, as any subscriber would be, and costs the next load nothing.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::events::{Event, EventKind};
use crate::loader::Loader;
use crate::subscribers::{Subscription, Vote};

/// Votes kept of one guard that nobody has asked for; of more the oldest are forgotten.
const KEPT: usize = 64;

/// The guards of a host, by their names.
#[derive(Debug, Default)]
pub(super) struct Guards(Mutex<BTreeMap<String, Arc<Ballot>>>);

/// What one guard has said, by load.
#[derive(Debug, Default)]
struct Ballot {
    inner: Mutex<Votes>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Votes {
    cast: BTreeMap<u64, Vote>,
    is_closed: bool,
}

/// A client's guard, for as long as it listens.
#[derive(Debug)]
pub(super) struct Guard {
    guards: Arc<Guards>,
    name: String,
    ballot: Arc<Ballot>,
    _subscription: Subscription,
}

impl Guards {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Ballot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the client that calls itself `name` from now on; none where another one has the name.
    ///
    /// # Errors
    /// Those of [`Loader::subscribe`].
    pub(super) fn post(
        self: &Arc<Self>,
        loader: &Loader,
        name: String,
    ) -> Result<Option<Guard>, Error> {
        let mut guards = self.lock();
        if guards.contains_key(&name) {
            return Ok(None);
        }
        let ballot = Arc::new(Ballot::default());
        let asked = Arc::clone(&ballot);
        let ask = move |event: &Event| match event.kind {
            EventKind::Coming => asked.wait(event.generation),
            _ => Vote::Go,
        };
        let subscription = loader.subscribe(&name, ask)?;
        guards.insert(name.clone(), Arc::clone(&ballot));
        Ok(Some(Guard {
            guards: Arc::clone(self),
            name,
            ballot,
            _subscription: subscription,
        }))
    }

    /// What the guard `name` says about a load; false where there is no such guard.
    pub(super) fn vote(&self, name: &str, generation: u64, vote: Vote) -> bool {
        let ballot = self.lock().get(name).map(Arc::clone);
        ballot.is_some_and(|ballot| {
            ballot.cast(generation, vote);
            true
        })
    }
}

impl Ballot {
    fn lock(&self) -> MutexGuard<'_, Votes> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client hears of a load from the ring, and may be faster than the thread that is asked.
    fn cast(&self, generation: u64, vote: Vote) {
        let mut votes = self.lock();
        votes.cast.insert(generation, vote);
        if votes.cast.len() > KEPT {
            votes.cast.pop_first();
        }
        drop(votes);
        self.changed.notify_all();
    }

    /// Waits for what the client says about a load; a client that goes has nothing against it.
    fn wait(&self, generation: u64) -> Vote {
        let mut votes = self.lock();
        loop {
            if let Some(vote) = votes.cast.remove(&generation) {
                return vote;
            }
            if votes.is_closed {
                return Vote::Go;
            }
            votes = self
                .changed
                .wait(votes)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.guards.lock().remove(&self.name);
        self.ballot.lock().is_closed = true;
        self.ballot.changed.notify_all();
    }
}
