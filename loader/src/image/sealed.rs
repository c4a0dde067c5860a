//! Bytes as a file that nobody can change.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A memory file with these bytes, at its beginning, that nobody can change, this process and its
/// children included.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut writer = File::from(file);
    writer.write_all(bytes)?;
    // Who gets it reads on from where this one is.
    writer.rewind()?;
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&writer, all)?;
    Ok(writer.into())
}
