//! The part of an unload in which threads destroy what the plugin left on them, and after it the
//! plugin's own destructors.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint;
use crate::constructors;
use crate::deadline::Deadline;
use crate::executor::{self, Executor, Outcome};
use crate::farewell::{Farewell, Said};
use crate::footprint::keys;
use crate::footprint::ledger::{self, Debt};
use crate::plugin::{Destructors, Loaded, Record};
use crate::process::Process;
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
) -> Result<(), Vec<String>> {
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
        let is_awaited =
            |debt: &Debt| debt.start.is_some() || worker(debt).is_some_and(|row| row.ask_to_pass());
        if deadline.has_passed() || !debts.iter().any(is_awaited) {
            let reasons = debts
                .iter()
                .map(|debt| describe(debt, record, worker(debt).is_some()));
            return Err(reasons.collect());
        }
        std::thread::sleep(pause.min(deadline.remaining()));
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}

/// Whether threads owe a load nothing any more.
pub(crate) fn is_settled(generation: u64) -> bool {
    ledger::debts(generation).is_empty()
}

fn describe(debt: &Debt, record: &Record, is_worker: bool) -> String {
    let (tid, name) = (debt.tid, task::name_of(debt.tid));
    if let Some(start) = debt.start {
        let mut symbol = String::from(record.symbol_at(start));
        if symbol.is_empty() {
            let bias = record.part_at(start).map_or(record.bias, |part| part.bias);
            symbol = format!("{:#x}", start.wrapping_sub(bias));
        }
        return format!("its thread {tid} ({name}), started at {symbol}, still runs");
    }
    let when = if is_worker {
        "passes a quiescent point or ends"
    } else {
        "ends"
    };
    format!(
        "thread {tid} ({name}) has {} of its thread-locals to destroy, when it {when}",
        debt.destructors
    )
}

/// Why the destructors have not all been run.
pub(crate) enum Unfinished {
    /// They cannot be.
    Refused(String),
    /// One has not returned; they go on by themselves.
    Late(Arc<Farewell>),
}

/// Runs the destructors of a load that threads owe nothing, on a thread of the loader's that has
/// ended when this returns.
pub(crate) fn destroy(loaded: &Loaded, deadline: Deadline) -> Result<(), Unfinished> {
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
    let done = Executor::start(c"plug-fini").and_then(|executor| executor.run(Some(deadline), job));
    let (outcome, thread) = done.map_err(|error| Unfinished::Refused(format!("{error:#}")))?;
    // Looked at once while the thread is there, so that it is known again.
    let _over = farewell.is_over();
    match outcome {
        Outcome::Done(()) => executor::wait_all(vec![thread], deadline.remaining())
            .map_err(|_| Unfinished::Late(farewell)),
        Outcome::Vanished => {
            let reason = "a destructor ended the loader's thread instead of returning";
            Err(Unfinished::Refused(reason.to_owned()))
        }
        Outcome::Late => Err(Unfinished::Late(farewell)),
    }
}

/// As both, on the thread that runs `exit`, where threads owe nothing at once: whether that was so.
pub(crate) fn destroy_here(destructors: &Destructors, generation: u64) -> bool {
    ledger::settle(generation);
    if !is_settled(generation) {
        return false;
    }
    checkpoint::note("unload.destructors");
    constructors::destroy(destructors, generation);
    ledger::settle(generation);
    true
}

/// Gives back what the process keeps for a load whose destructors have run.
pub(crate) fn release(generation: u64) {
    ledger::set_leaving(generation, false);
    keys::release(generation);
}
