//! The one unsafe door: who may bring native code into this process, and from where.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::policy::Policy;

/// The host's word that the files it loads are native code it is willing to run.
///
/// Every way to load takes a `&Trust`, so that making one is the only unsafe step.
#[derive(Debug)]
pub struct Trust {
    policy: Policy,
}

impl Trust {
    /// Vouches for every file that will be loaded with this value.
    ///
    /// # Safety
    /// - The files admitted under `policy` are native code that runs with all rights of this
    ///   process; they keep to the plugin contract (`docs/ABI.md`), or are ordinary libraries.
    /// - Exported functions are called with the signatures they were compiled with.
    /// - Such code does not unmap or change the loader, and does not jump out of calls with
    ///   `longjmp`.
    #[must_use]
    pub unsafe fn new(policy: Policy) -> Self {
        Self { policy }
    }

    /// Which files are admitted.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The same word once more, for a part of the loader that loads on the host's behalf later.
    #[cfg(feature = "control")]
    pub(crate) fn again(&self) -> Self {
        Self {
            policy: self.policy.clone(),
        }
    }
}

/// Where a plugin's bytes come from.
#[derive(Debug)]
pub struct Source {
    pub(crate) origin: Origin,
    pub(crate) name: Option<String>,
    pub(crate) permanent: bool,
}

#[derive(Debug)]
pub(crate) enum Origin {
    Path(PathBuf),
    /// The path is only for messages.
    Descriptor(OwnedFd, PathBuf),
}

impl Source {
    /// The file at `path`, opened once by the load.
    #[must_use]
    pub fn path(path: impl AsRef<Path>) -> Self {
        Self {
            origin: Origin::Path(path.as_ref().to_owned()),
            name: None,
            permanent: false,
        }
    }

    /// A file that somebody opened already.
    #[must_use]
    pub fn descriptor(fd: OwnedFd) -> Self {
        Self::opened(fd, "descriptor.so")
    }

    /// A file that somebody opened already; `path` is what messages call it, and what a foreign
    /// library is named after. Nothing is opened by it.
    #[must_use]
    pub fn opened(fd: OwnedFd, path: impl AsRef<Path>) -> Self {
        Self {
            origin: Origin::Descriptor(fd, path.as_ref().to_owned()),
            name: None,
            permanent: false,
        }
    }

    /// Loads it under `name` instead of the name it declares.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Never unloads it: its mapping, its code and its data stay as long as the process. Its `exit`
    /// runs when that ends, as [`Config::run_exits_at_process_exit`] says.
    ///
    /// For plugins that the host knows to leave something behind which nobody can take back.
    ///
    /// [`Config::run_exits_at_process_exit`]: crate::Config::run_exits_at_process_exit
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// The source in words, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.origin {
            Origin::Path(path) | Origin::Descriptor(_, path) => {
                format!("{:?}", path.display().to_string())
            }
        }
    }
}
