//! Which object of ld.so's covers an address, asked without its lock.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::task;

/// glibc's `struct dl_find_object` (`<dlfcn.h>`, 2.35) on machines without `dlfo_eh_dbase`.
#[repr(C)]
struct Found {
    flags: u64,
    start: *mut c_void,
    end: *mut c_void,
    link_map: *mut c_void,
    eh_frame: *mut c_void,
    reserved: [u64; 7],
}

type FindObject = unsafe extern "C" fn(*mut c_void, *mut Found) -> c_int;

/// The C library's function; null where it has none. Written by [`prepare`] (SeqCst: cold), read
/// by [`find`].
static FIND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The program's own link map, which is never freed, and where its headers are; null and 0 where that
/// is not known. Written by [`prepare`], the address first (SeqCst: cold), read by [`find`].
///
/// A program whose segments leave gaps, as some linkers lay them out, is told segment by segment.
static PROGRAM: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static PROGRAM_START: AtomicUsize = AtomicUsize::new(0);

/// Looks the C library's function up; false where it has none.
///
/// Thread context: takes ld.so's lock.
pub(crate) fn prepare() -> bool {
    // SAFETY: a terminated name, looked up among all objects.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) };
    FIND.store(function, Ordering::SeqCst);
    if let Some(program) = ask(task::program_headers()) {
        PROGRAM_START.store(program.start.addr(), Ordering::SeqCst);
        PROGRAM.store(program.link_map, Ordering::SeqCst);
    }
    !function.is_null()
}

/// Whether [`find`] can tell. Async-signal-safe.
pub(crate) fn is_known() -> bool {
    !FIND.load(Ordering::SeqCst).is_null()
}

/// The object that covers `address`: where its headers are, and where what covers the address ends.
///
/// Async-signal-safe (the manual says so of the function used). The object may be unloaded at any
/// moment by another thread; nothing of it is read here.
pub(crate) fn find(address: usize) -> Option<(usize, usize)> {
    let found = ask(address)?;
    let (start, end) = (found.start.addr(), found.end.addr());
    if !(start..end).contains(&address) {
        return None;
    }
    match found.link_map == PROGRAM.load(Ordering::SeqCst) {
        true => Some((PROGRAM_START.load(Ordering::SeqCst), end)),
        false => Some((start, end)),
    }
}

/// What the C library tells of `address`; none where it knows no object there.
fn ask(address: usize) -> Option<Found> {
    let function = FIND.load(Ordering::SeqCst);
    if function.is_null() {
        return None;
    }
    // SAFETY: not null, so it is the function of that name, whose type the manual gives.
    let function: FindObject = unsafe { std::mem::transmute(function) };
    let mut found = Found {
        flags: 0,
        start: std::ptr::null_mut(),
        end: std::ptr::null_mut(),
        link_map: std::ptr::null_mut(),
        eh_frame: std::ptr::null_mut(),
        reserved: [0; 7],
    };
    // SAFETY: any address may be asked for; `found` has the size that glibc fixed for all times.
    let status = unsafe { function(address as *mut c_void, &raw mut found) };
    // Success without a link map is an object on its way out; the map itself is never looked at,
    // since ld.so may free it right now.
    (status == 0 && !found.link_map.is_null()).then_some(found)
}
