//! The story of an unload, from top to bottom.

use std::mem::{self, ManuallyDrop};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use plug_readside::phase::{self, Phase};
use plug_readside::thread_pointer;

use crate::audit;
use crate::calls;
use crate::checkpoint;
use crate::config::Audit;
use crate::constructors;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Stage};
use crate::events::EventKind;
use crate::executor::{self, Executor, Outcome};
use crate::farewell::{Farewell, Said};
use crate::image::remove_stage_folder;
use crate::lingering::{Observed, Why};
use crate::process::Process;
use crate::quarantine::{self, Quarantine};
use crate::quiesce::{self, Undrained, WorkerProof};
use crate::recheck::Recheck;
use crate::record::{Loaded, Record};
use crate::registry::Leaving;
use crate::remains;
use crate::roots::{self, Root};
use crate::settlement::{self, Here, Standby, Unfinished};
use crate::stages::Stages;
use crate::stall::Stall;
use crate::sys::{dl, objects, process_exit, task};
use crate::verdict::{Leaks, UnloadReport, Unloaded};
use crate::zombies::{Until, Zombie};

/// Time that `exit` and the destructors always get, whatever the caller's deadline.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Time a reader's section may last before an unload gives up waiting; sections are microseconds.
const SECTION: Duration = Duration::from_secs(10);

/// Takes the plugin `name`, only the load `generation` if that is given: it is Going from here on.
pub(crate) fn begin(
    process: &'static Process,
    name: &str,
    generation: Option<u64>,
) -> Result<Leaving, Error> {
    let taken = process.registry.take(name, generation);
    let leaving = taken
        .map_err(|error| match error.lingering() {
            Some(_) => still_here(process, name, generation, error),
            None => error,
        })
        .map_err(|error| error.at(Stage::Going).plugin(name))?;
    note_going(process, &leaving);
    Ok(leaving)
}

/// Tells that a plugin was taken.
pub(crate) fn note_going(process: &'static Process, leaving: &Leaving) {
    let record = leaving.record();
    process
        .events
        .push(&record.name, record.generation, EventKind::Going);
    checkpoint::note("unload.going");
}

/// A refusal because the plugin was closed before, with what holds it at this moment.
fn still_here(
    process: &'static Process,
    name: &str,
    generation: Option<u64>,
    refusal: Error,
) -> Error {
    match settlement::find_lingering(process, name) {
        Some(left) if generation.is_some_and(|wanted| wanted != left.generation) => {
            let (wanted, found) = (generation.unwrap_or(0), left.generation);
            let message = format!(
                "expected generation {wanted}, found {found}, which is closed but still mapped"
            );
            Error::new(ErrorKind::Gone, message)
        }
        Some(left) => Error::new(ErrorKind::Busy, left.to_string()).lingering_as(Some(left)),
        None => refusal,
    }
}

/// Puts a plugin back that was taken: it is Live again, because of `why`.
pub(crate) fn put_back(process: &'static Process, leaving: Leaving, why: &str) {
    let record = Arc::clone(leaving.record());
    record.context.threads().go_on();
    record.context.roll().set_cancelling(false);
    process.registry.put_back(leaving);
    let kind = EventKind::Stayed(why.into());
    process.events.push(&record.name, record.generation, kind);
}

/// Waits until nobody is inside a plugin that was taken, or nobody is `wanted` to wait any more.
///
/// Warns when that takes long.
pub(crate) fn drain(
    process: &'static Process,
    record: &Record,
    deadline: Deadline,
    mut wanted: impl FnMut() -> bool,
) -> Result<Vec<WorkerProof>, Undrained> {
    checkpoint::note("unload.drain");
    let (workers, presence) = (&process.workers, &process.presence);
    let mut stall = Stall::new(process.config.stall_warning);
    let mut watch = |waited| {
        if !wanted() {
            return ControlFlow::Break(());
        }
        let holders = || presence.holders(workers, record, waited);
        if let Some(report) = stall.look(waited, record, holders) {
            let (plugin, generation) = (&*record.name, record.generation);
            tracing::warn!(target: "plug::stall", plugin, generation, "{report}");
            let kind = EventKind::Stalled(report.into());
            process.events.push(plugin, generation, kind);
        }
        ControlFlow::Continue(())
    };
    let proofs = quiesce::drain(workers, presence, record, deadline, &mut watch)?;
    checkpoint::note("unload.drained");
    let inside = audit::wait_until_outside(&process.config, workers, record, deadline, watch);
    match inside.is_empty() {
        true => Ok(proofs),
        false => Err(Undrained::Held(inside)),
    }
}

