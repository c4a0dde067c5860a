//! The loader under torture: plugins come and go while everybody calls, pins, reads and forks.

use std::cell::Cell;
use std::ffi::c_void;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::Duration;

use plug_loader::checkpoint::{self, Verdict};
use plug_loader::{
    Audit, CallError, Config, Deadline, Error, ErrorKind, HolderKind, Plugin, PluginPin, State,
    SymbolReader, Unloaded, Worker,
};
use plug_readside::snapshot;
use plug_tests::host::Host;
use plug_tests::standalone::Scratch;
use plug_tests::storm::{self, Storm};

use crate::fixture::{self, ALIVE, Compute, Handle};
use crate::forks;
use crate::late;
use crate::pace;
use crate::scenario::{Barriers, Broken, Scenario};
use crate::tally::{self, Count, Fault};

/// What is loaded. Each has one thread that loads and unloads it.
const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];

/// Workers that come to stay: more than the table of sections has lines.
const CROWD: usize = 280;

/// The present load of each name.
static CURRENT: [RwLock<Option<Handle>>; NAMES.len()] = [const { RwLock::new(None) }; NAMES.len()];
/// Unloads of each name.
static UNLOADS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];
/// A pin that its holder left to whoever finds it.
static LEFT: Mutex<Option<PluginPin>> = Mutex::new(None);
/// Whether the thread that stalls is inside the first plugin, and whether an unload named it.
static STALLING: AtomicBool = AtomicBool::new(false);
static NAMED: AtomicBool = AtomicBool::new(false);
/// Whether it may come.
static INVITED: AtomicBool = AtomicBool::new(false);
/// Threads that load and unload.
static LOADERS: AtomicUsize = AtomicUsize::new(NAMES.len());

thread_local! {
    /// Start, end and generation of the plugin that this thread calls, 0 outside.
    static CALLING: [Cell<u64>; 3] = const { [const { Cell::new(0) }; 3] };
}

/// What every interrupted thread does.
fn on_signal(pc: usize) {
    tally::count(Count::InHandlers);
    let found = SymbolReader::new().resolve(pc);
    let [start, end, generation] = CALLING.with(|calling| [0, 1, 2].map(|n| calling[n].get()));
    if (start..end).contains(&(pc as u64))
        && found.is_none_or(|found| found.generation != generation)
    {
        tally::fault(Fault::WrongAnswer, pc as u64);
    }
    if pace::once_in(4) {
        walk();
    }
}

/// Walks the snapshot; all names are known ones.
fn walk() {
    tally::count(Count::Sections);
    SymbolReader::new().walk(|view| {
        if !NAMES.iter().any(|name| name.as_bytes() == view.name()) {
            tally::fault(Fault::WrongAnswer, view.generation());
        }
        true
    });
}

/// Compares what a call gave.
fn check(result: Result<u64, CallError>, worker: bool) -> bool {
    match result {
        Ok(ALIVE) => {
            tally::count(if worker {
                Count::Calls
            } else {
                Count::Strangers
            });
            true
        }
        Ok(other) => {
            tally::fault(Fault::AfterExit, other);
            true
        }
        Err(CallError::Gone) => {
            tally::count(Count::Refused);
            false
        }
        Err(_) => {
            tally::fault(Fault::WrongAnswer, 0);
            false
        }
    }
}

/// One step of calls within calls.
struct Step<'a> {
    worker: Option<&'a Worker>,
    host: &'a Host,
    depth: usize,
}

