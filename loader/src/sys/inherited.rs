//! Descriptors that whoever started this process left to it under known numbers.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// Whether they were taken; set once (SeqCst: cold).
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes `N` descriptors from the number `first` on; once a process, at its start.
///
/// # Errors
/// Where one of them is not there, or they were taken before.
pub(crate) fn take<const N: usize>(first: RawFd) -> io::Result<[OwnedFd; N]> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the descriptors were taken before"));
    }
    for fd in (first..).take(N) {
        // SAFETY: borrowed for one call, which fails where there is no such descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    let mut fd = first;
    Ok([(); N].map(|()| {
        // SAFETY: it is open, and left to this process under a number that nobody here was given.
        let taken = unsafe { OwnedFd::from_raw_fd(fd) };
        fd += 1;
        taken
    }))
}
