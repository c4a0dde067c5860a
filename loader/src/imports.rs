//! Functions of other plugins that a plugin imports: what stands behind its slots, and the calls
//! through them.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plug_api::abi::{ImportCall, ImportHost, STATUS_FAILED, STATUS_OK, Str};

use crate::calls::{self, By, Imported};
use crate::image::PluginImport;
use crate::lineage::{Bearing, Lineage, Place};
use crate::sys::code;
use crate::witness;

/// What stands behind one slot. In one place for as long as the plugin is mapped.
#[derive(Debug)]
pub(crate) struct Binding {
    /// Whether calls lead to the function yet. Written by the load once constructors have run, read
    /// by every call. Release and Acquire, since a plugin's own thread may call just then.
    is_open: AtomicBool,
    /// Whether it was called before. Written by such calls, read by the load after the constructors,
    /// on whose thread or after whose threads' end: Relaxed.
    was_early: AtomicBool,
    /// Where the function was at the load, and where it is after a replace; none in a rehearsal.
    to: Option<(Place, Bearing)>,
    /// Who imports.
    user: Box<str>,
    import: PluginImport,
}

impl Binding {
    /// The binding of `user`'s `import`, which refuses calls until it is opened.
    pub(crate) fn new(user: &str, import: PluginImport, to: Option<(Place, Bearing)>) -> Self {
        Self {
            is_open: AtomicBool::new(false),
            was_early: AtomicBool::new(false),
            to,
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
        self.is_open.store(self.to.is_some(), Ordering::Release);
    }

    /// Whether it was called before it was opened. Never in a rehearsal, where it is not to be had.
    pub(crate) fn was_early(&self) -> bool {
        self.to.is_some() && self.was_early.load(Ordering::Relaxed)
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

    /// Refuses a call: what a trapping stub does, but for the host's sake it does not trap.
    #[cold]
    fn refuse(&self) -> *const c_void {
        let Self { user, import, .. } = self;
        let why = match &self.to {
            Some(_) if !self.is_open.load(Ordering::Relaxed) => {
                self.was_early.store(true, Ordering::Relaxed);
                format!("import {import}: called by {user} before its init")
            }
            Some(_) => format!("import {import}: the plugin is gone"),
            None => {
                witness::lacks(&format!("plugin {}", import.plugin));
                format!("import {import}: there are no other plugins in a rehearsal")
            }
        };
        calls::refuse_imported(why.into());
        ptr::null()
    }
}

/// What the loader notes of a call in the caller's memory.
type Noted = Imported;

const _: () = assert!(size_of::<Noted>() <= size_of::<ImportCall>());
const _: () = assert!(align_of::<Noted>() <= align_of::<ImportCall>());

/// [`ImportHost::enter`].
unsafe extern "C" fn enter(binding: *const c_void, call: *mut ImportCall) -> *const c_void {
    // SAFETY: written by Binding::write_to(), whose caller keeps the binding where it is.
    let binding = unsafe { &*binding.cast::<Binding>() };
    let Some((place, bearing)) = &binding.to else {
        return binding.refuse();
    };
    if !binding.is_open.load(Ordering::Acquire) {
        return binding.refuse();
    }
    let (entered, address) = match calls::enter(None, place.id, By::Word(place.word), place.address)
    {
        Ok(entered) => (entered, place.address),
        // Replaced since.
        Err(_) => match bearing.enter(None) {
            Ok((entered, place)) => (entered, place.address),
            Err(_) => return binding.refuse(),
        },
    };
    let noted = Imported::of(entered);
    // SAFETY: the caller's memory, of this size and alignment, as asserted above.
    unsafe { call.cast::<Noted>().write(noted) };
    address as *const c_void
}

/// [`ImportHost::leave`].
unsafe extern "C" fn leave(call: *mut ImportCall) -> i32 {
    // SAFETY: what enter() wrote there; the caller leaves once.
    let noted = unsafe { call.cast::<Noted>().read() };
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
        self.to.push(Arc::clone(lineage));
    }
}

impl Drop for References {
    fn drop(&mut self) {
        for lineage in &self.to {
            lineage.forget(self.user);
        }
    }
}
