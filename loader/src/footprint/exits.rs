//! Functions of plugins for the process's end. Those of `atexit` are taken back by the plugin's own
//! destructors; those of `on_exit` cannot be; those of `at_quick_exit` run behind one of the loader's.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::hooks::owner;
use super::ledger::Owner;
use super::remains::{self, Kind};
use crate::calls;
use crate::deadline::{Deadline, lock_until};
use crate::sys::process_exit::{self, AtQuickExit, OnExit};
use crate::sys::{task, thread_exit};

/// `on_exit`.
pub(super) unsafe extern "C-unwind" fn on_exit(function: OnExit, argument: *mut c_void) -> c_int {
    let owner = owner(function as usize);
    // Before it is: the plugin stays from here on.
    if let Some(owner) = owner {
        remains::note(owner.generation, Kind::OnExit);
    }
    // SAFETY: passed on as it came; the plugin is never unmapped.
    unsafe { process_exit::at_exit_for_ever(function, argument) }
}

/// Functions of plugins for `quick_exit`, in the order of their registration: each stands for one
/// call that libc makes, the last one first. Those of plugins that are gone are empty, and used
/// again where nothing stands behind them, so that libc's list, which only grows, does not.
static QUICK: Mutex<Vec<Option<(Owner, usize)>>> = Mutex::new(Vec::new());

fn lock() -> MutexGuard<'static, Vec<Option<(Owner, usize)>>> {
    QUICK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `__cxa_at_quick_exit`, by which `at_quick_exit` registers.
pub(super) unsafe extern "C-unwind" fn at_quick_exit(
    function: AtQuickExit,
    dso: *mut c_void,
) -> c_int {
    let address = function as usize;
    let owner = match owner(address) {
        Some(owner) if !task::is_guest() => owner,
        // SAFETY: passed on as it came.
        _ => return unsafe { process_exit::at_quick_exit(function, dso) },
    };
    let mut quick = lock();
    let used = quick
        .iter()
        .rposition(Option::is_some)
        .map_or(0, |at| at + 1);
    if let Some(free) = quick.get_mut(used) {
        *free = Some((owner, address));
        return 0;
    }
    // SAFETY: a function that is there for ever and takes anything.
    let status = unsafe { process_exit::at_quick_exit(run_last, ptr::null_mut()) };
    if status == 0 {
        quick.push(Some((owner, address)));
    }
    status
}

/// Runs the last of the functions that are left, if its plugin is.
unsafe extern "C-unwind" fn run_last(_none: *mut c_void) {
    let Some((owner, function)) = lock().pop().flatten() else {
        return;
    };
    if let Some(entered) = calls::enter_callback(owner.id, owner.generation, function) {
        // SAFETY: the plugin's, which the gate keeps mapped; libc gives such functions nothing.
        unsafe { thread_exit::run(function, 0) };
        entered.finish_callback();
    }
}

/// Forgets what the load registered for `quick_exit`.
pub(super) fn release(generation: u64) {
    for entry in lock().iter_mut() {
        if entry.is_some_and(|(owner, _)| owner.generation == generation) {
            *entry = None;
        }
    }
}

/// What the load registered for the process's end, but by `atexit`.
pub(super) fn count(generation: u64) -> usize {
    let quick = lock();
    let of = quick.iter().flatten();
    let quick = of
        .filter(|(owner, _)| owner.generation == generation)
        .count();
    let lasting = remains::count(generation, Kind::OnExit);
    quick.saturating_add(usize::try_from(lasting).unwrap_or(usize::MAX))
}

/// Keeps everybody from registering, for a fork.
pub(super) fn hold(deadline: Deadline) -> Option<impl Sized> {
    lock_until(&QUICK, deadline)
}
