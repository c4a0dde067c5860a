//! Entering and leaving a plugin's code, and what the running thread knows about its own calls.
//!
//! The thread-local here has neither a destructor nor lazy initialisation, so that touching it
//! registers nothing anywhere.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

use plug_readside::gate::{self, Count, GateRow, Raised};
use plug_readside::state::{State, StateWord};
use plug_readside::{phase, snapshot, thread_pointer};

use crate::error::{CallError, Error, Within};

/// Nested calls of plugins without a row that a fork can tell apart. With more, its child waits for
/// those of all threads; half as many would be few for plugins that call each other.
const SHARED: usize = 16;

struct ThreadCalls {
    /// The counters of the worker this thread is, or null.
    row: Cell<*const GateRow>,
    /// The function or table of the innermost call into a plugin that this thread is in, or
    /// [`JOB`]; 0 outside of all. Written by this thread and by handlers that interrupt it and put
    /// it back, read by both (Relaxed: one thread). It is set whenever one of the thread's gate
    /// counters is raised, for a handler in between as well: compiler fences stand between the two.
    inside: AtomicUsize,
    /// Whether the thread has ever been a worker.
    was_worker: Cell<bool>,
    /// Slots of the calls in progress that are counted in shared counters, innermost last: what a
    /// forked child must keep.
    shared: [Cell<u32>; SHARED],
    /// How many such calls there are, also beyond the room above.
    n_shared: Cell<usize>,
    /// Whether the loader asks a plugin for something that it may refuse.
    is_asking: Cell<bool>,
    /// Why the call in progress fails: an owned box, or null. Null outside of all calls.
    raised: Cell<*mut Message>,
    /// Why an imported function failed that was called outside of all calls, as on a thread that the
    /// plugin started by itself: so many bytes of the text below, which needs no destructor.
    n_untold: Cell<usize>,
    untold: [Cell<u8>; UNTOLD],
}

/// Bytes of such a text that are kept.
const UNTOLD: usize = 240;

/// Why a call fails.
struct Message {
    text: Box<str>,
    /// Whether a function that a plugin imports raised it, so that the plugin may take it.
    imported: bool,
    /// What the call failed for before: what counts where this is taken.
    before: Aside,
}

/// A message that is put aside, or none.
struct Aside(*mut Message);

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by Message::keep(), and owned by nobody else.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }
}

impl Aside {
    fn into_raw(self) -> *mut Message {
        ManuallyDrop::new(self).0
    }
}

impl Message {
    fn keep(self) -> *mut Self {
        Box::into_raw(Box::new(self))
    }
}

/// Stands for a call that the loader makes itself; no function is there.
const JOB: usize = 1;

