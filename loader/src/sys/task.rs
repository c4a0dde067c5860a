//! What the kernel knows about threads of this process.

use std::cell::Cell;
use std::fs;

thread_local! {
    /// The running thread's id, 0 until it is asked for. Neither a destructor nor lazy
    /// initialisation, so that it registers nothing.
    static ID: Cell<u32> = const { Cell::new(0) };
}

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

/// As [`id`], with a system call only the first time.
pub(crate) fn remembered_id() -> u32 {
    ID.with(|remembered| {
        if remembered.get() == 0 {
            remembered.set(id());
        }
        remembered.get()
    })
}

/// For a forked child, whose only thread has another id than its parent's. Async-signal-safe.
pub(crate) fn forget_id() {
    ID.with(|remembered| remembered.set(0));
}

/// The name of the thread `id`; empty where there is none.
pub(crate) fn name_of(id: u32) -> Box<str> {
    let name = fs::read(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into()
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

/// When the thread `id` started, in ticks since the machine did; none if it is not there.
pub(crate) fn started(id: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/self/task/{id}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The second field is the name, which may hold anything, in parentheses; this is the 22nd.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
