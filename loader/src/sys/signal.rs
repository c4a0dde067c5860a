//! Actions of signals, as libc and the kernel keep them.
//!
//! All of it is async-signal-safe.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;

use super::task;

/// Signals that there are, and one more.
pub(crate) const SIGNALS: usize = 65;

/// What is to be done when a signal comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// The handler's address, or `SIG_DFL` or `SIG_IGN`.
    pub(crate) handler: usize,
    /// `SA_*`.
    pub(crate) flags: c_int,
    /// The signals that are kept back meanwhile, a bit each.
    pub(crate) mask: u64,
}

/// The default action.
pub(crate) const DEFAULT: Action = Action {
    handler: libc::SIG_DFL,
    flags: 0,
    mask: 0,
};

impl Action {
    /// The same in the words of libc.
    pub(crate) fn of(raw: &libc::sigaction) -> Self {
        // SAFETY: a set begins with the bits of signals 1 to 64, all that there are.
        let mask = unsafe { (&raw const raw.sa_mask).cast::<u64>().read() };
        Self {
            handler: raw.sa_sigaction,
            flags: raw.sa_flags,
            mask,
        }
    }

    /// Writes it down in the words of libc; what is no part of it stays.
    pub(crate) fn put_into(&self, raw: &mut libc::sigaction) {
        raw.sa_sigaction = self.handler;
        raw.sa_flags = self.flags;
        // SAFETY: as in of().
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

/// The action in force; none for what is no signal.
pub(crate) fn present(signal: c_int) -> Option<Action> {
    // SAFETY: numbers, a set of bits and a null pointer are all valid as zero.
    let mut raw: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only reads the action.
    let status = unsafe { set(signal, ptr::null(), &raw mut raw) };
    (status == 0).then(|| Action::of(&raw))
}

/// Puts `action` in force and says which one was; none where the system refuses.
///
/// # Safety
/// - As for [`set`].
pub(crate) unsafe fn exchange(signal: c_int, action: Action) -> Option<Action> {
    // SAFETY: as in present().
    let mut new: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    action.put_into(&mut new);
    // SAFETY: passed on to our caller.
    let status = unsafe { set(signal, &raw const new, &raw mut old) };
    (status == 0).then(|| Action::of(&old))
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
    let (process, thread) = (libc::c_long::from(process), libc::c_long::from(thread));
    let number = libc::c_long::from(signal);
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
