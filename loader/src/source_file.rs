//! The file that a plugin was loaded from: what it was, and whether it still is.
//!
//! Thread context. The plugin does not depend on it: what runs is a private copy.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::deadline::{Deadline, lock_until};
use crate::digest::Digest;
use crate::image::origin::Stamp;

/// What became of the file that a plugin was loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Drift {
    /// It has the bytes that were loaded.
    Same,
    /// It has others.
    Changed,
    /// Nothing is at its path.
    Gone,
    /// It had no path, or cannot be read.
    Unknown,
}

impl Drift {
    /// As text, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Changed => "changed",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// The file, as it was when it was opened.
#[derive(Debug)]
pub(crate) struct SourceFile {
    location: Option<PathBuf>,
    stamp: Stamp,
    digest: OnceLock<Digest>,
    /// The state in which the file was last compared, and what came of it.
    compared: Mutex<Option<(Stamp, Drift)>>,
}

impl SourceFile {
    pub(crate) fn new(location: Option<PathBuf>, stamp: Stamp) -> Self {
        Self {
            location,
            stamp,
            digest: OnceLock::new(),
            compared: Mutex::new(None),
        }
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.compared, deadline)
    }

    /// The digest of what was loaded, by `compute` the first time.
    pub(crate) fn digest(&self, compute: impl FnOnce() -> Option<Digest>) -> Option<Digest> {
        if let Some(digest) = self.digest.get() {
            return Some(*digest);
        }
        let digest = compute()?;
        Some(*self.digest.get_or_init(|| digest))
    }

    /// What became of the file.
    pub(crate) fn drift(&self, loaded: impl FnOnce() -> Option<Digest>) -> Drift {
        let Some(path) = &self.location else {
            return Drift::Unknown;
        };
        let Some(now) = Stamp::now(path) else {
            return Drift::Gone;
        };
        if now == self.stamp {
            return Drift::Same;
        }
        if !now.has_size_of(&self.stamp) {
            return Drift::Changed;
        }
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        match *compared {
            Some((stamp, drift)) if stamp == now => drift,
            _ => {
                let drift = match (loaded(), Digest::of_file(path)) {
                    (Some(loaded), Ok(found)) if loaded == found => Drift::Same,
                    (Some(_), Ok(_)) => Drift::Changed,
                    _ => Drift::Unknown,
                };
                *compared = Some((now, drift));
                drift
            }
        }
    }
}
