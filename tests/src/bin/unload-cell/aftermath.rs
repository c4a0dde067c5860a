//! What a host goes on to do when a plugin has been unloaded, and what runs into the gap if something
//! of the plugin's is left in the process.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::say;

/// The signal that plugins take from the host.
const SIGNAL: c_int = libc::SIGUSR2;

/// Time for what the plugin left running or ticking.
const SOON: Duration = Duration::from_millis(15);

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn handle(_: c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Installs the host's own handler, before any plugin is there.
pub fn prepare() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid record.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handle as *const () as usize;
    // SAFETY: a valid record.
    let status = unsafe { libc::sigaction(SIGNAL, action, ptr::null_mut()) };
    assert_eq!(status, 0);
}

/// Waits, takes a signal, and forks.
pub fn go_on() {
    thread::sleep(SOON);
    // While the plugin was on its way out, its timers' signals may have been given to the host.
    let before = HANDLED.load(Ordering::SeqCst);
    // SAFETY: the handler is the host's again, or the cell finds out.
    unsafe { libc::raise(SIGNAL) };
    let handled = HANDLED.load(Ordering::SeqCst) - before;
    if handled != 1 {
        let seen = format!("{handled} times for one signal, {before} times before");
        say("failed", format!("the host's handler ran {seen}"));
    }
    // SAFETY: the child only ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: a valid place.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if child < 0 || ended != child || status != 0 {
        say("failed", format!("a forked child ended with {status}"));
    }
}
