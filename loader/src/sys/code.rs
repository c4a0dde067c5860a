//! Calls to addresses inside a plugin that the loader itself makes, and reads of its memory.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

use plug_api::abi::{Descriptor, HostContext, ImportHost, ImportSlot, InterfaceEntry, Str};

use super::arguments::Arguments;

type Constructor = unsafe extern "C-unwind" fn(c_int, *mut *mut c_char, *mut *mut c_char);
type Destructor = unsafe extern "C-unwind" fn();

/// The run-time address of a link-time one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted in readside"
)]
pub(crate) fn run_time(bias: usize, svma: u64) -> usize {
    bias.wrapping_add(svma as usize)
}

/// The entries of an init or fini array that are to be called, in file order.
///
/// # Safety
/// - `start` is the run-time address of `size` bytes of relocated pointers that stay mapped.
pub(crate) unsafe fn entries(start: usize, size: u64) -> Vec<usize> {
    let count = usize::try_from(size).unwrap_or(0) / size_of::<usize>();
    (0..count)
        .map(|n| {
            let slot = (start as *const usize).wrapping_add(n);
            // SAFETY: inside the array the caller vouches for; the address may be unaligned in
            // a strange file.
            unsafe { slot.read_unaligned() }
        })
        // ld.so's own rule: 0 and -1 are no functions.
        .filter(|&entry| entry != 0 && entry != usize::MAX)
        .collect()
}

/// Runs one constructor.
///
/// # Safety
/// - `address` is a constructor of a mapped, relocated plugin, called once, in order.
pub(crate) unsafe fn construct(address: usize, arguments: Arguments) {
    // SAFETY: the caller vouches for the address; any function may be called with these three.
    let constructor: Constructor = unsafe { std::mem::transmute(address as *const c_void) };
    // SAFETY: as above.
    unsafe { constructor(arguments.argc, arguments.argv, arguments.envp) };
}

/// Runs one destructor.
///
/// # Safety
/// - `address` is a destructor of a mapped plugin whose constructors all ran, called once.
pub(crate) unsafe fn destruct(address: usize) {
    // SAFETY: the caller vouches for the address.
    let destructor: Destructor = unsafe { std::mem::transmute(address as *const c_void) };
    // SAFETY: as above.
    unsafe { destructor() };
}

unsafe extern "C" {
    /// Runs the atexit functions registered under `dso` (glibc, Itanium C++ ABI §3.3.5).
    fn __cxa_finalize(dso: *mut c_void);
}

/// Runs what a half-constructed plugin registered with `atexit` and nothing else.
///
/// # Safety
/// - `dso` is an address inside the mapped plugin.
pub(crate) unsafe fn finalize(dso: usize) {
    // SAFETY: an address under which nothing is registered makes it do nothing.
    unsafe { __cxa_finalize(dso as *mut c_void) };
}

/// Asks an IFUNC resolver for the function it chose.
///
/// # Safety
/// - `address` is an IFUNC resolver of a mapped, relocated plugin.
pub(crate) unsafe fn resolve_ifunc(address: usize) -> usize {
    // SAFETY: the caller vouches for the address.
    let resolver: unsafe extern "C-unwind" fn() -> usize =
        unsafe { std::mem::transmute(address as *const c_void) };
    // SAFETY: on x86-64 resolvers take no arguments.
    unsafe { resolver() }
}

/// Writes the host's part of the import slot at `address`.
///
/// # Safety
/// - `address` is that of an [`ImportSlot`] in writable memory that nobody reads or writes meanwhile.
pub(crate) unsafe fn write_import(address: usize, host: ImportHost) {
    let host_at = address.wrapping_add(offset_of!(ImportSlot, host));
    // SAFETY: inside the slot the caller vouches for.
    unsafe { (host_at as *mut ImportHost).write_unaligned(host) };
}

/// The descriptor at `address`, copied.
///
/// # Safety
/// - `address` is the plugin's descriptor symbol, mapped and at least 8 bytes long.
/// - `size` is the symbol's size.
pub(crate) unsafe fn descriptor(address: usize, size: u64) -> Result<Descriptor, String> {
    let versions = address as *const [u32; 2];
    // SAFETY: the caller vouches for 8 readable bytes.
    let [version, said] = unsafe { versions.read_unaligned() };
    if version != plug_api::abi::ABI_VERSION {
        return Err(format!(
            "descriptor: abi_version: expected {}, found {version}; rebuild the plugin with this \
             host's plug-api",
            plug_api::abi::ABI_VERSION
        ));
    }
    let needed = size_of::<Descriptor>();
    if (said as usize) < needed || size < needed as u64 {
        return Err(format!(
            "descriptor: size: expected at least {needed}, found {said} in a symbol of {size} bytes"
        ));
    }
    // SAFETY: version 1 of at least the full size, as just checked.
    Ok(unsafe { (address as *const Descriptor).read_unaligned() })
}

