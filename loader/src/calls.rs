//! Entering and leaving a plugin's code, and what the running thread knows about its own calls.
//!
//! The thread-local here has neither a destructor nor lazy initialisation, so that touching it
//! registers nothing anywhere.

use std::cell::Cell;

use plug_readside::gate::{self, Count, GateRow, Raised};
use plug_readside::{snapshot, thread_pointer};

use crate::error::CallError;

struct ThreadCalls {
    /// The counters of the worker this thread is, or null.
    row: Cell<*const GateRow>,
    /// How many calls into plugins this thread is in, executor jobs included.
    depth: Cell<u32>,
    /// Message of the call in progress that failed: an owned `Box<Box<str>>`, or null.
    raised: Cell<*mut Box<str>>,
}

thread_local! {
    static THREAD: ThreadCalls = const {
        ThreadCalls {
            row: Cell::new(std::ptr::null()),
            depth: Cell::new(0),
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

/// How many calls into plugins the running thread is in.
pub(crate) fn depth() -> u32 {
    THREAD.with(|thread| thread.depth.get())
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
    /// The row whose counter it is, what it was raised to, and the function the worker was in
    /// before; none for a shared counter.
    row: Option<(&'a GateRow, Raised, usize)>,
    /// How many calls the thread was in before.
    depth: u32,
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
#[inline(always)]
pub(crate) fn enter<'a>(
    row: Option<&'a GateRow>,
    id: u32,
    by: By,
    address: usize,
) -> Result<Entered<'a>, CallError> {
    // Each look at the thread-local is small, so that all of this becomes part of the call.
    let row = row.or_else(|| {
        // SAFETY: the row is set by Worker and cleared before the worker gives it up; both on
        // this thread. Its Arc stays in the list of workers while a call is in progress.
        unsafe { THREAD.with(|thread| thread.row.get()).as_ref() }
    });
    let (count, row) = match row.and_then(|row| Some((row, row.count(id)?))) {
        Some((row, count)) => {
            let fences = snapshot::sections().fences();
            let raised = match by {
                By::Word(word) => gate::enter(count, gate::state(id), word, fences),
                By::Pin => Some(gate::raise(count, fences)),
            };
            let Some(raised) = raised else {
                return Err(CallError::Gone);
            };
            (count, Some((row, raised, row.set_current(address))))
        }
        None => match enter_shared(id, by) {
            Some(count) => (count, None),
            None => return Err(CallError::Gone),
        },
    };
    let depth = THREAD.with(|thread| thread.depth.get());
    THREAD.with(|thread| thread.depth.set(depth.wrapping_add(1)));
    Ok(Entered { count, row, depth })
}

/// Enters slot `id` through its shared counter, on behalf of nobody known. Apart, so that what
/// workers do is short enough to become part of the call.
#[inline(never)]
fn enter_shared(id: u32, by: By) -> Option<&'static Count> {
    let count = gate::shared(id, thread_pointer());
    match by {
        By::Word(word) if !gate::enter_shared(count, gate::state(id), word) => return None,
        By::Word(_) => {}
        By::Pin => gate::raise_shared(count),
    }
    Some(count)
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
        THREAD.with(|thread| thread.depth.set(self.depth));
        match self.row {
            Some((row, raised, before)) => {
                row.set_current(before);
                gate::leave(self.count, raised);
            }
            None => gate::leave_shared(self.count),
        }
    }
}
