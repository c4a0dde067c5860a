//! Why a closed plugin is still mapped, and what was seen of it.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Instant;

/// Why a closed plugin is still mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lingering {
    /// The plugin's name.
    pub plugin: Box<str>,
    /// The load it was.
    pub generation: u64,
    /// What holds it, as far as it is known, in words; threads among it.
    pub reasons: Vec<String>,
    /// The threads that owe it something.
    pub debtors: Vec<Debtor>,
    /// When it was closed.
    pub since: Instant,
    /// Whether it stays for ever.
    pub is_pinned: bool,
    /// What was seen after ld.so was asked to unmap it; none if it has not been asked.
    pub observed: Option<Observed>,
}

impl fmt::Display for Lingering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plugin, why) = (&self.plugin, self.reasons.join("; "));
        write!(f, "{plugin} is closed but still mapped: {why}")
    }
}

/// A thread that owes a closed plugin something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Debtor {
    /// The thread; 0 for one that is only beginning.
    pub tid: u32,
    /// Its name as the kernel shows it.
    pub thread: Box<str>,
    /// Destructors of thread-locals, and values of keys, that it has yet to run.
    pub destructors: usize,
    /// The plugin's function that it runs, if the plugin made it: a symbol, or a link-time
    /// address where no symbol covers it.
    pub start: Option<Box<str>>,
    /// Whether it has an alternate signal stack that the plugin set.
    pub has_stack: bool,
    /// Whether it is in the middle of a fork, among the plugin's handlers around forks.
    pub is_forking: bool,
    /// Whether it is a worker, which pays at its next quiescent point.
    pub is_worker: bool,
}

impl fmt::Display for Debtor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tid, thread) = (self.tid, &self.thread);
        if let Some(start) = &self.start {
            return write!(
                f,
                "its thread {tid} ({thread}), started at {start}, still runs"
            );
        }
        if self.is_forking {
            return f.write_str("a fork is among its handlers around forks");
        }
        let when = if self.is_worker {
            "passes a quiescent point or ends"
        } else {
            "ends"
        };
        if self.has_stack {
            return write!(
                f,
                "thread {tid} ({thread}) has an alternate signal stack that it set, and gives it \
                 back when it {when}"
            );
        }
        write!(
            f,
            "thread {tid} ({thread}) has {} of its thread-locals to destroy, when it {when}",
            self.destructors
        )
    }
}

/// What was seen after ld.so was asked to unmap a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observed {
    /// The name that the plugin has in ld.so's list, never given to another object.
    pub name: Box<str>,
    /// Whether `dl_iterate_phdr` still tells that name. This alone decides the verdict.
    pub is_listed: bool,
    /// First address of the plugin's mapping and one past the last.
    pub range: (usize, usize),
    /// Whether an object covers its first address, as `_dl_find_object` says; it may be the next
    /// one that was mapped there. None where the C library does not tell.
    pub is_covered: Option<bool>,
    /// How many objects ld.so had removed from the process before and after (`dlpi_subs`); others
    /// may have left meanwhile.
    pub removals: (u64, u64),
}

/// Why a plugin does not leave, as it is found out.
#[derive(Debug, Default)]
pub(crate) struct Why {
    /// In words, without the threads.
    pub(crate) reasons: Vec<String>,
    pub(crate) debtors: Vec<Debtor>,
    pub(crate) observed: Option<Observed>,
}

impl Why {
    pub(crate) fn owed(debtors: Vec<Debtor>) -> Self {
        Self {
            debtors,
            ..Self::default()
        }
    }

    /// What can never be taken back.
    pub(crate) fn for_ever(reasons: Vec<String>) -> Self {
        Self {
            reasons,
            ..Self::default()
        }
    }

    /// Puts it on record for a plugin that is closed now.
    pub(crate) fn lingering(
        self,
        plugin: &str,
        generation: u64,
        before: &[String],
        is_pinned: bool,
    ) -> Lingering {
        let owed = self.debtors.iter().map(ToString::to_string);
        let reasons = before.iter().cloned().chain(self.reasons).chain(owed);
        Lingering {
            plugin: plugin.into(),
            generation,
            reasons: reasons.collect(),
            debtors: self.debtors,
            since: Instant::now(),
            is_pinned,
            observed: self.observed,
        }
    }
}

impl From<String> for Why {
    fn from(reason: String) -> Self {
        Self::for_ever(vec![reason])
    }
}