/// From here on there is no way back: the plugin leaves, or becomes a zombie.
pub(crate) fn leave(
    process: &'static Process,
    leaving: Leaving,
    workers: Vec<WorkerProof>,
    deadline: Deadline,
    mut stages: Stages,
) -> Unloaded {
    // Who was told that it goes has come back from that while it is whole.
    process.events.settle(process.config.subscriber_patience);
    let Leaving { mut loaded } = leaving;
    let threads = mem::take(&mut loaded.threads);
    let record = Arc::clone(&loaded.record);
    let last_words = Deadline::after(deadline.remaining().max(LAST_WORDS));
    let farewell = executor::wait_all(threads, last_words.remaining())
        .map_err(Unsaid::Refused)
        .and_then(|()| say_goodbye(process, &loaded, last_words, &mut stages));
    let last_thread = match farewell {
        Ok(last_thread) => last_thread,
        Err(Unsaid::Refused(reason)) => return bury(process, loaded, reason.into(), None),
        Err(Unsaid::Late(farewell)) => {
            let reason = EXIT_IS_LATE.to_owned();
            return bury(process, loaded, reason.into(), Some(Until::Said(farewell)));
        }
    };
    let Gone {
        observed,
        warnings,
        leaks,
    } = match depart(process, loaded, last_thread, last_words, &mut stages) {
        Ok(gone) => gone,
        Err(left) => {
            let Left { loaded, why, until } = *left;
            return bury(process, loaded, why, until);
        }
    };
    checkpoint::note("unload.release");
    process.registry.release(record.id, record.generation);
    let stages = stages.into_inner();
    let (plugin, generation, kind) = (&record.name, record.generation, EventKind::Unloaded);
    process.events.push_timed(plugin, generation, kind, &stages);
    Unloaded::Gone(UnloadReport {
        plugin: record.name.clone(),
        generation: record.generation,
        workers,
        stages,
        observed,
        warnings,
        leaks,
    })
}

/// What was seen of a plugin that left.
struct Gone {
    observed: Observed,
    warnings: Vec<Root>,
    leaks: Option<Leaks>,
}

/// A plugin that did not leave, why, and what it waits for.
struct Left {
    loaded: Loaded,
    why: Why,
    until: Option<Until>,
}

/// What follows `exit`: threads destroy what is theirs, the plugin's own destructors run unless they
/// have, threads owe nothing after them either, and it is closed.
fn depart(
    process: &'static Process,
    loaded: Loaded,
    last_thread: LastThread,
    deadline: Deadline,
    stages: &mut Stages,
) -> Result<Gone, Box<Left>> {
    let record = Arc::clone(&loaded.record);
    let left = |loaded, why, until| Err(Box::new(Left { loaded, why, until }));
    // For one that stays: the thread that stands by has ended before, or is waited for instead.
    let dismissed = |loaded, why, until, standby: Option<Standby>| {
        let last_words = Deadline::after(deadline.remaining().max(LAST_WORDS));
        match standby.map(|standby| standby.dismiss(last_words)) {
            None | Some(Ok(())) => left(loaded, why, until),
            Some(Err(farewell)) => {
                let why = EXIT_IS_LATE.to_owned().into();
                left(loaded, why, Some(Until::Said(farewell)))
            }
        }
    };
    let (destroyed, standby) = match last_thread {
        LastThread::Destroyed => (true, None),
        LastThread::Gone => (false, None),
        LastThread::StandsBy(standby) => (false, Some(standby)),
    };
    let for_ever = settlement::withdraw(&record);
    if !for_ever.is_empty() {
        return dismissed(loaded, Why::for_ever(for_ever), None, standby);
    }
    if !destroyed {
        if let Err(debtors) = settlement::settle(process, &record, deadline) {
            let until = Until::Settled { destroyed };
            return dismissed(loaded, Why::owed(debtors), Some(until), standby);
        }
        let last_words = Deadline::after(deadline.remaining().max(LAST_WORDS));
        match settlement::destroy(&loaded, standby, last_words) {
            Ok(()) => {}
            Err(Unfinished::Refused(reason)) => return left(loaded, reason.into(), None),
            Err(Unfinished::Late(farewell)) => {
                let reason = "a destructor has not returned; the thread plug-fini is in it";
                let why = reason.to_owned().into();
                return left(loaded, why, Some(Until::Said(farewell)));
            }
        }
    }
    // A destructor may have started a thread.
    if let Err(debtors) = settlement::settle(process, &record, deadline) {
        let until = Until::Settled { destroyed: true };
        return left(loaded, Why::owed(debtors), Some(until));
    }
    // It may also have registered what cannot be taken back.
    let for_ever = settlement::for_ever(&record);
    if !for_ever.is_empty() {
        return left(loaded, Why::for_ever(for_ever), None);
    }
    let warnings = match held(process, &record, deadline) {
        Ok(warnings) => warnings,
        Err(held) => {
            let (why, until) = *held;
            return left(loaded, why, Some(until));
        }
    };
    close(process, loaded, warnings, stages).or_else(|given_back| {
        let (loaded, why) = *given_back;
        left(loaded, why, None)
    })
}

