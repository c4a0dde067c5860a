//! The bytes of a staged copy, as whoever checks them reads them.
//!
//! Thread context. A large copy is mapped; a small one is read, since to unmap what was looked at
//! interrupts every processor on which a thread of this process runs.

#![forbid(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, pread};

use super::error::ImageError;
use crate::sys::mapping::Mapping;

/// The bytes of a staged copy, edits included.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Of a small file.
    Read(Vec<u8>),
    Mapped(Mapping),
}

impl Bytes {
    /// Files up to this size are read. Half of what malloc takes from its heap without a mapping
    /// of its own, which it would have to unmap as well.
    const SMALL: usize = 64 << 10;

    /// The first `len` bytes of `file`, which cannot shrink.
    pub(super) fn of(file: BorrowedFd<'_>, len: usize) -> Result<Self, ImageError> {
        if len > Self::SMALL {
            return Mapping::of_file(file, len)
                .map(Self::Mapped)
                .map_err(|error| ImageError::stage("map the staged copy", error));
        }
        let failed = |error: io::Error| ImageError::stage("read the staged copy", error);
        let mut bytes = vec![0; len];
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match pread(file, rest, at as u64) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => at += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(Self::Read(bytes))
    }

    /// Follows an edit of the file; `offset` and length were checked. A mapping shows it by itself.
    pub(super) fn edit(&mut self, offset: u64, edited: &[u8]) {
        if let Self::Read(bytes) = self
            && let Ok(start) = usize::try_from(offset)
            && let Some(place) = bytes.get_mut(start..start.saturating_add(edited.len()))
        {
            place.copy_from_slice(edited);
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}
