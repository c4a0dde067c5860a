//! A plugin made for tests: calls back into the host, and ends the calling thread if asked.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;

use plug_loader::{Plugin, PluginFn};

use crate::standalone::{Scratch, c_plugin};

/// What a relay calls.
pub type CallBack = unsafe extern "C-unwind" fn(*mut c_void);

/// `calls_back`: calls the function with the argument and returns how often it has done so.
pub type CallsBack = unsafe extern "C" fn(CallBack, *mut c_void) -> u64;

/// `ends_thread`: by pthread_exit for 0, by the bare system call for 1; otherwise returns.
pub type EndsThread = unsafe extern "C" fn(c_int) -> c_int;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}

static void stop(void) {}

PLUG_PLUGIN("NAME", "1.0.0", "calls back", "MIT OR Apache-2.0", init, stop);

PLUG_EXPORT(uint64_t, calls_back, (void (*function)(void *), void *argument)) {
    static uint64_t calls;
    function(argument);
    return __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
}

PLUG_EXPORT(int, ends_thread, (int how)) {
    if (how == 0) {
        pthread_exit(NULL);
    }
    if (how == 1) {
        syscall(SYS_exit, 0);
    }
    return how;
}
"#;

/// The file of a relay that loads as `name`.
pub fn relay(scratch: &Scratch, name: &str) -> PathBuf {
    c_plugin(scratch, name, &SOURCE.replace("NAME", name))
}

/// Its function `calls_back`.
pub fn calls_back(plugin: &Plugin) -> PluginFn<CallsBack> {
    plugin.function("calls_back").expect("exported")
}

/// Its function `ends_thread`.
pub fn ends_thread(plugin: &Plugin) -> PluginFn<EndsThread> {
    plugin.function("ends_thread").expect("exported")
}

/// Runs `body` below one call of the relay's, on the running thread.
pub fn within(function: PluginFn<CallsBack>, body: impl FnOnce()) {
    let mut body = Some(body);
    // SAFETY: the signature is the relay's, and `body` outlives the call.
    let called = unsafe { function.call((run_once_of(&body), (&raw mut body).cast())) };
    assert!(called.is_ok(), "the relay is Live");
    assert!(body.is_none(), "it was called back");
}

fn run_once_of<F: FnOnce()>(_: &Option<F>) -> CallBack {
    unsafe extern "C-unwind" fn run<F: FnOnce()>(body: *mut c_void) {
        // SAFETY: the `Option<F>` of within(), which waits for this call.
        let body = unsafe { &mut *body.cast::<Option<F>>() };
        if let Some(body) = body.take() {
            body();
        }
    }
    run::<F>
}

/// Runs `body` on a thread that std knows nothing of, which may end as it likes, and waits for it.
pub fn bare_thread<F: FnOnce() + Send>(body: F) {
    extern "C-unwind" fn start<F: FnOnce()>(body: *mut c_void) -> *mut c_void {
        // SAFETY: the box made below, taken once.
        let body = unsafe { Box::from_raw(body.cast::<F>()) };
        body();
        std::ptr::null_mut()
    }
    let mut thread: libc::pthread_t = 0;
    let start: extern "C-unwind" fn(*mut c_void) -> *mut c_void = start::<F>;
    // SAFETY: differs only in letting a thread's end unwind through it.
    let start = unsafe {
        std::mem::transmute::<
            extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            extern "C" fn(*mut c_void) -> *mut c_void,
        >(start)
    };
    let body = Box::into_raw(Box::new(body));
    // SAFETY: a plain start routine; the thread is joined below, before what it borrows goes.
    let status =
        unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), start, body.cast()) };
    assert_eq!(status, 0, "pthread_create");
    // SAFETY: created above, joined once.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
}
