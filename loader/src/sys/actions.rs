//! What the kernel does with signals, asked without libc, which hides two of them.

use std::ffi::{c_int, c_long, c_void};
use std::ptr;

use super::task;

/// Signals there are.
pub(crate) const SIGNALS: c_int = 64;

/// The kernel's `struct kernel_sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Action {
    /// Address of the handler; 0 and 1 are none.
    pub(crate) handler: usize,
    flags: usize,
    /// Where a handler returns to, which is how a signal's frame is known.
    pub(crate) restorer: usize,
    mask: u64,
}

/// The action of `signal`. Async-signal-safe.
pub(crate) fn of(signal: c_int) -> Option<Action> {
    let mut action = Action::default();
    let before = task::errno();
    // SAFETY: only reads the action into a structure of the kernel's form, whose set has 8 bytes.
    let status = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            c_long::from(signal),
            ptr::null::<c_void>(),
            &raw mut action,
            8_usize,
        )
    };
    task::set_errno(before);
    (status == 0).then_some(action)
}

/// A handler as the kernel calls it.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Lets `handler` meet `signal`, on the alternate stack where a thread has one, with all other
/// signals kept back, and with system calls going on afterwards where they can. Whether the system
/// agreed.
///
/// # Safety
/// - `handler` keeps to what is allowed in one, and stays mapped.
/// - Nobody else uses the signal.
pub(crate) unsafe fn install(signal: c_int, handler: Handler) -> bool {
    // SAFETY: numbers, a set of bits and null pointers are all valid as zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: an own set.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
        // SAFETY: as above.
        unsafe { libc::sigdelset(&raw mut action.sa_mask, fault) };
    }
    // SAFETY: an action made above; the rest is our caller's word.
    let status = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    status == 0
}

/// A record of a queued signal, as the kernel has it.
#[repr(C)]
struct Queued {
    signal: c_int,
    errno: c_int,
    code: c_int,
    padding: c_int,
    process: c_int,
    user: u32,
    value: usize,
    rest: [u64; 12],
}

/// Sends `signal` with `value` to one thread of the process; whether it was sent.
/// Async-signal-safe.
pub(crate) fn send(tid: u32, signal: c_int, value: usize) -> bool {
    let process = task::process();
    let record = Queued {
        signal,
        errno: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        process: c_int::try_from(process).unwrap_or(0),
        user: rustix::process::getuid().as_raw(),
        value,
        rest: [0; 12],
    };
    let before = task::errno();
    // SAFETY: the kernel copies the record, which has the size of a siginfo_t.
    let status = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            c_long::from(process),
            c_long::from(tid),
            c_long::from(signal),
            &raw const record,
        )
    };
    task::set_errno(before);
    status == 0
}

/// The value that came with a signal that this process queued itself; none for any other.
///
/// # Safety
/// - `info` is the second argument of a running handler.
pub(crate) unsafe fn value(info: *const libc::siginfo_t) -> Option<usize> {
    // SAFETY: passed on to our caller.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_QUEUE {
        return None;
    }
    // SAFETY: a queued signal has its sender.
    let sender = unsafe { info.si_pid() };
    // SAFETY: and a value.
    let value = unsafe { info.si_value() };
    let is_own = u32::try_from(sender) == Ok(task::process());
    is_own.then(|| value.sival_ptr.addr())
}
