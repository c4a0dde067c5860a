//! What the kernel knows about the running thread.

/// The running thread's name as the kernel shows it, padded with zeros. Async-signal-safe.
pub(crate) fn name() -> [u8; 16] {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// The running thread's id. Async-signal-safe.
pub(crate) fn id() -> u32 {
    let id = rustix::thread::gettid();
    id.as_raw_nonzero().get().unsigned_abs()
}

/// Whether this process has a thread of this number, one that is ending included.
pub(crate) fn exists(id: u32) -> bool {
    // SAFETY: signal 0 is never sent; the kernel only looks the thread up.
    let found = unsafe { libc::syscall(libc::SYS_tgkill, process(), id, 0) };
    found == 0
}

/// The process's id. Async-signal-safe.
pub(crate) fn process() -> u32 {
    let id = rustix::process::getpid();
    id.as_raw_nonzero().get().unsigned_abs()
}

/// The running thread's `errno`. Async-signal-safe.
pub(crate) fn errno() -> i32 {
    // SAFETY: glibc's per-thread variable, which always exists.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { place.read() }
}

/// Sets the running thread's `errno`. Async-signal-safe.
pub(crate) fn set_errno(errno: i32) {
    // SAFETY: glibc's per-thread variable, which always exists.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { place.write(errno) };
}

/// Address of the program's own headers, as the kernel mapped it; 0 where it does not say.
pub(crate) fn program_headers() -> usize {
    // SAFETY: looks a number up in what the kernel gave at the start.
    let address = unsafe { libc::getauxval(libc::AT_PHDR) };
    usize::try_from(address).unwrap_or(0)
}