thread_local! {
    static THREAD: ThreadCalls = const {
        ThreadCalls {
            row: Cell::new(std::ptr::null()),
            inside: AtomicUsize::new(0),
            was_worker: Cell::new(false),
            shared: [const { Cell::new(0) }; SHARED],
            n_shared: Cell::new(0),
            is_asking: Cell::new(false),
            raised: Cell::new(std::ptr::null_mut()),
            n_untold: Cell::new(0),
            untold: [const { Cell::new(0) }; UNTOLD],
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

/// Whether the running thread is in a call into a plugin, the loader's own included.
pub(crate) fn is_inside() -> bool {
    THREAD.with(|thread| thread.inside.load(Ordering::Relaxed) != 0)
}

/// Refuses what would wait for the running thread itself: `what` is asked for from inside a
/// plugin's code, or from inside a read section.
///
/// Async-signal-safe: a handler that interrupted a plugin may ask, and must not allocate.
///
/// # Errors
/// [`ErrorKind::SelfDeadlock`](crate::error::ErrorKind::SelfDeadlock).
pub(crate) fn must_be_outside(what: &'static str) -> Result<(), Error> {
    let within = match THREAD.with(|thread| thread.inside.load(Ordering::Relaxed)) {
        0 if snapshot::sections().is_inside(thread_pointer()) => Within::Section,
        0 => return Ok(()),
        JOB => match phase::of(thread_pointer()) {
            Some((generation, phase)) => Within::Phase(generation, phase),
            None => Within::Job,
        },
        address => Within::Call(address),
    };
    Err(Error::self_deadlock(what, within))
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
    within(JOB, job)
}

/// As [`inside`], in the function at `address`, which is in a mapping.
pub(crate) fn inside_of<R>(address: usize, job: impl FnOnce() -> R) -> R {
    within(address, job)
}

/// Marks the running thread as outside of all plugins while `job` runs, if the innermost call that
/// it is in is the one of [`inside_of`] `address`; else `job` does not run.
pub(crate) fn stepped_out_of<R>(address: usize, job: impl FnOnce() -> R) -> Option<R> {
    let innermost = THREAD.with(|thread| thread.inside.load(Ordering::Relaxed));
    (innermost == address).then(|| within(0, job))
}

/// Runs `job` with the thread's innermost call noted as the one of `address`.
fn within<R>(address: usize, job: impl FnOnce() -> R) -> R {
    struct Leave(usize);
    impl Drop for Leave {
        fn drop(&mut self) {
            THREAD.with(|thread| thread.inside.store(self.0, Ordering::Relaxed));
        }
    }
    let _leave = THREAD.with(|thread| {
        let outer = thread.inside.load(Ordering::Relaxed);
        thread.inside.store(address, Ordering::Relaxed);
        Leave(outer)
    });
    job()
}

/// Runs `job`, in which the loader asks a plugin for something that it may refuse by raising a message.
pub(crate) fn asking<R>(job: impl FnOnce() -> R) -> R {
    THREAD.with(|thread| thread.is_asking.set(true));
    let answer = job();
    THREAD.with(|thread| thread.is_asking.set(false));
    answer
}

/// The function or table whose call in progress fails where it raises a message; none outside of all
/// calls, in the loader's own and where it is [`asking`].
pub(crate) fn failing() -> Option<usize> {
    THREAD.with(|thread| {
        let address = thread.inside.load(Ordering::Relaxed);
        (address > JOB && !thread.is_asking.get()).then_some(address)
    })
}

/// Keeps `message` for the call in progress on this thread; dropped where there is none.
pub(crate) fn raise(message: Box<str>) {
    THREAD.with(|thread| {
        if thread.inside.load(Ordering::Relaxed) != 0 {
            let message = Message {
                text: message,
                imported: false,
                before: Aside(std::ptr::null_mut()),
            };
            // The last one counts.
            drop(Aside(thread.raised.replace(message.keep())));
        }
    });
}

/// Takes the message that the call in progress left, if any.
pub(crate) fn take_raised() -> Option<Box<str>> {
    let raised = THREAD.with(|thread| Aside(thread.raised.replace(std::ptr::null_mut())));
    if raised.0.is_null() {
        return None;
    }
    // SAFETY: made by Message::keep() and taken out just now.
    let message = unsafe { Box::from_raw(raised.into_raw()) };
    Some(message.text)
}

/// Takes the message of the last imported function that failed, if nothing was raised since: what
/// the call failed for before counts again.
pub(crate) fn take_imported() -> Option<Box<str>> {
    THREAD.with(|thread| {
        let raised = thread.raised.get();
        // SAFETY: null, or made by Message::keep() and owned by this thread.
        let is_imported = unsafe { raised.as_ref() }.is_some_and(|message| message.imported);
        if is_imported {
            // SAFETY: as above, and taken out below.
            let Message { text, before, .. } = *unsafe { Box::from_raw(raised) };
            thread.raised.set(before.into_raw());
            return Some(text);
        }
        let untold = thread.untold.iter().take(thread.n_untold.replace(0));
        let bytes: Vec<u8> = untold.map(Cell::get).collect();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into())
    })
}

/// Fails the call in progress for `text`, because an imported function failed, unless the plugin takes
/// it; outside of all calls it is logged.
pub(crate) fn fail_imported(text: Box<str>) {
    THREAD.with(|thread| {
        if thread.inside.load(Ordering::Relaxed) == 0 {
            tracing::warn!(target: "plug::plugin", "a call of another plugin, outside of calls: {text}");
            for (place, byte) in thread.untold.iter().zip(text.bytes()) {
                place.set(byte);
            }
            thread.n_untold.set(text.len().min(UNTOLD));
            return;
        }
        let mut before = Aside(thread.raised.replace(std::ptr::null_mut()));
        // SAFETY: null, or made by Message::keep() and owned by `before`.
        if let Some(message) = unsafe { before.0.as_mut() }
            && message.imported
        {
            // Nobody has taken it, and the last one counts.
            let inner = std::mem::replace(&mut message.before.0, std::ptr::null_mut());
            before = Aside(inner);
        }
        let message = Message {
            text,
            imported: true,
            before,
        };
        thread.raised.set(message.keep());
    });
}

/// As [`inside`], of code that nobody is told the errors of: what was raised before is put aside, and
/// what is raised is returned.
pub(crate) fn inside_apart(job: impl FnOnce()) -> Option<Box<str>> {
    struct Restore(Aside);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = std::mem::replace(&mut self.0.0, std::ptr::null_mut());
            drop(THREAD.with(|thread| Aside(thread.raised.replace(before))));
        }
    }
    let null = std::ptr::null_mut();
    let _restore = Restore(Aside(THREAD.with(|thread| thread.raised.replace(null))));
    inside(job);
    take_raised()
}

