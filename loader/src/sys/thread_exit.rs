//! The end of threads: how the loader hears of it, and what runs there.
//!
//! glibc runs, on a thread that ends, first what was registered for the ends of thread-locals, the
//! last one first, and then the destructors of keys, up to four rounds of them.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;

/// A destructor of a thread-local or of a key's value.
pub(crate) type Destructor = unsafe extern "C-unwind" fn(*mut c_void);

/// Rounds in which glibc runs the destructors of keys (`PTHREAD_DESTRUCTOR_ITERATIONS`).
pub(crate) const ROUNDS: u32 = 4;

unsafe extern "C-unwind" {
    fn __cxa_thread_atexit_impl(
        destructor: Destructor,
        object: *mut c_void,
        dso: *const c_void,
    ) -> c_int;
    fn pthread_key_create(key: *mut c_uint, destructor: Option<Destructor>) -> c_int;
    fn pthread_key_delete(key: c_uint) -> c_int;
    fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int;
    fn pthread_getspecific(key: c_uint) -> *mut c_void;
}

unsafe extern "C" {
    /// An address of the object that the loader is linked into.
    static __dso_handle: u8;
}

/// Has `destructor` called with `object` when the running thread ends.
///
/// # Safety
/// - `destructor` belongs to `dso`, or to an object that is never unmapped, and may be called with
///   `object` on this thread.
pub(crate) unsafe fn at_thread_exit(
    destructor: Destructor,
    object: *mut c_void,
    dso: *const c_void,
) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { __cxa_thread_atexit_impl(destructor, object, dso) }
}

/// As [`at_thread_exit`], for a function of the loader's own.
///
/// # Safety
/// - `destructor` may be called with `object` on this thread.
pub(crate) unsafe fn own_at_thread_exit(destructor: Destructor, object: *mut c_void) -> c_int {
    // SAFETY: the handle is the loader's own; the rest is passed on to our caller.
    unsafe { at_thread_exit(destructor, object, (&raw const __dso_handle).cast()) }
}

/// Makes a key.
///
/// # Safety
/// - `key` points at room for one.
/// - `destructor` may be called with each value that is set, on the thread that set it.
pub(crate) unsafe fn make_key(key: *mut c_uint, destructor: Option<Destructor>) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { pthread_key_create(key, destructor) }
}

/// Deletes a key.
pub(crate) fn delete_key(key: c_uint) -> c_int {
    // SAFETY: a key that does not exist is refused.
    unsafe { pthread_key_delete(key) }
}

/// Sets the running thread's value.
pub(crate) fn set_value(key: c_uint, value: *const c_void) -> c_int {
    // SAFETY: a key that does not exist is refused; values are not followed.
    unsafe { pthread_setspecific(key, value) }
}

/// The running thread's value; null where there is none.
pub(crate) fn value(key: c_uint) -> *mut c_void {
    // SAFETY: a key that does not exist has no values.
    unsafe { pthread_getspecific(key) }
}

/// Runs a destructor.
///
/// # Safety
/// - `destructor` is the address of one, in code that stays mapped until it has returned, and may be
///   called with `object` on this thread.
pub(crate) unsafe fn run(destructor: usize, object: usize) {
    // SAFETY: the caller vouches for the address.
    let destructor: Destructor = unsafe { std::mem::transmute(destructor) };
    // SAFETY: as above.
    unsafe { destructor(object as *mut c_void) };
}

/// The loader's own key, whose destructor is called in every round on threads that have a value.
///
/// None where the process has no key left.
pub(crate) fn own_key(destructor: Destructor) -> Option<c_uint> {
    static KEY: OnceLock<Option<c_uint>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: there is room for a key; the loader sets only values that its destructor takes.
        let status = unsafe { make_key(&raw mut key, Some(destructor)) };
        (status == 0).then_some(key)
    })
}
