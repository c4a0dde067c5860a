//! The SHA-256 of a file, as `sha256sum` prints it: of the original, before any edit.
//!
//! Thread context. Some milliseconds a megabyte where the processor does not help, so that it is
//! taken when it is asked for and not at every load.

#![forbid(unsafe_code)]

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// That of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