/// A call of an imported function: where the thread is inside of, and what its own call has failed
/// for before.
pub(crate) struct Imported {
    entered: Entered<'static>,
    before: Aside,
}

impl Imported {
    #[inline]
    pub(crate) fn of(entered: Entered<'static>) -> Self {
        let before = THREAD.with(|thread| {
            let raised = thread.raised.get();
            if !raised.is_null() {
                thread.raised.set(std::ptr::null_mut());
            }
            Aside(raised)
        });
        Self { entered, before }
    }

    /// Leaves; whether the function raised nothing. Else its message is to be taken.
    #[inline]
    pub(crate) fn finish(self) -> bool {
        let Self { entered, before } = self;
        drop(entered);
        let fine = THREAD.with(|thread| thread.raised.get().is_null());
        if !fine || !before.0.is_null() {
            return settle_imported(before);
        }
        // Nothing is in it.
        let _none = ManuallyDrop::new(before);
        true
    }
}

/// Puts back what was put aside, below what an imported function has raised.
#[cold]
fn settle_imported(before: Aside) -> bool {
    let raised = take_raised();
    THREAD.with(|thread| thread.raised.set(before.into_raw()));
    let is_fine = raised.is_none();
    if let Some(text) = raised {
        fail_imported(text);
    }
    is_fine
}

/// Proof that the running thread counts as inside one plugin; leaves it when dropped.
#[must_use = "the gate closes when it is dropped"]
pub(crate) struct Entered<'a> {
    count: &'a Count,
    /// The row whose counter it is, and what it was raised to; none for a shared counter.
    row: Option<(&'a GateRow, Raised)>,
    inside: Inside,
}

/// What the thread was inside of before it entered where it is.
struct Inside(usize);

impl Inside {
    /// To be called before a counter is raised.
    #[inline]
    fn enter(address: usize) -> Self {
        THREAD.with(|thread| {
            let outer = thread.inside.load(Ordering::Relaxed);
            thread.inside.store(address, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            Self(outer)
        })
    }

    /// To be called when the counter is lowered.
    #[inline]
    fn leave(&self) {
        compiler_fence(Ordering::SeqCst);
        THREAD.with(|thread| thread.inside.store(self.0, Ordering::Relaxed));
    }
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
/// `address` is the function or table about to be used: in a mapping, so above [`JOB`].
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
    let inside = Inside::enter(address);
    let entered = match row.and_then(|row| Some((row, row.count(id)?))) {
        Some((row, count)) => {
            let fences = || snapshot::sections().fences();
            let raised = match by {
                By::Word(word) => gate::enter(count, gate::state(id), word, fences),
                By::Pin => Some(gate::raise(count, fences)),
            };
            raised.map(|raised| {
                row.set_current(address);
                (count, Some((row, raised)))
            })
        }
        None => enter_shared(id, by).map(|count| (count, None)),
    };
    match entered {
        Some((count, row)) => Ok(Entered { count, row, inside }),
        None => {
            inside.leave();
            Err(CallError::Gone)
        }
    }
}

/// As [`enter`] while the slot's state word is `word`, on a worker's thread; none elsewhere, and where
/// that refuses. Apart, so that it is short.
#[inline(always)]
pub(crate) fn enter_own(id: u32, word: u64, address: usize) -> Option<Entered<'static>> {
    // SAFETY: as in enter().
    let row = unsafe { THREAD.with(|thread| thread.row.get()).as_ref() }?;
    let count = row.count(id)?;
    let inside = Inside::enter(address);
    let fences = || snapshot::sections().fences();
    let Some(raised) = gate::enter(count, gate::state(id), word, fences) else {
        inside.leave();
        return None;
    };
    row.set_current(address);
    Some(Entered {
        count,
        row: Some((row, raised)),
        inside,
    })
}

