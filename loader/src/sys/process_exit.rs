//! The loader's one function that runs when the process exits.
//!
//! The C library runs what was registered last first, and a plugin's constructors register the
//! ends of its objects. So that plugins' exits still find these objects, the loader takes its
//! registration back and registers anew after every load. It does so after every unload, too:
//! the C library reuses only the free entries at the end of its list, so that an entry of the
//! loader's that stays last would let the list grow for ever.

use std::ffi::{c_int, c_void};
use std::process;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::deadline::{Deadline, lock_until};

/// What to run, and the process that asked for it.
static AT_EXIT: OnceLock<(u32, fn())> = OnceLock::new();

/// Number of the registration that counts. Written with [`ORDER`] held (SeqCst: cold), read when
/// a registration runs.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// One registration at a time.
static ORDER: Mutex<()> = Mutex::new(());

/// The address under which the registration is made.
static HANDLE: AtomicU8 = AtomicU8::new(0);

unsafe extern "C" {
    /// Registers a function for the process's end under the handle `dso` (Itanium C++ ABI §3.3.5).
    fn __cxa_atexit(
        function: unsafe extern "C" fn(*mut c_void),
        turn: *mut c_void,
        dso: *mut c_void,
    ) -> c_int;
    /// Runs and forgets what was registered under `dso`.
    fn __cxa_finalize(dso: *mut c_void);
}

extern "C" fn run(turn: *mut c_void) {
    // Taken back, or left behind by one that ran already.
    if turn.addr() < TURN.load(Ordering::SeqCst) {
        return;
    }
    // A forked child that exits is not the host: plugins' exits are not its to run.
    if let Some((_, function)) = AT_EXIT.get().filter(|(pid, _)| *pid == process::id()) {
        function();
    }
}

/// Runs `function` when the process exits through `exit` or a return from `main`.
pub(crate) fn at_exit(function: fn()) {
    if AT_EXIT.set((process::id(), function)).is_ok() {
        run_first();
    }
}

/// Lets the function of [`at_exit`] run before everything that was registered until now.
///
/// Takes the C library's lock over such registrations for a walk over them. A process that ends
/// on another thread in the middle of this runs no exits.
pub(crate) fn run_first() {
    if AT_EXIT.get().is_none() {
        return;
    }
    let _alone = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    let handle: *mut c_void = HANDLE.as_ptr().cast();
    let turn = TURN.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    // SAFETY: only `run` is registered under the handle, and with a number that no longer counts.
    unsafe { __cxa_finalize(handle) };
    // SAFETY: `run` is a function of the host that stays mapped and takes any number. Its failure
    // (no memory for the entry) only means that plugins' exits do not run at the process's end.
    let _status = unsafe { __cxa_atexit(run, std::ptr::without_provenance_mut(turn), handle) };
}

/// Keeps everybody from registering, for a fork.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    lock_until(&ORDER, deadline)
}

/// Lets `prepare` run before every fork, `parent` after it in the parent, and `child` in the child,
/// all on the thread that forks.
pub(crate) fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    // SAFETY: functions of the host that stay mapped; glibc runs them for fork(3), on the thread
    // that calls it. It cannot fail but for want of memory.
    let _registered = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// A function for the process's end that is told how it ends.
pub(crate) type OnExit = unsafe extern "C-unwind" fn(c_int, *mut c_void);

/// A function for the process's end by `quick_exit`.
pub(crate) type AtQuickExit = unsafe extern "C-unwind" fn(*mut c_void);

/// A function that is called around a fork.
pub(crate) type AtFork = unsafe extern "C-unwind" fn();

unsafe extern "C" {
    fn on_exit(function: OnExit, argument: *mut c_void) -> c_int;
    fn __cxa_at_quick_exit(function: AtQuickExit, dso: *mut c_void) -> c_int;
    fn __register_atfork(
        prepare: Option<AtFork>,
        parent: Option<AtFork>,
        child: Option<AtFork>,
        dso: *mut c_void,
    ) -> c_int;
}

/// `on_exit`.
///
/// # Safety
/// - `function` may be called with `argument` until the process has ended.
pub(crate) unsafe fn at_exit_for_ever(function: OnExit, argument: *mut c_void) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { on_exit(function, argument) }
}

/// `__cxa_at_quick_exit`, which nothing takes back.
///
/// # Safety
/// - `function` may be called with null until the process has ended.
pub(crate) unsafe fn at_quick_exit(function: AtQuickExit, dso: *mut c_void) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { __cxa_at_quick_exit(function, dso) }
}

/// `__register_atfork`, which `__cxa_finalize` takes back for the object `dso`.
///
/// # Safety
/// - The functions may be called around any fork until they are taken back.
pub(crate) unsafe fn around_forks(
    [prepare, parent, child]: [Option<AtFork>; 3],
    dso: *mut c_void,
) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { __register_atfork(prepare, parent, child, dso) }
}