/// The pointers into a load whose destructors have run that others keep and that may be of no use
/// any more.
///
/// # Errors
/// Why it must not be unmapped yet, and what it waits for.
pub(crate) fn held(
    process: &'static Process,
    record: &Arc<Record>,
    deadline: Deadline,
) -> Result<Vec<Root>, Box<(Why, Until)>> {
    let free = held_by(process, record, deadline).inspect(|roots| tell(record, roots));
    free.map_err(|held| {
        let watched = Arc::clone(record);
        let is_free = move || {
            let free = held_by(process, &watched, Deadline::now());
            free.inspect(|roots| tell(&watched, roots)).is_ok()
        };
        Box::new((Why::for_ever(held), Until::Free(Recheck::new(is_free))))
    })
}

/// Logs pointers into a load that is about to go.
fn tell(record: &Record, roots: &[Root]) {
    let (plugin, generation) = (&*record.name, record.generation);
    for root in roots {
        tracing::warn!(target: "plug::unload", plugin, generation, %root, "a pointer stays behind");
    }
}

/// Pointers that may be of no use any more.
///
/// # Errors
/// What would crash after an unmapping, in words: threads that are inside when the deadline has
/// passed, and pointers that somebody keeps.
fn held_by(
    process: &'static Process,
    record: &Record,
    deadline: Deadline,
) -> Result<Vec<Root>, Vec<String>> {
    let config = &process.config;
    if config.audit == Audit::Off {
        return Ok(Vec::new());
    }
    let go_on = |_| ControlFlow::Continue(());
    let inside = audit::wait_until_outside(config, &process.workers, record, deadline, go_on);
    let (roots, others): (Vec<_>, Vec<_>) =
        roots::scan(record, true).into_iter().partition(Root::holds);
    if roots.is_empty() && inside.is_empty() {
        return Ok(others);
    }
    let inside = inside.iter().map(ToString::to_string);
    Err(inside
        .chain(roots.iter().map(ToString::to_string))
        .collect())
}

