//! The writer's steps by themselves, for benchmarks.
//!
//! Feature `measuring`, never on in a product: each step is what a load or an unload does on its
//! way, so that a benchmark can do it alone and as often as it likes. Thread context.

#![forbid(unsafe_code)]

use crate::deadline::Deadline;
use crate::error::Error;
use crate::loader::Loader;
use crate::plugin::Plugin;
use crate::quiesce;

/// Publishes the present rows once more: all that a load does to readers.
pub fn republish(loader: &Loader) {
    loader.process.registry.republish();
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
    let drained = quiesce::drain(&process.workers, &process.presence, record, deadline);
    process.registry.put_back(leaving);
    drained.map(drop)
}
