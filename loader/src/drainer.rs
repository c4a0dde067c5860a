//! The background thread that frees retired memory and collects zombies, so that no load ever
//! waits or frees.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::deadline::Deadline;
use crate::events::EventKind;
use crate::process::Process;
use crate::quiesce;
use crate::sys::thread::Thread;
use crate::unload;

/// Starts the drainer; it lives as long as the process.
///
/// # Errors
/// The operating system's, when no thread could be started.
pub(crate) fn start(process: &'static Process) -> std::io::Result<()> {
    let _detached = Thread::start(c"plug-drainer", move || {
        loop {
            process
                .registry
                .wait_for_retired(|| unload::close_late(process));
            drain(process);
        }
    })?;
    Ok(())
}

/// One round: plugins for which what they waited for has happened, a grace period, then the freeing.
/// A round whose grace period fails frees nothing and says false.
pub(crate) fn drain(process: &'static Process) -> bool {
    unload::close_late(process);
    let mut is_complete = false;
    let collected = process.registry.reclaim(|| {
        let grace = quiesce::patient_grace(Deadline::after(Duration::from_secs(10)));
        if let Err(error) = &grace {
            tracing::warn!(target: "plug::reclaim", %error, "nothing can be freed for now");
        }
        is_complete = grace.is_ok();
        is_complete
    });
    for record in collected {
        let (plugin, generation) = (&*record.name, record.generation);
        tracing::info!(target: "plug::unload", plugin, generation, "zombie left");
        process
            .events
            .push(plugin, generation, EventKind::Collected);
        unload::remember(process, record);
    }
    is_complete
}
