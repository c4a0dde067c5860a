//! Read-only views of a file in memory: of the whole file, and of parts that outlive it.
//!
//! Thread context. It must only be made of files that nobody else can shorten: a mapping of a
//! file that shrinks raises SIGBUS when read.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, Range};
use std::os::fd::BorrowedFd;
use std::ptr;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Mutex, PoisonError};

use rustix::mm::{
    MapFlags, MprotectFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, mremap_fixed,
    munmap,
};

/// The bytes of one file, mapped private and read-only; dropping unmaps them.
pub(crate) struct Mapping {
    /// First byte; dangling when `len` is 0. Constant.
    start: NonNull<u8>,
    /// Length in bytes as mapped. Constant.
    len: usize,
}

/// Parts of a file's bytes: the file's own pages while the file is needed anyway, and from some
/// moment on a copy of them at the same addresses.
pub(crate) struct Parts {
    /// First byte of the whole mapping. Constant.
    start: NonNull<u8>,
    /// Bytes of the whole mapping.
    len: usize,
    /// What is still mapped, as offsets in pages' bounds; all until it was detached.
    kept: Mutex<Option<Vec<Range<usize>>>>,
    /// The parts that stay, ascending, disjoint, in pages' bounds.
    parts: Vec<Range<usize>>,
}

impl Mapping {
    /// No bytes.
    pub(crate) const EMPTY: Self = Self {
        start: NonNull::dangling(),
        len: 0,
    };

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
            return Ok(Self::EMPTY);
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

impl Parts {
    /// Keeps of `mapping` the pages around `parts`, once it is detached.
    pub(crate) fn of(mapping: Mapping, parts: &[Range<usize>]) -> Self {
        let page = rustix::param::page_size();
        let len = mapping.len.next_multiple_of(page);
        let mut parts: Vec<Range<usize>> = parts
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| {
                let start = part.start - part.start % page;
                start..part.end.next_multiple_of(page).min(len)
            })
            .collect();
        parts.sort_unstable_by_key(|part| part.start);
        parts.dedup_by(|next, before| {
            let touches = next.start <= before.end;
            if touches {
                before.end = before.end.max(next.end);
            }
            touches
        });
        let mapping = ManuallyDrop::new(mapping);
        Self {
            start: mapping.start,
            len,
            kept: Mutex::new(None),
            parts,
        }
    }

    /// Address of the byte at `offset` of the file.
    pub(crate) fn at(&self, offset: usize) -> *const u8 {
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Bytes of the copy; 0 while there is none.
    pub(crate) fn copied(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.iter().flatten();
        kept.map(ExactSizeIterator::len).sum()
    }

    /// Lets go of the file: the parts become a copy, at the same addresses, and the rest goes.
    ///
    /// Thread context; a few system calls and a copy. Readers at the parts see the same bytes
    /// before and after, and nothing in between: a page fault waits until the kernel has moved the
    /// copy there. Once; later calls do nothing.
    ///
    /// # Errors
    /// What the kernel says when there is no memory for the copy: the file's pages stay then, which
    /// are as good, but keep the file in `/proc/self/maps`. When it has none for moving the copy,
    /// the part may be gone, and readers fault there; no kernel was seen to.
    ///
    /// # Source
    /// `mremap_to` in mm/mremap.c: unmaps and moves under one hold of the lock that faults take.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some() {
            return Ok(());
        }
        let mut copies = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            copies.push(Copied::of(self.at(part.start), part.len())?);
        }
        let (mut done, mut moved, mut here) = (0, Ok(()), Vec::new());
        for (copy, part) in copies.into_iter().zip(&self.parts) {
            self.give_up(done..part.start);
            done = part.end;
            match copy.move_to(self.at(part.start)) {
                Ok(()) => here.push(part.clone()),
                // Whatever comes to lie there is not the loader's to unmap.
                Err(error) => moved = Err(error),
            }
        }
        self.give_up(done..self.len);
        *kept = Some(here);
        moved
    }

    fn give_up(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let start = self.at(range.start).cast_mut().cast();
        // SAFETY: a range of pages of the own mapping, in which no part lies: nobody reads there.
        let unmapped = unsafe { munmap(start, range.len()) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(kept) => kept.iter().for_each(|part| self.give_up(part.clone())),
            None => self.give_up(0..self.len),
        }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

// SAFETY: as for Mapping; the lock decides who moves the copies.
unsafe impl Send for Parts {}
// SAFETY: as above.
unsafe impl Sync for Parts {}

/// Pages of memory with a copy; unmapped when dropped before they are moved.
struct Copied {
    start: NonNull<c_void>,
    len: usize,
}

impl Copied {
    /// A read-only copy of `len` bytes, whole pages, at `from`.
    fn of(from: *const u8, len: usize) -> io::Result<Self> {
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with a null hint and no MAP_FIXED the kernel picks unused addresses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, writable, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mmap returned null"))?;
        let copy = Self { start, len };
        // SAFETY: both are `len` bytes of mapped pages, and the new ones are nobody else's.
        unsafe { ptr::copy_nonoverlapping(from, start.as_ptr().cast(), len) };
        // SAFETY: the pages mapped above.
        unsafe { mprotect(start.as_ptr(), len, MprotectFlags::READ) }?;
        Ok(copy)
    }

    /// Puts the copy in the place of what is mapped at `to`.
    fn move_to(self, to: *const u8) -> io::Result<()> {
        let (start, len) = (self.start.as_ptr(), self.len);
        let to = to.cast_mut().cast();
        // SAFETY: at `to` are pages of the caller's own mapping with the same bytes; their readers
        // find those again.
        let moved = unsafe { mremap_fixed(start, len, len, MremapFlags::MAYMOVE, to) };
        moved?;
        // It is where it belongs, and no longer here.
        let _moved = ManuallyDrop::new(self);
        Ok(())
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // SAFETY: the pages mapped in of(), which nobody else knows.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
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

/// Maps for a plugin, in the words of `mmap`. Async-signal-safe.
///
/// # Safety
/// - As for `mmap`.
pub(crate) unsafe fn map_as_asked(
    address: *mut c_void,
    len: usize,
    rights: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    // SAFETY: passed on to our caller.
    unsafe { libc::mmap(address, len, rights, flags, fd, offset) }
}

/// Unmaps for a plugin, in the words of `munmap`. Async-signal-safe.
///
/// # Safety
/// - As for `munmap`.
pub(crate) unsafe fn unmap_as_asked(address: *mut c_void, len: usize) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { libc::munmap(address, len) }
}

/// Device and inode of the file that is open as `fd`, if one is. Async-signal-safe.
pub(crate) fn file_of(fd: c_int) -> Option<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for the answer.
    let status = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
    // SAFETY: written, as it did not fail.
    (status == 0)
        .then(|| unsafe { stat.assume_init() })
        .map(|stat| (stat.st_dev, stat.st_ino))
}
