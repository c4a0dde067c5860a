//! The one door to ld.so: open a staged copy, close it, and see what was mapped.

use std::cell::Cell;
use std::error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::clock;
use crate::deadline::{Deadline, write_until};

/// Read while a thread of the loader's is inside ld.so, written by a fork: its child must not find
/// ld.so's lists half changed.
static INSIDE: RwLock<()> = RwLock::new(());

/// Whether a fork waits for those inside. Written by the forking thread, which holds all locks that
/// other forks would need (SeqCst: cold), read on entering (Relaxed: only a courtesy).
static IS_AWAITED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How often the running thread is inside: more than once if a library's constructor loads.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Proof that the running thread counts as inside ld.so.
pub(super) struct Inside(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>);

pub(super) fn enter() -> Inside {
    let depth = DEPTH.get();
    // Whoever is inside already must not wait for a fork that waits for it.
    while depth == 0 && IS_AWAITED.load(Ordering::Relaxed) {
        clock::nap(Duration::from_micros(50));
    }
    DEPTH.set(depth.wrapping_add(1));
    Inside(INSIDE.read().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().wrapping_sub(1));
    }
}

/// Keeps the loader out of ld.so, for a fork; none where the forking thread is inside itself.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    if DEPTH.get() > 0 {
        return None;
    }
    IS_AWAITED.store(true, Ordering::SeqCst);
    let held = write_until(&INSIDE, deadline);
    IS_AWAITED.store(false, Ordering::SeqCst);
    held
}

/// What ld.so mapped and relocated by one `dlopen`: an object, or a root and what it needs. Closing
/// is explicit: dropping keeps it mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    handle: *mut c_void,
}

// SAFETY: the handle is only ever given back to dlclose, which may be called from any thread
// (POSIX: dlclose is thread-safe).
unsafe impl Send for Mapped {}

/// Why ld.so refused, in its own words.
#[derive(Debug)]
pub(crate) struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ld.so: {}", self.0)
    }
}

/// The words are in the source; the error itself only names the call.
fn refusal(error: libloading::Error) -> Refusal {
    Refusal(error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

/// Maps and relocates `path`, binding everything now and showing nothing to others.
///
/// # Errors
/// ld.so's own words.
///
/// # Safety
/// - The file at `path` is one whose mapping runs no code but IFUNC resolvers that the caller
///   trusts.
pub(crate) unsafe fn open(path: &Path) -> Result<Mapped, Refusal> {
    let _inside = enter();
    // SAFETY: passed on to our caller.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(refusal)?;
    Ok(Mapped {
        handle: library.into_raw(),
    })
}

impl Mapped {
    /// Gives the objects back to ld.so. Whether they are gone is another question.
    ///
    /// # Errors
    /// ld.so's own words; the objects then count as still mapped.
    ///
    /// # Safety
    /// - No thread is inside the objects or will enter them, and nobody keeps a pointer into them.
    pub(crate) unsafe fn close(self) -> Result<(), Refusal> {
        // SAFETY: the handle came from Library::into_raw in open() and is closed once.
        let library = unsafe { Library::from_raw(self.handle) };
        let _inside = enter();
        library.close().map_err(refusal)
    }
}

/// A library that is shared with whoever else needs it, held until this is dropped.
#[derive(Debug)]
pub(crate) struct Shared(*mut c_void);

// SAFETY: as for Mapped.
unsafe impl Send for Shared {}

impl Shared {
    /// Opens the library `name`, which ld.so looks for by itself.
    ///
    /// # Errors
    /// ld.so's own words.
    ///
    /// # Safety
    /// - `name` is a library whose constructors the host trusts to run now.
    pub(crate) unsafe fn open(name: &str) -> Result<Self, Refusal> {
        let _inside = enter();
        // SAFETY: passed on to our caller.
        let opened = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) };
        opened
            .map(|library| Self(library.into_raw()))
            .map_err(refusal)
    }

    /// Whether the library, or one that it needs, has `name` as a GNU unique symbol.
    pub(crate) fn has_unique(&self, name: &CStr) -> bool {
        const STB_GNU_UNIQUE: u8 = 10;
        const RTLD_DL_SYMENT: c_int = 1;
        let _inside = enter();
        // SAFETY: a handle that is open; data has no resolver that would run.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if address.is_null() {
            return false;
        }
        let mut info = MaybeUninit::<libc::Dl_info>::uninit();
        let mut symbol: *const libc::Elf64_Sym = std::ptr::null();
        // SAFETY: both are places for what the function stores; the third says which.
        let found = unsafe {
            libc::dladdr1(
                address,
                info.as_mut_ptr(),
                (&raw mut symbol).cast(),
                RTLD_DL_SYMENT,
            )
        };
        if found == 0 || symbol.is_null() {
            return false;
        }
        // SAFETY: an entry of the symbol table of an object that the handle keeps.
        let symbol = unsafe { &*symbol };
        symbol.st_info >> 4 == STB_GNU_UNIQUE
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the handle came from Library::into_raw in open() and is closed once.
        let library = unsafe { Library::from_raw(self.0) };
        let _inside = enter();
        if let Err(error) = library.close() {
            tracing::debug!(target: "plug::load", %error, "a shared library was not given back");
        }
    }
}

