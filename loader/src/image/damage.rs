//! What is wrong with a file's bytes, and where.
//!
//! Thread context; plain data.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// A statement about a file that it does not keep: structure, place, expected and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The damaged structure, by the name that `readelf` users know.
    pub structure: &'static str,
    /// File offset of the field at fault.
    pub offset: u64,
    /// What an intact file has there.
    pub expected: Cow<'static, str>,
    /// What this file has there.
    pub found: String,
    /// Whether the file may well be intact, but is no 64-bit shared object for this machine.
    pub is_unsupported: bool,
}

impl Damage {
    pub(super) fn new(
        structure: &'static str,
        offset: u64,
        expected: impl Into<Cow<'static, str>>,
        found: impl fmt::Display,
    ) -> Self {
        Self {
            structure,
            offset,
            expected: expected.into(),
            found: found.to_string(),
            is_unsupported: false,
        }
    }

    /// As [`Damage::new`], of a file that is something else than a shared object of this machine.
    pub(super) fn unsupported(
        structure: &'static str,
        offset: u64,
        expected: impl Into<Cow<'static, str>>,
        found: impl fmt::Display,
    ) -> Self {
        Self {
            is_unsupported: true,
            ..Self::new(structure, offset, expected, found)
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            structure,
            offset,
            expected,
            found,
            ..
        } = self;
        write!(
            f,
            "{structure} at {offset:#x}: expected {expected}, found {found}"
        )
    }
}

impl Error for Damage {}
