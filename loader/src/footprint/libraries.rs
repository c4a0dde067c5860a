//! Libraries that plugins open by themselves: found where the plugin's original would find them, and
//! closed when it leaves.
//!
//! ld.so looks at who calls `dlopen`, which would be the loader. And it knows the plugin by where
//! its copy lies. So a bare name is looked for here first, in the folders that the original asks for.

use std::env;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::hooks::owner;
use super::ledger::Owner;
use crate::calls;
use crate::deadline::{Deadline, lock_until};
use crate::sys::{dl, task};

/// Where a plugin's original looks for libraries.
#[derive(Debug)]
pub(crate) struct Search {
    /// The folder that the original lies in: `$ORIGIN`.
    pub(crate) origin: PathBuf,
    /// `DT_RPATH`.
    pub(crate) rpath: Option<String>,
    /// `DT_RUNPATH`.
    pub(crate) runpath: Option<String>,
}

/// What is known about loads that may open libraries.
#[derive(Debug, Default)]
struct Opened {
    searches: Vec<(u64, Arc<Search>)>,
    /// Handles that are open, in the order of opening, each as often as it was opened.
    handles: Vec<(u64, usize)>,
}

/// Never held while ld.so is at work.
static OPENED: Mutex<Opened> = Mutex::new(Opened {
    searches: Vec::new(),
    handles: Vec::new(),
});

fn lock() -> MutexGuard<'static, Opened> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the load `generation` find libraries as its original would.
pub(super) fn know(generation: u64, search: Search) {
    lock().searches.push((generation, Arc::new(search)));
}

/// `LD_LIBRARY_PATH` as it was when it was first asked for; ld.so looks at it only once, too.
fn library_path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| env::var("LD_LIBRARY_PATH").unwrap_or_default())
}

impl Search {
    /// A path with `$ORIGIN` put in; none with another token, whose meaning only ld.so knows.
    fn expanded(&self, path: &str) -> Option<PathBuf> {
        let origin = self.origin.to_str()?;
        let path = path.replace("${ORIGIN}", origin);
        let path = path.replace("$ORIGIN", origin);
        (!path.contains('$')).then(|| path.into())
    }

    /// The file that the original would get for a name, where ld.so would not find the same by
    /// itself.
    fn find(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            return name.contains('$').then(|| self.expanded(name)).flatten();
        }
        let rpath = self.rpath.as_deref().filter(|_| self.runpath.is_none());
        if rpath.is_none() && self.runpath.is_none() {
            return None;
        }
        let lists = [
            rpath.map(|list| (list, ':')),
            Some((library_path(), ';')),
            self.runpath.as_deref().map(|list| (list, ':')),
        ];
        for (list, other) in lists.into_iter().flatten() {
            if list.is_empty() {
                continue;
            }
            let folders = list.split([':', other]);
            let files = folders.filter_map(|folder| {
                // As for ld.so, no folder is the present one.
                let folder = if folder.is_empty() { "." } else { folder };
                Some(self.expanded(folder)?.join(name))
            });
            let mut fitting = files.filter(|file| is_object(file));
            if let Some(found) = fitting.next() {
                return Some(found);
            }
        }
        None
    }
}

/// Whether a file is an object for this machine: ld.so passes over others.
fn is_object(path: &Path) -> bool {
    // Class, byte order and machine of the loader itself.
    const MACHINE: u8 = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    let mut start = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start.starts_with(b"\x7fELF\x02\x01") && start.get(18) == Some(&MACHINE)
}

/// The path to open in the place of `name` for the load `generation`, if it is another.
fn resolved(generation: u64, name: &CStr) -> Option<CString> {
    let known = lock();
    let mut searches = known.searches.iter();
    let search = searches.find(|(of, _)| *of == generation);
    let search = search.map(|(_, search)| Arc::clone(search))?;
    drop(known);
    let found = search.find(OsStr::from_bytes(name.to_bytes()).to_str()?)?;
    CString::new(found.into_os_string().into_vec()).ok()
}

