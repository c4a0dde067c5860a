//! The binary contract between a host and a plugin, version 1: every type that crosses the border.
//!
//! `include/plugin_api.h` says the same in C; static assertions on both sides pin each layout.
//! Fields are only ever appended, and `abi_version` and `size` come first so that both sides can
//! tell what the other knows.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::MaybeUninit;

use crate::portable::Layout;

/// The version of this contract.
pub const ABI_VERSION: u32 = 1;

/// Name of the exported [`Descriptor`] every plugin has.
pub const DESCRIPTOR_SYMBOL: &str = "plug_descriptor_v1";

/// Every exported data symbol whose name starts with this holds `key=value\0` strings.
pub const METADATA_PREFIX: &str = "plug_meta_v1";

/// Name of the exported function that saves a plugin's state for the version that replaces it, while
/// calls go on: `int32_t (const HostContext *, put, void *to)`, where `put(to, version, bytes, len)`
/// hands it over. Not [`STATUS_OK`] refuses the replace.
pub const SAVE_SYMBOL: &str = "plug_save_v1";

/// Name of the exported function that takes what the replaced version saved, after `init`:
/// `int32_t (const HostContext *, uint32_t version, bytes, len)`. Not [`STATUS_OK`] refuses the
/// replace.
pub const RESTORE_SYMBOL: &str = "plug_restore_v1";

/// Prefix of the exported [`ImportSlot`]s; the imported symbol follows.
pub const IMPORT_PREFIX: &str = "plug_import_v1_";

/// Success.
pub const STATUS_OK: i32 = 0;

/// A panic or an exception was caught inside the plugin; its text went to [`HostContext::raise`].
pub const STATUS_CAUGHT: i32 = 1;

/// The author's own error from plugins written with this crate; every negative status is one.
pub const STATUS_FAILED: i32 = -1;

/// [`InterfaceEntry::kind`] of an interface that the host calls.
pub const KIND_INTERFACE: u32 = 0;

/// [`InterfaceEntry::kind`] of a service that other plugins and the host look up.
pub const KIND_SERVICE: u32 = 1;

/// Borrowed UTF-8 text, valid for the duration of the call that passes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// First byte; may dangle when `len` is 0.
    pub ptr: *const u8,
    /// Length in bytes, no terminating zero counted or needed.
    pub len: usize,
}

impl Str {
    /// The empty text.
    pub const EMPTY: Str = Str::new("");

    /// Borrows `text`; nothing keeps it alive but the caller.
    pub const fn new(text: &str) -> Str {
        Str {
            ptr: text.as_ptr(),
            len: text.len(),
        }
    }

    /// The text, or `None` when the other side sent something that is not UTF-8.
    ///
    /// # Safety
    /// - `ptr` points to `len` bytes that stay readable and unchanged for `'a`, or `len` is 0.
    pub const unsafe fn as_str<'a>(self) -> Option<&'a str> {
        if self.len == 0 {
            return Some("");
        }
        // SAFETY: the caller promises `len` readable bytes at `ptr` for `'a`.
        let bytes = unsafe { core::slice::from_raw_parts(self.ptr, self.len) };
        match core::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(_) => None,
        }
    }
}

