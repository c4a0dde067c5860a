//! What probes said, by digest, so that each file is probed once with the same libraries.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::report::Report;
use crate::deadline::{Deadline, lock_until};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::sys::task;

/// Reports kept; beyond them all are forgotten, and files are probed again.
const MOST: usize = 4096;

/// What was rehearsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rehearsed {
    /// The plugin's file, by which it is forgotten.
    pub(crate) file: Digest,
    /// That, what it brings and the rules it is loaded by.
    pub(crate) whole: Digest,
}

/// What is known of one file.
#[derive(Clone, Debug)]
enum Known {
    /// A thread of this process is having it probed. In a forked child that thread is not there.
    Probing(u32),
    Done(Arc<Report>),
}

/// What probes said, by digest. Lock order: a leaf, never held while a probe runs.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    known: Mutex<HashMap<Rehearsed, Known>>,
    changed: Condvar,
}

/// Takes the mark of a probe in progress away, whatever becomes of it.
struct Turn<'a> {
    probes: &'a Probes,
    rehearsed: Rehearsed,
    report: Option<Arc<Report>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut known = self.probes.lock();
        match self.report.take() {
            Some(report) => {
                if known.len() >= MOST {
                    known.retain(|_, known| matches!(known, Known::Probing(_)));
                }
                known.insert(self.rehearsed, Known::Done(report));
            }
            None => {
                known.remove(&self.rehearsed);
            }
        }
        drop(known);
        self.probes.changed.notify_all();
    }
}

impl Probes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Rehearsed, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.known, deadline)
    }

    /// What was said of the file, or what `probe` says now; another thread that is asking already
    /// is waited for. Whether `probe` was asked comes with it, and what it says is kept if that
    /// says so.
    ///
    /// # Errors
    /// Those of `probe`; [`ErrorKind::Deadline`] when the other thread takes too long.
    pub(crate) fn ask(
        &self,
        rehearsed: Rehearsed,
        deadline: Deadline,
        probe: impl FnOnce() -> Result<(Arc<Report>, bool), Error>,
    ) -> Result<Arc<Report>, Error> {
        let mut known = self.lock();
        loop {
            match known.entry(rehearsed) {
                Entry::Vacant(entry) => {
                    entry.insert(Known::Probing(task::process()));
                    break;
                }
                Entry::Occupied(mut entry) => match entry.get() {
                    Known::Done(report) => return Ok(Arc::clone(report)),
                    Known::Probing(process) if *process != task::process() => {
                        entry.insert(Known::Probing(task::process()));
                        break;
                    }
                    Known::Probing(_) => {}
                },
            }
            if deadline.has_passed() {
                let message = "another load's probe of the same file did not end in time";
                return Err(Error::new(ErrorKind::Deadline, message));
            }
            let waited = self.changed.wait_timeout(known, deadline.remaining());
            known = waited.map_or_else(|poison| poison.into_inner().0, |(known, _)| known);
        }
        drop(known);
        let mut turn = Turn {
            probes: self,
            rehearsed,
            report: None,
        };
        let (report, is_kept) = probe()?;
        turn.report = is_kept.then(|| Arc::clone(&report));
        Ok(report)
    }

    /// Forgets what was said of a file.
    pub(crate) fn forget(&self, digest: &Digest) -> bool {
        let mut known = self.lock();
        let before = known.len();
        known.retain(|rehearsed, known| {
            rehearsed.file != *digest || matches!(known, Known::Probing(_))
        });
        known.len() < before
    }
}
