//! The story of an unload, from top to bottom.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plug_readside::phase::{self, Phase};
use plug_readside::thread_pointer;

use crate::calls;
use crate::checkpoint;
use crate::constructors;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Lingering, Stage};
use crate::events::EventKind;
use crate::executor::{self, Outcome};
use crate::fork;
use crate::image::remove_stage_folder;
use crate::plugin::{Loaded, Record};
use crate::process::Process;
use crate::quiesce::{self, WorkerProof};
use crate::registry::{Leaving, Zombie};
use crate::stages::Stages;
use crate::sys::process_exit;

/// How an unload ended. What it says was observed, not assumed.
#[derive(Clone, Debug)]
#[must_use = "an unload may leave the plugin mapped"]
pub enum Unloaded {
    /// The plugin is out of the process.
    Gone(UnloadReport),
    /// It is closed and harmless, but something still holds its mapping; collected by itself when
    /// that ends.
    Zombie(Lingering),
    /// It refuses all calls, and stays mapped for ever: the file asks for it, or its `exit` did not
    /// return in time.
    Pinned(Lingering),
}

impl Unloaded {
    /// Whether the plugin is out of the process.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

impl fmt::Display for Unloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(report) => write!(f, "{} is unloaded", report.plugin),
            Self::Zombie(left) => write!(f, "{left}; it goes by itself when that ends"),
            Self::Pinned(left) => write!(f, "{left}; it stays for ever"),
        }
    }
}

/// What an unload saw.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin's name.
    pub plugin: Box<str>,
    /// The load it was.
    pub generation: u64,
    /// For every worker how it was proved outside.
    pub workers: Vec<WorkerProof>,
    /// How long each stage took.
    pub stages: Vec<(Stage, Duration)>,
}

/// Time that `exit` and the destructors always get, whatever the caller's deadline.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Time a reader's section may last before an unload gives up waiting; sections are microseconds.
const SECTION: Duration = Duration::from_secs(10);

/// Unloads the plugin `name`; only the load `generation` if that is given.
pub(crate) fn unload(
    process: &'static Process,
    name: &str,
    generation: Option<u64>,
    deadline: Deadline,
) -> Result<Unloaded, Error> {
    let span = tracing::info_span!(target: "plug::unload", "unload", plugin = name);
    let _entered = span.enter();
    let result = fork::settle(process)
        .and_then(|()| run(process, name, generation, deadline))
        .map_err(|error| error.plugin(name));
    match &result {
        Ok(Unloaded::Gone(report)) => {
            let (generation, stages) = (report.generation, &report.stages);
            tracing::info!(target: "plug::unload", generation, ?stages, "unloaded");
        }
        Ok(Unloaded::Zombie(left) | Unloaded::Pinned(left)) => {
            let (generation, reasons) = (left.generation, &left.reasons);
            tracing::warn!(target: "plug::unload", generation, ?reasons, "closed but still mapped");
        }
        Err(error) => tracing::warn!(target: "plug::unload", %error, "not unloaded"),
    }
    result
}

fn run(
    process: &'static Process,
    name: &str,
    generation: Option<u64>,
    deadline: Deadline,
) -> Result<Unloaded, Error> {
    if calls::depth() > 0 {
        return Err(Error::new(
            ErrorKind::SelfDeadlock,
            "unload asked for from inside a plugin's code; return from it first",
        ));
    }
    if plug_readside::snapshot::sections().is_inside(thread_pointer()) {
        return Err(Error::new(
            ErrorKind::SelfDeadlock,
            "unload asked for from inside a read section; leave it first",
        ));
    }
    let mut stages = Stages::start();
    let leaving = process
        .registry
        .take(name, generation)
        .map_err(|e| e.at(Stage::Going))?;
    let record = Arc::clone(leaving.record());
    process
        .events
        .push(&record.name, record.generation, EventKind::Going);
    checkpoint::note("unload.going");
    stages.end(Stage::Going);

    checkpoint::note("unload.drain");
    let workers = match quiesce::drain(&process.workers, &process.presence, &record, deadline) {
        Ok(workers) => workers,
        Err(error) => {
            process.registry.put_back(leaving);
            let kind = EventKind::Stayed(error.to_string().into());
            process.events.push(&record.name, record.generation, kind);
            return Err(error.at(Stage::Drain));
        }
    };
    checkpoint::note("unload.drained");
    stages.end(Stage::Drain);

    match leave(process, leaving, deadline, &mut stages) {
        ControlFlow::Continue(()) => {
            let stages = stages.into_inner();
            let kind = EventKind::Unloaded(stages.clone());
            process.events.push(&record.name, record.generation, kind);
            let (plugin, generation) = (record.name.clone(), record.generation);
            Ok(Unloaded::Gone(UnloadReport {
                plugin,
                generation,
                workers,
                stages,
            }))
        }
        ControlFlow::Break(verdict) => Ok(verdict),
    }
}

