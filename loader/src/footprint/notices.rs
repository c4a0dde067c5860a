//! Functions of plugins that libc calls when work that it does by itself has ended: written down,
//! since no gate covers them.

use std::ffi::{c_char, c_int};

use super::hooks::owner;
use super::remains::{self, Kind};
use crate::sys::notices;
use crate::sys::task;
use crate::sys::timer::Notice;

/// Notes that libc was given a function; what belongs to no plugin is not noted.
fn note(function: Option<usize>, kind: Kind) {
    if !task::is_guest()
        && let Some(owner) = function.and_then(owner)
    {
        remains::note(owner.generation, kind);
    }
}

/// `mq_notify`.
pub(super) unsafe extern "C-unwind" fn mq_notify(queue: c_int, notice: *const Notice) -> c_int {
    // SAFETY: null or a notice, as for mq_notify().
    note(unsafe { Notice::function(notice) }, Kind::MessageQueue);
    // SAFETY: passed on as it came.
    unsafe { notices::mq_notify(queue, notice) }
}

/// `aio_read`.
pub(super) unsafe extern "C-unwind" fn aio_read(work: *mut libc::aiocb) -> c_int {
    // SAFETY: a piece of work, as for aio_read().
    note(unsafe { notices::function(work) }, Kind::AsyncIo);
    // SAFETY: passed on as it came.
    unsafe { notices::aio_read(work) }
}

/// `aio_write`.
pub(super) unsafe extern "C-unwind" fn aio_write(work: *mut libc::aiocb) -> c_int {
    // SAFETY: a piece of work, as for aio_write().
    note(unsafe { notices::function(work) }, Kind::AsyncIo);
    // SAFETY: passed on as it came.
    unsafe { notices::aio_write(work) }
}

/// `aio_fsync`.
pub(super) unsafe extern "C-unwind" fn aio_fsync(how: c_int, work: *mut libc::aiocb) -> c_int {
    // SAFETY: a piece of work, as for aio_fsync().
    note(unsafe { notices::function(work) }, Kind::AsyncIo);
    // SAFETY: passed on as it came.
    unsafe { notices::aio_fsync(how, work) }
}

/// `lio_listio`.
pub(super) unsafe extern "C-unwind" fn lio_listio(
    mode: c_int,
    list: *const *mut libc::aiocb,
    count: c_int,
    notice: *const Notice,
) -> c_int {
    // SAFETY: null or a notice, as for lio_listio().
    note(unsafe { Notice::function(notice) }, Kind::AsyncIo);
    for n in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: an array of so many, as for lio_listio().
        let work = unsafe { list.wrapping_add(n).read() };
        // SAFETY: null or a piece of work.
        note(unsafe { notices::function(work) }, Kind::AsyncIo);
    }
    // SAFETY: passed on as it came.
    unsafe { notices::lio_listio(mode, list, count, notice) }
}

/// `getaddrinfo_a`.
pub(super) unsafe extern "C-unwind" fn getaddrinfo_a(
    mode: c_int,
    list: *mut *mut c_char,
    count: c_int,
    notice: *const Notice,
) -> c_int {
    // SAFETY: null or a notice, as for getaddrinfo_a().
    note(unsafe { Notice::function(notice) }, Kind::Resolver);
    // SAFETY: passed on as it came.
    unsafe { notices::getaddrinfo_a(mode, list, count, notice) }
}
