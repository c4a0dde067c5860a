//! Threads that the host starts for a plugin, tells to stop, and joins before `exit`.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::thread;

use crate::abi::{self, HostContext, Str};
use crate::{Context, Error, Result, catch};

/// [`ThreadsV1::spawn`]: the plugin is on its way out, or never became Live.
pub const SPAWN_GOING: i32 = -1;

/// [`ThreadsV1::spawn`]: the system has no thread left.
pub const SPAWN_NO_THREAD: i32 = -2;

crate::interface! {
    /// The service `plug.threads` that a host offers to every plugin. Each function takes
    /// [`HostContext::host`] first, and may be called on any thread until `exit` has returned.
    #[derive(Clone, Copy, Debug)]
    pub struct ThreadsV1("plug.threads", 1, 0) {
        /// Starts a thread of that name which runs `run(data)`: [`abi::STATUS_OK`],
        /// [`SPAWN_GOING`] or [`SPAWN_NO_THREAD`]. Where it fails, `run` is never called.
        ///
        /// The plugin neither joins nor detaches the thread: the host joins it. `run` may leave
        /// by `pthread_exit`, and must not unwind otherwise.
        pub spawn: unsafe extern "C" fn(
            host: *mut c_void,
            name: Str,
            run: unsafe extern "C-unwind" fn(data: *mut c_void),
            data: *mut c_void,
        ) -> i32,
        /// 1 while the plugin's threads are told to stop, else 0.
        pub should_stop: unsafe extern "C" fn(host: *mut c_void) -> i32,
        /// Sleeps for so many nanoseconds, `u64::MAX` for ever; returns 1 as soon as threads are
        /// told to stop, 0 when the time is over.
        pub sleep: unsafe extern "C" fn(host: *mut c_void, nanoseconds: u64) -> i32,
        /// A descriptor that is readable while threads are told to stop, or -1 where there is
        /// none to be had. It is the host's: neither to be read nor to be closed.
        pub stop_fd: unsafe extern "C" fn(host: *mut c_void) -> i32,
    }
}

/// The host's table once it was found, else null. Every loaded plugin has its own copy of this
/// static; the table is the host's, which outlives the plugin. Written with one value only
/// (Release), read by whoever asks (Acquire).
static TABLE: AtomicPtr<ThreadsV1> = AtomicPtr::new(ptr::null_mut());

fn table(context: &Context) -> Option<&'static ThreadsV1> {
    // Acquire: pairs with the store below, so that the table is seen as it was made.
    let known = TABLE.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: stored below, from a reference without an end.
        return Some(unsafe { &*known });
    }
    let found = context.service::<ThreadsV1>()?;
    // Release: pairs with the load above.
    TABLE.store(ptr::from_ref(found).cast_mut(), Ordering::Release);
    Some(found)
}

/// What a new thread begins with.
struct Start<F> {
    context: *const HostContext,
    body: F,
}

unsafe extern "C-unwind" fn run<F: FnOnce(&Context)>(data: *mut c_void) {
    // SAFETY: made by spawn() for this thread alone.
    let start = unsafe { Box::from_raw(data.cast::<Start<F>>()) };
    let Start { context, body } = *start;
    // SAFETY: the host joins this thread before `exit`, until whose end the context is valid.
    if let Some(context) = unsafe { Context::from_raw(context) } {
        catch(Some(context), (), || body(context));
    }
}

impl Context {
    /// Starts a thread of the plugin's, which the host tells to stop when the plugin leaves, and
    /// joins before it calls `exit`. The kernel shows 15 bytes of its name.
    ///
    /// `body` returns soon after [`Context::should_stop`] is true; [`Context::sleep`] ends then,
    /// and [`Context::stop_fd`] is readable. While it does not, the unload waits, and names the
    /// thread when its deadline has passed. A panic in `body` ends that thread alone, and the host
    /// is told the text; `pthread_exit` ends the process, as anywhere in a Rust plugin. From `init`,
    /// exported functions and other such threads.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use plug_api::Context;
    /// fn init(ctx: &Context) -> plug_api::Result {
    ///     ctx.spawn("ticker", |ctx| {
    ///         while !ctx.sleep(Duration::from_secs(1)) {
    ///             ctx.info("tick");
    ///         }
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// The plugin is on its way out, the system has no thread left, or the host cannot do it.
    pub fn spawn(&self, name: &str, body: impl FnOnce(&Context) + Send + 'static) -> Result {
        fn start<F: FnOnce(&Context)>(
            table: &ThreadsV1,
            context: &Context,
            name: &str,
            body: F,
        ) -> i32 {
            let host = context.host();
            let context = context.as_raw();
            let data = Box::into_raw(Box::new(Start { context, body }));
            // SAFETY: `host` belongs to the table's functions, and run() takes what it is given,
            // on another thread, which `F: Send` of our caller allows.
            let status = unsafe { (table.spawn)(host, Str::new(name), run::<F>, data.cast()) };
            if status != abi::STATUS_OK {
                // SAFETY: refused, so nobody else has it.
                drop(unsafe { Box::from_raw(data) });
            }
            status
        }

        let Some(table) = table(self) else {
            return Err(Error::new("the host starts no threads for plugins"));
        };
        match start(table, self, name, body) {
            abi::STATUS_OK => Ok(()),
            SPAWN_GOING => Err(Error::new("no thread is started for a plugin that leaves")),
            status => Err(Error::new(format_args!(
                "the host could not start a thread: status {status}"
            ))),
        }
    }

    /// Whether the plugin's threads are told to stop: it leaves.
    ///
    /// False again where the unload was given up. Threads that have ended are not started anew.
    pub fn should_stop(&self) -> bool {
        // SAFETY: `host` belongs to the table's functions.
        table(self).is_some_and(|table| unsafe { (table.should_stop)(self.host()) } == 1)
    }

    /// Sleeps, but no longer than until threads are told to stop; whether they are.
    pub fn sleep(&self, time: Duration) -> bool {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match table(self) {
            // SAFETY: `host` belongs to the table's functions.
            Some(table) => (unsafe { (table.sleep)(self.host(), nanoseconds) }) == 1,
            None => {
                thread::sleep(time);
                false
            }
        }
    }

    /// A descriptor that is readable while threads are told to stop, for those that sleep in
    /// `poll` or `epoll`. It is not to be read.
    pub fn stop_fd(&self) -> Option<BorrowedFd<'_>> {
        let table = table(self)?;
        // SAFETY: `host` belongs to the table's functions.
        let fd = unsafe { (table.stop_fd)(self.host()) };
        // SAFETY: not -1, so a descriptor that the host keeps open as long as the context.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;

    assert!(size_of::<ThreadsV1>() == 32);
    assert!(offset_of!(ThreadsV1, spawn) == 0);
    assert!(offset_of!(ThreadsV1, should_stop) == 8);
    assert!(offset_of!(ThreadsV1, sleep) == 16);
    assert!(offset_of!(ThreadsV1, stop_fd) == 24);
};
