//! Data of the process's objects and of the C library, as places to be searched.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ops::Range;
use std::ptr;

use super::{dl, thread_exit};

/// What can be written to of one object, as ld.so mapped it.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    /// The object's name; empty for the program.
    pub(crate) object: &'a CStr,
    /// The object's load bias.
    pub(crate) bias: usize,
    /// The bytes, without those that ld.so made read-only after relocation.
    pub(crate) range: Range<usize>,
}

/// Calls `look` for all writable data of all objects. What is looked at stays mapped meanwhile: ld.so's
/// lock is held, so that `look` must not call it.
///
/// Thread context.
pub(crate) fn each(mut look: &mut dyn FnMut(&Data<'_>)) {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: usize,
        look: *mut c_void,
    ) -> c_int {
        // SAFETY: the reference that the call below passes, alive for its duration.
        let look = unsafe { &mut *look.cast::<&mut dyn FnMut(&Data<'_>)>() };
        // SAFETY: ld.so passes a valid record for the duration of the callback.
        let info = unsafe { &*info };
        if info.dlpi_name.is_null() || info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the name is terminated and lives while ld.so's lock is held.
        let object = unsafe { CStr::from_ptr(info.dlpi_name) };
        // SAFETY: ld.so knows the object's program headers, which are mapped as long as it is.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let bias = usize::try_from(info.dlpi_addr).unwrap_or(0);
        let range = |header: &libc::Elf64_Phdr| {
            let start = bias.wrapping_add(usize::try_from(header.p_vaddr).unwrap_or(0));
            start..start.saturating_add(usize::try_from(header.p_memsz).unwrap_or(0))
        };
        let protected = headers.iter().find(|h| h.p_type == libc::PT_GNU_RELRO);
        let protected = protected.map_or(0..0, range);
        for header in headers {
            if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W == 0 {
                continue;
            }
            let mut range = range(header);
            if range.contains(&protected.start) {
                range.start = range.start.max(protected.end & !0xfff);
            }
            if !range.is_empty() {
                look(&Data {
                    object,
                    bias,
                    range,
                });
            }
        }
        0
    }
    let _inside = dl::enter();
    // SAFETY: the callback only reads and does not call back into ld.so.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut look).cast()) };
}

unsafe extern "C" {
    /// The environment, which the C library replaces as it grows.
    static environ: *const *const c_char;
    /// the first of all streams, since 2.2.5.
    static _IO_list_all: *const c_void;
    fn __cxa_atexit(
        function: unsafe extern "C" fn(*mut c_void),
        argument: *mut c_void,
        dso: *mut c_void,
    ) -> c_int;
}

/// Address of the list of the environment's texts, as it is now.
pub(crate) fn environment() -> usize {
    let place = &raw const environ;
    // SAFETY: the C library's variable, which is always there; read at once, whoever writes it.
    unsafe { place.read_volatile() }.addr()
}

/// Address of the first stream.
pub(crate) fn streams() -> usize {
    let place = &raw const _IO_list_all;
    // SAFETY: as in environment().
    unsafe { place.read_volatile() }.addr()
}

/// What the C library adds to addresses that it hides, for this process.
///
/// # Source
/// `PTR_MANGLE` in glibc's `sysdeps/unix/sysv/linux/x86_64/pointer_guard.h`: the guard lies 48 bytes
/// behind the thread pointer.
#[cfg(target_arch = "x86_64")]
pub(crate) fn pointer_guard() -> usize {
    let block = plug_readside::thread_pointer().address();
    let place = ptr::with_exposed_provenance::<usize>(block).wrapping_add(6);
    // SAFETY: inside the running thread's control block.
    unsafe { place.read() }
}

/// Not known here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn pointer_guard() -> usize {
    0
}

/// The address that the C library hides as `word`.
pub(crate) fn shown(word: usize, guard: usize) -> usize {
    word.rotate_right(17) ^ guard
}

/// What marks entries of the loader's own in the C library's tables: nothing happens there.
unsafe extern "C-unwind" fn mark(_: *mut c_void) {}
unsafe extern "C" fn mark_at_exit(_: *mut c_void) {}

/// Address that stands in the table of keys while `look` runs, and the key's number.
///
/// Makes a key and deletes it.
pub(crate) fn with_marked_key<R>(look: impl FnOnce(usize, usize) -> R) -> Option<R> {
    let mut key: c_uint = 0;
    // SAFETY: there is room for a key, and the destructor takes anything.
    let status = unsafe { thread_exit::make_key(&raw mut key, Some(mark)) };
    if status != 0 {
        return None;
    }
    let found = look(
        mark as *const () as usize,
        usize::try_from(key).unwrap_or(0),
    );
    let _deleted = thread_exit::delete_key(key);
    Some(found)
}

/// Registers a function for the process's end that does nothing; the argument by which its entry is
/// known. To be called once.
pub(crate) fn mark_exits() -> Option<usize> {
    /// Of no other use.
    static MARK: u8 = 0;
    let argument = (&raw const MARK).expose_provenance();
    // SAFETY: a function that takes anything and stays mapped.
    let status = unsafe {
        __cxa_atexit(
            mark_at_exit,
            ptr::with_exposed_provenance_mut(argument),
            ptr::null_mut(),
        )
    };
    (status == 0).then_some(argument)
}
