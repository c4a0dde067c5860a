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

use crate::sys::task;

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

/// Makes the reader's table usable in the child of a fork, where only the forking thread lives.
pub(crate) fn at_fork() {
    extern "C" fn child() {
        task::forget_id();
        // SAFETY: run by fork in the child; forks from inside a read section are not allowed
        // (sections run no code that could fork but a walk's visitor, whose documentation says so).
        unsafe {
            plug_readside::snapshot::sections().reset_after_fork(plug_readside::thread_pointer());
        }
    }
    // SAFETY: the handler only stores to the reader's table, which is allowed in a forked child.
    let _registered = unsafe { libc::pthread_atfork(None, None, Some(child)) };
}
