//! Call gates and pins under torture: callers of every kind against unloads of pages that cannot
//! be read once they are gone.

use std::cell::Cell;
use std::hint;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use plug_readside::gate::{self, Chunk, Count as Gate, GateRow, Raised};
use plug_readside::state::{State, StateWord};
use plug_readside::{snapshot, thread_pointer};
use plug_tests::storm::{self, Storm};

use crate::backlog::Backlog;
use crate::barriers;
use crate::forks;
use crate::pace;
use crate::pages::{Pages, TURNS};
use crate::scenario::{Broken, Scenario};
use crate::tally::{self, Count, Fault};

/// Slots of plugins, from the first to the last that there can be.
const IDS: [u32; 5] = [0, 63, 64, 5000, 8191];

/// The state word of each slot's current load.
static CURRENT: [AtomicU64; IDS.len()] = [const { AtomicU64::new(0) }; IDS.len()];
/// Unloads of each slot.
static UNLOADS: [AtomicU64; IDS.len()] = [const { AtomicU64::new(0) }; IDS.len()];
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The rows of all workers, as the loader keeps them.
static ROWS: Mutex<Vec<Arc<Row>>> = Mutex::new(Vec::new());

/// A pin that its holder left to whoever finds it: slot and state word.
static LEFT: Mutex<Option<(usize, u64)>> = Mutex::new(None);

/// Whether the thread that stalls is inside slot 0, and whether the unload of that has given up.
static STALLING: AtomicBool = AtomicBool::new(false);
static GAVE_UP: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The row that this thread counts in, or null. No destructor, no lazy initialisation.
    static ROW: Cell<*const Row> = const { Cell::new(ptr::null()) };
}

fn rows() -> MutexGuard<'static, Vec<Arc<Row>>> {
    ROWS.lock().expect("no panic")
}

/// A worker's counters.
struct Row(GateRow);

impl Row {
    fn new() -> Self {
        let row = GateRow::new();
        for id in IDS {
            let chunk = Box::into_raw(Box::new(Chunk::new()));
            // SAFETY: the chunk is freed with the row; nobody else has the row.
            if let Some(unused) = unsafe { row.grow(id, chunk) } {
                // SAFETY: made above and not taken.
                drop(unsafe { Box::from_raw(unused) });
            }
        }
        Self(row)
    }

    fn count(&self, slot: usize) -> &Gate {
        self.0.count(IDS[slot]).expect("grown")
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        for chunk in self.0.chunks() {
            // SAFETY: made in new() and nobody else's.
            drop(unsafe { Box::from_raw(chunk) });
        }
    }
}

/// The running thread as a worker.
struct Worker(Arc<Row>);

impl Worker {
    fn new() -> Self {
        let row = Arc::new(Row::new());
        rows().push(Arc::clone(&row));
        ROW.with(|own| own.set(Arc::as_ptr(&row)));
        Self(row)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        ROW.with(|own| own.set(ptr::null()));
        if self.0.0.depth() > 0 {
            tally::fault(Fault::Leaked, self.0.0.depth());
        }
        rows().retain(|row| !Arc::ptr_eq(row, &self.0));
    }
}

/// Whether callers fence, asked once they have counted themselves.
fn fences() -> bool {
    snapshot::sections().fences()
}

/// A counter that was raised, and how it is lowered.
#[derive(Clone, Copy)]
enum Held {
    Own(Raised),
    Shared,
}

/// How a call is made.
#[derive(Clone, Copy)]
struct How {
    pages: Pages,
    broken: Option<Broken>,
}

impl How {
    /// The counter for the running thread, and whether it is the thread's own.
    fn gate(&self, slot: usize) -> (&'static Gate, bool) {
        let row = ROW.with(Cell::get);
        if row.is_null() {
            return (gate::shared(IDS[slot], thread_pointer()), false);
        }
        // SAFETY: the thread's worker keeps the row for as long as it is set.
        (unsafe { (*row).count(slot) }, true)
    }

    fn raise(count: &Gate, own: bool) -> Held {
        if own {
            return Held::Own(gate::raise(count, fences));
        }
        gate::raise_shared(count);
        Held::Shared
    }