/// Hides a plugin whose destructors have run, waits for readers, unmaps it and looks whether it is
/// gone; else gives it back with the reason why it is not, for readers to see again.
fn close(
    process: &'static Process,
    mut loaded: Loaded,
    warnings: Vec<Root>,
    stages: &mut Stages,
) -> Result<Gone, Box<(Loaded, Why)>> {
    let record = Arc::clone(&loaded.record);
    settlement::release(&record);
    process_exit::run_first();

    // All of its code has run.
    let leaks = Leaks::of(&record);

    // SAFETY: nobody is inside, and the destructors, which were its last code, have run.
    let quarantine = record
        .pinned_because
        .is_empty()
        // SAFETY: as above.
        .then(|| unsafe { Quarantine::hold(&process.config, &record) })
        .flatten();
    if quarantine.is_some() {
        stages.end(Stage::Quarantine);
    }
    checkpoint::note("unload.unpublish");
    process.registry.hide(record.generation);
    checkpoint::note("unload.grace");
    if let Err(error) = quiesce::grace(Deadline::after(SECTION)) {
        process.registry.show(&record);
        return Err(Box::new((loaded, error.to_string().into())));
    }
    stages.end(Stage::Unpublish);

    checkpoint::note("unload.close");
    let before = dl::look(loaded.name());
    let closed = loaded.mapped.take().map(|mapped| {
        // SAFETY: gates and pins are drained and closed, `exit` and the destructors have run and
        // their thread has ended, and no reader follows a pointer into the plugin.
        unsafe { mapped.close() }
    });
    stages.end(Stage::Close);
    checkpoint::note("unload.observe");
    let observed = match closed {
        Some(Ok(())) => Ok(observe(&loaded, before, dl::look(loaded.name()))),
        Some(Err(refusal)) => Err(Why::from(refusal.to_string())),
        None => Err(Why::from("it was given back to ld.so before".to_owned())),
    };
    stages.end(Stage::Observe);
    record.context.threads().close();
    let reasons = remains::of(Some(&record), &loaded.names);
    let why = match observed {
        Ok(observed) if reasons.is_empty() => {
            if let Some(quarantine) = quarantine {
                quarantine.over();
            }
            quarantine::give_back();
            quarantine::keep(&process.config, &record);
            if let Some(leaks) = &leaks {
                let (plugin, generation) = (&*record.name, record.generation);
                tracing::warn!(target: "plug::unload", plugin, generation, "it left {leaks}");
            }
            drop(loaded);
            remember(process, record);
            return Ok(Gone {
                observed,
                warnings,
                leaks,
            });
        }
        Ok(observed) => Why {
            observed: Some(observed),
            ..Why::for_ever(reasons)
        },
        Err(why) => why,
    };
    if let Some(quarantine) = quarantine {
        quarantine.end(&record);
    }
    process.registry.show(&record);
    Err(Box::new((loaded, why)))
}

/// Writes down what was seen of a plugin before and after it was closed.
pub(crate) fn observe(loaded: &Loaded, before: dl::Sight, after: dl::Sight) -> Observed {
    let (start, end) = (loaded.record.start, loaded.record.end);
    Observed {
        name: loaded.name().to_string_lossy().into(),
        is_listed: after.is_listed,
        range: (start, end),
        is_covered: objects::is_known().then(|| objects::find(start).is_some()),
        removals: (before.removals, after.removals),
    }
}

/// Moves a plugin that is gone to the history.
pub(crate) fn remember(process: &'static Process, record: Arc<Record>) {
    // First, so that whoever asks for this load finds it here or there.
    if let Some(forgotten) = process.history.add(record) {
        for part in &forgotten.parts {
            process.registry.retire(&part.index);
        }
    }
}

/// Why a plugin waits whose `exit` is late.
const EXIT_IS_LATE: &str = "its exit has not returned; the thread plug-exit is in it";

/// What became of the thread that ran `exit`, and who is to run the destructors.
enum LastThread {
    /// Nobody: it has, and has ended.
    Destroyed,
    /// Some other thread: it has ended.
    Gone,
    /// It stands by to do so.
    StandsBy(Standby),
}

/// Why a plugin's last calls have not all been made.
enum Unsaid {
    /// They cannot be.
    Refused(String),
    /// The deadline passed; they go on by themselves.
    Late(Arc<Farewell>),
}

impl LastThread {
    /// Of one that has ended, with this said.
    fn after(said: Said) -> Self {
        match said.destroyed {
            true => Self::Destroyed,
            false => Self::Gone,
        }
    }
}

