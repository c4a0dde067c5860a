//! Descriptors by number.

/// Whether `descriptor` is open. Async-signal-safe.
pub(crate) fn is_open(descriptor: i32) -> bool {
    // SAFETY: asks for flags and changes nothing; any number may be asked about.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
}