/// What the host hands to [`Descriptor::init`]; valid until [`Descriptor::exit`] has returned.
///
/// Every function takes [`HostContext::host`] as its first argument and may be called from any
/// thread, but not from a signal handler.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HostContext {
    /// [`ABI_VERSION`] of the host.
    pub abi_version: u32,
    /// Size of this struct as the host knows it.
    pub size: u32,
    /// The host's own, opaque to the plugin.
    pub host: *mut c_void,
    /// Looks a parameter up: 1 and `*value` when it was given, 0 otherwise.
    ///
    /// Parameters do not change, and their text stays valid as long as this struct.
    pub param: unsafe extern "C" fn(host: *mut c_void, key: Str, value: *mut Str) -> i32,
    /// The parameter at `index` in the order given: 1 while there is one, 0 past the end.
    pub param_at: unsafe extern "C" fn(
        host: *mut c_void,
        index: usize,
        key: *mut Str,
        value: *mut Str,
    ) -> i32,
    /// Writes one log event; `level` is 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub log: unsafe extern "C" fn(host: *mut c_void, level: i32, message: Str),
    /// The table of the host's service `name` with this `major` and at least this `minor`, or null.
    pub service:
        unsafe extern "C" fn(host: *mut c_void, name: Str, major: u32, minor: u32) -> *const c_void,
    /// Says why the call in progress on this thread fails; the last message of a call counts.
    ///
    /// A raised message turns the call into an error at the host, whatever the function returns.
    pub raise: unsafe extern "C" fn(host: *mut c_void, message: Str),
}

/// One interface or service that a plugin exports.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InterfaceEntry {
    /// Name of the interface, for example `plug.filter`.
    pub name: Str,
    /// Major version: another one is another interface.
    pub major: u32,
    /// Minor version: higher ones only append.
    pub minor: u32,
    /// The `repr(C)` table, valid while the plugin is mapped.
    pub table: *const c_void,
    /// Size of the table in bytes.
    pub table_size: u32,
    /// [`KIND_INTERFACE`] or [`KIND_SERVICE`].
    pub kind: u32,
}

/// The one exported table of entry points, under the name [`DESCRIPTOR_SYMBOL`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// [`ABI_VERSION`] the plugin was built against.
    pub abi_version: u32,
    /// Size of this struct as the plugin knows it.
    pub size: u32,
    /// Called once before the plugin is Live; not [`STATUS_OK`] refuses the load.
    pub init: Option<unsafe extern "C-unwind" fn(context: *const HostContext) -> i32>,
    /// Called once after the last call into the plugin has returned.
    pub exit: Option<unsafe extern "C-unwind" fn()>,
    /// The plugin's interfaces and services; may be null when `n_interfaces` is 0.
    pub interfaces: *const InterfaceEntry,
    /// How many there are.
    pub n_interfaces: usize,
}

/// The way to a function of another plugin, exported as data under [`IMPORT_PREFIX`] and its name.
///
/// The host writes what follows `size` before any code of the plugin runs, and nobody afterwards.
#[repr(C)]
#[derive(Debug)]
pub struct ImportSlot {
    /// [`ABI_VERSION`] the plugin was built against.
    pub abi_version: u32,
    /// Size of this struct as the plugin knows it.
    pub size: u32,
    /// What the host writes; all null in a plugin that no loader loaded.
    pub host: UnsafeCell<ImportHost>,
}

/// The host's part of an [`ImportSlot`]: three functions, which are there together or not at all.
///
/// They may be called from any thread, but not from a signal handler.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ImportHost {
    /// Enters the other plugin: the address of its function, or null where it refuses. `call` is
    /// written, and is the caller's memory until `leave`.
    pub enter: Option<
        unsafe extern "C" fn(binding: *const c_void, call: *mut ImportCall) -> *const c_void,
    >,
    /// Leaves what `enter` entered, on the same thread, innermost first: [`STATUS_OK`], or another
    /// status where the function raised an error, which its caller is to take.
    pub leave: Option<unsafe extern "C" fn(call: *mut ImportCall) -> i32>,
    /// Hands the error of the last imported function that was refused or raised one to `put`, and is
    /// 1; or 0. What nobody takes is the error of the plugin's own call in progress.
    pub take: Option<
        unsafe extern "C" fn(
            put: unsafe extern "C" fn(to: *mut c_void, message: Str),
            to: *mut c_void,
        ) -> i32,
    >,
    /// The host's own.
    pub binding: *const c_void,
}

/// What the host notes of a call of an imported function, on the caller's stack.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct ImportCall {
    /// The host's own.
    pub words: [MaybeUninit<u64>; 8],
}