/// The interface entries of a descriptor, with their names.
///
/// # Safety
/// - `descriptor` was read from a mapped plugin and its pointers are what version 1 says.
pub(crate) unsafe fn interfaces(descriptor: &Descriptor) -> Vec<(String, InterfaceEntry)> {
    if descriptor.interfaces.is_null() {
        return Vec::new();
    }
    (0..descriptor.n_interfaces)
        .map(|n| {
            // SAFETY: inside the array that the descriptor declares.
            let entry = unsafe { descriptor.interfaces.wrapping_add(n).read() };
            // SAFETY: the entry's name is borrowed text of the plugin.
            (unsafe { text(entry.name) }, entry)
        })
        .collect()
}

/// Copies borrowed text; what is not UTF-8 is replaced.
///
/// # Safety
/// - `text` points at `len` readable bytes, or `len` is 0.
pub(crate) unsafe fn text(text: Str) -> String {
    if text.len == 0 || text.ptr.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for the bytes.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a plugin's `init`.
///
/// # Safety
/// - `init` belongs to a mapped plugin whose constructors ran; `context` lives until its exit.
pub(crate) unsafe fn init(
    init: unsafe extern "C-unwind" fn(*const HostContext) -> i32,
    context: *const HostContext,
) -> i32 {
    // SAFETY: the caller vouches for both.
    unsafe { init(context) }
}

/// Tells a plugin the value of a parameter; its status, 0 where it took it.
///
/// # Safety
/// - `setter` is the parameter's setter in a mapped plugin whose constructors ran, and stays so
///   during the call; `context` is the plugin's.
pub(crate) unsafe fn set_param(setter: usize, context: *const HostContext, value: &str) -> i32 {
    type Setter = unsafe extern "C-unwind" fn(*const HostContext, Str) -> i32;
    // SAFETY: the caller vouches for the address.
    let setter: Setter = unsafe { std::mem::transmute(setter as *const c_void) };
    // SAFETY: as above; the text is lent for the call.
    unsafe { setter(context, Str::new(value)) }
}

/// The state that a plugin hands over: its version and bytes; none where it gave none. The status
/// is 0 where it agreed.
///
/// # Safety
/// - `save` is the function of that name in a mapped plugin whose `init` ran, and stays so during
///   the call; `context` is the plugin's.
pub(crate) unsafe fn save(
    save: usize,
    context: *const HostContext,
) -> (i32, Option<(u32, Vec<u8>)>) {
    type Put = unsafe extern "C" fn(*mut c_void, u32, *const u8, usize);
    type Save = unsafe extern "C-unwind" fn(*const HostContext, Put, *mut c_void) -> i32;
    unsafe extern "C" fn put(to: *mut c_void, version: u32, bytes: *const u8, len: usize) {
        // SAFETY: the plugin hands back what it was given below.
        let kept = unsafe { &mut *to.cast::<Option<(u32, Vec<u8>)>>() };
        let copy = match len {
            0 => Vec::new(),
            // SAFETY: the plugin lends so many bytes for the call.
            _ => unsafe { std::slice::from_raw_parts(bytes, len) }.to_vec(),
        };
        *kept = Some((version, copy));
    }
    // SAFETY: the caller vouches for the address.
    let save: Save = unsafe { std::mem::transmute(save as *const c_void) };
    let mut kept: Option<(u32, Vec<u8>)> = None;
    // SAFETY: as above; `kept` outlives the call.
    let status = unsafe { save(context, put, (&raw mut kept).cast()) };
    (status, kept)
}

/// Gives a plugin the state that another version handed over; its status, 0 where it took it.
///
/// # Safety
/// - `restore` is the function of that name in a mapped plugin whose `init` ran, and stays so during
///   the call; `context` is the plugin's.
pub(crate) unsafe fn restore(
    restore: usize,
    context: *const HostContext,
    version: u32,
    state: &[u8],
) -> i32 {
    type Restore = unsafe extern "C-unwind" fn(*const HostContext, u32, *const u8, usize) -> i32;
    // SAFETY: the caller vouches for the address.
    let restore: Restore = unsafe { std::mem::transmute(restore as *const c_void) };
    // SAFETY: as above; the bytes are lent for the call.
    unsafe { restore(context, version, state.as_ptr(), state.len()) }
}

/// The bytes of a mapped plugin at a run-time address.
///
/// # Safety
/// - `len` bytes at `address` are mapped readable and stay so for the duration of the use.
pub(crate) unsafe fn bytes<'a>(address: usize, len: usize) -> &'a [u8] {
    // SAFETY: the caller vouches for the range.
    unsafe { std::slice::from_raw_parts(address as *const u8, len) }
}
