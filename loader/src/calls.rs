//! Entering and leaving a plugin's code, and what the running thread knows about its own calls.
//!
//! The thread-local here has neither a destructor nor lazy initialisation, so that touching it
//! registers nothing anywhere.

use std::cell::Cell;

use plug_readside::gate::{self, Count, GateRow};
use plug_readside::{snapshot, thread_pointer};

use crate::error::CallError;

/// Nested calls of plugins without a row that a fork can tell apart. With more, its child waits for
/// those of all threads; half as many would be few for plugins that call each other.
const SHARED: usize = 16;

struct ThreadCalls {
    /// The counters of the worker this thread is, or null.
    row: Cell<*const GateRow>,
    /// Whether the thread has ever been a worker.
    was_worker: Cell<bool>,
    /// How many calls into plugins this thread is in, executor jobs included.
    depth: Cell<u32>,
    /// Slots of the calls in progress that are counted in shared counters, innermost last: what a
    /// forked child must keep.
    shared: [Cell<u32>; SHARED],
    /// How many such calls there are, also beyond the room above.
    n_shared: Cell<usize>,
    /// Message of the call in progress that failed: an owned `Box<Box<str>>`, or null.
    raised: Cell<*mut Box<str>>,
}

thread_local! {
    static THREAD: ThreadCalls = const {
        ThreadCalls {
            row: Cell::new(std::ptr::null()),
            was_worker: Cell::new(false),
            depth: Cell::new(0),
            shared: [const { Cell::new(0) }; SHARED],
            n_shared: Cell::new(0),
            raised: Cell::new(std::ptr::null_mut()),
        }
    };
}

/// Makes `row` the running thread's, or takes it away with null.
pub(crate) fn set_row(row: *const GateRow) {
    THREAD.with(|thread| thread.row.set(row));
}

/// The running thread's row, or null.
pub(crate) fn row() -> *const GateRow {
    THREAD.with(|thread| thread.row.get())
}

/// Whether the running thread becomes a worker for the first time in its life.
pub(crate) fn is_first_registration() -> bool {
    THREAD.with(|thread| !thread.was_worker.replace(true))
}

/// How many calls into plugins the running thread is in.
pub(crate) fn depth() -> u32 {
    THREAD.with(|thread| thread.depth.get())
}

/// Leaves in the shared counters of the first `slots` slots what the running thread is inside of:
/// in a forked child, where no other thread exists.
pub(crate) fn reset_after_fork(slots: u32) {
    THREAD.with(|thread| {
        let n = thread.n_shared.get();
        // Nested too deeply to be told from others: their calls are waited for, too.
        let Some(own) = thread.shared.get(..n) else {
            return;
        };
        for id in 0..slots {
            let own = own.iter().filter(|place| place.get() == id).count();
            gate::keep_own_after_fork(id, thread_pointer(), own as u64);
        }
    });
}

/// Marks the running thread as inside a plugin while the loader itself calls into one.
pub(crate) fn inside<R>(job: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            THREAD.with(|thread| thread.depth.set(thread.depth.get().saturating_sub(1)));
        }
    }
    THREAD.with(|thread| thread.depth.set(thread.depth.get().saturating_add(1)));
    let _leave = Leave;
    job()
}

/// Keeps `message` for the call in progress on this thread; dropped where there is none.
pub(crate) fn raise(message: Box<str>) {
    THREAD.with(|thread| {
        if thread.depth.get() > 0 {
            let old = thread.raised.replace(Box::into_raw(Box::new(message)));
            drop_raised(old);
        }
    });
}

/// Takes the message that the call in progress left, if any.
pub(crate) fn take_raised() -> Option<Box<str>> {
    THREAD.with(|thread| {
        let raised = thread.raised.replace(std::ptr::null_mut());
        if raised.is_null() {
            return None;
        }
        // SAFETY: made by Box::into_raw in raise() on this thread and taken out just now.
        Some(*unsafe { Box::from_raw(raised) })
    })
}

fn drop_raised(raised: *mut Box<str>) {
    if !raised.is_null() {
        // SAFETY: made by Box::into_raw in raise() and taken out of the cell by the caller.
        drop(unsafe { Box::from_raw(raised) });
    }
}

/// Proof that the running thread counts as inside one plugin; leaves it when dropped.
#[must_use = "the gate closes when it is dropped"]
pub(crate) struct Entered<'a> {
    count: &'a Count,
    /// The row whose counter it is; none for a shared counter.
    row: Option<&'a GateRow>,
    /// The function the worker was in before.
    before: usize,
}

/// How a gate is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Only while the slot's state word is exactly this one.
    Word(u64),
    /// Under a pin of the caller's, whatever the state.
    Pin,
}

/// Enters slot `id` on behalf of `row`, or of the running thread's row, or of nobody known.
///
/// `address` is the function about to be called, 0 if it is not one.
#[inline]
pub(crate) fn enter<'a>(
    row: Option<&'a GateRow>,
    id: u32,
    by: By,
    address: usize,
) -> Result<Entered<'a>, CallError> {
    THREAD.with(|thread| {
        let row = row.or_else(|| {
            // SAFETY: the row is set by Worker and cleared before the worker gives it up; both on
            // this thread. Its Arc stays in the list of workers while a call is in progress.
            unsafe { thread.row.get().as_ref() }
        });
        let entered = match row.and_then(|row| Some((row, row.count(id)?))) {
            Some((row, count)) => {
                let fences = || snapshot::sections().fences();
                match by {
                    By::Word(word) if !gate::enter(count, gate::state(id), word, fences) => {
                        return Err(CallError::Gone);
                    }
                    By::Word(_) => {}
                    By::Pin => gate::raise(count, fences),
                }
                Entered {
                    count,
                    row: Some(row),
                    before: row.set_current(address),
                }
            }
            None => {
                let count = gate::shared(id, thread_pointer());
                // Noted before it is counted: a fork in between keeps at most what is counted.
                let n = thread.n_shared.get();
                if let Some(place) = thread.shared.get(n) {
                    place.set(id);
                }
                thread.n_shared.set(n.wrapping_add(1));
                match by {
                    By::Word(word) if !gate::enter_shared(count, gate::state(id), word) => {
                        thread.n_shared.set(n);
                        return Err(CallError::Gone);
                    }
                    By::Word(_) => {}
                    By::Pin => gate::raise_shared(count),
                }
                Entered {
                    count,
                    row: None,
                    before: 0,
                }
            }
        };
        thread.depth.set(thread.depth.get().wrapping_add(1));
        Ok(entered)
    })
}

impl Entered<'_> {
    /// Leaves, and turns a message that the plugin raised into an error.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), CallError> {
        drop(self);
        match THREAD.with(|thread| thread.raised.get().is_null()) {
            true => Ok(()),
            false => Err(CallError::Raised(take_raised().unwrap_or_default())),
        }
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        THREAD.with(|thread| thread.depth.set(thread.depth.get().wrapping_sub(1)));
        match self.row {
            Some(row) => {
                row.set_current(self.before);
                gate::leave(self.count);
            }
            None => {
                gate::leave_shared(self.count);
                THREAD.with(|thread| {
                    thread.n_shared.set(thread.n_shared.get().wrapping_sub(1));
                });
            }
        }
    }
}
