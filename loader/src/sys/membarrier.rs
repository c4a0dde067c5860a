//! Barriers in every running thread of the process, so that readers need none.

use plug_readside::section::Sections;
use rustix::io;
use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

/// Registers the process for expedited barriers; readers fence themselves where that fails.
///
/// Returns whether membarrier is used.
///
/// # Safety
/// - No thread is registered yet, and each registration happens after this call.
pub(crate) unsafe fn prepare(sections: &Sections) -> bool {
    let needed = MembarrierQuery::PRIVATE_EXPEDITED | MembarrierQuery::REGISTER_PRIVATE_EXPEDITED;
    let usable = membarrier_query().contains(needed)
        && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok();
    if !usable {
        // SAFETY: passed on to our caller.
        unsafe { sections.use_fences() };
    }
    usable
}

/// Registers a forked child, which inherits the registration where the kernel copies it.
///
/// Async-signal-safe.
pub(crate) fn prepare_child() {
    // A refusal shows at the first barrier, whose failure is told.
    let _registered = membarrier(MembarrierCommand::RegisterPrivateExpedited);
}

/// A full barrier in every running thread of the process, by interrupting them.
///
/// # Errors
/// The system call's, for example after a host installed a seccomp filter.
pub(crate) fn expedited() -> io::Result<()> {
    membarrier(MembarrierCommand::PrivateExpedited)
}

/// The same without interrupting anybody, by waiting for the kernel's own grace period.
///
/// # Errors
/// As [`expedited`], which is tried where the patient form is refused.
pub(crate) fn patient() -> io::Result<()> {
    membarrier(MembarrierCommand::Global).or_else(|_| expedited())
}
