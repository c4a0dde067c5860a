//! The writer's steps by themselves, for benchmarks.
//!
//! Feature `measuring`, never on in a product: each step is what a load or an unload does on its
//! way, so that a benchmark can do it alone and as often as it likes. Thread context.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::footprint;
use crate::loader::Loader;
use crate::plugin::Plugin;
use crate::quiesce::{self, Undrained};

/// Publishes the present rows once more: all that a load does to readers.
pub fn republish(loader: &Loader) {
    loader.process.registry.republish();
}

/// Whether loads from now on redirect their plugins' imports, as they do unless told otherwise; what a
/// plugin without that leaves on threads is glibc's to hold against it.
pub fn redirect_imports(is_wanted: bool) {
    footprint::set_redirecting(is_wanted);
}

/// Waits until everybody has left the sections that are open: all that an unload asks of readers.
///
/// # Errors
/// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline), [`ErrorKind::Barrier`](crate::ErrorKind::Barrier).
pub fn grace(deadline: Deadline) -> Result<(), Error> {
    quiesce::grace(deadline)
}

/// Closes the gates of `plugin`, waits until nobody is inside, and opens them again.
///
/// # Errors
/// As [`Loader::unload`].
pub fn drain(loader: &Loader, plugin: &Plugin, deadline: Deadline) -> Result<(), Error> {
    let process = loader.process;
    let leaving = process
        .registry
        .take(plugin.name(), Some(plugin.generation()))?;
    let record = plugin.record();
    let go_on = |_| ControlFlow::Continue(());
    let drained = quiesce::drain(&process.workers, &process.presence, record, deadline, go_on);
    process.registry.put_back(leaving);
    let holders = match drained {
        Ok(_) => return Ok(()),
        Err(Undrained::Barrier(error)) => return Err(error),
        Err(Undrained::Held(holders)) => holders,
        Err(Undrained::Unwanted) => Vec::new(),
    };
    let message = "still in use when the deadline passed; it is Live again";
    Err(Error::new(ErrorKind::Deadline, message).holders(holders))
}
