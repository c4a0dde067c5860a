//! When threads go on, rest and stop, and the random numbers by which they choose.

use std::cell::Cell;
use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plug_tests::storm;

use crate::scenario::Scenario;
use crate::tally::{self, Count, Fault};

/// How long nothing may happen before that is a fault: far more than any load of the machine makes
/// of a wait that is right.
pub const PATIENCE: Duration = Duration::from_secs(20);

static STOP: AtomicBool = AtomicBool::new(false);
static RESTING: AtomicBool = AtomicBool::new(false);
static PROGRESS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// State of the thread's random numbers. No destructor, no lazy initialisation.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// A random number. Async-signal-safe.
pub fn random() -> u64 {
    RANDOM.with(|state| {
        let mut n = state.get();
        if n == 0 {
            // Every thread's own is elsewhere.
            n = state.as_ptr() as u64 ^ u64::try_from(storm::tid()).unwrap_or(1) << 40 | 1;
        }
        n ^= n << 13;
        n ^= n >> 7;
        n ^= n << 17;
        state.set(n);
        n
    })
}

/// A random number below `bound`. Async-signal-safe.
pub fn below(bound: usize) -> usize {
    usize::try_from(random() % bound.max(1) as u64).unwrap_or(0)
}

/// True once in `n` times. Async-signal-safe.
pub fn once_in(n: u64) -> bool {
    random().is_multiple_of(n)
}

/// A busy wait of up to so many turns. Async-signal-safe.
pub fn spin(most: usize) {
    for _ in 0..below(most) {
        hint::spin_loop();
    }
}

/// Whether the thread goes on; first rests for as long as all rest.
pub fn goes_on() -> bool {
    while RESTING.load(Ordering::Relaxed) && !STOP.load(Ordering::Relaxed) {
        storm::nap(Duration::from_millis(1));
    }
    !STOP.load(Ordering::Relaxed)
}

/// Whether all stop.
pub fn is_over() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Says that something went forward.
pub fn progress() {
    PROGRESS.fetch_add(1, Ordering::Relaxed);
}

/// Waits until `done`; false, and a fault, if that takes longer than can be right.
pub fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !done() {
        if began.elapsed() > PATIENCE {
            tally::fault(Fault::Stuck, 0);
            return false;
        }
        storm::nap(Duration::from_micros(200));
    }
    true
}

/// Watches over the threads until the time is over, or for a little longer until all of `required`
/// has happened; a run that must fail is over when it did.
///
/// Stutters: all rest for a while every now and then, so that every part is also met idle.
pub fn watch(scenario: &Scenario, time: Duration, required: &[Count]) {
    let must_fail = scenario.broken.is_some();
    let began = Instant::now();
    let mut moved = (Instant::now(), 0);
    let mut turn = 0_u32;
    let lasts = || {
        if must_fail {
            return began.elapsed() < time && !tally::found();
        }
        let missing = || required.iter().any(|what| tally::counted(*what) == 0);
        began.elapsed() < time || (began.elapsed() < time + PATIENCE && missing())
    };
    while lasts() {
        storm::nap(Duration::from_millis(20));
        turn += 1;
        RESTING.store(turn % 20 >= 18, Ordering::SeqCst);
        let now = PROGRESS.load(Ordering::Relaxed);
        if now != moved.1 {
            moved = (Instant::now(), now);
        } else if moved.0.elapsed() > PATIENCE {
            tally::fault(Fault::Stuck, now);
            break;
        }
    }
    STOP.store(true, Ordering::SeqCst);
}