    fn enter(&self, slot: usize, word: u64, count: &Gate, own: bool) -> Option<Held> {
        let state = gate::state(IDS[slot]);
        if self.broken == Some(Broken::NoRecheck) {
            let live = state.load(Ordering::SeqCst) == word;
            pace::spin(50);
            return live.then(|| Self::raise(count, own));
        }
        if own {
            gate::enter(count, state, word, fences).map(Held::Own)
        } else {
            gate::enter_shared(count, state, word).then_some(Held::Shared)
        }
    }

    /// Calls the load with the state word `word`, and inside that whatever `inside` does.
    /// Async-signal-safe if `inside` is.
    fn call(&self, slot: usize, word: u64, inside: &dyn Fn()) -> bool {
        // Before the first load.
        if word == 0 {
            return false;
        }
        let (count, own) = self.gate(slot);
        let Some(held) = self.enter(slot, word, count, own) else {
            tally::count(Count::Refused);
            return false;
        };
        self.run(slot, word, inside);
        Self::leave(count, held);
        tally::count(if own { Count::Calls } else { Count::Strangers });
        true
    }

    fn run(&self, slot: usize, word: u64, inside: &dyn Fn()) {
        let generation = StateWord(word).generation();
        self.pages.run(slot, generation);
        inside();
        self.pages.run(slot, generation);
    }

    fn leave(count: &Gate, held: Held) {
        match held {
            Held::Own(raised) => gate::leave(count, raised),
            Held::Shared => gate::leave_shared(count),
        }
    }

    /// Calls some plugin, which calls back, and another plugin from there. Async-signal-safe.
    fn call_any(&self, depth: usize) {
        let slot = pace::below(IDS.len());
        let word = CURRENT[slot].load(Ordering::SeqCst);
        self.call(slot, word, &|| {
            if depth > 0 {
                tally::count(Count::NestedCalls);
                self.call_any(depth - 1);
            } else if pace::once_in(16) {
                pace::spin(500);
            }
        });
    }

    /// A handle of an earlier load is refused, whoever has the slot now.
    fn call_stale(&self, slot: usize, word: u64) {
        if CURRENT[slot].load(Ordering::SeqCst) == word {
            return;
        }
        let (count, own) = self.gate(slot);
        if let Some(held) = self.enter(slot, word, count, own) {
            tally::fault(Fault::Stale, word);
            Self::leave(count, held);
        } else {
            tally::count(Count::StaleRefused);
        }
    }

    /// Calls under a pin, whatever the state; the pin is given back from inside the last call, by
    /// this thread or by another.
    fn call_pinned(&self) {
        let slot = pace::below(IDS.len());
        let word = CURRENT[slot].load(Ordering::SeqCst);
        let pins = gate::pins(IDS[slot]);
        if word == 0 || !gate::pin(pins, gate::state(IDS[slot]), word) {
            return;
        }
        tally::count(Count::Pins);
        pace::spin(500);
        let (count, own) = self.gate(slot);
        for last in [false, true] {
            let held = Self::raise(count, own);
            self.run(slot, word, &|| {
                if !last {
                    return;
                }
                if pace::once_in(4) {
                    gate::pin_again(pins);
                    let before = LEFT.lock().expect("no panic").replace((slot, word));
                    if let Some((slot, word)) = before {
                        self.take_over(slot, word);
                    }
                }
                gate::unpin(pins);
                pace::spin(500);
            });
            Self::leave(count, held);
            tally::count(Count::PinnedCalls);
        }
    }

    /// Uses a pin that another thread took, and gives it back.
    fn take_over(&self, slot: usize, word: u64) {
        let (count, own) = self.gate(slot);
        let held = Self::raise(count, own);
        self.run(slot, word, &|| ());
        gate::unpin(gate::pins(IDS[slot]));
        self.run(slot, word, &|| ());
        Self::leave(count, held);
    }
}

thread_local! {
    /// What the handler of this thread calls by; set where handlers may call.
    static HANDLER: Cell<Option<How>> = const { Cell::new(None) };
}

fn on_signal(_: usize) {
    if let Some(how) = HANDLER.with(Cell::get) {
        tally::count(Count::InHandlers);
        how.call_any(1);
    }
}

