//! Rights of pages, and addresses kept from being used.

use std::ffi::{CStr, c_ulong};
use std::ops::Range;
use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Makes code inaccessible, or code again; whether the kernel agreed.
///
/// # Safety
/// - `pages` are whole pages of code that the caller owns and nobody runs.
pub(crate) unsafe fn protect(pages: &Range<usize>, is_code: bool) -> bool {
    let rights = match is_code {
        true => MprotectFlags::READ | MprotectFlags::EXEC,
        false => MprotectFlags::empty(),
    };
    // SAFETY: passed on to our caller.
    let done = unsafe { mprotect(pages.start as *mut _, pages.len(), rights) };
    done.is_ok()
}

/// Addresses that nobody can map anything at; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved(Range<usize>);

impl Reserved {
    /// Reserves `pages` under a name that the kernel may show; none where something is mapped there
    /// by now.
    pub(crate) fn take(pages: Range<usize>, name: &CStr) -> Option<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        let wanted = pages.start as *mut _;
        // SAFETY: with FIXED_NOREPLACE nothing that is mapped is touched.
        let start = unsafe { mmap_anonymous(wanted, pages.len(), ProtFlags::empty(), flags) };
        let start = start.ok()?;
        let reserved = Self(start.addr()..start.addr().checked_add(pages.len())?);
        if reserved.0 != pages {
            // A kernel older than the flag took it for a hint.
            return None;
        }
        // Kernels without names for anonymous memory refuse, and nothing depends on it.
        // SAFETY: the kernel copies the name of pages that were mapped just now.
        let _named = unsafe {
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME as c_ulong,
                pages.start,
                pages.len(),
                name.as_ptr(),
            )
        };
        Some(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let start = ptr::without_provenance_mut(self.0.start);
        // SAFETY: exactly what was mapped in take(), which nobody can use.
        let unmapped = unsafe { munmap(start, self.0.len()) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
    }
}
