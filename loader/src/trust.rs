//! The one unsafe door: who may bring native code into this process, and from where.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::directives::Directives;
use crate::error::Error;
use crate::image::{Original, Rule};
use crate::params::Params;
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

    /// The same word under another policy: for a rehearsal, in which whoever asks for it says which
    /// files are admitted.
    pub(crate) fn under(&self, policy: Policy) -> Self {
        let Self { policy: _instead } = self;
        Self { policy }
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
    pub(crate) force: bool,
    pub(crate) signature: Option<Vec<u8>>,
    pub(crate) accounting: Accounting,
    pub(crate) nodelete: Rule,
    pub(crate) unique: Rule,
    /// In a rehearsal: the digests of what the host let in with the plugin, and nothing else.
    pub(crate) brought: Option<Vec<Digest>>,
    /// Because another plugin imports functions of it.
    pub(crate) automatic: bool,
    /// With the plugins that it imports functions of.
    pub(crate) with_providers: bool,
}

/// Whether a load counts what its plugin takes of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Accounting {
    /// It does not, and costs nothing.
    #[default]
    Off,
    /// Blocks and bytes of the heap, mappings and descriptors, by the plugin's own calls: each
    /// allocation and each release goes through a table, about 50 ns for both and 50 bytes a live
    /// block.
    Counts,
    /// And for each block who allocated it, by up to 12 frames of the plugin's and of its private
    /// dependencies': 5 to 20 us an allocation more.
    Sites,
}

/// What a load was asked for, beside the bytes: enough to load the same bytes once more.
#[derive(Debug)]
pub(crate) struct Order {
    /// The file that they were of.
    pub(crate) original: Original,
    /// What the host gave, over what its directives gave.
    pub(crate) params: Params,
    pub(crate) force: bool,
    pub(crate) signature: Option<Box<[u8]>>,
    pub(crate) accounting: Accounting,
    pub(crate) nodelete: Rule,
    pub(crate) unique: Rule,
}

impl Order {
    /// A source of these bytes of the file that messages call `path`, which may bring libraries with
    /// these digests and no others.
    pub(crate) fn again(&self, bytes: OwnedFd, path: &str, brought: Vec<Digest>) -> Source {
        Source {
            name: None,
            permanent: false,
            force: self.force,
            signature: self.signature.as_deref().map(<[u8]>::to_vec),
            accounting: self.accounting,
            nodelete: self.nodelete,
            unique: self.unique,
            brought: Some(brought),
            ..Source::copy_of(self.original.clone(), bytes, path)
        }
    }
}

#[derive(Debug)]
pub(crate) enum Origin {
    Path(PathBuf),
    /// A plugin's name, for the directives to tell the file.
    Named(String),
    /// The path is only for messages.
    Descriptor(OwnedFd, PathBuf),
    /// A copy of another file.
    Copy(OwnedFd, PathBuf, Original),
}

impl Source {
    /// The file at `path`, opened once by the load.
    #[must_use]
    pub fn path(path: impl AsRef<Path>) -> Self {
        Self::of(Origin::Path(path.as_ref().to_owned()))
    }

    /// The file that [`Config::directives`](crate::Config::directives) tell for this name: by an alias,
    /// or in the folders that they have searched. Looked for by the load.
    #[must_use]
    pub fn plugin(name: impl Into<String>) -> Self {
        Self::of(Origin::Named(name.into()))
    }

    /// The same source, with the file that a name stands for.
    ///
    /// # Errors
    /// Those of [`Directives::find`].
    pub(crate) fn found(mut self, directives: &Directives) -> Result<Self, Error> {
        if let Origin::Named(name) = &self.origin {
            self.origin = Origin::Path(directives.find(name)?);
        }
        Ok(self)
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
        Self::of(Origin::Descriptor(fd, path.as_ref().to_owned()))
    }

    /// A copy of `original`, which was opened by `path`.
    pub(crate) fn copy_of(original: Original, fd: OwnedFd, path: impl AsRef<Path>) -> Self {
        Self::of(Origin::Copy(fd, path.as_ref().to_owned(), original))
    }

    fn of(origin: Origin) -> Self {
        Self {
            origin,
            name: None,
            permanent: false,
            force: false,
            signature: None,
            accounting: Accounting::Off,
            nodelete: Rule::Honour,
            unique: Rule::Neutralise,
            brought: None,
            automatic: false,
            with_providers: false,
        }
    }

    /// Loads the plugins that it imports functions of as well, where they are not there: before it, by
    /// the names under which it imports them, as [`Source::plugin`] finds them, and what these import
    /// before them. They get the parameters of [`Config::directives`](crate::Config::directives). If one
    /// of all is refused, those that were loaded for it are unloaded again.
    #[must_use]
    pub fn with_providers(mut self) -> Self {
        self.with_providers = true;
        self
    }

    /// What becomes of `DF_1_NODELETE`, by which an author says that unmapping is unsafe. Honoured
    /// by default: the plugin is pinned at its unload, and says so before
    /// ([`Plugin::pinned_because`]).
    ///
    /// To neutralise it is the host's word that it knows better: that nothing outside keeps a
    /// pointer into the file. Holds for what the plugin brings, too.
    ///
    /// [`Plugin::pinned_because`]: crate::Plugin::pinned_because
    #[must_use]
    pub fn nodelete(mut self, rule: Rule) -> Self {
        self.nodelete = rule;
        self
    }

    /// What becomes of GNU unique symbols, by which a C++ compiler keeps statics of templates and
    /// inline functions one in the whole process; ld.so never unmaps whoever has the first.
    /// Neutralised by default: they are one for the plugin and what it brings.
    ///
    /// Honour them where the plugin shares such a static with the host or with another plugin.
    #[must_use]
    pub fn unique(mut self, rule: Rule) -> Self {
        self.unique = rule;
        self
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

    /// Loads it although its metadata does not fit this host, with a taint. Overlooks what
    /// [`Mismatch::forceable`](crate::Mismatch::forceable) says, and nothing else: neither damage nor
    /// signatures nor the quarantine.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    /// Gives it this detached signature, instead of the one beside its path. A file that somebody
    /// opened already has no other.
    #[must_use]
    pub fn signature(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.signature = Some(text.into());
        self
    }

    /// Counts what the plugin takes of the process: see [`Plugin::balance`](crate::Plugin::balance)
    /// and [`UnloadReport::leaks`](crate::UnloadReport::leaks). At most 64 plugins at a time.
    #[must_use]
    pub fn accounted(mut self, accounting: Accounting) -> Self {
        self.accounting = accounting;
        self
    }

    /// Because another plugin imports functions of it.
    pub(crate) fn automatic(mut self) -> Self {
        self.automatic = true;
        self
    }

    /// The source in words, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.origin {
            Origin::Path(path) | Origin::Descriptor(_, path) | Origin::Copy(_, path, _) => {
                format!("{:?}", path.display().to_string())
            }
            Origin::Named(name) => name.clone(),
        }
    }
}

impl Origin {
    /// The same file once more.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Path(path) => Self::Path(path.clone()),
            Self::Named(name) => Self::Named(name.clone()),
            Self::Descriptor(fd, path) => Self::Descriptor(fd.try_clone()?, path.clone()),
            Self::Copy(fd, path, original) => {
                Self::Copy(fd.try_clone()?, path.clone(), original.clone())
            }
        })
    }
}
