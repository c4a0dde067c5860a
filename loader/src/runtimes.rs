//! The runtimes of C++ and of unwinding, which the host has before a plugin could bring them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::deadline::{Deadline, lock_until};
use crate::image::Dependency;
use crate::sys::dl;

/// The runtimes kept, for [`keep_shared`]. Held while ld.so opens one.
static KEPT: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Keeps loads from opening runtimes, for a fork.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    lock_until(&KEPT, deadline)
}

/// Makes sure that the plugin is not the first to bring the C++ and unwinding runtimes in: they
/// could bind to weak symbols of the plugin and pin it for ever.
pub(crate) fn keep_shared(needed: &[Dependency]) {
    for Dependency { name, .. } in needed {
        if !matches!(name.as_str(), "libstdc++.so.6" | "libgcc_s.so.1") {
            continue;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.get_or_insert_default().insert(name.clone()) {
            // SAFETY: the system's own runtime libraries, which the plugin would bring in anyway.
            if let Err(error) = unsafe { dl::keep(name) } {
                tracing::debug!(target: "plug::load", library = name, %error, "not kept");
            }
        }
    }
}
