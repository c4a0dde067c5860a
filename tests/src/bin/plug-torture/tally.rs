//! What happened and what must never happen, counted where nothing may be allocated, and the
//! summary at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plug_tests::{allocations, storm};

use crate::scenario::Scenario;

macro_rules! counted {
    ($(#[$attribute:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $name {
            const ALL: &[(Self, &'static str)] = &[$((Self::$variant, $text),)*];
        }
    };
}

counted! {
    /// What must never happen.
    Fault {
        Freed = "elements read after they were freed",
        Pipe = "elements seen that were older than a grace period",
        Batch = "sections that a whole grace period went by",
        WentBack = "sections that saw an older element than one before",
        Unmapped = "calls that reached code that was unmapped",
        Vanished = "reads of a plugin's memory that was unmapped",
        AfterExit = "calls that ran after the plugin's exit",
        WrongAnswer = "wrong answers",
        Stale = "stale handles that were let in",
        PinIgnored = "pinned plugins that left",
        Verdict = "unloads with a wrong verdict",
        Unnamed = "stalls that did not name who was inside",
        Leaked = "counts that were left behind",
        Child = "forked children that failed",
        Stuck = "times that nothing went forward",
        Allocated = "allocations in handlers",
    }
}

counted! {
    /// What happened.
    Count {
        GracePeriods = "grace periods",
        GivenUp = "grace periods given up",
        Publications = "publications",
        Sections = "sections",
        Nested = "nested sections",
        Extended = "sections held for long",
        InHandlers = "sections and calls in handlers",
        Shared = "sections in a shared counter",
        Lines = "registrations",
        NoLine = "threads that found no line",
        Reused = "threads with the thread pointer of one before",
        Loads = "loads",
        Unloads = "unloads",
        PutBack = "unloads given up",
        Calls = "calls",
        NestedCalls = "nested calls",
        Strangers = "calls of threads that are no workers",
        Refused = "calls refused",
        StaleRefused = "stale calls refused",
        Pins = "pins",
        PinnedCalls = "calls under a pin",
        SelfDeadlocks = "unloads from inside refused",
        Died = "threads that died in a section",
        Reaped = "sections of dead threads cleared",
        Stalls = "stalls named",
        Children = "forked children",
    }
}

static FAULTS: [AtomicU64; Fault::ALL.len()] = [const { AtomicU64::new(0) }; Fault::ALL.len()];
/// A number that belongs to the last fault of a kind.
static EVIDENCE: [AtomicU64; Fault::ALL.len()] = [const { AtomicU64::new(0) }; Fault::ALL.len()];
static COUNTS: [AtomicU64; Count::ALL.len()] = [const { AtomicU64::new(0) }; Count::ALL.len()];

/// Ages of elements in grace periods, as readers saw them: beyond the second all must be zero.
static PIPE: [AtomicU64; 11] = [const { AtomicU64::new(0) }; 11];
/// Grace periods that ended during a section: beyond the second all must be zero.
static BATCH: [AtomicU64; 11] = [const { AtomicU64::new(0) }; 11];

/// The name of a fault. Async-signal-safe.
pub fn name(what: Fault) -> &'static str {
    Fault::ALL[what as usize].1
}

/// Notes a fault. Async-signal-safe.
pub fn fault(what: Fault, evidence: u64) {
    EVIDENCE[what as usize].store(evidence, Ordering::SeqCst);
    FAULTS[what as usize].fetch_add(1, Ordering::SeqCst);
}

/// How many faults there were.
pub fn errors() -> u64 {
    FAULTS.iter().map(|n| n.load(Ordering::SeqCst)).sum()
}

/// Whether there was any fault.
pub fn found() -> bool {
    errors() > 0
}

/// Counts. Async-signal-safe.
pub fn count(what: Count) {
    COUNTS[what as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often it happened.
pub fn counted(what: Count) -> u64 {
    COUNTS[what as usize].load(Ordering::SeqCst)
}

/// Notes the age of an element that a reader saw. Async-signal-safe.
pub fn pipe(age: u64) {
    let place = usize::try_from(age).unwrap_or(usize::MAX).min(10);
    PIPE[place].fetch_add(1, Ordering::Relaxed);
    if age > 1 {
        fault(Fault::Pipe, age);
    }
}

/// Notes how many grace periods ended during a section. Async-signal-safe.
pub fn batch(ended: u64) {
    let place = usize::try_from(ended).unwrap_or(usize::MAX).min(10);
    BATCH[place].fetch_add(1, Ordering::Relaxed);
}

/// The first line.
pub fn begin(scenario: &Scenario, time: Duration) {
    println!(
        "{}: start: {:?}, barriers {:?}, protects {}, broken {:?}, {} s",
        scenario.name,
        scenario.part,
        scenario.barriers,
        scenario.protects,
        scenario.broken,
        time.as_secs()
    );
}

fn histogram(bins: &[AtomicU64]) -> String {
    let bins = bins
        .iter()
        .map(|bin| bin.load(Ordering::SeqCst).to_string());
    bins.collect::<Vec<_>>().join(" ")
}

/// The summary; true if nothing was found, and all of `required` happened.
pub fn end(scenario: &Scenario, required: &[Count], took: Duration) -> bool {
    let name = scenario.name;
    let in_handlers = allocations::in_handlers();
    if in_handlers > 0 {
        fault(Fault::Allocated, in_handlers);
    }
    if PIPE.iter().any(|bin| bin.load(Ordering::SeqCst) > 0) {
        println!("{name}: Reader Pipe:  {}", histogram(&PIPE));
        println!("{name}: Reader Batch: {}", histogram(&BATCH));
    }
    let counts = Count::ALL.iter().map(|(what, text)| (counted(*what), text));
    let mut counts: Vec<String> = counts
        .filter(|(n, _)| *n > 0)
        .map(|(n, text)| format!("{text} {n}"))
        .collect();
    if storm::handled() > 0 {
        counts.push(format!(
            "handlers {} (nested {})",
            storm::handled(),
            storm::deepest()
        ));
    }
    println!("{name}: {}", counts.join(", "));
    for ((_, text), (n, evidence)) in Fault::ALL.iter().zip(FAULTS.iter().zip(&EVIDENCE)) {
        let (n, evidence) = (n.load(Ordering::SeqCst), evidence.load(Ordering::SeqCst));
        if n > 0 {
            println!("{name}: !!! {text}: {n}, the last {evidence:#x}");
        }
    }
    let mut errors = errors();
    for (what, text) in Count::ALL {
        if required.contains(what) && counted(*what) == 0 {
            println!("{name}: !!! {text}: none, though the run is there for them");
            errors += 1;
        }
    }
    let verdict = if errors == 0 { "SUCCESS" } else { "FAILURE" };
    println!(
        "{name}: --- End of test: {verdict}: {errors} errors in {:.1} s",
        took.as_secs_f64()
    );
    errors == 0
}
