//! A read-only view of a whole file in memory.
//!
//! Thread context. It must only be made of files that nobody else can shorten: a mapping of a
//! file that shrinks raises SIGBUS when read.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::ptr::NonNull;
use std::slice;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The bytes of one file, mapped private and read-only; dropping unmaps them.
pub(crate) struct Mapping {
    /// First byte; dangling when `len` is 0. Constant.
    start: NonNull<u8>,
    /// Length in bytes as mapped. Constant.
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which must not shrink while the result lives.
    ///
    /// A write to the file shows through: whoever edits it does so with no borrow of the bytes
    /// alive. Processes of the same user could write too, until the file is sealed; they could as
    /// well attach to this process, so nothing defends against them.
    ///
    /// # Errors
    /// What `mmap` says.
    pub(crate) fn of_file(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self {
                start: NonNull::dangling(),
                len,
            });
        }
        // SAFETY: with a null hint and no MAP_FIXED the kernel picks unused addresses, so no
        // existing memory is touched.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap returned a null address"))?;
        Ok(Self { start, len })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and `len` are those of the live mapping made in `of_file` (or dangling
        // and 0), readable until `drop`, which the borrow of self excludes.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: exactly the range mapped in `of_file`; no borrow of it can outlive self.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

// SAFETY: `start` is the worry: it is owned memory that nobody writes through, and unmapping works
// from any thread.
unsafe impl Send for Mapping {}
// SAFETY: all access through a shared reference is reading.
unsafe impl Sync for Mapping {}
