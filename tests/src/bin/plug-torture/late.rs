//! What becomes of a call that comes too late.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fs;
use std::time::Duration;

use plug_loader::Plugin;
use plug_tests::storm;

use crate::tally::{self, Fault};

thread_local! {
    /// Start and end of the plugin that this thread unloads.
    static UNLOADING: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Says which plugin the running thread is about to unload.
pub fn unloads(plugin: &Plugin) {
    UNLOADING.with(|range| range.set(plugin.range()));
}

/// Lets calls that arrive where nothing is any more be a finding.
pub fn watch() {
    storm::install(libc::SIGSEGV, 0, libc::SIGUSR1, on_fault);
}

/// Whoever comes to where nothing is any more: the end of the process, and of the run.
extern "C" fn on_fault(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a record to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let what = if storm::program_counter(context) == address {
        tally::name(Fault::Unmapped)
    } else {
        tally::name(Fault::Vanished)
    };
    let parts = ["!!! ", what, ": 1\n--- End of test: FAILURE: 1 error\n"];
    for text in parts {
        // SAFETY: a constant text.
        unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) };
}

/// Makes the code of the plugin that this thread unloads inaccessible while it is still mapped,
/// and leaves it so for a moment: whoever calls now faults.
pub fn protect_code() {
    let (start, end) = UNLOADING.with(Cell::get);
    let maps = fs::read_to_string("/proc/self/maps").expect("procfs");
    for line in maps.lines().filter(|line| line.contains(" r-xp ")) {
        let bounds = line
            .split_once(' ')
            .and_then(|(range, _)| range.split_once('-'));
        let Some([from, to]) = bounds
            .map(|(from, to)| [from, to].map(|text| usize::from_str_radix(text, 16).unwrap_or(0)))
        else {
            continue;
        };
        if start <= from && to <= end {
            // SAFETY: code that nobody may run any more, in a mapping that is about to go.
            let done = unsafe { libc::mprotect(from as *mut c_void, to - from, libc::PROT_NONE) };
            assert_eq!(done, 0, "mprotect");
        }
    }
    storm::nap(Duration::from_micros(500));
}
