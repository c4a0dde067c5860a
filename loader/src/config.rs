//! How the loader behaves, and what it found.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use crate::authority::SignaturePolicy;
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
    /// How many unloaded plugins are remembered with their symbols. Default 64.
    pub history: usize,
    /// What is asked of signatures. Default nothing.
    pub signatures: SignaturePolicy,
    /// How a file is rehearsed before its first load in this process, by its digest. Default none
    /// is.
    pub probe: Option<Probe>,
    /// Where it is written down which plugin is being loaded, so that one that ends this process is
    /// refused by the next one, as is one that ended a probe; and what probes said. Made if it is not
    /// there; several hosts may share one. Default none, and no such memory.
    pub state: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            load_patience: Duration::from_secs(30),
            run_exits_at_process_exit: true,
            stall_warning: Some(Duration::from_secs(10)),
            history: 64,
            signatures: SignaturePolicy::default(),
            probe: None,
            state: None,
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
