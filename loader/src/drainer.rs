//! The background thread that frees retired memory and collects zombies, so that no load ever
//! waits or frees.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::loader::Core;
use crate::quiesce;

/// Starts the drainer; it lives as long as the process.
///
/// # Errors
/// The operating system's, when no thread could be started.
pub(crate) fn start(core: &'static Core) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("plug-drainer".into())
        .spawn(move || {
            loop {
                core.registry.wait_for_retired();
                drain(core);
            }
        })?;
    Ok(())
}

/// One round: a grace period, then the freeing. A round whose grace period fails frees nothing.
pub(crate) fn drain(core: &'static Core) {
    core.registry.reclaim(|| {
        let grace = quiesce::patient_grace(Deadline::after(Duration::from_secs(10)));
        if let Err(error) = &grace {
            tracing::warn!(target: "plug::reclaim", %error, "nothing can be freed for now");
        }
        grace.is_ok()
    });
}
