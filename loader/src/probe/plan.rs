//! How a probe is made: by which program, within which limits.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

/// How a probe is made: another process loads the plugin first, runs its constructors and `init`,
/// unloads it again and ends. What crashes or hangs there does not crash or hang this process.
///
/// It is a rehearsal, no sandbox: the plugin's code runs with the user's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The program that is started: one whose `main` begins with
    /// [`probe::serve`](crate::probe::serve). Default `/proc/self/exe`, this very program.
    pub program: PathBuf,
    /// How long it may take in all; then it is killed. Default 5 s.
    pub deadline: Duration,
    /// Processor time it may use, rounded up to seconds. Default 4 s.
    pub processor: Duration,
    /// Bytes of address space it may have. Default 4 GiB.
    pub memory: u64,
    /// Descriptors it may have. Default 256.
    pub descriptors: u64,
    /// Whether [`probe::run`](crate::probe::run) also has each function called that its author
    /// documents as taking nothing and returning nothing or a number. For authors, who know what
    /// that does; a rehearsal of a load never does. Default false.
    pub calls: bool,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            deadline: Duration::from_secs(5),
            processor: Duration::from_secs(4),
            memory: 4 << 30,
            descriptors: 256,
            calls: false,
        }
    }
}

impl Probe {
    /// By `program`, within the default limits.
    #[must_use]
    pub fn by(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            ..Self::default()
        }
    }
}