extern "C-unwind" fn next(argument: *mut c_void) {
    // SAFETY: the step is on the stack of the caller of `through`.
    let step = unsafe { &*argument.cast::<Step<'_>>() };
    tally::count(Count::NestedCalls);
    if pace::once_in(64) {
        // From inside a plugin no unload waits, whichever it is for.
        let name = NAMES[pace::below(NAMES.len())];
        match step.host.loader.unload(name, Deadline::now()) {
            Err(error) if error.kind() == ErrorKind::SelfDeadlock => {
                tally::count(Count::SelfDeadlocks);
            }
            _ => tally::fault(Fault::Verdict, 1),
        }
    }
    call_any(step.host, step.worker, step.depth);
}

/// Calls whatever is there; `depth` is how many calls follow inside it.
fn call_any(host: &Host, worker: Option<&Worker>, depth: usize) {
    let current = CURRENT[pace::below(NAMES.len())].read();
    let Some(handle) = current.expect("no panic").clone() else {
        return;
    };
    call(host, &handle, worker, depth);
}

/// Calls one load.
fn call(host: &Host, handle: &Handle, worker: Option<&Worker>, depth: usize) -> bool {
    if depth == 0 {
        return compute(handle, worker, pace::random() % 400);
    }
    let depth = depth - 1;
    let mut step = Step {
        worker,
        host,
        depth,
    };
    let args = (
        next as extern "C-unwind" fn(*mut c_void),
        (&raw mut step).cast::<c_void>(),
    );
    let result = match worker {
        // SAFETY: the plugin's own signature; the step outlives the call.
        Some(worker) => unsafe { handle.through.call_on(worker, args) },
        // SAFETY: as above.
        None => unsafe { handle.through.call(args) },
    };
    check(result, worker.is_some())
}

fn compute(handle: &Handle, worker: Option<&Worker>, turns: u64) -> bool {
    let (start, end) = handle.plugin.range();
    // The end comes last and goes first: a handler in between sees an empty range.
    CALLING.with(|calling| {
        calling[0].set(start as u64);
        calling[2].set(handle.plugin.generation());
        compiler_fence(Ordering::SeqCst);
        calling[1].set(end as u64);
    });
    compiler_fence(Ordering::SeqCst);
    let result = match worker {
        // SAFETY: the plugin's own signature.
        Some(worker) => unsafe { handle.compute.call_on(worker, (turns,)) },
        // SAFETY: as above.
        None => unsafe { handle.compute.call((turns,)) },
    };
    compiler_fence(Ordering::SeqCst);
    CALLING.with(|calling| calling[1].set(0));
    check(result, worker.is_some())
}

/// Calls under a pin, which another thread may give back.
fn call_pinned(host: &Host, worker: &Worker) {
    let n = pace::below(NAMES.len());
    let current = CURRENT[n].read().expect("no panic").clone();
    let Some((handle, pin)) = current.and_then(|handle| {
        let pin = handle.plugin.pin().ok()?;
        Some((handle, pin))
    }) else {
        return;
    };
    tally::count(Count::Pins);
    pace::spin(1000);
    for _ in 0..3 {
        // SAFETY: the plugin's own signature; nothing leaves the call.
        let result =
            unsafe { pin.call_raw_on(worker, &handle.table, |table, _| (table.compute)(20)) };
        match result {
            Ok(ALIVE) => tally::count(Count::PinnedCalls),
            Ok(other) => tally::fault(Fault::AfterExit, other),
            Err(_) => tally::fault(Fault::PinIgnored, handle.plugin.generation()),
        }
    }
    if !matches!(handle.plugin.state(), State::Live | State::Going) {
        tally::fault(Fault::PinIgnored, handle.plugin.generation());
    }
    let given = pin.clone();
    drop(pin);
    let taken = LEFT.lock().expect("no panic").replace(given);
    if let Some(taken) = taken {
        drop(taken.clone());
        // Outside the lock, and by another thread than the one that took it.
        drop(taken);
    }
    call(host, &handle, Some(worker), 0);
}

fn caller(host: &Host, registered: bool) {
    let _shelter = storm::shelter();
    let mut stale: Vec<Handle> = Vec::new();
    while pace::goes_on() {
        let worker = registered.then(|| host.loader.worker("caller").expect("worker"));
        for _ in 0..pace::below(500) {
            if let Some(worker) = &worker {
                worker.quiescent();
                if pace::once_in(4) {
                    call_pinned(host, worker);
                }
            }
            call_any(host, worker.as_ref(), pace::below(3));
            let n = pace::below(NAMES.len());
            if let Some(handle) = CURRENT[n].read().expect("no panic").clone() {
                if stale.len() < 256 {
                    stale.push(handle);
                } else {
                    stale[pace::below(256)] = handle;
                }
            }
            call_stale(&stale, worker.as_ref());
        }
        drop(worker);
    }
}

/// A handle to a load that is gone is refused, whoever has its slot and its addresses now.
fn call_stale(stale: &[Handle], worker: Option<&Worker>) {
    let Some(handle) = stale.get(pace::below(stale.len())) else {
        return;
    };
    if handle.plugin.state() != State::Empty {
        return;
    }
    if compute(handle, worker, 0) {
        tally::fault(Fault::Stale, handle.plugin.generation());
    } else {
        tally::count(Count::StaleRefused);
    }
}

/// One of many workers that sleep most of the time.
fn one_of_the_crowd(host: &Host) {
    let worker = host.loader.worker("crowd").expect("worker");
    while pace::goes_on() {
        storm::nap(Duration::from_micros(pace::random() % 80_000));
        worker.quiescent();
        call_any(host, Some(&worker), pace::below(2));
        walk();
    }
    drop(worker);
}

/// Workers and strangers that call a few times and are gone.
fn churn(host: &Host) {
    while pace::goes_on() {
        thread::scope(|scope| {
            scope.spawn(|| {
                let registered = pace::once_in(2);
                let worker = registered.then(|| host.loader.worker("churn").expect("worker"));
                for _ in 0..pace::below(20) {
                    call_any(host, worker.as_ref(), 1);
                }
                drop(worker);
            });
        });
    }
}

/// Stays inside the first plugin until its unload has named who is inside, and others have come
/// and gone meanwhile.
fn staller(host: &Host) {
    extern "C-unwind" fn stay(_: *mut c_void) {
        let others = || UNLOADS[1..].iter().map(|n| n.load(Ordering::SeqCst)).min();
        let before = others();
        NAMED.store(false, Ordering::SeqCst);
        STALLING.store(true, Ordering::SeqCst);
        if !INVITED.load(Ordering::SeqCst) {
            STALLING.store(false, Ordering::SeqCst);
            return;
        }
        let done = || NAMED.load(Ordering::SeqCst) && others() > before;
        if !pace::wait_until(|| done() || pace::is_over()) {
            tally::fault(Fault::Unnamed, u64::from(NAMED.load(Ordering::SeqCst)));
        } else if done() {
            tally::count(Count::Stalls);
        }
        STALLING.store(false, Ordering::SeqCst);
    }
    let worker = host.loader.worker("staller").expect("worker");
    while pace::goes_on() {
        storm::nap(Duration::from_millis(1));
        let current = CURRENT[0].read().expect("no panic").clone();
        if let Some(handle) = current.filter(|_| INVITED.load(Ordering::SeqCst)) {
            let args = (
                stay as extern "C-unwind" fn(*mut c_void),
                std::ptr::null_mut(),
            );
            // SAFETY: the plugin's own signature; the function uses no argument.
            if check(unsafe { handle.through.call_on(&worker, args) }, true) {
                storm::nap(Duration::from_millis(100));
            }
        }
    }
}

fn load(host: &Host, n: usize, file: &Path) -> Handle {
    let handle = Handle::load(host, NAMES[n], file);
    *CURRENT[n].write().expect("no panic") = Some(handle.clone());
    tally::count(Count::Loads);
    handle
}

/// Tries to unload what this thread itself has pinned: that is given up, says who is inside, and
/// changes nothing.
fn unload_in_vain(host: &Host, n: usize, plugin: &Plugin) {
    let pin = plugin.pin().expect("live");
    let soon = Deadline::after(Duration::from_micros(pace::random() % 3000));
    match host.loader.unload_exactly(plugin, soon) {
        Err(error) if error.kind() == ErrorKind::Deadline => {
            tally::count(Count::PutBack);
            let names = |thread: &str| error.blockers().iter().any(|b| &*b.thread == thread);
            let pinned = error.blockers().iter().any(|b| b.kind == HolderKind::Pins);
            if !pinned || plugin.state() != State::Live {
                tally::fault(Fault::Unnamed, plugin.generation());
            }
            if n == 0 && names("staller") {
                NAMED.store(true, Ordering::SeqCst);
            }
        }
        other => wrong_verdict(n, plugin, &other),
    }
    drop(pin);
}

fn wrong_verdict(n: usize, plugin: &Plugin, verdict: &Result<Unloaded, Error>) {
    println!("unload {}: {verdict:?}", NAMES[n]);
    tally::fault(Fault::Verdict, plugin.generation());
}

/// Unloads, now and then after attempts in vain.
fn unload(host: &Host, n: usize, handle: &Handle) {
    let plugin = &handle.plugin;
    late::unloads(plugin);
    if n == 0 && pace::once_in(3) {
        INVITED.store(true, Ordering::SeqCst);
        for _ in 0..20 {
            if !STALLING.load(Ordering::SeqCst) {
                storm::nap(Duration::from_millis(1));
            }
        }
        // Whoever stalls from now on sees this, or is seen below.
        INVITED.store(false, Ordering::SeqCst);
        while STALLING.load(Ordering::SeqCst) {
            unload_in_vain(host, n, plugin);
        }
    } else if pace::once_in(3) {
        unload_in_vain(host, n, plugin);
    }
    match host
        .loader
        .unload_exactly(plugin, Deadline::after(pace::PATIENCE))
    {
        Ok(Unloaded::Gone(report)) if report.generation == plugin.generation() => {}
        other => return wrong_verdict(n, plugin, &other),
    }
    tally::count(Count::Unloads);
    UNLOADS[n].fetch_add(1, Ordering::SeqCst);
    pace::progress();
    if plugin.state() != State::Empty || plugin.pin().is_ok() {
        tally::fault(Fault::Stale, plugin.generation());
    }
}

/// Gives back the pin that lies about when its plugin wants to leave.
fn janitor() {
    while LOADERS.load(Ordering::SeqCst) > 0 {
        storm::nap(Duration::from_millis(1));
        let mut left = LEFT.lock().expect("no panic");
        let leaving = left.take_if(|pin| pin.is_leaving());
        drop(left);
        drop(leaving);
    }
}

/// Loads and unloads one name until all stops.
fn unloader(host: &Host, n: usize, file: &Path) {
    let _shelter = storm::shelter();
    while pace::goes_on() {
        let handle = load(host, n, file);
        storm::nap(Duration::from_micros(pace::random() % 10_000));
        call(host, &handle, None, 1);
        unload(host, n, &handle);
    }
    *CURRENT[n].write().expect("no panic") = None;
    LOADERS.fetch_sub(1, Ordering::SeqCst);
}

/// The broken caller: the plugin's function by its bare address, with a look at the state.
fn bare_caller() {
    while pace::goes_on() {
        let current = CURRENT[pace::below(NAMES.len())].read().expect("no panic");
        let Some(handle) = current.clone() else {
            continue;
        };
        drop(current);
        for _ in 0..1000 {
            if handle.plugin.state() != State::Live {
                break;
            }
            // SAFETY: none that holds: nothing keeps the plugin here, which is the point.
            let compute: Compute = unsafe { std::mem::transmute(handle.bare) };
            // SAFETY: as above.
            if unsafe { compute(10_000) } != ALIVE {
                tally::fault(Fault::AfterExit, handle.plugin.generation());
            }
        }
    }
}

/// What a run is there for.
const REQUIRED: &[Count] = &[
    Count::Unloads,
    Count::PutBack,
    Count::Calls,
    Count::NestedCalls,
    Count::Strangers,
    Count::Refused,
    Count::StaleRefused,
    Count::PinnedCalls,
    Count::InHandlers,
    Count::SelfDeadlocks,
    Count::Stalls,
    Count::Children,
];

/// Runs it; returns what must have happened.
pub fn torture(scenario: &Scenario, time: Duration) -> &'static [Count] {
    let scratch = Scratch::new("torture");
    let file = fixture::build(&scratch);
    late::watch();
    storm::prepare(on_signal);
    // Gates alone are to keep everybody out: who calls past them would be found by the stacks.
    let mut config = Config::default();
    config.audit = Audit::Off;
    let host = Host::with(config);
    let sends = matches!(scenario.barriers, Barriers::Membarrier | Barriers::Switch);
    let found = host.loader.capabilities().membarrier;
    assert_eq!(found, sends, "capabilities");
    let fences = snapshot::sections().fences();
    assert_eq!(fences, !sends, "fences");
    if scenario.protects {
        checkpoint::set_hook(|point| {
            if point == "unload.close" {
                late::protect_code();
            }
            Verdict::Pass
        });
    }
    let broken = scenario.broken;
    let storm = Storm::start();
    thread::scope(|scope| {
        let (host, file) = (&host, file.as_path());
        for n in 0..NAMES.len() {
            scope.spawn(move || unloader(host, n, file));
        }
        if broken == Some(Broken::NoGate) {
            scope.spawn(bare_caller);
        } else {
            for registered in [true, true, false] {
                scope.spawn(move || caller(host, registered));
            }
            for _ in 0..CROWD {
                scope.spawn(|| one_of_the_crowd(host));
            }
            scope.spawn(janitor);
            scope.spawn(|| churn(host));
            scope.spawn(|| staller(host));
            scope.spawn(|| fork_often(host));
        }
        pace::watch(scenario, time, REQUIRED);
    });
    storm.stop();
    drop(LEFT.lock().expect("no panic").take());
    if broken.is_none() {
        host.loader.reclaim();
        let left = host.loader.retired_bytes();
        if left > 0 || !host.loader.plugins().is_empty() || !host.loader.zombies().is_empty() {
            tally::fault(Fault::Leaked, left as u64);
        }
    }
    REQUIRED
}

/// Forked children read and call what is there.
fn fork_often(host: &Host) {
    forks::fork_often(Duration::from_millis(20), || {
        let before = tally::errors();
        for current in &CURRENT {
            walk();
            // Whoever held the lock does not live in the child.
            if let Ok(current) = current.try_read()
                && let Some(handle) = &*current
            {
                for depth in 0..2 {
                    call_in_child(host, handle, depth);
                }
            }
        }
        tally::errors() == before
    });
}

/// As [`call`], but for what takes locks.
fn call_in_child(host: &Host, handle: &Handle, depth: usize) {
    extern "C-unwind" fn nothing(_: *mut c_void) {}
    if depth == 0 {
        call(host, handle, None, 0);
        return;
    }
    let args = (
        nothing as extern "C-unwind" fn(*mut c_void),
        std::ptr::null_mut(),
    );
    // SAFETY: the plugin's own signature; the function uses no argument.
    check(unsafe { handle.through.call(args) }, false);
}
