//! Constructors, `init` and destructors of a plugin, run by the loader and not by ld.so.
//!
//! They run on threads of the loader's own, after readers can see the plugin, outside ld.so's
//! lock.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use plug_api::abi::{Descriptor, HostContext, STATUS_OK};
use plug_readside::phase::{self, Phase};
use plug_readside::thread_pointer;

use crate::calls;
use crate::checkpoint;
use crate::deadline::{Deadline, write_until};
use crate::error::{Error, ErrorKind, Stage};
use crate::executor::{Ending, Executor, Outcome};
use crate::record::{self, Destructors, Record};
use crate::stages::Stages;
use crate::sys::arguments::{Arguments, arguments};
use crate::sys::code;
use crate::witness;

/// Read while a constructor or destructor runs, which may hold the C library's lock over functions
/// for the process's end; a child forked just then would find it locked for ever.
static RUNNING: RwLock<()> = RwLock::new(());

fn begin() -> RwLockReadGuard<'static, ()> {
    RUNNING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits, for a fork, until no constructor or destructor runs; none where one still does at the
/// deadline, or where one of them is what forks.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    if phase::of(thread_pointer()).is_some() {
        return None;
    }
    write_until(&RUNNING, deadline)
}

/// What undoes a load's constructors, should it fail.
#[derive(Clone, Copy)]
pub(crate) struct Undoing<'a> {
    /// Makes the plugin Going, before anything of it is undone.
    pub(crate) close: &'a dyn Fn(),
    pub(crate) destructors: &'a Destructors,
    /// The threads that ran the plugin's code: until they have ended, it stays mapped.
    pub(crate) threads: &'a RefCell<Vec<Ending>>,
    /// Has whoever may still run the plugin's code stop; whether destructors may run after it.
    pub(crate) silence: &'a dyn Fn() -> bool,
}

/// Runs constructors and `init` on the loader's thread `executor`, which `undoing` then holds.
pub(crate) fn run<'a>(
    executor: Executor,
    constructors: Vec<usize>,
    record: &Arc<Record>,
    descriptor: Option<Descriptor>,
    undoing: Undoing<'a>,
    stages: &mut Stages,
) -> Result<Built<'a>, Error> {
    let all = constructors.len();
    let done = Arc::new(AtomicUsize::new(0));
    let init = descriptor.and_then(|descriptor| descriptor.init);
    let job = {
        let (record, done) = (Arc::clone(record), Arc::clone(&done));
        move || construct(&constructors, &done, init, &record)
    };
    let mut built = Built {
        record: Arc::clone(record),
        undoing,
        exit: None,
        complete: false,
        kept: false,
    };
    let (outcome, thread) = executor
        .run(None, job)
        .map_err(|error| error.at(Stage::Constructors))?;
    undoing.threads.borrow_mut().push(thread);
    // Acquire: pairs with the Release in run_constructors(), though the answer orders it, too.
    built.complete = done.load(Ordering::Acquire) == all;
    let constructed = match outcome {
        Outcome::Done(constructed) => constructed?,
        Outcome::Vanished | Outcome::Late => {
            let stage = if built.complete {
                Stage::Init
            } else {
                Stage::Constructors
            };
            let message = "the plugin ended the loader's thread instead of returning";
            return Err(Error::new(ErrorKind::InitFailed, message).at(stage));
        }
    };
    built.exit = descriptor.and_then(|descriptor| descriptor.exit);
    stages.split(Stage::Constructors, constructed, Stage::Init);
    Ok(built)
}

/// Runs constructors and `init`; how long the constructors took.
fn construct(
    constructors: &[usize],
    done: &AtomicUsize,
    init: Option<unsafe extern "C-unwind" fn(*const HostContext) -> i32>,
    record: &Record,
) -> Result<Duration, Error> {
    let began = Instant::now();
    run_constructors(constructors, arguments(), done, record.generation)?;
    checkpoint::pass("load.constructors").map_err(|error| error.at(Stage::Constructors))?;
    let constructed = began.elapsed();
    witness::ended(Stage::Constructors);
    checkpoint::pass("load.bind").map_err(|error| error.at(Stage::Bind))?;
    bind(record).map_err(|error| error.at(Stage::Bind))?;
    checkpoint::pass("load.init").map_err(|error| error.at(Stage::Init))?;
    if let Some(init) = init {
        let _phase = phase::enter(thread_pointer(), record.generation, Phase::Init);
        set_params(record).map_err(|error| error.at(Stage::Init))?;
        // SAFETY: the plugin is constructed; its context lives as long as its record, which
        // stays until its exit has returned.
        let status = unsafe { code::init(init, record.context.as_ptr()) };
        let raised = calls::take_raised();
        if status != STATUS_OK || raised.is_some() {
            let why = raised.unwrap_or_else(|| "no message given".into());
            let message = format!("init returned {status}: {why}");
            return Err(Error::new(ErrorKind::InitFailed, message).at(Stage::Init));
        }
    }
    Ok(constructed)
}

