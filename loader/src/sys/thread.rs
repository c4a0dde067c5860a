//! Threads of the loader's own, made by libc alone.
//!
//! The standard library takes a lock of its own where a thread begins and ends. In a child that was
//! forked while another thread held it, no thread of the standard library's begins any more; one
//! made here does.

use std::borrow::Cow;
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use super::clock;

type Main = Box<dyn FnOnce() + Send>;

/// What a thread begins with. It may be left by an unwinding of libc's.
pub(crate) type Start = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;

unsafe extern "C-unwind" {
    fn pthread_create(
        thread: *mut c_void,
        attributes: *const c_void,
        start: Start,
        argument: *mut c_void,
    ) -> c_int;

    /// Since glibc 2.31.
    fn pthread_clockjoin_np(
        thread: libc::pthread_t,
        result: *mut *mut c_void,
        clock: libc::clockid_t,
        until: *const libc::timespec,
    ) -> c_int;
}

/// Makes a thread, in the words of `pthread_create`.
///
/// # Safety
/// - `thread` points at room for a handle, `attributes` is null or what libc made.
/// - `start` may be called with `argument` on a thread of its own.
pub(crate) unsafe fn create(
    thread: *mut c_void,
    attributes: *const c_void,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { pthread_create(thread, attributes, start, argument) }
}

/// A thread that was started here; dropped, it goes on by itself.
#[derive(Debug)]
pub(crate) struct Thread(Option<libc::pthread_t>);

impl Thread {
    /// Starts a thread that runs `main`. The kernel shows 15 bytes of its name.
    ///
    /// A panic of `main` ends the process; a plugin may end the thread, which unwinds it.
    ///
    /// # Errors
    /// The operating system's, when no thread could be started.
    pub(crate) fn start(
        name: impl Into<Cow<'static, CStr>>,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let name = name.into();
        let main: Main = Box::new(move || {
            // Nothing but a name.
            let _named = rustix::thread::set_name(&name);
            main();
        });
        let argument = Box::into_raw(Box::new(main));
        let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
        let room = thread.as_mut_ptr().cast();
        // SAFETY: there is room for the thread's handle, and begin() takes what it is given.
        let status = unsafe { create(room, ptr::null(), begin, argument.cast()) };
        if status != 0 {
            // SAFETY: no thread was made that could have it.
            drop(unsafe { Box::from_raw(argument) });
            return Err(io::Error::from_raw_os_error(status));
        }
        // SAFETY: written, as it did not fail.
        Ok(Self(Some(unsafe { thread.assume_init() })))
    }

    /// Whether it has ended, its thread-local destructors included: the kernel has said so.
    pub(crate) fn has_ended(&mut self) -> bool {
        let has_ended = self.0.is_none_or(|thread| {
            // SAFETY: neither joined nor detached before, since the handle was there.
            unsafe { libc::pthread_tryjoin_np(thread, ptr::null_mut()) == 0 }
        });
        if has_ended {
            self.0 = None;
        }
        has_ended
    }

    /// Waits until it has ended, up to `time`; whether it has. False at once where the thread was
    /// detached by what ran on it.
    pub(crate) fn join_until(&mut self, time: Duration) -> bool {
        let Some(thread) = self.0 else {
            return true;
        };
        let until = clock::monotonic_after(time);
        let clock = libc::CLOCK_MONOTONIC;
        // SAFETY: neither joined nor detached before by us, since the handle was there; a time made
        // above.
        let status =
            unsafe { pthread_clockjoin_np(thread, ptr::null_mut(), clock, &raw const until) };
        if status == 0 {
            self.0 = None;
        }
        status == 0
    }

    /// Waits until it has ended.
    pub(crate) fn join(mut self) {
        if let Some(thread) = self.0.take() {
            // SAFETY: neither joined nor detached before, since the handle was there.
            unsafe { libc::pthread_join(thread, ptr::null_mut()) };
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // SAFETY: as in join().
            unsafe { libc::pthread_detach(thread) };
        }
    }
}

unsafe extern "C-unwind" fn begin(main: *mut c_void) -> *mut c_void {
    // SAFETY: made by start() for this thread alone.
    let main = unsafe { Box::from_raw(main.cast::<Main>()) };
    main();
    ptr::null_mut()
}
