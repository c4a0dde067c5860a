//! Reports of crashes that name the plugin: installing the handler, and noticing when somebody
//! replaces it.
//!
//! This file and [`watch`] are for thread context. All others of the folder run in the handler.

pub(crate) mod attempt;
pub(crate) mod backtrace;
pub(crate) mod cfi;
mod handler;
pub(crate) mod headers;
mod json;
pub(crate) mod memory;
mod out;
pub(crate) mod registers;
mod report;
pub(crate) mod signal;
mod text;
mod watch;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, ErrorKind};
use crate::events::EventKind;
use crate::process::Process;
use crate::record::Record;
use crate::sys::alternate_stack::{self, AlternateStack};

use signal::CrashSignal;

/// How crashes are reported.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CrashOptions {
    /// A file to which each report is appended as one line of JSON. It is opened at once. Default
    /// none.
    pub json_path: Option<PathBuf>,
}

/// One at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Installs the handler, or arms it again after a report that the process survived.
///
/// # Errors
/// [`ErrorKind::Open`] for the file, [`ErrorKind::CrashHandler`] where the system refuses.
pub(crate) fn install(options: &CrashOptions) -> Result<(), Error> {
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let json = options.json_path.as_ref().map(|path| {
        // Appended to: the report of the crash before must survive the restart. std sets O_CLOEXEC.
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        file.map_err(|error| {
            let message = format!("open {path:?} for crash reports");
            Error::new(ErrorKind::Open, message).because(error)
        })
    });
    let json = json.transpose()?;
    watch::prepare();
    if let Some(stack) = AlternateStack::unless_at_least(alternate_stack::SIZE) {
        stack.immortal();
    }
    handler::install(json.map(Into::into)).map_err(|error| {
        Error::new(ErrorKind::CrashHandler, "install the crash handler").because(error)
    })
}

/// The signals whose handler is not the loader's although it was installed. News are told as an
/// event and a warning, under the name of the plugin whose load they follow, if one is given.
pub(crate) fn check(process: &Process, after: Option<&Record>) -> Vec<CrashSignal> {
    if !handler::is_installed() {
        return Vec::new();
    }
    let mut replaced = Vec::new();
    let mut news = Vec::new();
    let generation = after.map_or(0, |record| record.generation);
    for signal in CrashSignal::ALL {
        if handler::is_ours(signal) {
            watch::forget(signal);
            continue;
        }
        replaced.push(signal);
        if watch::note(signal, generation) {
            news.push(signal);
        }
    }
    if !news.is_empty() {
        let plugin = after.map_or("", |record| &*record.name);
        let signals: Vec<_> = news.iter().map(|signal| signal.name()).collect();
        tracing::warn!(target: "plug::crash", plugin, ?signals, "crash handler replaced");
        let kind = EventKind::CrashHandlerReplaced(news);
        process.events.push(plugin, generation, kind);
    }
    replaced
}