fn caller(how: How, registered: bool) {
    let _shelter = storm::shelter();
    HANDLER.with(|own| own.set(Some(how)));
    let mut stale = [(0, 0); 64];
    while pace::goes_on() {
        let worker = registered.then(Worker::new);
        for _ in 0..pace::below(1000) {
            how.call_any(pace::below(3));
            if pace::once_in(4) {
                how.call_pinned();
            }
            let slot = pace::below(IDS.len());
            let old = &mut stale[pace::below(64)];
            if old.1 != 0 {
                how.call_stale(old.0, old.1);
            }
            *old = (slot, CURRENT[slot].load(Ordering::SeqCst));
        }
        drop(worker);
    }
}

/// Threads that call a few times and are gone.
fn churn(how: How) {
    while pace::goes_on() {
        let short = thread::spawn(move || {
            let worker = pace::once_in(2).then(Worker::new);
            for _ in 0..pace::below(20) {
                how.call_any(1);
            }
            drop(worker);
        });
        short.join().expect("no panic");
    }
}

/// Stays inside one plugin until its unload has given up, and others have come and gone.
fn staller(how: How) {
    let worker = Worker::new();
    let others = || UNLOADS[1..].iter().map(|n| n.load(Ordering::SeqCst)).min();
    while pace::goes_on() {
        storm::nap(Duration::from_millis(20));
        let word = CURRENT[0].load(Ordering::SeqCst);
        how.call(0, word, &|| {
            let before = others();
            GAVE_UP.store(false, Ordering::SeqCst);
            STALLING.store(true, Ordering::SeqCst);
            let done = || GAVE_UP.load(Ordering::SeqCst) && others() > before;
            if !pace::wait_until(|| done() || pace::is_over()) {
                tally::fault(Fault::Unnamed, word);
            } else if done() {
                tally::count(Count::Stalls);
            }
            STALLING.store(false, Ordering::SeqCst);
        });
    }
    drop(worker);
}

/// Those inside the slot: by pins, by rows, by the shared counters.
fn inside(slot: usize, rows: &[Arc<Row>], broken: Option<Broken>) -> bool {
    let id = IDS[slot];
    let pins = || gate::pinned(gate::pins(id)) > 0;
    let gates =
        || rows.iter().any(|row| gate::inside(row.count(slot)) > 0) || gate::shared_inside(id) > 0;
    // Pins first: the holder of one may still enter, and only then come the gates.
    match broken {
        Some(Broken::PinsLast) => {
            let gates = gates();
            pace::spin(4000);
            gates || pins()
        }
        _ => pins() || gates(),
    }
}

/// Closes the gate, and waits until nobody is inside; false if it gave up and opened it again.
fn close(slot: usize, word: u64, broken: Option<Broken>, patience: Duration) -> bool {
    let state = gate::state(IDS[slot]);
    let generation = StateWord(word).generation();
    state.store(StateWord::new(generation, State::Going).0, Ordering::SeqCst);
    if broken != Some(Broken::NoBarrier) {
        barriers::everywhere().expect("a barrier");
    }
    let began = Instant::now();
    let mut looks = 0_u32;
    let rows = rows().clone();
    while broken != Some(Broken::NoWait) && inside(slot, &rows, broken) {
        if began.elapsed() > patience {
            state.store(word, Ordering::SeqCst);
            return false;
        }
        looks += 1;
        if looks.is_multiple_of(64) {
            thread::yield_now();
        }
    }
    true
}

