//! The host's side: driving an instance.

use std::ptr::NonNull;
use std::slice;

use plug_api::abi::{Descriptor, HostContext, Interface, KIND_INTERFACE};

use crate::{FilterV1, Opaque, ParamList, Sink};

/// One instance of a filter.
///
/// It does not keep its plugin loaded, and does not destroy itself when dropped: both are calls
/// into the plugin, which a host makes only while it holds the plugin in place. For the same
/// reason the table is passed to each call anew.
#[derive(Debug)]
#[must_use]
pub struct Instance {
    raw: NonNull<Opaque>,
}

// SAFETY: an instance is used by one thread at a time, any thread, by the contract of FilterV1;
// `&mut self` keeps two threads from doing so.
unsafe impl Send for Instance {}

impl Instance {
    /// Creates an instance; `None` when the filter refused, with its reason raised.
    ///
    /// # Safety
    /// - `table` belongs to a plugin that stays in place during the call.
    /// - `context` is null, or stays valid until [`Instance::destroy`] has returned.
    pub unsafe fn create(
        table: &FilterV1,
        context: *const HostContext,
        params: &ParamList<'_>,
    ) -> Option<Instance> {
        // SAFETY: the caller promises table and context; `params` lives for the call.
        let raw = params.with(|params| unsafe { (table.create)(context, params) });
        NonNull::new(raw).map(|raw| Instance { raw })
    }

    /// Passes one block; `out` takes what the filter writes. Returns the status.
    ///
    /// # Safety
    /// - `table` is the one this instance was created with; its plugin stays in place.
    pub unsafe fn process<W: FnMut(&[u8])>(
        &mut self,
        table: &FilterV1,
        input: &[u8],
        out: &mut W,
    ) -> i32 {
        let sink = sink_to(out);
        // SAFETY: the caller promises the table; input and sink live for the call.
        unsafe {
            (table.process)(
                self.raw.as_ptr(),
                input.as_ptr(),
                input.len(),
                &raw const sink,
            )
        }
    }

    /// Ends the stream. Returns the status.
    ///
    /// # Safety
    /// - As for [`Instance::process`]; not called before on this instance.
    pub unsafe fn finish<W: FnMut(&[u8])>(&mut self, table: &FilterV1, out: &mut W) -> i32 {
        let sink = sink_to(out);
        // SAFETY: the caller promises the table; the sink lives for the call.
        unsafe { (table.finish)(self.raw.as_ptr(), &raw const sink) }
    }

    /// Takes the instance away.
    ///
    /// # Safety
    /// - As for [`Instance::process`].
    pub unsafe fn destroy(self, table: &FilterV1) {
        // SAFETY: the caller promises the table; `self` is gone afterwards.
        unsafe { (table.destroy)(self.raw.as_ptr()) }
    }

    /// The plugin's pointer, for hosts that call the table themselves.
    pub fn as_raw(&self) -> *mut Opaque {
        self.raw.as_ptr()
    }
}

/// A sink that calls `out`; to be used only while `out` is borrowed.
///
/// A panic of `out` ends the process, because it would have to cross the plugin.
pub fn sink_to<W: FnMut(&[u8])>(out: &mut W) -> Sink {
    unsafe extern "C" fn write<W: FnMut(&[u8])>(
        state: *mut std::ffi::c_void,
        bytes: *const u8,
        len: usize,
    ) -> i32 {
        // SAFETY: `state` is the `out` of sink_to, still borrowed by its caller.
        let out: &mut W = unsafe { &mut *state.cast() };
        if len > 0 {
            // SAFETY: the filter passes `len` readable bytes.
            out(unsafe { slice::from_raw_parts(bytes, len) });
        }
        0
    }
    Sink {
        state: std::ptr::from_mut(out).cast(),
        write: write::<W>,
    }
}

/// The filter table that `descriptor` exports.
///
/// # Safety
/// - `descriptor` is one that a plugin's author declared, and its plugin stays in place for as
///   long as the table is used.
pub unsafe fn table_of(descriptor: &'static Descriptor) -> Option<&'static FilterV1> {
    if descriptor.n_interfaces == 0 {
        return None;
    }
    // SAFETY: a declared descriptor has `n_interfaces` entries.
    let entries = unsafe { slice::from_raw_parts(descriptor.interfaces, descriptor.n_interfaces) };
    let entry = entries.iter().find(|entry| {
        // SAFETY: an entry's name is a constant of the plugin.
        let name = unsafe { entry.name.as_str() };
        name == Some(FilterV1::NAME)
            && entry.kind == KIND_INTERFACE
            && entry.major == FilterV1::MAJOR
            && (FilterV1::MINOR..).contains(&entry.minor)
            && entry.table_size as usize >= size_of::<FilterV1>()
    })?;
    // SAFETY: name, version and size say that it is a FilterV1; it lives as long as the plugin.
    unsafe { entry.table.cast::<FilterV1>().as_ref() }
}