/// Runs `exit` and makes sure once more that nobody is inside, on a thread of the loader's. Where
/// no thread owes the plugin anything, its destructors run there, too, and it has ended when this
/// returns; where others do, it stands by until they have paid.
fn say_goodbye(
    process: &'static Process,
    loaded: &Loaded,
    deadline: Deadline,
    stages: &mut Stages,
) -> Result<LastThread, Unsaid> {
    checkpoint::note("unload.exit");
    let record = Arc::clone(&loaded.record);
    let exit = loaded.descriptor.and_then(|descriptor| descriptor.exit);
    let generation = record.generation;
    let destructors = loaded.destructors.clone();
    let farewell = Arc::new(Farewell::default());
    let (order, orders) = settlement::orders();
    // What `exit` forked has nobody who would tell it anything.
    let home = task::process();
    // A pair of the thread's own: what it stands by with, once it does.
    let (keep, kept) = mpsc::channel();
    let said = Arc::clone(&farewell);
    let job = move || {
        said.begin();
        let began = Instant::now();
        if let Some(exit) = exit {
            let _phase = phase::enter(thread_pointer(), record.generation, Phase::Exit);
            // SAFETY: the descriptor of a plugin whose init succeeded, called once.
            unsafe { exit() };
            if let Some(message) = calls::take_raised() {
                tracing::warn!(target: "plug::unload", plugin = &*record.name, %message, "exit raised");
            }
        }
        let exited = began.elapsed();
        // Those that `exit` let go need a moment, also where it was late.
        let soon = Deadline::after(deadline.remaining().max(LAST_WORDS));
        let here = nobody_inside(process, &record, soon)
            .map(|()| settlement::destroy_here(&destructors, generation));
        if here == Ok(Here::Settled) && task::process() == home {
            let _kept = keep.send((destructors, exited));
            return Some(exited);
        }
        said.end(here.map(|here| Said {
            exited,
            destroyed: here == Here::Destroyed,
        }));
        None
    };
    let said = Arc::clone(&farewell);
    let time = deadline.remaining().max(LAST_WORDS);
    let rest = move || {
        if let Ok((destructors, exited)) = kept.try_recv() {
            orders.follow(&destructors, generation, time, |destroyed| {
                said.end(Ok(Said { exited, destroyed }));
            });
        }
    };
    let done = Executor::start(c"plug-exit")
        .and_then(|executor| executor.run_on(Some(deadline), job, rest));
    let (outcome, thread) = done.map_err(|error| Unsaid::Refused(format!("{error:#}")))?;
    match (outcome, farewell.outcome()) {
        (Outcome::Done(Some(exited)), _) => {
            stages.split(Stage::Exit, exited, Stage::Destructors);
            Ok(LastThread::StandsBy(Standby::new(order, thread, farewell)))
        }
        (Outcome::Done(None), Some(Ok(said))) => {
            stages.split(Stage::Exit, said.exited, Stage::Destructors);
            match executor::wait_all(vec![thread], deadline.remaining()) {
                Ok(()) => Ok(LastThread::after(said)),
                Err(_) => {
                    // Looked at once while the thread is there, so that it is known again.
                    let _over = farewell.is_over();
                    Err(Unsaid::Late(farewell))
                }
            }
        }
        (Outcome::Done(None), Some(Err(reason))) => Err(Unsaid::Refused(reason)),
        (Outcome::Done(None), None) | (Outcome::Vanished, _) => Err(Unsaid::Refused(
            "its exit ended the loader's thread instead of returning".to_owned(),
        )),
        (Outcome::Late, _) => {
            // As above.
            let _over = farewell.is_over();
            Err(Unsaid::Late(farewell))
        }
    }
}

/// A last look at gates and pins after `exit`, which may have let others in.
fn nobody_inside(
    process: &'static Process,
    record: &Record,
    deadline: Deadline,
) -> Result<(), String> {
    let go_on = |_| ControlFlow::Continue(());
    let drained = quiesce::drain(&process.workers, &process.presence, record, deadline, go_on);
    match drained {
        Ok(_) => Ok(()),
        Err(Undrained::Barrier(error)) => Err(format!("{error:#}")),
        Err(Undrained::Held(holders)) => {
            let held = Error::new(ErrorKind::Deadline, "in use again after its exit");
            Err(held.holders(holders).to_string())
        }
        Err(Undrained::Unwanted) => Err("nobody waits for it".to_owned()),
    }
}

