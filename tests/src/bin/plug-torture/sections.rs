//! Read sections under torture: many kinds of readers against one writer that publishes, waits and
//! overwrites, and against grace periods that nobody asked for.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use plug_readside::section::{Incomplete, Stall};
use plug_readside::{snapshot, thread_pointer};
use plug_tests::storm::{self, Storm};

use crate::backlog::{self, Backlog};
use crate::barriers;
use crate::element::{self, ROWS, SYMBOLS};
use crate::forks;
use crate::pace;
use crate::scenario::{Broken, Scenario};
use crate::tally::{self, Count, Fault};

/// Threads that come to stay: more than the table has lines.
const CROWD: usize = 300;
/// Elements grow so old before their memory is used again.
const OLDEST: u64 = 10;
/// Sections that one thread nests to be sure that its neighbourhood of the table is full.
const DEEP: usize = 30;

/// Numbers of the writer's grace periods that began, and that ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// The thread that stays in its section on purpose, 0 if there is none.
static STALLER: AtomicU32 = AtomicU32::new(0);
/// Whether a grace period has named it.
static NAMED: AtomicBool = AtomicBool::new(false);

/// One section, or several in one another, that checks all that it can see. `depth` is how many
/// follow below this one, `hold` is what is done inside. Async-signal-safe if `hold` is.
fn read(depth: usize, hold: &dyn Fn()) {
    let section = snapshot::sections().enter(thread_pointer());
    let begun = BEGUN.load(Ordering::SeqCst);
    let ended = ENDED.load(Ordering::SeqCst);
    let Some(view) = snapshot::view(&section) else {
        return tally::fault(Fault::Freed, 0);
    };
    let sequence = view.sequence;
    tally::pipe(element::age_of(sequence));
    if element::check_walk() < sequence {
        tally::fault(Fault::WentBack, sequence);
    }
    hold();
    if depth > 0 {
        tally::count(Count::Nested);
        read(depth - 1, hold);
    }
    tally::pipe(element::age_of(sequence));
    if view.sequence != sequence {
        tally::fault(Fault::Freed, sequence);
    }
    let now = ENDED.load(Ordering::SeqCst);
    tally::batch(now.saturating_sub(ended));
    // One that began after this section was entered cannot end before it is left.
    if now > begun {
        tally::fault(Fault::Batch, now);
    }
    drop(section);
    tally::count(Count::Sections);
}

/// A section of random depth and length.
fn read_anyhow() {
    let depth = if pace::once_in(8) { pace::below(4) } else { 0 };
    if pace::once_in(4096) {
        tally::count(Count::Extended);
        read(depth, &|| storm::nap(Duration::from_millis(1)));
    } else if pace::once_in(16) {
        read(depth, &|| pace::spin(2000));
    } else {
        read(depth, &|| ());
    }
    element::check_lookup(pace::below(ROWS), pace::below(SYMBOLS));
}

/// What every interrupted thread does.
fn on_signal(_: usize) {
    tally::count(Count::InHandlers);
    read(pace::below(2), &|| ());
    element::check_lookup(1, 7);
}

/// Registers the running thread; false when it found no line.
fn register() -> bool {
    let tid = storm::tid().unsigned_abs();
    let found = snapshot::sections().register(thread_pointer(), tid);
    tally::count(if found { Count::Lines } else { Count::NoLine });
    found
}

fn unregister() {
    snapshot::sections().unregister(thread_pointer());
}

/// Reads all the time; a registered one goes out and in again now and then.
fn reader(registered: bool) {
    let _shelter = storm::shelter();
    while pace::goes_on() {
        if registered {
            register();
        }
        for _ in 0..pace::below(1000) {
            read_anyhow();
            // Readers that never sleep would be switched out inside their sections, and a grace
            // period would mostly wait for their turn to come.
            if pace::once_in(8) {
                storm::nap(Duration::from_micros(random_micros(200)));
            }
        }
        if registered {
            unregister();
        }
    }
}

/// One of many threads, which sleep most of the time, some of them inside a section.
fn one_of_the_crowd() {
    while pace::goes_on() {
        let registered = !pace::once_in(4) && register();
        for _ in 0..4 {
            storm::nap(Duration::from_micros(random_micros(60_000)));
            read(0, &|| {
                if pace::once_in(16) {
                    storm::nap(Duration::from_micros(random_micros(2_000)));
                }
            });
        }
        if registered {
            unregister();
        }
    }
}

fn random_micros(most: u64) -> u64 {
    pace::random() % most
}

/// Fills its neighbourhood of the table, so that the shared counter has to serve.
fn digger() {
    let _shelter = storm::shelter();
    while pace::goes_on() {
        storm::nap(Duration::from_millis(2));
        let sections = snapshot::sections();
        let all: [_; DEEP] = std::array::from_fn(|_| sections.enter(thread_pointer()));
        tally::count(Count::Shared);
        read(0, &|| pace::spin(2000));
        drop(all);
    }
}