/// From here on there is no way back: the plugin leaves, or becomes a zombie.
fn leave(
    process: &'static Process,
    leaving: Leaving,
    deadline: Deadline,
    stages: &mut Stages,
) -> ControlFlow<Unloaded> {
    let Leaving { mut loaded } = leaving;
    let record = Arc::clone(&loaded.record);
    let last_words = Deadline::after(deadline.remaining().max(LAST_WORDS));
    if let Err(reason) = say_goodbye(process, &loaded, last_words, stages) {
        return ControlFlow::Break(bury(process, loaded, reason));
    }

    process_exit::run_first();

    checkpoint::note("unload.unpublish");
    process.registry.hide(record.generation);
    checkpoint::note("unload.grace");
    if let Err(error) = quiesce::grace(Deadline::after(SECTION)) {
        process.registry.show(&record);
        return ControlFlow::Break(bury(process, loaded, error.to_string()));
    }
    stages.end(Stage::Unpublish);

    checkpoint::note("unload.close");
    let closed = loaded.mapped.take().map(|mapped| {
        // SAFETY: gates and pins are drained and closed, `exit` and the destructors have run and
        // their thread has ended, and no reader follows a pointer into the plugin.
        unsafe { mapped.close() }
    });
    stages.end(Stage::Close);
    checkpoint::note("unload.observe");
    let lingering = match closed {
        Some(Ok(false)) => None,
        Some(Ok(true)) | None => Some(
            "still mapped after dlclose: a thread-local destructor, another object or a flag of \
             the file holds it"
                .to_owned(),
        ),
        Some(Err(refusal)) => Some(refusal.to_string()),
    };
    stages.end(Stage::Observe);
    if let Some(reason) = lingering {
        process.registry.show(&record);
        return ControlFlow::Break(bury(process, loaded, reason));
    }
    drop(loaded);
    // First, so that whoever asks for this load finds it here or there.
    if let Some(forgotten) = process.history.add(Arc::clone(&record)) {
        process.registry.retire(&forgotten.index);
    }
    checkpoint::note("unload.release");
    process.registry.release(record.id, record.generation);
    ControlFlow::Continue(())
}

/// Runs `exit`, makes sure once more that nobody is inside, and runs the destructors, all on one
/// thread of the loader's that has ended when this returns.
fn say_goodbye(
    process: &'static Process,
    loaded: &Loaded,
    deadline: Deadline,
    stages: &mut Stages,
) -> Result<(), String> {
    checkpoint::note("unload.exit");
    let record = Arc::clone(&loaded.record);
    let exit = loaded.descriptor.and_then(|descriptor| descriptor.exit);
    let destructors = loaded.destructors.clone();
    let job = move || -> Result<Duration, String> {
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
        quiesce::drain(&process.workers, &process.presence, &record, deadline)
            .map_err(|error| error.to_string())?;
        checkpoint::note("unload.destructors");
        constructors::destroy(&destructors, record.generation);
        Ok(exited)
    };
    match executor::run_until("exit", deadline, job) {
        Ok(Outcome::Done(Ok(exited))) => {
            stages.split(Stage::Exit, exited, Stage::Destructors);
            Ok(())
        }
        Ok(Outcome::Done(Err(reason))) => Err(reason),
        Ok(Outcome::Late) => Err("its exit has not returned; the thread plug-exit is in it".into()),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn bury(process: &'static Process, loaded: Loaded, reason: String) -> Unloaded {
    // One that still owns its mapping is not given back to ld.so later.
    let pinned = !loaded.pinned_because.is_empty() || loaded.mapped.is_some();
    let mut reasons = loaded.pinned_because.clone();
    reasons.push(reason);
    let record = &loaded.record;
    let lingering = Lingering {
        plugin: record.name.clone(),
        generation: record.generation,
        reasons,
    };
    let id = record.id;
    process.registry.bury(Zombie {
        lingering: lingering.clone(),
        id,
        loaded,
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
    for leaving in process.registry.take_all_at_exit() {
        let record: &Record = leaving.record();
        let soon = Deadline::after(Duration::from_millis(50));
        if quiesce::drain(&process.workers, &process.presence, record, soon).is_err() {
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
