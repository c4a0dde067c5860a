//! Why a file did not become an image.
//!
//! Thread context; plain data. One cause, one variant; the text says what was expected and found.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::damage::Damage;
use super::info::Malformed;

/// Why a file did not become an image.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be opened or read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than the configured limit.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Somebody changed it while it was copied.
    Changed {
        /// The file.
        path: PathBuf,
        /// What changed.
        what: String,
    },
    /// The private copy, its folder or its name could not be made.
    Stage {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The bytes are not an intact shared object of this machine.
    Damaged(Damage),
    /// The author's metadata is malformed.
    Metadata(Malformed),
    /// The host asked for a name that is none.
    Name {
        /// What it asked for.
        name: String,
    },
    /// A private dependency did not become an image.
    Dependency {
        /// The name by which it is needed.
        name: String,
        /// The file, where one was found.
        path: Option<PathBuf>,
        /// Why.
        source: Box<ImageError>,
    },
    /// An edit cannot be made: it lies outside of the copy, comes after the seal, or would change
    /// more than it is to change.
    Edit {
        /// The edit's own words.
        what: String,
    },
}

impl ImageError {
    pub(super) fn dependency(name: &str, path: Option<&Path>, source: Self) -> Self {
        Self::Dependency {
            name: name.to_owned(),
            path: path.map(Path::to_owned),
            source: Box::new(source),
        }
    }

    pub(super) fn stage(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Stage {
            what,
            source: source.into(),
        }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "read {path:?}"),
            Self::NotRegular { path } => write!(f, "read {path:?}: not a regular file"),
            Self::TooLarge { path, size, limit } => {
                write!(f, "read {path:?}: {size} bytes exceed the limit of {limit}")
            }
            Self::Changed { path, what } => {
                write!(
                    f,
                    "copy {path:?}: changed meanwhile, {what}; replace plugins by rename"
                )
            }
            Self::Stage { what, .. } => f.write_str(what),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Metadata(malformed) => malformed.fmt(f),
            Self::Name { name } => {
                write!(f, "name {name:?}: expected 1 to 64 of A-Z a-z 0-9 _ -")
            }
            Self::Dependency { name, path, source } => {
                write!(f, "dependency {name}")?;
                if let Some(path) = path {
                    write!(f, " ({})", path.display())?;
                }
                write!(f, ": {source}")
            }
            Self::Edit { what } => write!(f, "the copy cannot be edited: {what}"),
        }
    }
}

impl Error for ImageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Stage { source, .. } => Some(source),
            // Its own words are said already; what is below them is not.
            Self::Dependency { source, .. } => source.source(),
            _ => None,
        }
    }
}

impl From<Damage> for ImageError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<Malformed> for ImageError {
    fn from(malformed: Malformed) -> Self {
        Self::Metadata(malformed)
    }
}
