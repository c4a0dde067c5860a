//! Loads in flight: a second load of the same file waits for the first and shares its result.
//!
//! # Source
//! `idempotent_init_module` in kernel/module/main.c: everybody waits and gets the same answer.

#![forbid(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::bundle::Rules;
use crate::deadline::{Deadline, write_until};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::image::FileKey;
use crate::plugin::Plugin;
use crate::policy::Policy;
use crate::trust::Accounting;

/// The file, the name it is loaded under where the caller chose one, whether it is to be permanent,
/// whether it is forced, what is counted of it, what becomes of what pins it, what it is admitted by,
/// and the digest of its detached signature: nobody shares a load that other rules let pass, nor the
/// refusal of a signature that is not theirs.
pub(crate) type FlightKey = (
    FileKey,
    Option<String>,
    bool,
    bool,
    Accounting,
    Rules,
    Policy,
    Option<Digest>,
);

/// Loads in flight, by file.
///
/// The outer lock is written by forks alone, whose child has none of the pilots.
#[derive(Debug, Default)]
pub(crate) struct Flights(RwLock<Map>);

/// The map inside.
pub(crate) type Map = DashMap<FlightKey, Arc<Flight>>;

/// One load that others may wait for.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    result: Mutex<Option<Result<Plugin, Error>>>,
    landed: Condvar,
}

/// Ends a flight, whatever happens to its pilot.
struct Landing<'a> {
    flights: &'a Flights,
    key: FlightKey,
    flight: Arc<Flight>,
    result: Option<Result<Plugin, Error>>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.flights.map().remove(&self.key);
        let result = self.result.take().unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Busy,
                "the load that was shared came to no end; try again",
            ))
        });
        *self
            .flight
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.flight.landed.notify_all();
    }
}

impl Flights {
    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<RwLockWriteGuard<'_, Map>> {
        write_until(&self.0, deadline)
    }

    /// Runs `load`, or waits for whoever runs it for the same file already.
    ///
    /// # Errors
    /// Those of `load`, shared; [`ErrorKind::Deadline`] when the other one takes too long.
    pub(crate) fn join(
        &self,
        key: FlightKey,
        deadline: Deadline,
        load: impl FnOnce() -> Result<Plugin, Error>,
    ) -> Result<Plugin, Error> {
        let flight = Arc::new(Flight::default());
        let other = match self.map().entry(key.clone()) {
            Entry::Occupied(entry) => Some(Arc::clone(entry.get())),
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(&flight));
                None
            }
        };
        if let Some(other) = other {
            return other.wait(deadline);
        }
        let mut landing = Landing {
            flights: self,
            key,
            flight,
            result: None,
        };
        let result = load();
        landing.result = Some(result.clone());
        result
    }
}

impl Flight {
    fn wait(&self, deadline: Deadline) -> Result<Plugin, Error> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            if deadline.has_passed() {
                return Err(Error::new(
                    ErrorKind::Deadline,
                    "another load of the same file did not end in time",
                ));
            }
            result = self
                .landed
                .wait_timeout(result, deadline.remaining())
                .map_or_else(|poison| poison.into_inner().0, |(result, _)| result);
        }
    }
}
