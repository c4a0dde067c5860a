//! What the kernel knows about threads of this process.

use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// The process that the loader's memory belongs to, 0 until it is known. Written by
/// [`remember_process`] (Relaxed: before a plugin's code runs, or by a forked child's only thread).
static HOME: AtomicU32 = AtomicU32::new(0);

/// The running process is where the loader's memory belongs from now on. Async-signal-safe.
pub(crate) fn remember_process() {
    HOME.store(process(), Ordering::Relaxed);
}

/// Whether the running process only borrows the loader's memory: a child of `vfork`, or one made
/// without the C library's knowledge. Asks the kernel each time. Async-signal-safe.
pub(crate) fn is_guest() -> bool {
    HOME.load(Ordering::Relaxed) != process()
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

/// Whether no thread of the process has the id `tid`, so that it runs no more of its code.
///
/// Thread context. Answers false wherever the kernel does not say.
pub(crate) fn is_dead(tid: u32) -> bool {
    // The first thread's id stays the process's after that thread has ended.
    // Who asks has not, and /proc takes longer than all else here.
    is_unknown(tid) || tid == process() && tid != id() && is_ended(tid)
}

/// Whether the kernel knows no thread of the process by the id `tid`. Async-signal-safe.
pub(crate) fn is_unknown(tid: u32) -> bool {
    let Ok(id) = libc::pid_t::try_from(tid) else {
        return false;
    };
    // SAFETY: signal 0 sends nothing.
    let status = unsafe { libc::syscall(libc::SYS_tgkill, process(), id, 0) };
    status != 0 && errno() == libc::ESRCH
}

/// Whether `/proc` says of the process's first thread that it has ended.
fn is_ended(tid: u32) -> bool {
    let Ok(stat) = fs::read(format!("/proc/self/task/{tid}/stat")) else {
        return false;
    };
    // `tid (name) state ...`, and the name may hold anything.
    let mut after_name = stat
        .rsplit(|byte| *byte == b')')
        .next()
        .into_iter()
        .flatten();
    matches!(after_name.nth(1), Some(b'Z' | b'X'))
}

/// How far from its thread pointer each thread of the process has its id, in glibc's
/// `struct pthread`; none where it is not found.
///
/// Starts a thread and waits for it: the place that holds the id of both is the one.
///
/// # Source
/// `struct pthread` in nptl/descr.h: on x86-64 at the thread pointer, on aarch64 right below it;
/// over 1,700 bytes since 2.4.
pub(crate) fn distance_of_id() -> Option<usize> {
    const WORDS: usize = 400;
    const FIRST: usize = if cfg!(target_arch = "aarch64") {
        (WORDS * 4).wrapping_neg()
    } else {
        0
    };
    fn holds_own_id(words: &mut [bool; WORDS]) {
        let (thread, own) = (plug_readside::thread_pointer(), id());
        for (n, holds) in words.iter_mut().enumerate() {
            let place = plug_readside::at_distance(thread, FIRST.wrapping_add(n * 4));
            // SAFETY: inside the running thread's `struct pthread`, which is larger and aligned.
            *holds &= unsafe { place.read_volatile() } == own;
        }
    }
    let mut words = [true; WORDS];
    holds_own_id(&mut words);
    let other = std::thread::Builder::new()
        .name("plug-probe".into())
        .spawn(move || {
            holds_own_id(&mut words);
            words
        });
    let words = other.ok()?.join().ok()?;
    let mut found = words.iter().enumerate().filter(|(_, holds)| **holds);
    let (only, more) = (found.next(), found.next());
    match (only, more) {
        // The distance 0 would mean that it is not known.
        (Some((n, _)), None) if FIRST.wrapping_add(n * 4) != 0 => Some(FIRST.wrapping_add(n * 4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_dead_tells_ended_threads_from_running_ones() {
        assert!(!is_dead(id()));
        let ended = std::thread::spawn(id).join().unwrap();
        // A joined thread may still be on its way out of the kernel's list.
        while !is_dead(ended) {
            std::thread::yield_now();
        }
        assert!(!is_dead(u32::MAX), "no id at all");
    }

    #[test]
    fn distance_of_id_leads_to_the_id_of_any_thread() {
        let at = distance_of_id().expect("glibc");
        let look = move || {
            let place = plug_readside::at_distance(plug_readside::thread_pointer(), at);
            // SAFETY: found just now.
            (unsafe { place.read_volatile() }, id())
        };
        for (found, own) in [look(), std::thread::spawn(look).join().unwrap()] {
            assert_eq!(found, own);
        }
    }
}