/// Enters slot `id` for a function that the load `generation` gave to libc or the kernel: while it
/// is Live, and while its constructors and `init` run. None once it is on its way out.
///
/// Async-signal-safe.
pub(crate) fn enter_callback(id: u32, generation: u64, address: usize) -> Option<Entered<'static>> {
    // Live again last: it may have become so between the first two looks.
    [State::Live, State::Coming, State::Live]
        .into_iter()
        .find_map(|state| {
            let word = By::Word(StateWord::new(generation, state).0);
            enter(None, id, word, address).ok()
        })
}

/// The function of a plugin's that the running thread is in, as an address; 0 outside of all.
/// Async-signal-safe.
pub(crate) fn current() -> usize {
    THREAD.with(|thread| thread.inside.load(Ordering::Relaxed))
}

/// Enters slot `id` through its shared counter, on behalf of nobody known. Apart, so that what
/// workers do is short enough to become part of the call.
#[inline(never)]
fn enter_shared(id: u32, by: By) -> Option<&'static Count> {
    let count = gate::shared(id, thread_pointer());
    THREAD.with(|thread| {
        // Noted before it is counted: a fork in between keeps at most what is counted.
        let n = thread.n_shared.get();
        if let Some(place) = thread.shared.get(n) {
            place.set(id);
        }
        thread.n_shared.set(n.wrapping_add(1));
        match by {
            By::Word(word) if !gate::enter_shared(count, gate::state(id), word) => {
                thread.n_shared.set(n);
                return None;
            }
            By::Word(_) => {}
            By::Pin => gate::raise_shared(count),
        }
        Some(count)
    })
}

/// Leaves what [`enter_shared`] entered.
#[inline(never)]
fn leave_shared(count: &Count) {
    gate::leave_shared(count);
    THREAD.with(|thread| thread.n_shared.set(thread.n_shared.get().wrapping_sub(1)));
}

impl Entered<'_> {
    /// Leaves a function that libc or the kernel called, who want no error: a message is logged.
    pub(crate) fn finish_callback(self) {
        let inside = self.inside.0;
        drop(self);
        if inside == 0
            && let Some(message) = take_raised()
        {
            tracing::warn!(target: "plug::plugin", "a callback of a plugin failed: {message}");
        }
    }

    /// Leaves, and turns a message that the plugin raised into an error.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), CallError> {
        match THREAD.with(|thread| thread.raised.get().is_null()) {
            true => {
                drop(self);
                Ok(())
            }
            false => Err(self.failed()),
        }
    }

    /// Leaves a call that failed. What the plugin raised itself is noted already; here, what it
    /// imports has raised and it has not taken.
    #[cold]
    #[inline(never)]
    fn failed(self) -> CallError {
        let raised = THREAD.with(|thread| thread.raised.get());
        // SAFETY: null, or made by Message::keep() and owned by this thread.
        let is_imported = unsafe { raised.as_ref() }.is_some_and(|message| message.imported);
        let address = failing().filter(|_| is_imported);
        drop(self);
        let message = take_raised().unwrap_or_default();
        if let (Some(address), Some(note)) = (address, NOTE.get()) {
            note(address, &message);
        }
        CallError::Raised(message)
    }
}

/// Notes that the call of what is at an address failed for this reason.
pub(crate) type Note = fn(usize, &str);

/// Set by whoever knows whose address it is.
static NOTE: OnceLock<Note> = OnceLock::new();

/// Lets calls be noted that fail because what a plugin imports has failed. The first one counts.
pub(crate) fn set_note(note: Note) {
    let _first = NOTE.set(note);
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.row {
            Some((row, raised)) => {
                // Of several rows of one thread this may name another one's call: a report.
                row.set_current(self.inside.0);
                gate::leave(self.count, raised);
            }
            None => leave_shared(self.count),
        }
        self.inside.leave();
    }
}
