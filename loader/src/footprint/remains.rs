//! What nothing can undo, or no gate covers: how much of it each load left.
//!
//! Async-signal-safe but for what says otherwise: no lock, no allocation.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a load left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A function for the process's end, by `on_exit`.
    OnExit = 1,
    /// A handler without a trampoline, since there were too many.
    Handler = 2,
    /// An alternate stack that could not be written down.
    Stack = 3,
    /// Handlers around forks that no gate covers, since there were too many.
    ForkHandlers = 4,
    /// A function that `mq_notify` calls.
    MessageQueue = 5,
    /// A function that ends of asynchronous input and output call.
    AsyncIo = 6,
    /// A function that `getaddrinfo_a` calls.
    Resolver = 7,
    /// A timer, deleted or not: its function may have been called.
    Timer = 8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::OnExit,
        Self::Handler,
        Self::Stack,
        Self::ForkHandlers,
        Self::MessageQueue,
        Self::AsyncIo,
        Self::Resolver,
        Self::Timer,
    ];

    /// Why a load that left `count` of it can never be unmapped, if that is so.
    fn pins(self, count: u64) -> Option<String> {
        match self {
            Self::OnExit => Some(format!(
                "functions registered by on_exit, which cannot be taken back: {count}; use atexit"
            )),
            Self::Handler => Some(format!(
                "signal handlers beyond those that can be told apart: {count}"
            )),
            Self::Stack => Some(format!(
                "alternate signal stacks beyond those that can be written down: {count}"
            )),
            _ => None,
        }
    }

    /// What libc may call at any time although the plugin's gate is closed, if it is that.
    fn is_uncovered(self) -> Option<&'static str> {
        match self {
            Self::ForkHandlers => Some("handlers around forks"),
            Self::MessageQueue => Some("functions given to mq_notify"),
            Self::AsyncIo => Some("functions given to aio_*"),
            Self::Resolver => Some("functions given to getaddrinfo_a"),
            _ => None,
        }
    }
}

/// Loads and kinds that can be told apart at a time.
const ROOM: usize = 256;

/// How much of one kind one load left.
#[derive(Debug)]
struct Count {
    /// `generation << 8 | kind`; 0 for a free one. Claimed by [`note`], given back by [`release`]
    /// (SeqCst: cold).
    what: AtomicU64,
    /// SeqCst: cold.
    count: AtomicU64,
}

static TABLE: [Count; ROOM] = [const {
    Count {
        what: AtomicU64::new(0),
        count: AtomicU64::new(0),
    }
}; ROOM];

/// Whether something could not be written down: then nobody knows whose it is (SeqCst: cold).
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Whether anything was ever written down (SeqCst: cold): mostly nothing is.
static IS_ANY: AtomicBool = AtomicBool::new(false);

/// Writes down one more.
pub(super) fn note(generation: u64, kind: Kind) {
    IS_ANY.store(true, Ordering::SeqCst);
    let what = generation << 8 | kind as u64;
    for entry in &TABLE {
        // SeqCst, both: cold.
        let claim = entry
            .what
            .compare_exchange(0, what, Ordering::SeqCst, Ordering::SeqCst);
        if claim.is_ok() || claim == Err(what) {
            entry.count.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
    IS_LOST.store(true, Ordering::SeqCst);
}

/// How much of a kind a load left.
pub(super) fn count(generation: u64, kind: Kind) -> u64 {
    if !IS_ANY.load(Ordering::SeqCst) {
        return 0;
    }
    let what = generation << 8 | kind as u64;
    let of = |entry: &&Count| entry.what.load(Ordering::SeqCst) == what;
    let counts = TABLE.iter().filter(of);
    counts
        .map(|entry| entry.count.load(Ordering::SeqCst))
        .fold(0, u64::saturating_add)
}

/// Why a load can never be unmapped; empty for most. Allocates.
pub(crate) fn reasons(generation: u64) -> Vec<String> {
    let mut reasons = Vec::new();
    for kind in Kind::ALL {
        let count = count(generation, kind);
        reasons.extend((count > 0).then(|| kind.pins(count)).flatten());
    }
    if IS_LOST.load(Ordering::SeqCst) {
        reasons.push("plugins left more behind than can be written down".to_owned());
    }
    reasons
}

/// What libc may call at any time although the load's gate is closed: only a look at all threads can
/// tell that none is inside. Allocates.
pub(crate) fn uncovered(generation: u64) -> Vec<&'static str> {
    let left = Kind::ALL
        .into_iter()
        .filter(|kind| count(generation, *kind) > 0);
    left.filter_map(Kind::is_uncovered).collect()
}

/// How much of it there is.
pub(super) fn count_uncovered(generation: u64) -> usize {
    let kinds = Kind::ALL.into_iter();
    let counts = kinds
        .filter(|kind| kind.is_uncovered().is_some())
        .map(|kind| count(generation, kind));
    let count = counts.fold(0, u64::saturating_add);
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Forgets a load that is gone.
pub(crate) fn release(generation: u64) {
    if !IS_ANY.load(Ordering::SeqCst) {
        return;
    }
    let of = |entry: &&Count| entry.what.load(Ordering::SeqCst) >> 8 == generation;
    for entry in TABLE.iter().filter(of) {
        entry.count.store(0, Ordering::SeqCst);
        entry.what.store(0, Ordering::SeqCst);
    }
}
