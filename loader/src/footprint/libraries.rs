//! Libraries that plugins open by themselves: found where the plugin's original would find them, and
//! closed when it leaves.
//!
//! ld.so looks at who calls `dlopen`, which would be the loader. And it knows a plugin and its
//! private dependencies by where their copies lie, not by their own names. So what is asked for is
//! looked for here first: among the objects of the load, then in the folders that the original of
//! the object that asks has it looked for in.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::hooks::owner;
use super::ledger::Owner;
use crate::calls;
use crate::deadline::{Deadline, lock_until};
use crate::image::FileKey;
use crate::image::needed::{self, Requester};
use crate::sys::{dl, task};

/// An object of a load that may open libraries: the plugin, or a private dependency of it.
#[derive(Debug)]
pub(crate) struct Object {
    /// Run-time addresses.
    pub(crate) range: Range<usize>,
    /// How its original has libraries looked for, and those for which it was brought.
    pub(crate) chain: Vec<Requester>,
    /// By which it is known to those who need it.
    pub(crate) names: Vec<String>,
    /// The original.
    pub(crate) path: PathBuf,
    /// The file that the original was.
    pub(crate) key: FileKey,
    /// What ld.so calls the copy.
    pub(crate) link_name: CString,
}

/// The objects of one load, the plugin first.
type Objects = Arc<[Object]>;

/// What is known about loads that may open libraries.
#[derive(Debug, Default)]
struct Opened {
    loads: Vec<(u64, Objects)>,
    /// Handles that are open, in the order of opening, each as often as it was opened.
    handles: Vec<(u64, usize)>,
}

/// Never held while ld.so is at work.
static OPENED: Mutex<Opened> = Mutex::new(Opened {
    loads: Vec::new(),
    handles: Vec::new(),
});

fn lock() -> MutexGuard<'static, Opened> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the load `generation`, which consists of `objects`, find libraries as its originals would.
pub(super) fn know(generation: u64, objects: Vec<Object>) {
    lock().loads.push((generation, objects.into()));
}

/// The objects of the load `generation`.
fn objects(generation: u64) -> Option<Objects> {
    let known = lock();
    let mut loads = known.loads.iter();
    let load = loads.find(|(of, _)| *of == generation);
    load.map(|(_, objects)| Arc::clone(objects))
}

/// The object whose original a path leads to: by the path itself, or by the file.
fn at_path<'a>(objects: &'a [Object], path: &Path) -> Option<&'a Object> {
    if let Some(same) = objects.iter().find(|object| object.path == path) {
        return Some(same);
    }
    let key = FileKey::of(path)?;
    // An original that is gone leaves its number to another file: its own path says whether it is.
    let is_it = |object: &&Object| object.key == key && FileKey::of(&object.path) == Some(key);
    objects.iter().find(is_it)
}

/// The file that the original of the object at `caller` would get for a name, where ld.so would not
/// find the same by itself.
fn found(objects: &[Object], caller: usize, name: &str) -> Option<PathBuf> {
    let mut covering = objects.iter();
    let asking = covering.find(|object| object.range.contains(&caller));
    let chain: Vec<&Requester> = asking.or(objects.first())?.chain.iter().collect();
    if !name.contains('/') && !chain.iter().any(|of| of.has_paths()) {
        return None;
    }
    needed::find(name, &chain).map(|(path, _)| path)
}

/// What to open in the place of what the code at `caller` asked for, if it is another.
fn instead(
    objects: &[Object],
    namespace: Option<libc::Lmid_t>,
    caller: usize,
    asked: &CStr,
) -> Option<CString> {
    let name = asked.to_str().ok()?;
    // Other namespaces have none of the load's objects.
    let is_base = namespace.is_none_or(|namespace| namespace == libc::LM_ID_BASE);
    let own = if is_base { objects } else { &[] };
    let mut named = own.iter();
    if let Some(known) = named.find(|object| object.names.iter().any(|own| own == name)) {
        return Some(known.link_name.clone());
    }
    // What is loaded under a name is taken before anything is looked for.
    if !name.contains('/') && is_loaded(namespace, asked) {
        return None;
    }
    let found = found(objects, caller, name)?;
    if let Some(known) = at_path(own, &found) {
        return Some(known.link_name.clone());
    }
    CString::new(found.into_os_string().into_vec()).ok()
}

/// Whether ld.so has a library under a name.
fn is_loaded(namespace: Option<libc::Lmid_t>, name: &CStr) -> bool {
    let only_look = libc::RTLD_NOLOAD | libc::RTLD_LAZY;
    // SAFETY: a terminated name; loads nothing.
    let loaded = unsafe { dl::open_as_asked(namespace, name.as_ptr(), only_look) };
    // SAFETY: opened just now, and nobody knows it.
    !loaded.is_null() && unsafe { dl::close_as_asked(loaded) } == 0
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
    let mut near = [caller, name.addr(), calls::current()].into_iter();
    let (caller, owner) = match near.find_map(|at| Some((at, owner(at)?))) {
        Some(found) if !name.is_null() && !task::is_guest() => found,
        // SAFETY: passed on as it came.
        _ => return unsafe { dl::open_as_asked(namespace, name, flags) },
    };
    // SAFETY: a terminated string, as for dlopen().
    let asked = unsafe { CStr::from_ptr(name) };
    let objects = objects(owner.generation);
    let instead = objects.and_then(|objects| instead(&objects, namespace, caller, asked));
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
    opened.loads.retain(|(of, _)| *of != generation);
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