/// What ld.so's list shows of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    /// Whether it is in the list.
    pub(crate) is_listed: bool,
    /// How many objects have been removed from the list since the process began.
    pub(crate) removals: u64,
}

/// Looks for the object of this never-reused name in ld.so's list.
///
/// Thread context: takes ld.so's list lock.
pub(crate) fn look(name: &CStr) -> Sight {
    struct Search<'a> {
        name: &'a CStr,
        sight: Sight,
    }
    unsafe extern "C" fn see(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the Search that the call below passes, alive for its duration.
        let search = unsafe { &mut *data.cast::<Search<'_>>() };
        // SAFETY: ld.so passes a valid record for the duration of the callback.
        let info = unsafe { &*info };
        search.sight.removals = info.dlpi_subs;
        if !info.dlpi_name.is_null() {
            // SAFETY: the name is terminated and lives while ld.so's lock is held.
            search.sight.is_listed = unsafe { CStr::from_ptr(info.dlpi_name) } == search.name;
        }
        c_int::from(search.sight.is_listed)
    }
    let _inside = enter();
    let sight = Sight {
        is_listed: false,
        removals: 0,
    };
    let mut search = Search { name, sight };
    // SAFETY: the callback only reads and does not call back into ld.so.
    unsafe { libc::dl_iterate_phdr(Some(see), (&raw mut search).cast()) };
    search.sight
}

/// Has ld.so look whether the object of this never-reused name, which was closed, is held by
/// anything any more, and says whether it is still listed.
///
/// What glibc counts itself (thread-locals, other objects' bindings) keeps an object past its
/// `dlclose`, and it is looked at again only when some object is closed for the last time: the object
/// itself is, once more. Thread context: takes ld.so's locks.
///
/// # Source
/// `_dl_close_worker` in elf/dl-close.c.
///
/// # Safety
/// - As for [`Mapped::close`].
pub(crate) unsafe fn look_again(name: &CStr) -> bool {
    let _inside = enter();
    // SAFETY: RTLD_NOLOAD runs nothing: the object is there already, initialised, or is not opened.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    if !handle.is_null() {
        // SAFETY: opened just now; the rest is our caller's word.
        unsafe { libc::dlclose(handle) };
    }
    look(name).is_listed
}

/// Opens a system library by its name and keeps it for the life of the process, so that a plugin
/// is never the first to bring it in (which can pin the plugin for ever).
///
/// # Errors
/// ld.so's own words.
///
/// # Safety
/// - `name` is a library that the host trusts to run its constructors now.
pub(crate) unsafe fn keep(name: &str) -> Result<(), Refusal> {
    let _inside = enter();
    // SAFETY: passed on to our caller.
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.map_err(refusal)?;
    // Never closed: that is the point.
    let _handle = library.into_raw();
    Ok(())
}

/// Opens an object for a plugin, in the words of `dlopen`, or in a namespace, in those of `dlmopen`.
///
/// # Safety
/// - As for `dlopen`: `name` is null or a terminated string, and whoever asks trusts what it names.
pub(crate) unsafe fn open_as_asked(
    namespace: Option<libc::Lmid_t>,
    name: *const c_char,
    flags: c_int,
) -> *mut c_void {
    match namespace {
        // SAFETY: passed on to our caller.
        None => unsafe { libc::dlopen(name, flags) },
        // SAFETY: as above.
        Some(namespace) => unsafe { libc::dlmopen(namespace, name, flags) },
    }
}

/// Gives a handle back, in the words of `dlclose`.
///
/// # Safety
/// - As for `dlclose`: nobody relies on what the handle was opened for.
pub(crate) unsafe fn close_as_asked(handle: *mut c_void) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { libc::dlclose(handle) }
}

/// As [`close_as_asked`], for what was left open.
///
/// # Safety
/// - As there.
pub(crate) unsafe fn close_left(handle: usize) -> bool {
    let _inside = enter();
    // SAFETY: passed on to our caller.
    unsafe { libc::dlclose(handle as *mut c_void) == 0 }
}

/// The public part of glibc's `struct link_map` (`<link.h>`).
#[repr(C)]
struct LinkMap {
    bias: usize,
    name: *const c_char,
    dynamic: *const c_void,
}

/// An address inside the object that a handle is for, if it is one for an object.
///
/// # Safety
/// - The handle is open.
pub(crate) unsafe fn address_in(handle: *mut c_void) -> Option<usize> {
    let mut map: *mut LinkMap = std::ptr::null_mut();
    // SAFETY: an open handle; one pointer is stored.
    let status = unsafe { libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
    if status != 0 {
        return None;
    }
    // SAFETY: glibc keeps the link map while the object is open.
    unsafe { map.as_ref() }.map(|map| map.dynamic.addr())
}
