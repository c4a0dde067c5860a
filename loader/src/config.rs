//! How the loader behaves, and what it found.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use crate::authority::SignaturePolicy;
use crate::directives::Directives;
use crate::probe::plan::Probe;

/// How the loader behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How long a load waits for another load of the same file or name. Default 30 s, as long as
    /// the kernel waits for a module's dependency.
    pub load_patience: Duration,
    /// Whether plugins' exits and destructors run when the process exits. Default true.
    pub run_exits_at_process_exit: bool,
    /// How long an unload waits for holders before a warning tells who they are, and what each of
    /// their threads is doing; again when it has waited twice as long, and so on. Default 10 s,
    /// about half of what the kernel gives its own readers. None for no warnings.
    pub stall_warning: Option<Duration>,
    /// Whose stacks an unload looks at before a plugin's `exit` and before it is unmapped. Default
    /// [`Audit::Unregistered`] on x86-64; [`Audit::Off`] elsewhere, where stacks are not read yet.
    pub audit: Audit,
    /// The real-time signal by which threads that compute without a pause are asked where they are.
    /// Default none: the highest one that nobody handles when the first is asked.
    pub audit_signal: Option<i32>,
    /// How long an unload leaves a plugin mapped with its code made inaccessible, once nobody is
    /// found inside and its destructors have run: who calls it nevertheless faults, and a crash
    /// report names the plugin and the symbol. The unload takes that much longer. Default zero: not
    /// at all.
    pub quarantine: Duration,
    /// How long addresses of an unmapped plugin are kept from being mapped again, so that a call
    /// that comes too late faults there. As far as that can be done: between the unmapping and the
    /// reservation another thread's mapping may take the place. Costs address space alone. Default
    /// zero: not at all.
    pub reservation: Duration,
    /// How many unloaded plugins are remembered with their symbols. Default 64.
    pub history: usize,
    /// What is asked of signatures. Default nothing.
    pub signatures: SignaturePolicy,
    /// How a file is rehearsed before its first load in this process, by its digest: nothing of one
    /// that ends its rehearsal or fails in it runs in this process. Default none is.
    pub probe: Option<Probe>,
    /// Where it is written down which plugin is being loaded, so that one that ends this process is
    /// refused by the next one, as is one that ended a probe; and what probes said. Made if it is not
    /// there; several hosts may share one. Default none, and no such memory.
    pub state: Option<PathBuf>,
    /// How long a load waits for each subscriber that it asks about a plugin that is Coming, or tells
    /// that one goes whose load failed, and an unload before its plugin's `exit`. One that takes longer
    /// has no say then, and is not waited for again until it has come back. Default 1 s.
    pub subscriber_patience: Duration,
    /// What an operator says about plugins by their names. Default nothing.
    pub directives: Directives,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            load_patience: Duration::from_secs(30),
            run_exits_at_process_exit: true,
            stall_warning: Some(Duration::from_secs(10)),
            audit: Audit::default(),
            audit_signal: None,
            quarantine: Duration::ZERO,
            reservation: Duration::ZERO,
            history: 64,
            signatures: SignaturePolicy::default(),
            probe: None,
            state: None,
            subscriber_patience: Duration::from_secs(1),
            directives: Directives::default(),
        }
    }
}

/// Whose stacks are looked at for a plugin's code.
///
/// Calls through the loader are counted, and need no such look. It is for all others: a pointer
/// that left a call, a callback that a library kept, a thread of the plugin's own. A thread that
/// sleeps is read from outside and notices nothing; one that computes without a pause for about a
/// millisecond is sent a signal, which would end a system call that it makes just then with `EINTR`
/// if that is one that signals always end. One that blocks that signal, or is under a filter of system
/// calls of its own, cannot be asked: while it computes, it stands in the way of every unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Audit {
    /// Nobody's: calls and pins alone count. Nor is anything searched for pointers that others keep.
    Off,
    /// Those of threads that are no workers. Of all threads where libc or the kernel may call the
    /// plugin on any of them without passing its gate: what was given to `aio_*`, `mq_notify` or
    /// `getaddrinfo_a`, or a signal's handler that the loader does not know of.
    Unregistered,
    /// Those of all threads.
    All,
}

impl Default for Audit {
    fn default() -> Self {
        match cfg!(target_arch = "x86_64") {
            true => Self::Unregistered,
            false => Self::Off,
        }
    }
}

/// What was found on this system at start, and what the loader is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether unloads use membarrier; otherwise every reader and call fences. False also once
    /// [`Loader::assume_seccomp`](crate::Loader::assume_seccomp) has been called.
    pub membarrier: bool,
    /// Whether copies are staged in memory files; otherwise in files of a private folder.
    pub memfd: bool,
    /// Whether crash reports name foreign objects, which needs glibc's `_dl_find_object`.
    pub dl_find_object: bool,
    /// Whether readers that died inside a section are noticed. Otherwise memory that they could
    /// still see is never freed, and the stall is told.
    pub dead_readers: bool,
    /// How many plugins fit, zombies and pinned ones included.
    pub max_plugins: usize,
    /// How many workers read through a line of their own; the others read by claims, at about
    /// three times the cost. Calls cost all workers the same.
    pub reader_lines: usize,
}
