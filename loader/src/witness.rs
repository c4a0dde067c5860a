//! Tells whoever watches this process from outside which stage of a load or unload has ended.
//!
//! Only a probe is watched so. Elsewhere it is one load of a word a stage.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::io::write;

use crate::error::Stage;

/// Where to; set once, by a probe, before its first load.
static PIPE: OnceLock<OwnedFd> = OnceLock::new();

/// Lets every stage be told through `pipe` from here on. The first one counts.
pub(crate) fn report_to(pipe: OwnedFd) {
    let _first = PIPE.set(pipe);
}

/// Whether this process is a probe.
pub(crate) fn is_watched() -> bool {
    PIPE.get().is_some()
}

/// The stage has ended.
pub(crate) fn ended(stage: Stage) {
    tell(&format_args!("passed {stage}"));
}

/// The plugin asked for a service that this process does not offer. Told once: it may ask for ever.
pub(crate) fn lacks(service: &str) {
    static TOLD: OnceLock<()> = OnceLock::new();
    if PIPE.get().is_some() && TOLD.set(()).is_ok() {
        let name: String = service.chars().take(100).collect();
        tell(&format_args!(
            "lacked {}",
            name.replace(char::is_control, " ")
        ));
    }
}

/// Writes a line, if there is a watcher. One that has gone away misses it.
///
/// Shorter than what a pipe takes in one piece, or nobody else writes meanwhile.
pub(crate) fn tell(line: &impl std::fmt::Display) {
    if let Some(pipe) = PIPE.get() {
        let line = format!("{line}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty()
            && let Ok(n @ 1..) = write(pipe, rest)
        {
            rest = rest.get(n..).unwrap_or_default();
        }
    }
}
