//! What a fork means to the loader: its locks are held across it, so that the child finds nothing
//! half done, and the child, in which only the forking thread exists, forgets all others.
//!
//! Only `fork` runs these handlers. A child made by `vfork` shares the parent's memory and may run
//! readers and nothing else of the loader's; one made by `_Fork` or a bare `clone` may do nothing.

use std::any::Any;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, RwLockWriteGuard};
use std::time::Duration;

use plug_readside::{phase, snapshot, thread_pointer};

use crate::calls;
use crate::constructors;
use crate::deadline::Deadline;
use crate::drainer;
use crate::error::{Error, ErrorKind};
use crate::flights;
use crate::footprint::{self, blocks, descriptors, ledger};
use crate::image;
use crate::indexer;
use crate::lineage::{self, Lineage};
use crate::process::Process;
use crate::reaper;
use crate::record::Record;
use crate::registry;
use crate::runtimes;
use crate::sys::{dl, membarrier, process_exit, task};
use crate::worker;

/// How long a fork waits for the loader's other threads to be at a place where it may happen. They
/// need microseconds of their own, unless the fork is made by a handler that interrupted one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a fork waits for constructors and destructors to end.
const POLITENESS: Duration = Duration::from_millis(500);

/// Whether this process is a child that has not started the loader's threads yet. Written by the
/// child's only thread (SeqCst: cold), and by whoever starts them.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this process is a child whose loader cannot go on. Written by the child's only thread
/// (SeqCst: cold).
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// All locks of the loader's, in their order.
struct Held {
    flights: RwLockWriteGuard<'static, flights::Map>,
    writer: MutexGuard<'static, registry::Writer>,
    workers: MutexGuard<'static, worker::Inner>,
    indexer: MutexGuard<'static, indexer::Queue>,
    ledger: ledger::Held,
    _pins: Vec<HeldPins>,
    /// Those whose content needs no change.
    _others: Box<dyn Any>,
}

/// The lists of pins, threads and tasks of one plugin.
struct HeldPins {
    /// Dropped before the record that they are in.
    _lists: Box<dyn Any>,
    _record: Arc<Record>,
}

impl HeldPins {
    /// The lineage is among them, unless it is held with another version.
    fn of(record: Arc<Record>, with_lineage: bool, deadline: Deadline) -> Option<Self> {
        // SAFETY: the record is kept as long as the lists are held, and stays where it is.
        let kept: &'static Record = unsafe { &*Arc::as_ptr(&record) };
        let context = &kept.context;
        let lineage = match with_lineage {
            true => Some(kept.lineage.hold(deadline)?),
            false => None,
        };
        Some(Self {
            _lists: Box::new((
                kept.pins.hold(deadline)?,
                context.threads().hold(deadline)?,
                context.roll().hold(deadline)?,
                context.faults().hold(deadline)?,
                kept.settings.hold(deadline)?,
                kept.source.hold(deadline)?,
                lineage,
            )),
            _record: record,
        })
    }
}

/// What the handler before a fork leaves to the one after it.
struct Fork {
    /// None where the loader's other threads did not come to a place in time.
    held: Option<Held>,
    /// The id of the thread that forks; the child's is another.
    tid: u32,
}

thread_local! {
    /// The fork that this thread is making: an owned `Box<Fork>`, or null.
    static FORK: Cell<*mut Fork> = const { Cell::new(ptr::null_mut()) };
}

/// Makes forks safe; once a process.
pub(crate) fn prepare() {
    process_exit::at_fork(before, after_in_parent, after_in_child);
}

/// To be called before a load, an unload and whatever else needs the loader's own threads: starts
/// them in a forked child. One load elsewhere.
///
/// # Errors
/// [`ErrorKind::Forked`] in a child whose loader cannot go on; [`ErrorKind::Thread`].
pub(crate) fn settle(process: &'static Process) -> Result<(), Error> {
    if IS_LOST.load(Ordering::SeqCst) {
        return Err(Error::new(
            ErrorKind::Forked,
            "this process was forked while its loader was at work on the forking thread; fork \
             elsewhere or call exec",
        ));
    }
    if IS_CHILD.swap(false, Ordering::SeqCst) {
        process.workers.sweep();
        start_threads(process).inspect_err(|_| IS_CHILD.store(true, Ordering::SeqCst))?;
    }
    Ok(())
}