impl ImportCall {
    /// One that nothing is noted in.
    pub const fn new() -> ImportCall {
        ImportCall {
            words: [MaybeUninit::uninit(); 8],
        }
    }
}

impl Default for ImportCall {
    fn default() -> Self {
        Self::new()
    }
}

impl ImportSlot {
    /// One that no host has written.
    #[expect(clippy::cast_possible_truncation, reason = "40 bytes, asserted below")]
    pub const fn new() -> ImportSlot {
        ImportSlot {
            abi_version: ABI_VERSION,
            size: size_of::<ImportSlot>() as u32,
            host: UnsafeCell::new(ImportHost {
                enter: None,
                leave: None,
                take: None,
                binding: core::ptr::null(),
            }),
        }
    }
}

impl Default for ImportSlot {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: written by the host before any thread runs the plugin's code, and never again.
unsafe impl Sync for ImportSlot {}

// SAFETY: a descriptor is immutable for as long as its plugin is mapped; nobody writes through
// its pointers.
unsafe impl Sync for Descriptor {}

// SAFETY: as for Descriptor: immutable while mapped.
unsafe impl Sync for InterfaceEntry {}

/// A versioned `repr(C)` table that plugins export and hosts call, or the reverse for a service.
///
/// # Safety
/// - `Self` is `repr(C)`, and every version with the same name and major begins with the fields
///   of the lower minors.
pub unsafe trait Interface: Sized + 'static {
    /// The interface's name.
    const NAME: &'static str;
    /// The major version this type describes.
    const MAJOR: u32;
    /// The minor version this type describes.
    const MINOR: u32;
    /// Its fields, which both sides compare; none where they are not told.
    const LAYOUT: Option<&'static Layout> = None;
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;

    assert!(size_of::<Str>() == 16);
    assert!(offset_of!(Str, ptr) == 0);
    assert!(offset_of!(Str, len) == 8);

    assert!(size_of::<HostContext>() == 56);
    assert!(offset_of!(HostContext, abi_version) == 0);
    assert!(offset_of!(HostContext, size) == 4);
    assert!(offset_of!(HostContext, host) == 8);
    assert!(offset_of!(HostContext, param) == 16);
    assert!(offset_of!(HostContext, param_at) == 24);
    assert!(offset_of!(HostContext, log) == 32);
    assert!(offset_of!(HostContext, service) == 40);
    assert!(offset_of!(HostContext, raise) == 48);

    assert!(size_of::<InterfaceEntry>() == 40);
    assert!(offset_of!(InterfaceEntry, name) == 0);
    assert!(offset_of!(InterfaceEntry, major) == 16);
    assert!(offset_of!(InterfaceEntry, minor) == 20);
    assert!(offset_of!(InterfaceEntry, table) == 24);
    assert!(offset_of!(InterfaceEntry, table_size) == 32);
    assert!(offset_of!(InterfaceEntry, kind) == 36);

    assert!(size_of::<ImportSlot>() == 40);
    assert!(offset_of!(ImportSlot, abi_version) == 0);
    assert!(offset_of!(ImportSlot, size) == 4);
    assert!(offset_of!(ImportSlot, host) == 8);
    assert!(size_of::<ImportHost>() == 32);
    assert!(offset_of!(ImportHost, enter) == 0);
    assert!(offset_of!(ImportHost, leave) == 8);
    assert!(offset_of!(ImportHost, take) == 16);
    assert!(offset_of!(ImportHost, binding) == 24);
    assert!(size_of::<ImportCall>() == 64);
    assert!(align_of::<ImportCall>() == 16);

    assert!(size_of::<Descriptor>() == 40);
    assert!(offset_of!(Descriptor, abi_version) == 0);
    assert!(offset_of!(Descriptor, size) == 4);
    assert!(offset_of!(Descriptor, init) == 8);
    assert!(offset_of!(Descriptor, exit) == 16);
    assert!(offset_of!(Descriptor, interfaces) == 24);
    assert!(offset_of!(Descriptor, n_interfaces) == 32);
};
