//! Actions of signals, and signals sent to threads.
//!
//! Actions are read from the kernel itself, since libc hides two signals that it uses; they are put
//! in force by libc, which knows where handlers return to. All of it is async-signal-safe.

use std::ffi::{c_int, c_long, c_void};
use std::mem;
use std::ptr;

use super::task;

/// Signals that there are: 1 to this.
pub(crate) const SIGNALS: c_int = 64;

/// What is to be done when a signal comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// The handler's address, or `SIG_DFL` or `SIG_IGN`.
    pub(crate) handler: usize,
    /// `SA_*`.
    pub(crate) flags: c_int,
    /// Where a handler returns to, which is how a signal's frame is known; 0 where nobody said so.
    /// libc's own whenever an action is put in force.
    pub(crate) restorer: usize,
    /// The signals that are kept back meanwhile, a bit each.
    pub(crate) mask: u64,
}

/// The default action.
pub(crate) const DEFAULT: Action = Action {
    handler: libc::SIG_DFL,
    flags: 0,
    restorer: 0,
    mask: 0,
};

impl Action {
    /// The same in the words of libc.
    pub(crate) fn from_libc(raw: &libc::sigaction) -> Self {
        // SAFETY: a set begins with the bits of signals 1 to 64, all that there are.
        let mask = unsafe { (&raw const raw.sa_mask).cast::<u64>().read() };
        Self {
            handler: raw.sa_sigaction,
            flags: raw.sa_flags,
            restorer: raw.sa_restorer.map_or(0, |restorer| restorer as usize),
            mask,
        }
    }

    /// Writes it down in the words of libc; what is no part of it stays, and the restorer, which is
    /// libc's own.
    pub(crate) fn put_into(&self, raw: &mut libc::sigaction) {
        raw.sa_sigaction = self.handler;
        raw.sa_flags = self.flags;
        // SAFETY: as in from_libc().
        unsafe { (&raw mut raw.sa_mask).cast::<u64>().write(self.mask) };
    }

    /// Whether it calls a function.
    pub(crate) fn is_handler(&self) -> bool {
        self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN
    }
}

/// Puts an action in force, in the words of `sigaction`.
///
/// # Safety
/// - As for `sigaction`: the handler keeps to what is allowed in one and stays mapped while it is
///   in force.
pub(crate) unsafe fn set(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { libc::sigaction(signal, new, old) }
}

/// The kernel's `struct kernel_sigaction`.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

/// The action in force, also of the signals that libc keeps for itself; none for what is no signal.
pub(crate) fn of(signal: c_int) -> Option<Action> {
    let mut raw = KernelAction::default();
    let before = task::errno();
    // SAFETY: only reads the action into a structure of the kernel's form, whose set has 8 bytes.
    let status = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            c_long::from(signal),
            ptr::null::<c_void>(),
            &raw mut raw,
            8_usize,
        )
    };
    task::set_errno(before);
    // An int for libc, whose sign may have been spread over the rest.
    let flags = u32::try_from(raw.flags & 0xffff_ffff).unwrap_or(0);
    (status == 0).then_some(Action {
        handler: raw.handler,
        flags: flags.cast_signed(),
        restorer: raw.restorer,
        mask: raw.mask,
    })
}

/// Puts `action` in force and says which one was; none where the system refuses.
///
/// # Safety
/// - As for [`set`].
pub(crate) unsafe fn exchange(signal: c_int, action: Action) -> Option<Action> {
    // SAFETY: numbers, a set of bits and null pointers are all valid as zero.
    let mut new: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    action.put_into(&mut new);
    // SAFETY: passed on to our caller.
    let status = unsafe { set(signal, &raw const new, &raw mut old) };
    (status == 0).then(|| Action::from_libc(&old))
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
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
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

/// Calls a handler as the kernel would.
///
/// # Safety
/// - `action` has a handler, which stays mapped until it has returned, and the rest is what the
///   kernel told the handler that calls this.
pub(crate) unsafe fn call(
    action: &Action,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    type Short = unsafe extern "C-unwind" fn(c_int);
    type Long = unsafe extern "C-unwind" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    if action.flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the flag says what kind of function it is.
        let handler: Long = unsafe { mem::transmute(action.handler) };
        // SAFETY: the caller vouches for it.
        unsafe { handler(signal, info, context) };
    } else {
        // SAFETY: as above.
        let handler: Short = unsafe { mem::transmute(action.handler) };
        // SAFETY: as above.
        unsafe { handler(signal) };
    }
}

/// Whether the kernel ignores a signal by default.
fn is_ignored_by_default(signal: c_int) -> bool {
    [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT].contains(&signal)
}

/// Whether the instruction that raised the signal raises it again when the handler returns.
///
/// # Safety
/// - `info` is what the kernel told the handler.
pub(crate) unsafe fn recurs(signal: c_int, info: *const libc::siginfo_t) -> bool {
    let is_fault = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
    ]
    .contains(&signal);
    // SAFETY: the caller's word; looked at for faults only.
    is_fault && !info.is_null() && unsafe { (*info).si_code } > 0
}

/// Does what the kernel does by default, from inside a handler of the signal: at once, or when the
/// handler returns.
///
/// # Safety
/// - `info` is what the kernel told the handler.
pub(crate) unsafe fn by_default(signal: c_int, info: *mut libc::siginfo_t) {
    if is_ignored_by_default(signal) {
        return;
    }
    let (process, thread) = (task::process(), task::id());
    if [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) {
        let own = libc::pid_t::try_from(process).unwrap_or(0);
        // SAFETY: stops the process, as the signal would.
        unsafe { libc::kill(own, libc::SIGSTOP) };
        return;
    }
    // What is left ends the process.
    // SAFETY: there is no handler.
    unsafe { exchange(signal, DEFAULT) };
    // SAFETY: the caller's word.
    if unsafe { recurs(signal, info) } {
        return;
    }
    let (process, thread) = (c_long::from(process), c_long::from(thread));
    let number = c_long::from(signal);
    // SAFETY: a signal to the running thread, with the kernel's own record of it.
    let status =
        unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, number, info) };
    if status != 0 {
        // SAFETY: the same without the record, which the kernel may not take back.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, number) };
    }
}

/// The older calls for a handler: what each makes of flags and masks is libc's to know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Older {
    /// `signal`.
    Bsd,
    /// `sysv_signal`.
    SystemV,
    /// `sigset`.
    Set,
}

unsafe extern "C" {
    fn __sysv_signal(signal: c_int, handler: usize) -> usize;
    fn sigset(signal: c_int, handler: usize) -> usize;
}

impl Older {
    /// Makes the call.
    ///
    /// # Safety
    /// - As for [`set`].
    pub(crate) unsafe fn call(self, signal: c_int, handler: usize) -> usize {
        match self {
            // SAFETY: passed on to our caller.
            Self::Bsd => unsafe { libc::signal(signal, handler) },
            // SAFETY: as above.
            Self::SystemV => unsafe { __sysv_signal(signal, handler) },
            // SAFETY: as above.
            Self::Set => unsafe { sigset(signal, handler) },
        }
    }
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
