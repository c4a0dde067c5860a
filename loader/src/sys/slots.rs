//! Words of a plugin's image that hold addresses of imported functions.

use std::io;

use rustix::mm::{MprotectFlags, mprotect};

/// Lets the words at `slots` hold other functions' addresses: each is given with the address that
/// it shall hold. A word that holds none, since the import is weak and missing, stays as it is.
///
/// `protected` is what ld.so made read-only after it relocated the image, in pages' bounds; it is
/// so again afterwards.
///
/// # Errors
/// What `mprotect` says: before anything is changed, or when all is but not protected again.
///
/// # Safety
/// - The words lie in the image of a plugin that is relocated and of whose code nothing has run,
///   in memory that is writable or `protected`.
/// - The functions can be called as those that were imported, for as long as the plugin is mapped.
pub(crate) unsafe fn redirect(
    slots: impl Iterator<Item = (usize, usize)>,
    protected: (usize, usize),
) -> io::Result<()> {
    let (start, end) = protected;
    let page = |rights| {
        if start >= end {
            return Ok(());
        }
        // SAFETY: pages of the plugin's own image, which ld.so has finished with.
        unsafe { mprotect(start as *mut _, end - start, rights) }
    };
    page(MprotectFlags::READ | MprotectFlags::WRITE)?;
    for (slot, function) in slots {
        let slot = slot as *mut usize;
        // SAFETY: the caller vouches for the word.
        let before = unsafe { slot.read_unaligned() };
        if before != 0 {
            // SAFETY: as above; nobody else looks at it yet.
            unsafe { slot.write_unaligned(function) };
        }
    }
    Ok(page(MprotectFlags::READ)?)
}

/// The address that a word holds.
///
/// # Safety
/// - The word lies in the image of a plugin that is mapped and relocated.
pub(crate) unsafe fn word(slot: usize) -> usize {
    // SAFETY: the caller vouches for the word.
    unsafe { (slot as *const usize).read_unaligned() }
}
