//! Timers of the process, and what they and other ends of work are told by.

use std::ffi::{c_int, c_void};
use std::mem;

/// `struct sigevent` (`<bits/types/sigevent_t.h>`), as it is where a function is to be called.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notice {
    /// What the function is given.
    pub(crate) value: usize,
    pub(crate) signal: c_int,
    /// `SIGEV_*`.
    pub(crate) how: c_int,
    /// The function's address, if one is to be called.
    pub(crate) function: usize,
    attributes: usize,
    rest: [usize; 4],
}

const _: () = assert!(size_of::<Notice>() == size_of::<libc::sigevent>());

/// A function that is called where a notice says so.
pub(crate) type Notified = unsafe extern "C-unwind" fn(usize);

impl Notice {
    /// The function that is to be called, if one is.
    ///
    /// # Safety
    /// - `notice` is null or points at one.
    pub(crate) unsafe fn function(notice: *const Self) -> Option<usize> {
        if notice.is_null() {
            return None;
        }
        // SAFETY: the caller's word.
        let how = unsafe { (*notice).how };
        // SAFETY: as above; the member is there whatever is asked for.
        (how == libc::SIGEV_THREAD).then(|| unsafe { (*notice).function })
    }
}

/// Calls a function that a notice named.
///
/// # Safety
/// - `function` is the address of one, mapped until it has returned, which takes `value`.
pub(crate) unsafe fn call(function: usize, value: usize) {
    // SAFETY: the caller vouches for the address; a union of a pointer and a number is passed as
    // a word.
    let function: Notified = unsafe { mem::transmute(function) };
    // SAFETY: as above.
    unsafe { function(value) };
}

unsafe extern "C" {
    fn timer_create(clock: c_int, notice: *const Notice, timer: *mut usize) -> c_int;
    fn timer_delete(timer: usize) -> c_int;
}

/// Addresses of `timer_create` and `timer_delete` as they are called here: other versions of them
/// count timers in another way.
pub(crate) fn functions() -> (*const c_void, *const c_void) {
    (timer_create as *const c_void, timer_delete as *const c_void)
}

/// Makes a timer, in the words of `timer_create`.
///
/// # Safety
/// - As for `timer_create`.
pub(crate) unsafe fn create(clock: c_int, notice: *const Notice, timer: *mut usize) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { timer_create(clock, notice, timer) }
}

/// Deletes a timer, in the words of `timer_delete`.
///
/// # Safety
/// - `timer` was made by [`create`] and is deleted once.
pub(crate) unsafe fn delete(timer: usize) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { timer_delete(timer) }
}