/// Makes threads that do not live long. Some leave without a word, and a later thread finds the
/// line of its own thread pointer.
fn churn() {
    static SEEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    while pace::goes_on() {
        let short = thread::spawn(|| {
            let own = thread_pointer().address();
            let mut seen = SEEN.lock().expect("no panic");
            if seen.contains(&own) {
                tally::count(Count::Reused);
            } else {
                seen.push(own);
            }
            drop(seen);
            register();
            for _ in 0..pace::below(20) {
                read_anyhow();
            }
            if !pace::once_in(4) {
                unregister();
            }
        });
        short.join().expect("no panic");
    }
}

/// Makes threads that die in a section, through a line of their own or not.
fn mortals() {
    while pace::goes_on() {
        let mortal = thread::spawn(|| {
            let (sections, own) = (snapshot::sections(), thread_pointer());
            if pace::once_in(2) {
                register();
            }
            let section = sections.enter(own);
            // A shared counter has no names, so that nobody would ever know.
            if sections.is_inside(own) {
                let _never_left = ManuallyDrop::new(section);
                tally::count(Count::Died);
            }
        });
        mortal.join().expect("no panic");
        storm::nap(Duration::from_micros(random_micros(5_000)));
    }
}

/// Whether the process has no thread `tid`.
fn is_dead(tid: u32) -> bool {
    // SAFETY: signal 0 sends nothing.
    let status = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, 0) };
    status != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// Whether nobody is inside, in a forked child, that has a name: others who were in the shared
/// counter of the thread that forked are there for ever.
fn is_alone() -> bool {
    let nobody = Stall {
        thread_pointer: 0,
        tid: 0,
    };
    match snapshot::sections().synchronize(barriers::everywhere, |_| false) {
        Ok(()) => true,
        Err(Incomplete::Stalled(stall)) => stall == nobody,
        Err(Incomplete::Barrier(_)) => false,
    }
}

/// Clears what the dead have left; does nothing while another thread does it.
fn reap() {
    static REAPER: Mutex<()> = Mutex::new(());
    let Ok(_only_one) = REAPER.try_lock() else {
        return;
    };
    // SAFETY: one at a time, and the kernel says who is dead.
    let reaped = unsafe { snapshot::sections().reap(is_dead, barriers::everywhere) };
    for _ in 0..reaped.expect("a barrier").sections {
        tally::count(Count::Reaped);
    }
}

/// Stays inside until a grace period has named it. Comes before the crowd, so that it has a line.
fn staller(ready: &Barrier) {
    register();
    ready.wait();
    while pace::goes_on() {
        storm::nap(Duration::from_millis(50));
        NAMED.store(false, Ordering::SeqCst);
        read(0, &|| {
            STALLER.store(storm::tid().unsigned_abs(), Ordering::SeqCst);
            let named = || NAMED.load(Ordering::SeqCst);
            if !pace::wait_until(|| named() || pace::is_over()) {
                tally::fault(Fault::Unnamed, 0);
            } else if named() {
                tally::count(Count::Stalls);
            }
            STALLER.store(0, Ordering::SeqCst);
        });
    }
    unregister();
}

/// One grace period; gives up after `patience`. Whoever is named may be the one that stalls.
fn wait_for_readers(broken: Option<Broken>, patience: Duration) -> bool {
    let began = Instant::now();
    let mut looks = 0_u32;
    let done = snapshot::sections().synchronize(
        || match broken {
            Some(Broken::NoBarrier) => Ok(()),
            _ => barriers::everywhere(),
        },
        |stall| {
            if stall.tid != 0 && stall.tid == STALLER.load(Ordering::SeqCst) {
                NAMED.store(true, Ordering::SeqCst);
            }
            looks += 1;
            if looks.is_multiple_of(128) {
                thread::yield_now();
            }
            if looks.is_multiple_of(2048) {
                reap();
            }
            began.elapsed() < patience
        },
    );
    assert!(
        !matches!(done, Err(Incomplete::Barrier(_))),
        "the barrier failed"
    );
    done.is_ok()
}

/// Grace periods that overlap the writer's, and that give up early.
fn impatient() {
    while pace::goes_on() {
        let patience = Duration::from_micros(random_micros(2_000));
        if !wait_for_readers(None, patience) {
            tally::count(Count::GivenUp);
        }
        storm::nap(Duration::from_micros(random_micros(500)));
    }
}

/// The writer's state between publications.
struct Writer {
    packages: Vec<*mut element::Package>,
    sequence: u64,
    /// Replaced elements that may not be used again, with their ages.
    old: VecDeque<(u64, u64)>,
}

// SAFETY: one thread at a time has the writer; the packages live as long as the process.
unsafe impl Send for Writer {}

impl Writer {
    fn new() -> Self {
        Self {
            packages: element::allocate(),
            sequence: 0,
            old: VecDeque::new(),
        }
    }

