//! Whose each open descriptor is, of plugins that are accounted for.
//!
//! A fixed table and atomic stores: the hooks may be called in signal handlers and in the child of a
//! fork. What the child of a `vfork` opens and closes is its own and not the parent's, though the
//! table is: nothing is written in another process than the one that the table is of.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::sys::{descriptor, task};

/// Descriptors beyond these are not counted.
const MOST: usize = 1 << 16;

/// The serial number of the account that opened each; 0 for others. Written by whoever opens or
/// closes it (Relaxed: the kernel gives a number to one opener at a time, and it is taken out before
/// it is closed), read for reports.
static OWNERS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];

/// One past the highest that was ever written (Relaxed: a bound for those who read).
static END: AtomicUsize = AtomicUsize::new(0);

/// The process that the table is of. Written before a plugin is accounted for and by a forked child
/// (Relaxed, as its reads: nobody counts before).
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Makes the table the running process's. Async-signal-safe.
pub(crate) fn prepare() {
    PROCESS.store(task::process(), Ordering::Relaxed);
}

fn is_own_process() -> bool {
    PROCESS.load(Ordering::Relaxed) == task::process()
}

fn place(descriptor: i32) -> Option<&'static AtomicU32> {
    OWNERS.get(usize::try_from(descriptor).ok()?)
}

/// The account with this number has `descriptor` open. Async-signal-safe; one system call.
pub(super) fn opened(serial: u32, descriptor: i32) {
    if let Some(owner) = place(descriptor)
        && is_own_process()
    {
        owner.store(serial, Ordering::Relaxed);
        let end = usize::try_from(descriptor).unwrap_or(0) + 1;
        END.fetch_max(end, Ordering::Relaxed);
    }
}

/// `descriptor` is about to be closed. Async-signal-safe; one system call where it is a plugin's.
pub(super) fn closing(descriptor: i32) {
    if let Some(owner) = place(descriptor)
        && owner.load(Ordering::Relaxed) != 0
        && is_own_process()
    {
        owner.store(0, Ordering::Relaxed);
    }
}

fn owned_by(serial: u32) -> impl Iterator<Item = (i32, &'static AtomicU32)> {
    let end = END.load(Ordering::Relaxed);
    let known = (0..).zip(&OWNERS).take(end);
    known.filter(move |(_, owner)| owner.load(Ordering::Relaxed) == serial)
}

/// How many descriptors of the account are open. One that somebody else closed is not, unless its
/// number was given away again.
pub(super) fn open_of(serial: u32) -> u64 {
    let open = owned_by(serial).filter(|(number, _)| descriptor::is_open(*number));
    open.count() as u64
}

/// Forgets the descriptors of the account.
pub(super) fn forget(serial: u32) {
    owned_by(serial).for_each(|(_, owner)| owner.store(0, Ordering::Relaxed));
}
