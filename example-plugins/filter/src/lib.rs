//! The example interface: a filter that takes a stream in blocks and writes a stream.
//!
//! What a host author would publish for the authors of plugins: the table [`FilterV1`], the
//! trait [`Filter`] that makes one in Rust, `include/plug_filter.h` for C and C++, and
//! [`Instance`], with which a host drives it. It knows nothing of the loader.
//!
//! An instance belongs to one worker at a time; other instances of the same filter may run on
//! other workers meanwhile. Statuses are 0 for ok, 1 for a caught panic or exception, negative
//! for the author's error; the message went to [`HostContext::raise`]. Output goes through the
//! host's [`Sink`], so no buffer changes its owner.

mod author;
mod host;
mod params;

pub use author::{Filter, Output};
pub use host::{Instance, sink_to, table_of};
pub use params::{ParamList, Params};

use std::ffi::c_void;

use plug_api::abi::HostContext;
use plug_api::portable::{Portable, Type};

/// A filter's own state, opaque to the host.
#[repr(C)]
#[derive(Debug)]
pub struct Opaque {
    _opaque: [u8; 0],
}

// SAFETY: only pointers to it cross, which are C's `void *`.
unsafe impl Portable for Opaque {
    const TYPE: Type = Type::Named("void");
}

plug_api::repr_c! {
    /// Where a filter writes; the host's, valid for the call that passes it.
    #[derive(Clone, Copy, Debug)]
    pub struct Sink("plug_sink") {
        /// The host's own.
        pub state: *mut c_void,
        /// Takes `len` bytes; not 0 means that the host wants no more of this call.
        pub write: unsafe extern "C" fn(state: *mut c_void, bytes: *const u8, len: usize) -> i32,
    }
}

plug_api::interface! {
    /// The functions of one filter.
    #[derive(Clone, Copy, Debug)]
    pub struct FilterV1("plug.filter", 1, 0) {
        /// A new instance, or null with the reason raised. `context` may be null, else it stays
        /// valid until `destroy`; `params` is valid for the call.
        pub create: unsafe extern "C-unwind" fn(
            context: *const HostContext,
            params: *const Params,
        ) -> *mut Opaque,
        /// Takes the next block of the stream.
        pub process: unsafe extern "C-unwind" fn(
            instance: *mut Opaque,
            input: *const u8,
            len: usize,
            out: *const Sink,
        ) -> i32,
        /// Ends the stream and writes what is left; only `destroy` may follow.
        pub finish: unsafe extern "C-unwind" fn(instance: *mut Opaque, out: *const Sink) -> i32,
        /// Takes the instance away, finished or not.
        pub destroy: unsafe extern "C-unwind" fn(instance: *mut Opaque),
    }
}

const _: () = {
    assert!(size_of::<Sink>() == 16);
    assert!(size_of::<Params>() == 16);
    assert!(size_of::<FilterV1>() == 32);
};
