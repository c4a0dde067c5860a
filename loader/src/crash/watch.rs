//! What is found out in thread context for reports to come: the program, and whether somebody
//! replaced the handlers.

#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::signal::CrashSignal;
use crate::sys::{objects, task};

/// First address of the program, 0 until it is known. Written at installation (SeqCst: cold),
/// read by handlers.
static PROGRAM: AtomicUsize = AtomicUsize::new(0);

/// The program's file name without folders. Set once, before a handler is installed.
static NAME: OnceLock<Box<str>> = OnceLock::new();

/// For each signal the load after which its handler was found replaced, plus one; 0 where it was
/// not. Written in thread context (SeqCst: cold), read by handlers.
static REPLACED: [AtomicU64; CrashSignal::ALL.len()] =
    [const { AtomicU64::new(0) }; CrashSignal::ALL.len()];

/// Looks up what handlers cannot.
pub(crate) fn prepare() {
    let _found = objects::prepare();
    let start = objects::find(task::program_headers());
    PROGRAM.store(start.map_or(0, |(start, _)| start), Ordering::SeqCst);
    let program = std::env::current_exe().unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let _first = NAME.set(name.into());
}

/// First address of the program; 0 where it is not known. Async-signal-safe.
pub(crate) fn program() -> usize {
    PROGRAM.load(Ordering::SeqCst)
}

/// The program's file name. Async-signal-safe.
pub(crate) fn name() -> &'static [u8] {
    NAME.get().map_or(b"program", |name| name.as_bytes())
}

fn place(signal: CrashSignal) -> Option<&'static AtomicU64> {
    let n = CrashSignal::ALL.iter().position(|other| *other == signal)?;
    REPLACED.get(n)
}

/// Notes that the handler of `signal` is another one after the load `generation` (0: not known
/// after which). True when that is news.
pub(crate) fn note(signal: CrashSignal, generation: u64) -> bool {
    let note = generation.wrapping_add(1);
    place(signal).is_some_and(|place| {
        place
            .compare_exchange(0, note, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    })
}

/// Takes back what [`note`] said.
pub(crate) fn forget(signal: CrashSignal) {
    if let Some(place) = place(signal) {
        place.store(0, Ordering::SeqCst);
    }
}

/// The load after which the handler of `signal` was found replaced; 0 where that is not known.
/// Async-signal-safe.
pub(crate) fn replaced(signal: CrashSignal) -> Option<u64> {
    place(signal)?.load(Ordering::SeqCst).checked_sub(1)
}
