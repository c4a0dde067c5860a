//! The part of an unload in which threads destroy what the plugin left on them, and after it the
//! plugin's own destructors.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use crate::checkpoint;
use crate::constructors;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::executor::{self, Ending, Executor, Outcome};
use crate::farewell::{Farewell, Said};
use crate::footprint::ledger::{self, Debt};
use crate::footprint::{self, Owner, remains};
use crate::lingering::{Debtor, Lingering};
use crate::process::Process;
use crate::record::{Destructors, Loaded, Record};
use crate::registry::canonical;
use crate::sys::clock;
use crate::sys::task;

/// Has threads destroy what the load left on them, as far as they can be reached.
///
/// The running thread does it at once; workers do it at their next quiescent point, and threads
/// that the plugin made end by themselves: those are waited for. Others are not, since nothing says
/// when they will.
///
/// # Errors
/// What threads still owe when the deadline has passed, or nothing is left to be waited for.
pub(crate) fn settle(
    process: &'static Process,
    record: &Record,
    deadline: Deadline,
) -> Result<(), Vec<Debtor>> {
    let generation = record.generation;
    ledger::set_leaving(generation, true);
    ledger::settle_all();
    let mut pause = Duration::from_micros(20);
    loop {
        let debts = ledger::debts(generation);
        if debts.is_empty() {
            ledger::set_leaving(generation, false);
            return Ok(());
        }
        let rows = process.workers.rows();
        let worker = |debt: &Debt| rows.iter().find(|row| row.tid() == debt.tid);
        let is_awaited = |debt: &Debt| {
            let ends_itself = debt.start.is_some() || debt.is_forking;
            ends_itself || worker(debt).is_some_and(|row| row.ask_to_pass())
        };
        if deadline.has_passed() || !debts.iter().any(is_awaited) {
            return Err(debtors(process, record));
        }
        clock::nap(pause.min(deadline.remaining()));
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}

/// Whether the running thread owes a load nothing.
fn is_settled_here(generation: u64) -> bool {
    let own = task::id();
    ledger::debts(generation).iter().all(|debt| debt.tid != own)
}

/// Whether threads owe a load nothing any more.
pub(crate) fn is_settled(generation: u64) -> bool {
    ledger::debts(generation).is_empty()
}

/// The threads that owe a load something at this moment.
pub(crate) fn debtors(process: &Process, record: &Record) -> Vec<Debtor> {
    let rows = process.workers.rows();
    let debts = ledger::debts(record.generation).into_iter();
    let debtor = |debt: Debt| Debtor {
        tid: debt.tid,
        thread: task::name_of(debt.tid),
        destructors: debt.destructors,
        has_stack: debt.has_stack,
        is_forking: debt.is_forking,
        start: debt.start.map(|start| record.function_at(start)),
        is_worker: rows.iter().any(|row| row.tid() == debt.tid),
    };
    debts.map(debtor).collect()
}

/// What holds the closed plugins at this moment: those that wait for threads name the ones that are
/// left.
pub(crate) fn lingering(process: &Process) -> Vec<Lingering> {
    let zombies = process.registry.zombies().into_iter();
    let now = |(mut lingering, record): (Lingering, Arc<Record>)| {
        let debtors = match lingering.debtors.is_empty() {
            true => Vec::new(),
            false => debtors(process, &record),
        };
        // Nobody left means that it is about to go.
        if !debtors.is_empty() {
            let told: Vec<_> = lingering.debtors.iter().map(ToString::to_string).collect();
            lingering.reasons.retain(|reason| !told.contains(reason));
            let still = debtors.iter().map(ToString::to_string);
            lingering.reasons.extend(still);
            lingering.debtors = debtors;
        }
        lingering
    };
    zombies.map(now).collect()
}

/// The closed plugin of this name that was closed last, as it is held at this moment.
pub(crate) fn find_lingering(process: &Process, name: &str) -> Option<Lingering> {
    let wanted = canonical(name);
    let mut all = lingering(process).into_iter().rev();
    all.find(|lingering| canonical(&lingering.plugin) == wanted)
}

/// Waits until a closed plugin is gone; see `Loader::wait_for_zombie`.
pub(crate) fn wait(process: &Process, name: &str, deadline: Deadline) -> Result<(), Error> {
    let fail = |kind, left: Lingering| {
        let error = Error::new(kind, left.to_string()).plugin(name);
        Err(error.lingering_as(Some(left)))
    };
    match find_lingering(process, name) {
        None => {
            let message = "no closed plugin of this name";
            return Err(Error::new(ErrorKind::NotFound, message).plugin(name));
        }
        Some(left) if left.is_pinned => return fail(ErrorKind::Busy, left),
        Some(_) => {}
    }
    let _gone = process
        .registry
        .wait_for_zombies(&canonical(name), deadline);
    // One may have been pinned meanwhile.
    match find_lingering(process, name) {
        None => Ok(()),
        Some(left) if left.is_pinned => fail(ErrorKind::Busy, left),
        Some(left) => fail(ErrorKind::Deadline, left),
    }
}

/// Why the destructors have not all been run.
pub(crate) enum Unfinished {
    /// They cannot be.
    Refused(String),
    /// One has not returned; they go on by themselves.
    Late(Arc<Farewell>),
}

/// The name of a thread that runs destructors.
const FINI: &CStr = c"plug-fini";

/// Runs the destructors of a load that threads owe nothing, on the thread that stands by, or on a
/// fresh one of the loader's; it has ended when this returns.
pub(crate) fn destroy(
    loaded: &Loaded,
    standby: Option<Standby>,
    deadline: Deadline,
) -> Result<(), Unfinished> {
    if let Some(result) = standby.and_then(|standby| standby.destroy(deadline)) {
        return result;
    }
    let generation = loaded.record.generation;
    let destructors = loaded.destructors.clone();
    let farewell = Arc::new(Farewell::default());
    let said = Arc::clone(&farewell);
    let job = move || {
        said.begin();
        checkpoint::note("unload.destructors");
        constructors::destroy(&destructors, generation);
        said.end(Ok(Said {
            exited: Duration::ZERO,
            destroyed: true,
        }));
    };
    let done = Executor::start(FINI).and_then(|executor| executor.run(Some(deadline), job));
    let (outcome, thread) = done.map_err(|error| Unfinished::Refused(format!("{error:#}")))?;
    destroyed(outcome, thread, farewell, deadline)
}

/// What became of the destructors that `thread` ran.
fn destroyed(
    outcome: Outcome<()>,
    thread: Ending,
    farewell: Arc<Farewell>,
    deadline: Deadline,
) -> Result<(), Unfinished> {
    let late = |farewell: Arc<Farewell>| {
        // Looked at once while the thread is there, so that it is known again.
        let _over = farewell.is_over();
        Unfinished::Late(farewell)
    };
    match outcome {
        Outcome::Done(()) => {
            executor::wait_all(vec![thread], deadline.remaining()).map_err(|_| late(farewell))
        }
        Outcome::Vanished => {
            let reason = "a destructor ended the loader's thread instead of returning";
            Err(Unfinished::Refused(reason.to_owned()))
        }
        Outcome::Late => Err(late(farewell)),
    }
}

/// The thread that ran `exit`, which stands by to run the destructors as well.
#[derive(Debug)]
#[must_use = "the thread ends only once this is used or dropped"]
pub(crate) struct Standby {
    /// By which it is told to. Dropped, it ends without.
    go: SyncSender<()>,
    /// By which it tells that they have returned.
    done: Receiver<()>,
    pub(crate) thread: Ending,
    pub(crate) farewell: Arc<Farewell>,
}

/// That thread's side.
#[derive(Debug)]
pub(crate) struct Orders {
    go: Receiver<()>,
    done: SyncSender<()>,
}

/// Both sides, before there is a thread. The first is what becomes a [`Standby`].
pub(crate) fn orders() -> ((SyncSender<()>, Receiver<()>), Orders) {
    // Without room: what was sent was taken, or the thread does not stand by any more.
    let (go, ordered) = mpsc::sync_channel(0);
    let (done, told) = mpsc::sync_channel(1);
    ((go, told), Orders { go: ordered, done })
}

impl Orders {
    /// Stands by until the destructors are to be run, but no longer than `time`, runs them, and tells
    /// `end` whether that was so.
    ///
    /// To be called where the running thread owes the load nothing.
    pub(crate) fn follow(
        self,
        destructors: &Destructors,
        generation: u64,
        time: Duration,
        end: impl FnOnce(bool),
    ) {
        if self.go.recv_timeout(time).is_err() {
            return end(false);
        }
        let _named = rustix::thread::set_name(FINI);
        checkpoint::note("unload.destructors");
        constructors::destroy(destructors, generation);
        ledger::settle(generation);
        end(true);
        // Whoever asked may have gone away after its deadline.
        let _told = self.done.send(());
    }
}

impl Standby {
    pub(crate) fn new(
        (go, done): (SyncSender<()>, Receiver<()>),
        thread: Ending,
        farewell: Arc<Farewell>,
    ) -> Self {
        Self {
            go,
            done,
            thread,
            farewell,
        }
    }

    /// Has the thread run the destructors of a load that threads owe nothing; it has ended when this
    /// returns. None where it stands by no more and has run none: somebody else is to.
    fn destroy(self, deadline: Deadline) -> Option<Result<(), Unfinished>> {
        // In a forked process it is not there.
        if !self.thread.is_here() || self.go.send(()).is_err() {
            return None;
        }
        let outcome = match self.done.recv_timeout(deadline.remaining()) {
            Ok(()) => Outcome::Done(()),
            Err(RecvTimeoutError::Disconnected) => Outcome::Vanished,
            Err(RecvTimeoutError::Timeout) => Outcome::Late,
        };
        Some(destroyed(outcome, self.thread, self.farewell, deadline))
    }

    /// Lets the thread end without; it has when this returns.
    ///
    /// # Errors
    /// What it is in, where it has not ended at the deadline.
    pub(crate) fn dismiss(self, deadline: Deadline) -> Result<(), Arc<Farewell>> {
        let Self {
            go,
            thread,
            farewell,
            ..
        } = self;
        drop(go);
        thread.wait(deadline).map_err(|_| {
            // Looked at once while the thread is there, so that it is known again.
            let _over = farewell.is_over();
            farewell
        })
    }
}

/// Takes back what would call a load by itself, since nobody may any more, and says why it can never
/// be unmapped, if that is so: then its destructors are not run either.
pub(crate) fn withdraw(record: &Record) -> Vec<String> {
    let generation = record.generation;
    footprint::withdraw(generation);
    let uncovered = remains::uncovered(generation);
    if !uncovered.is_empty() {
        let plugin = &*record.name;
        tracing::warn!(
            target: "plug::unload", plugin, generation, ?uncovered,
            "libc may call the plugin where no gate is passed; make sure that all of it has ended"
        );
    }
    for_ever(record)
}

/// Why a load can never be unmapped; empty for most.
pub(crate) fn for_ever(record: &Record) -> Vec<String> {
    remains::reasons(record.generation)
}

/// How far the thread that runs `exit` came with the destructors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// They have returned.
    Destroyed,
    /// Other threads have something to destroy first; this one has not, and can stand by.
    Settled,
    /// They cannot be run here.
    Unfit,
}

/// As both, on the thread that runs `exit`, where threads owe nothing at once.
pub(crate) fn destroy_here(destructors: &Destructors, generation: u64) -> Here {
    if !remains::reasons(generation).is_empty() {
        return Here::Unfit;
    }
    ledger::settle(generation);
    if !is_settled(generation) {
        return match is_settled_here(generation) {
            true => Here::Settled,
            false => Here::Unfit,
        };
    }
    checkpoint::note("unload.destructors");
    constructors::destroy(destructors, generation);
    ledger::settle(generation);
    Here::Destroyed
}

/// Gives back what the process keeps for a load whose destructors have run.
pub(crate) fn release(record: &Record) {
    ledger::set_leaving(record.generation, false);
    footprint::release(Owner {
        id: record.id,
        generation: record.generation,
    });
}