/// Closes the plugins whose `exit` came back late, or that no thread owes anything any more; for the
/// drainer.
pub(crate) fn close_late(process: &'static Process) {
    quarantine::give_back();
    for (loaded, until) in process.registry.take_returned() {
        let record = Arc::clone(&loaded.record);
        let said = match until {
            Until::Said(farewell) => match farewell.outcome() {
                Some(outcome) => outcome.map(LastThread::after),
                None => Err("its exit ended the loader's thread instead of returning".to_owned()),
            },
            Until::Settled { destroyed: false } => Ok(LastThread::Gone),
            Until::Settled { destroyed: true } | Until::Free(_) => Ok(LastThread::Destroyed),
        };
        let closed = match said {
            Ok(last_thread) => depart(
                process,
                loaded,
                last_thread,
                Deadline::now(),
                &mut Stages::start(),
            ),
            Err(reason) => Err(Box::new(Left {
                loaded,
                why: reason.into(),
                until: None,
            })),
        };
        match closed {
            Ok(_) => {
                process
                    .registry
                    .release_zombie(record.id, record.generation);
                let (plugin, generation) = (&*record.name, record.generation);
                tracing::info!(target: "plug::unload", plugin, generation, "what held it has ended");
                process
                    .events
                    .push(plugin, generation, EventKind::Collected);
            }
            Err(left) => {
                let Left { loaded, why, until } = *left;
                let left = bury(process, loaded, why, until);
                tracing::warn!(target: "plug::unload", %left, "what held it has ended");
            }
        }
    }
}

/// Keeps a plugin that nobody can prove empty, and that may not come back either.
pub(crate) fn give_up(process: &'static Process, leaving: Leaving, why: &str) -> Unloaded {
    bury(process, leaving.loaded, why.to_owned().into(), None)
}

/// Keeps what cannot leave. One that is kept until something happens is closed then.
fn bury(process: &'static Process, mut loaded: Loaded, why: Why, until: Option<Until>) -> Unloaded {
    if until.is_none() {
        // None of its code runs any more that the loader knows of, and calls of what it imports pass
        // a gate as ever: it keeps nobody.
        drop(loaded.references.take());
    }
    // One that still owns its mapping is not given back to ld.so later, unless that waits for
    // something.
    let record = &Arc::clone(&loaded.record);
    let before = &record.pinned_because;
    let pinned = !before.is_empty() || loaded.mapped.is_some() && until.is_none();
    let lingering = why.lingering(&record.name, record.generation, before, pinned);
    let id = record.id;
    process.registry.bury(Zombie {
        lingering: lingering.clone(),
        id,
        record: Arc::clone(record),
        loaded: Some(loaded),
        until,
    });
    let reasons = lingering.reasons.clone();
    let kind = if pinned {
        EventKind::Pinned(reasons)
    } else {
        EventKind::Zombie(reasons)
    };
    process
        .events
        .push(&lingering.plugin, lingering.generation, kind);
    if pinned {
        Unloaded::Pinned(lingering)
    } else {
        Unloaded::Zombie(lingering)
    }
}

/// Runs exits and destructors when the process exits. Nothing is unmapped.
///
/// A plugin that somebody is inside of, the exiting thread itself included, is left alone.
pub(crate) fn at_process_exit(process: &'static Process) {
    for generation in process.registry.shut_down_at_exit() {
        let Some(leaving) = process.registry.take_at_exit(generation) else {
            continue;
        };
        // What it imports stays for whoever of it goes on.
        let leaving = ManuallyDrop::new(leaving);
        let record: &Record = leaving.record();
        record.context.threads().stop();
        let soon = Deadline::after(Duration::from_millis(50));
        if nobody_inside(process, record, soon).is_err() {
            continue;
        }
        let exit = leaving
            .loaded
            .descriptor
            .and_then(|descriptor| descriptor.exit);
        calls::inside(|| {
            if let Some(exit) = exit {
                let _phase = phase::enter(thread_pointer(), record.generation, Phase::Exit);
                // SAFETY: the descriptor of a plugin whose init succeeded; nobody is inside.
                unsafe { exit() };
            }
            constructors::destroy(&leaving.loaded.destructors, record.generation);
        });
        // It stays mapped and Going: other threads may still run.
    }
    if let Err(error) = remove_stage_folder() {
        tracing::debug!(target: "plug::unload", %error, "the stage folder stays");
    }
}