/// Starts the loader's own threads.
///
/// # Errors
/// [`ErrorKind::Thread`].
pub(crate) fn start_threads(process: &'static Process) -> Result<(), Error> {
    drainer::start(process)
        .and_then(|()| process.indexer.start())
        .map_err(|error| {
            let what = "no thread for the drainer or the indexer";
            Error::new(ErrorKind::Thread, what).because(error)
        })
}

fn hold(process: &'static Process) -> Option<Held> {
    // Some of its locks stay locked by threads that are not there.
    if IS_LOST.load(Ordering::SeqCst) {
        return None;
    }
    // A plugin's code may take as long as it likes: what it can do to the child is little.
    let constructors = constructors::hold(Deadline::after(POLITENESS));
    let soon = Deadline::after(PATIENCE);
    let flights = process.flights.hold(soon)?;
    let runtimes = runtimes::hold(soon)?;
    let folders = image::hold_stage_folders(soon)?;
    let writer = process.registry.hold(soon)?;
    let (workers, answering) = process.workers.hold(soon)?;
    let indexer = process.indexer.hold(soon)?;
    let ledger = ledger::hold(soon)?;
    let footprint = footprint::hold(soon)?;
    let leaves = (
        process.presence.hold(soon)?,
        process.history.hold(soon)?,
        process.events.hold(soon)?,
        process.services.hold(soon)?,
        process.probes.hold(soon)?,
        process_exit::hold(soon)?,
        blocks::hold(soon)?,
    );
    // Versions of one plugin share theirs.
    let mut lineages: Vec<Arc<Lineage>> = Vec::new();
    let pins: Option<_> = writer
        .mapped()
        .map(|record| {
            let lineage = Arc::clone(&record.lineage);
            let is_held = lineages.iter().any(|held| Arc::ptr_eq(held, &lineage));
            let pins = HeldPins::of(record, !is_held, soon);
            lineages.push(lineage);
            pins
        })
        .collect();
    let pins = pins?;
    // Taken inside of a lineage's lock.
    let routes = lineage::hold(soon)?;
    let linker = dl::hold(soon)?;
    Some(Held {
        flights,
        writer,
        workers,
        indexer,
        ledger,
        _pins: pins,
        _others: Box::new((
            constructors,
            runtimes,
            folders,
            answering,
            footprint,
            leaves,
            routes,
            linker,
        )),
    })
}

extern "C" fn before() {
    let fork = Fork {
        held: Process::get().and_then(hold),
        tid: task::id(),
    };
    let outer = FORK.replace(Box::into_raw(Box::new(fork)));
    debug_assert!(outer.is_null(), "forks do not nest");
}

/// Takes what [`before`] left on this thread.
fn take() -> Option<Box<Fork>> {
    let fork = FORK.replace(ptr::null_mut());
    // SAFETY: made by Box::into_raw in before() on this thread, and taken out just now.
    (!fork.is_null()).then(|| unsafe { Box::from_raw(fork) })
}

extern "C" fn after_in_parent() {
    drop(take());
}

extern "C" fn after_in_child() {
    let Some(fork) = take() else { return };
    let (thread, now) = (thread_pointer(), task::id());
    // SAFETY: run by fork in the child, on the thread that forked, before it does anything else.
    unsafe { snapshot::sections().reset_after_fork(thread, fork.tid, now) };
    phase::reset_after_fork(thread);
    task::forget_id();
    descriptors::prepare();
    reaper::reset_after_fork();
    if snapshot::sections().needs_barrier() {
        membarrier::prepare_child();
    }
    let is_whole = fork.held.is_some();
    match fork.held {
        Some(mut held) => {
            held.flights.clear();
            calls::reset_after_fork(held.writer.give_up_after_fork());
            held.workers.reset_after_fork(fork.tid, now);
            held.indexer.reset_after_fork();
            held.ledger.reset_after_fork(now);
            footprint::reset_after_fork(now);
            IS_CHILD.store(true, Ordering::SeqCst);
        }
        None => IS_LOST.store(true, Ordering::SeqCst),
    }
    // The locks are free by now, and nobody else is there.
    if is_whole && let Some(process) = Process::get() {
        process.registry.forget_lost_users();
    }
}
