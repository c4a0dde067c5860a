//! The one door to ld.so: open a staged copy, close it, and see what was mapped.

use std::cell::Cell;
use std::error;
use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

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
        thread::sleep(Duration::from_micros(50));
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