/// Loads and unloads one slot until all stops.
fn unloader(slot: usize, how: How) {
    let state = gate::state(IDS[slot]);
    while pace::goes_on() {
        let generation = GENERATION.fetch_add(1, Ordering::SeqCst);
        let word = StateWord::new(generation, State::Live).0;
        how.pages.open(slot, generation);
        state.store(word, Ordering::SeqCst);
        CURRENT[slot].store(word, Ordering::SeqCst);
        tally::count(Count::Loads);
        pace::spin(4000);
        let began = Instant::now();
        loop {
            // The pin that lies about is taken, or this would wait for the next who finds it.
            let left = LEFT
                .lock()
                .expect("no panic")
                .take_if(|left| left.0 == slot);
            if let Some((slot, word)) = left {
                how.take_over(slot, word);
            }
            let patience = Duration::from_micros(pace::random() % 2000);
            if close(slot, word, how.broken, patience) {
                break;
            }
            tally::count(Count::PutBack);
            if slot == 0 && STALLING.load(Ordering::SeqCst) {
                GAVE_UP.store(true, Ordering::SeqCst);
            }
            if began.elapsed() > pace::PATIENCE * 2 {
                return tally::fault(Fault::Stuck, word);
            }
            storm::nap(Duration::from_micros(100));
        }
        how.pages.close(slot, generation);
        let empty = StateWord::new(generation, State::Empty).0;
        state.store(empty, Ordering::SeqCst);
        tally::count(Count::Unloads);
        UNLOADS[slot].fetch_add(1, Ordering::SeqCst);
        pace::progress();
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
    Count::Stalls,
    Count::Children,
];

/// Runs it; returns what must have happened.
pub fn torture(scenario: &Scenario, time: Duration) -> &'static [Count] {
    let broken = scenario.broken;
    let how = How {
        pages: Pages::new(IDS.len()),
        broken,
    };
    if broken == Some(Broken::NoBarrier) {
        without_barrier(scenario, how, time);
        return REQUIRED;
    }
    storm::prepare(on_signal);
    let storm = Storm::start();
    thread::scope(|scope| {
        for registered in [true, true, false, false] {
            scope.spawn(move || caller(how, registered));
        }
        for slot in 0..IDS.len() {
            scope.spawn(move || unloader(slot, how));
        }
        if broken.is_none() {
            scope.spawn(move || call_behind_a_backlog(how));
            scope.spawn(move || churn(how));
            scope.spawn(move || staller(how));
            scope.spawn(move || {
                forks::fork_often(Duration::from_millis(20), || {
                    let before = tally::errors();
                    for _ in 0..100 {
                        how.call_any(2);
                    }
                    tally::errors() == before
                });
            });
        }
        pace::watch(scenario, time, REQUIRED);
    });
    storm.stop();
    if let Some((slot, _)) = LEFT.lock().expect("no panic").take() {
        gate::unpin(gate::pins(IDS[slot]));
    }
    if broken.is_none() {
        for slot in 0..IDS.len() {
            if inside(slot, &rows(), None) {
                tally::fault(Fault::Leaked, slot as u64);
            }
        }
    }
    REQUIRED
}

/// Calls with a store buffer that is kept full: without barriers, it would be found out.
fn call_behind_a_backlog(how: How) {
    let worker = Worker::new();
    let mut backlog = Backlog::new();
    while pace::goes_on() {
        backlog.build_up();
        let word = CURRENT[0].load(Ordering::SeqCst);
        how.call(0, word, &|| {
            for _ in 0..64 {
                how.pages.run(0, StateWord(word).generation());
            }
        });
    }
    drop(worker);
}

/// One worker, whose store buffer is kept full, against unloads that send no barrier, and that make
/// no system call, which could be one.
fn without_barrier(scenario: &Scenario, how: How, time: Duration) {
    let generations = || GENERATION.fetch_add(1, Ordering::SeqCst);
    for _ in 0..TURNS {
        how.pages.open(0, generations());
    }
    thread::scope(|scope| {
        scope.spawn(move || call_behind_a_backlog(how));
        scope.spawn(move || {
            pace::wait_until(|| !self::rows().is_empty());
            let rows = self::rows().clone();
            while pace::goes_on() {
                let generation = generations();
                let word = StateWord::new(generation, State::Live).0;
                how.pages.fill(0, generation);
                gate::state(IDS[0]).store(word, Ordering::SeqCst);
                CURRENT[0].store(word, Ordering::SeqCst);
                pace::spin(2000);
                let going = StateWord::new(generation, State::Going).0;
                gate::state(IDS[0]).store(going, Ordering::SeqCst);
                while inside(0, &rows, how.broken) {
                    hint::spin_loop();
                }
                how.pages.poison(0, generation);
                tally::count(Count::Unloads);
                pace::progress();
            }
        });
        pace::watch(scenario, time, &[]);
    });
}
