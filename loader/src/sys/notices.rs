//! Work that libc does by itself and tells of its end by calling a function.

use std::ffi::{c_char, c_int};

use super::timer::Notice;

unsafe extern "C" {
    pub(crate) fn mq_notify(queue: c_int, notice: *const Notice) -> c_int;
    pub(crate) fn aio_read(work: *mut libc::aiocb) -> c_int;
    pub(crate) fn aio_write(work: *mut libc::aiocb) -> c_int;
    pub(crate) fn aio_fsync(how: c_int, work: *mut libc::aiocb) -> c_int;
    pub(crate) fn lio_listio(
        mode: c_int,
        list: *const *mut libc::aiocb,
        count: c_int,
        notice: *const Notice,
    ) -> c_int;
    pub(crate) fn getaddrinfo_a(
        mode: c_int,
        list: *mut *mut c_char,
        count: c_int,
        notice: *const Notice,
    ) -> c_int;
}

/// The function that is to be called when a piece of work ends, if one is.
///
/// # Safety
/// - `work` is null or points at a piece of work.
pub(crate) unsafe fn function(work: *const libc::aiocb) -> Option<usize> {
    if work.is_null() {
        return None;
    }
    // SAFETY: the caller's word.
    let notice = unsafe { &raw const (*work).aio_sigevent };
    // SAFETY: a member of what is there.
    unsafe { Notice::function(notice.cast()) }
}