/// Leads the plugin's imports to the functions of the other plugins.
///
/// # Errors
/// [`ErrorKind::Unbound`] where it called one before.
fn bind(record: &Record) -> Result<(), Error> {
    for binding in &record.imports {
        binding.open();
    }
    let Some(early) = record.imports.iter().find(|binding| binding.was_early()) else {
        return Ok(());
    };
    // The message of the call that was refused, if it is still there.
    let _untaken = calls::take_raised();
    let message = format!(
        "a constructor called {}, which is bound after the constructors; call it in init or later",
        early.import()
    );
    Err(Error::new(ErrorKind::Unbound, message))
}

/// Tells the plugin its parameters, which it may refuse.
fn set_params(record: &Record) -> Result<(), Error> {
    for (param, value) in record.settings.to_set() {
        let setter = record::setter(record, &param)?;
        // SAFETY: the plugin is constructed, and nobody unloads it while it is Coming.
        let status = unsafe { code::set_param(setter, record.context.as_ptr(), &value) };
        let raised = calls::take_raised();
        if status != STATUS_OK || raised.is_some() {
            let why = raised.unwrap_or_else(|| "no message given".into());
            let shown = param.kind.human(&value);
            let message = format!(
                "parameter {}: {shown:?} refused by the plugin: {why}; declared as {param}",
                param.name
            );
            return Err(Error::new(ErrorKind::Parameter, message));
        }
    }
    Ok(())
}

fn run_constructors(
    constructors: &[usize],
    arguments: Arguments,
    done: &AtomicUsize,
    generation: u64,
) -> Result<(), Error> {
    for &constructor in constructors {
        checkpoint::pass("load.constructor").map_err(|error| error.at(Stage::Constructors))?;
        let _phase = phase::enter(thread_pointer(), generation, Phase::Constructor);
        let _running = begin();
        // SAFETY: taken from the plugin's own tables, in ld.so's order, each run once.
        unsafe { code::construct(constructor, arguments) };
        // Release: what it constructed comes first; pairs with the load in run().
        done.fetch_add(1, Ordering::Release);
    }
    Ok(())
}

/// Undoes `init` and the constructors, on a thread of the loader's, unless kept.
pub(crate) struct Built<'a> {
    record: Arc<Record>,
    undoing: Undoing<'a>,
    /// What undoes `init`; set once that has succeeded.
    exit: Option<unsafe extern "C-unwind" fn()>,
    /// Whether all constructors ran: only then may destructors.
    complete: bool,
    kept: bool,
}

impl Built<'_> {
    /// The constructors stay done.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Built<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        (self.undoing.close)();
        let generation = self.record.generation;
        self.record.context.threads().stop();
        if let Some(exit) = self.exit {
            self.undo(move || {
                let _phase = phase::enter(thread_pointer(), generation, Phase::Exit);
                // SAFETY: the descriptor of a plugin whose init succeeded; nobody has called it.
                unsafe { exit() };
            });
        }
        if !(self.undoing.silence)() {
            // Somebody still needs what they would destroy.
            return;
        }
        let (destructors, complete) = (self.undoing.destructors.clone(), self.complete);
        self.undo(move || {
            if complete {
                destroy(&destructors, generation);
                return;
            }
            let _phase = phase::enter(thread_pointer(), generation, Phase::Destructor);
            let _running = begin();
            for &handle in &destructors.dso_handles {
                // SAFETY: addresses inside the mapped plugin; where nothing was registered under one,
                // nothing happens.
                unsafe { code::finalize(handle) };
            }
        });
    }
}

impl Built<'_> {
    /// Runs a part of the undoing, on a thread of the loader's.
    fn undo(&self, part: impl FnOnce() + Send + 'static) {
        let undone = Executor::start(c"plug-undo").and_then(|executor| executor.run(None, part));
        match undone {
            Ok((_, thread)) => self.undoing.threads.borrow_mut().push(thread),
            Err(error) => {
                tracing::warn!(target: "plug::load", %error, "the constructors of a failed load are not undone");
            }
        }
    }
}

/// Runs the destructors of the load `generation`, whose constructors all ran.
pub(crate) fn destroy(destructors: &Destructors, generation: u64) {
    let _phase = phase::enter(thread_pointer(), generation, Phase::Destructor);
    let _running = begin();
    for &destructor in &destructors.fini {
        // SAFETY: taken from the plugin's own tables when it was described; it is still mapped,
        // and each is run once, in the order ld.so would.
        unsafe { code::destruct(destructor) };
    }
}