    /// Makes the next element the current one.
    fn publish(&mut self) {
        self.sequence += 1;
        let next = self.packages[element::place(self.sequence)];
        // SAFETY: the element that was here is as old as can be, so that nobody reads it.
        unsafe { element::build(next, self.sequence) };
        element::set_age(self.sequence, 0);
        // SAFETY: a place inside the package.
        let view = unsafe { &raw const (*next).view };
        // SAFETY: rows and symbols are sorted, spans are inside; the element is built again only
        // after grace periods, except in the variants that are to be found out.
        unsafe { snapshot::publish(view) };
        if self.sequence > 1 {
            element::set_age(self.sequence - 1, 1);
            self.old.push_back((self.sequence - 1, 1));
        }
        tally::count(Count::Publications);
    }

    /// A grace period has passed: all that was replaced is older, and free.
    fn grow_old(&mut self) {
        for (sequence, age) in &mut self.old {
            *age += 1;
            element::set_age(*sequence, *age);
            if *age == 2 {
                // SAFETY: allocated for good; in a broken variant readers look, which is the point.
                unsafe { element::poison(self.packages[element::place(*sequence)]) };
            }
        }
        self.old.retain(|(_, age)| *age <= OLDEST);
    }
}

/// Publishes, waits and overwrites until all stops.
fn write(mut writer: Writer, broken: Option<Broken>) {
    while pace::goes_on() {
        let together = if broken.is_some() {
            1
        } else {
            1 + pace::below(3)
        };
        for _ in 0..together {
            writer.publish();
        }
        let number = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
        // The thread that stalls leaves as soon as it is named.
        if broken != Some(Broken::NoWait) && !wait_for_readers(broken, pace::PATIENCE) {
            tally::fault(Fault::Stuck, number);
            break;
        }
        ENDED.store(number, Ordering::SeqCst);
        writer.grow_old();
        tally::count(Count::GracePeriods);
        pace::progress();
    }
}

/// What a run is there for.
const REQUIRED: &[Count] = &[
    Count::GracePeriods,
    Count::GivenUp,
    Count::Nested,
    Count::Extended,
    Count::InHandlers,
    Count::Shared,
    Count::Lines,
    Count::NoLine,
    Count::Reused,
    Count::Died,
    Count::Reaped,
    Count::Stalls,
    Count::Children,
];

/// Runs it; returns what must have happened.
pub fn torture(scenario: &Scenario, time: Duration) -> &'static [Count] {
    let broken = scenario.broken;
    let mut writer = Writer::new();
    // The first element stands before anybody looks.
    writer.publish();
    if broken == Some(Broken::NoBarrier) {
        without_barrier(scenario, writer, time);
        return REQUIRED;
    }
    storm::prepare(on_signal);
    let storm = Storm::start();
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        for registered in [true, true, false, false] {
            scope.spawn(move || reader(registered));
        }
        scope.spawn(move || write(writer, broken));
        if broken.is_none() {
            scope.spawn(read_behind_a_backlog);
            scope.spawn(|| staller(&ready));
            ready.wait();
            for _ in 0..CROWD {
                scope.spawn(one_of_the_crowd);
            }
            scope.spawn(digger);
            scope.spawn(churn);
            scope.spawn(mortals);
            scope.spawn(impatient);
            scope.spawn(|| {
                let before = storm::tid().unsigned_abs();
                forks::fork_often(Duration::from_millis(20), || {
                    let errors = tally::errors();
                    let (own, now) = (thread_pointer(), storm::tid().unsigned_abs());
                    // SAFETY: in the child, on its only thread.
                    unsafe { snapshot::sections().reset_after_fork(own, before, now) };
                    // Nobody else is here, whatever they were doing.
                    read(1, &|| ());
                    is_alone() && tally::errors() == errors
                });
            });
        }
        pace::watch(scenario, time, REQUIRED);
    });
    storm.stop();
    if broken.is_none() && !wait_for_readers(None, Duration::from_secs(1)) {
        tally::fault(Fault::Leaked, 0);
    }
    REQUIRED
}

/// Perhaps the one reader of [`without_barrier`].
fn candidate(ready: &Barrier) {
    static CHOSEN: AtomicBool = AtomicBool::new(false);
    // All live at once, or few would differ in their lines.
    ready.wait();
    // Of many threads one whose line is scanned first, while its stores still wait.
    let home = backlog::home_of(thread_pointer().address());
    if home < 8 && !CHOSEN.swap(true, Ordering::SeqCst) {
        read_behind_a_backlog();
    }
}

/// Reads with a store buffer that is kept full: without barriers, it would be found out.
fn read_behind_a_backlog() {
    let mut backlog = Backlog::new();
    while pace::goes_on() {
        register();
        for _ in 0..4096 {
            backlog.build_up();
            element::check_walk_slowly();
        }
        unregister();
    }
}

/// One registered reader, whose store buffer is kept full, against a writer that sends no barrier.
fn without_barrier(scenario: &Scenario, writer: Writer, time: Duration) {
    let ready = Barrier::new(CROWD);
    thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| candidate(&ready));
        }
        scope.spawn(move || write(writer, Some(Broken::NoBarrier)));
        pace::watch(scenario, time, &[]);
    });
}
