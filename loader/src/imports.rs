//! Functions of other plugins that a plugin imports: what stands behind its slots, and the calls
//! through them.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plug_api::abi::{ImportCall, ImportHost, STATUS_FAILED, STATUS_OK, Str};

use crate::calls::{self, By, Entered, Imported};
use crate::image::PluginImport;
use crate::lineage::{Bearing, Lineage, Place};
use crate::sys::code;
use crate::witness;

/// What stands behind one slot. In one place for as long as the plugin is mapped.
#[derive(Debug)]
pub(crate) struct Binding {
    /// The state word of the version that was found, once calls may lead there, and 0 before: no
    /// slot's. Written by the load when constructors have run, read by every call. Release and
    /// Acquire, since a thread of the plugin's may call just then.
    word: AtomicU64,
    /// Where the function is in that version.
    place: Place,
    /// Where it is after a replace; none in a rehearsal.
    bearing: Option<Bearing>,
    /// Whether it was called before. Written by such calls, read by the load after the constructors,
    /// on whose thread or after whose threads' end: Relaxed.
    was_early: AtomicBool,
    /// Who imports.
    user: Box<str>,
    import: PluginImport,
}

impl Binding {
    /// The binding of `user`'s `import`, which refuses calls until it is opened.
    pub(crate) fn new(user: &str, import: PluginImport, to: Option<(Place, Bearing)>) -> Self {
        Self {
            word: AtomicU64::new(0),
            place: to.map_or_else(Place::default, |(place, _)| place),
            bearing: to.map(|(_, bearing)| bearing),
            was_early: AtomicBool::new(false),
            user: user.into(),
            import,
        }
    }

    /// What it is for.
    pub(crate) fn import(&self) -> &PluginImport {
        &self.import
    }

    /// Leads calls to the function from here on, if there is one.
    pub(crate) fn open(&self) {
        self.word.store(self.place.word, Ordering::Release);
    }

    /// Whether it was called before it was opened. Never in a rehearsal, where it is not to be had.
    pub(crate) fn was_early(&self) -> bool {
        self.bearing.is_some() && self.was_early.load(Ordering::Relaxed)
    }

    /// Writes it into the slot at a run-time address.
    ///
    /// # Safety
    /// - `slot` is the address of an [`ImportSlot`](plug_api::abi::ImportSlot) in writable memory of
    ///   a plugin none of whose code has run.
    /// - `self` stays where it is for as long as any of that code runs.
    pub(crate) unsafe fn write_to(&self, slot: usize) {
        let host = ImportHost {
            enter: Some(enter),
            leave: Some(leave),
            take: Some(take),
            binding: ptr::from_ref(self).cast(),
        };
        // SAFETY: passed on to the caller.
        unsafe { code::write_import(slot, host) };
    }

    /// Enters on a thread that is no worker's, or after a replace; or refuses.
    fn enter(&self) -> Option<(Entered<'static>, usize)> {
        let place = self.place;
        let bearing = match self.word.load(Ordering::Acquire) {
            0 => None,
            _ => self.bearing,
        };
        let Some(bearing) = bearing else {
            self.refuse();
            return None;
        };
        if let Ok(entered) = calls::enter(None, place.id, By::Word(place.word), place.address) {
            return Some((entered, place.address));
        }
        let successor = bearing.enter(None);
        if successor.is_err() {
            self.refuse();
        }
        successor
            .ok()
            .map(|(entered, place)| (entered, place.address))
    }

    /// Refuses a call: what a trapping stub does, but for the host's sake it does not trap.
    fn refuse(&self) {
        let Self { user, import, .. } = self;
        let why = if self.bearing.is_none() {
            witness::lacks(&format!("plugin {}", import.plugin));
            "there are no other plugins in a rehearsal".to_owned()
        } else if self.word.load(Ordering::Relaxed) == 0 {
            self.was_early.store(true, Ordering::Relaxed);
            format!("called by {user} before its init")
        } else {
            "the plugin is gone".to_owned()
        };
        calls::fail_imported(format!("import {import}: {why}").into());
    }
}

const _: () = assert!(size_of::<Imported>() <= size_of::<ImportCall>());
const _: () = assert!(align_of::<Imported>() <= align_of::<ImportCall>());

/// [`ImportHost::enter`].
unsafe extern "C" fn enter(binding: *const c_void, call: *mut ImportCall) -> *const c_void {
    // SAFETY: written by Binding::write_to(), whose caller keeps the binding where it is.
    let bound = unsafe { &*binding.cast::<Binding>() };
    let (place, word) = (&bound.place, bound.word.load(Ordering::Acquire));
    let Some(entered) = calls::enter_own(place.id, word, place.address) else {
        // SAFETY: passed on to the caller.
        return unsafe { enter_slowly(bound, call) };
    };
    // SAFETY: the caller's memory, of this size and alignment, as asserted above.
    unsafe { call.cast::<Imported>().write(Imported::of(entered)) };
    place.address as *const c_void
}

/// What [`enter`] does not do itself. Apart, so that it keeps no registers.
#[cold]
#[inline(never)]
unsafe extern "C" fn enter_slowly(binding: &Binding, call: *mut ImportCall) -> *const c_void {
    let Some((entered, address)) = binding.enter() else {
        return ptr::null();
    };
    // SAFETY: as in enter().
    unsafe { call.cast::<Imported>().write(Imported::of(entered)) };
    address as *const c_void
}

/// [`ImportHost::leave`].
unsafe extern "C" fn leave(call: *mut ImportCall) -> i32 {
    // SAFETY: what enter() wrote there; the caller leaves once.
    let noted = unsafe { call.cast::<Imported>().read() };
    match noted.finish() {
        true => STATUS_OK,
        false => STATUS_FAILED,
    }
}

/// [`ImportHost::take`].
unsafe extern "C" fn take(
    put: unsafe extern "C" fn(to: *mut c_void, message: Str),
    to: *mut c_void,
) -> i32 {
    let Some(text) = calls::take_imported() else {
        return 0;
    };
    // SAFETY: the caller's function, with what it wants to get.
    unsafe { put(to, Str::new(&text)) };
    1
}

/// The plugins that one load imports functions of: none of them is unloaded while this is there.
#[derive(Debug)]
pub(crate) struct References {
    /// The load.
    user: u64,
    to: Vec<Arc<Lineage>>,
}

impl References {
    pub(crate) fn of(user: u64) -> Self {
        let to = Vec::new();
        Self { user, to }
    }

    /// Gives up what is imported of `lineage` as well, once this is dropped.
    pub(crate) fn add(&mut self, lineage: &Arc<Lineage>) {
        if !self.to.iter().any(|other| Arc::ptr_eq(other, lineage)) {
            self.to.push(Arc::clone(lineage));
        }
    }
}

impl Drop for References {
    fn drop(&mut self) {
        for lineage in &self.to {
            lineage.forget(self.user);
        }
    }
}