/// What `dlopen` and `dlmopen` come to, called by the function at `caller`.
///
/// # Safety
/// - As for them.
unsafe fn open(
    namespace: Option<libc::Lmid_t>,
    name: *const c_char,
    flags: c_int,
    caller: usize,
) -> *mut c_void {
    let near = [caller, name.addr(), calls::current()];
    let owner = match near.into_iter().find_map(owner) {
        Some(owner) if !name.is_null() && !task::is_guest() => owner,
        // SAFETY: passed on as it came.
        _ => return unsafe { dl::open_as_asked(namespace, name, flags) },
    };
    // SAFETY: a terminated string, as for dlopen().
    let asked = unsafe { CStr::from_ptr(name) };
    // What is loaded under that name is taken before anything is looked for.
    let is_loaded = !asked.to_bytes().contains(&b'/') && {
        let only_look = libc::RTLD_NOLOAD | libc::RTLD_LAZY;
        // SAFETY: loads nothing.
        let loaded = unsafe { dl::open_as_asked(namespace, name, only_look) };
        // SAFETY: opened just now, and nobody knows it.
        !loaded.is_null() && unsafe { dl::close_as_asked(loaded) } == 0
    };
    let instead = if is_loaded {
        None
    } else {
        resolved(owner.generation, asked)
    };
    let name = instead.as_ref().map_or(name, |instead| instead.as_ptr());
    let first = flags & !libc::RTLD_NODELETE;
    // SAFETY: what was asked for, where the plugin meant it to be.
    let mut handle = unsafe { dl::open_as_asked(namespace, name, first) };
    if handle.is_null() {
        return handle;
    }
    if first != flags {
        // SAFETY: opened just now.
        let is_itself = unsafe { is_of(handle, owner) };
        let again = if is_itself {
            // No file's name: ld.so says so, and with it why.
            c"/plug: refused: RTLD_NODELETE for the plugin itself".as_ptr()
        } else {
            name
        };
        let before = handle;
        // SAFETY: as above.
        handle = unsafe { dl::open_as_asked(namespace, again, flags) };
        // SAFETY: opened above, and nobody knows it.
        unsafe { dl::close_left(before.addr()) };
        if handle.is_null() {
            // What went wrong is forgotten by now.
            // SAFETY: as above.
            return unsafe { dl::open_as_asked(namespace, again, flags) };
        }
    }
    lock().handles.push((owner.generation, handle.addr()));
    handle
}

/// Whether a handle is for the plugin itself.
///
/// # Safety
/// - The handle is open.
unsafe fn is_of(handle: *mut c_void, owner: Owner) -> bool {
    // SAFETY: the caller's word.
    let address = unsafe { dl::address_in(handle) };
    address.and_then(self::owner) == Some(owner)
}

unsafe extern "C-unwind" fn dlopen(
    name: *const c_char,
    flags: c_int,
    caller: usize,
) -> *mut c_void {
    // SAFETY: passed on as it came.
    unsafe { open(None, name, flags, caller) }
}

unsafe extern "C-unwind" fn dlmopen(
    namespace: libc::Lmid_t,
    name: *const c_char,
    flags: c_int,
    caller: usize,
) -> *mut c_void {
    // SAFETY: passed on as it came.
    unsafe { open(Some(namespace), name, flags, caller) }
}

unsafe extern "C-unwind" fn dlclose(handle: *mut c_void, caller: usize) -> c_int {
    // SAFETY: passed on as it came.
    let status = unsafe { dl::close_as_asked(handle) };
    if status == 0 && !task::is_guest() {
        let near = [caller, calls::current()];
        let by = near.into_iter().find_map(owner);
        let mut opened = lock();
        let is_it = |of: u64| by.is_none_or(|by| by.generation == of);
        let mut open = opened.handles.iter();
        let at = open.rposition(|(of, open)| *open == handle.addr() && is_it(*of));
        at.map(|at| opened.handles.remove(at));
    }
    status
}

super::with_caller! {
    /// `dlopen`.
    pub(super) fn dlopen_hook(third) => dlopen;
    /// `dlmopen`.
    pub(super) fn dlmopen_hook(fourth) => dlmopen;
    /// `dlclose`.
    pub(super) fn dlclose_hook(second) => dlclose;
}

/// Closes what the load left open, the last first, and forgets it. Thread context; its own
/// destructors have run.
pub(super) fn release(generation: u64) {
    let mut opened = lock();
    opened.searches.retain(|(of, _)| *of != generation);
    let is_own = |(of, _): &(u64, usize)| *of == generation;
    if !opened.handles.iter().any(is_own) {
        return;
    }
    let (own, others) = opened.handles.drain(..).partition::<Vec<_>, _>(is_own);
    opened.handles = others;
    drop(opened);
    for (_, handle) in own.into_iter().rev() {
        // SAFETY: the plugin opened it, has not closed it, and runs no more.
        let closed = unsafe { dl::close_left(handle) };
        tracing::debug!(target: "plug::footprint", generation, closed, "a library was left open");
    }
}

/// Handles that the load has open.
pub(super) fn count(generation: u64) -> usize {
    let opened = lock();
    let handles = opened.handles.iter();
    handles.filter(|(of, _)| *of == generation).count()
}

/// Keeps everybody from opening, for a fork.
pub(super) fn hold(deadline: Deadline) -> Option<impl Sized> {
    lock_until(&OPENED, deadline)
}
