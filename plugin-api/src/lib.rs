//! What plugin authors build against.
//!
//! A plugin is a `cdylib` that says [`plugin!`] once, [`export!`] for the functions a host looks
//! up by name, and lists the tables of host-defined interfaces ([`interface!`]) it implements:
//!
//! ```standalone_crate
//! use plug_api::Context;
//!
//! plug_api::plugin! {
//!     name: "hello",
//!     version: "1.0.0",
//!     description: "greets",
//!     license: "MIT",
//!     init: init,
//!     exit: exit,
//! }
//!
//! plug_api::export! {
//!     /// Adds two numbers.
//!     pub fn add(a: u64, b: u64) -> u64 {
//!         a + b
//!     }
//! }
//!
//! fn init(ctx: &Context) -> plug_api::Result {
//!     ctx.info("hello");
//!     Ok(())
//! }
//!
//! fn exit() {}
//! # fn main() { assert_eq!(add(1, 2), 3); }
//! ```
//!
//! `include/plugin_api.h` beside this crate does the same for C and C++.
//!
//! # When what runs
//! The host maps the library, runs its constructors, then `init`. If that returns `Ok`, exported
//! functions and tables may be called from any thread, several at once, until the host has
//! waited for the last call to return; then it calls `exit` and takes the library away. Threads
//! of [`Context::spawn`] have been told to stop and have ended when `exit` is called; those that the
//! plugin started by itself must have ended when it returns. A [`Task`] is dropped before.
//!
//! # What must not cross the border
//! - **Panics.** The macros catch them and tell the host the text. A function that reaches the
//!   host by another way (a table written by hand, a callback) needs [`catch`]. This takes a
//!   plugin built with `panic = "unwind"`, the default; one built to abort takes the host along.
//! - **Ownership.** What one side allocates it frees: no `Box`, `String` or `Vec` in a signature.
//!   Bytes go out through a sink of the host, or into a buffer of the caller's.
//! - **Rust types.** Their layouts belong to one compiler: only `repr(C)` structs, integers,
//!   floats and raw pointers; [`repr_c!`] declares structs that both sides compare. No `enum` and no `bool` out of foreign memory: take the integer
//!   and check it.
//! - **Borrowed text and pointers** beyond the call that passed them, unless their docs say so.
//! - **Pointers into the plugin** that stay behind: callbacks, signal handlers, thread-locals
//!   with destructors, `'static` data handed out. `exit` takes them back.
//!
//! # The metadata
//! The macros write `key=value` strings into the section `.plug.meta`, which the host reads from
//! the file before a byte of the plugin runs, and people with `readelf -p .plug.meta`.
//!
//! ```text
//! name= version= description= license= author=    as declared
//! api=                                            version of the binary contract
//! toolchain= target= panic= lang=                 how it was built
//! interface=NAME/MAJOR.MINOR service=...          one for each table
//! table=NAME/MAJOR.MINOR:FIELDS                   its fields, as they are compared
//! export=NAME:SIGNATURE                           one for each function, as written
//! signature=NAME:SIGNATURE                        the same as it is compared, with layouts
//! import=PLUGIN:NAME:REQUIREMENT                  one for each function of another plugin
//! import-signature=NAME:SIGNATURE                 as for exports
//! param=NAME:TYPE param-default=NAME:TEXT         for each parameter
//! param-doc=NAME:TEXT param-set=NAME:SYMBOL
//! ```

pub mod abi;
mod catch;
mod context;
mod error;
mod export;
mod import;
mod interface;
mod metadata;
mod param;
mod plugin;
pub mod portable;
mod state;
pub mod task;
pub mod threads;
mod value;

pub use catch::catch;
pub use context::{Context, Level, Params, with_context};
pub use error::{Error, Result};
pub use param::{Param, ParamValue};
pub use portable::Portable;
pub use state::State;
pub use task::Task;
pub use value::{Status, Value};

/// The text of `plugin_api.h`, which plugins in C and C++ include: for tools that make such.
pub const HEADER: &str = include_str!("../include/plugin_api.h");

/// What the macros expand to; nothing here is for authors.
#[doc(hidden)]
pub mod __private {
    pub use crate::catch::{exit, export, init};
    pub use crate::import::imported;
    pub use crate::metadata::{API, Part, TARGET, TOOLCHAIN, join, len, name};
    pub use crate::param::{DURATIONS, SIZES, measured};
    pub use crate::state::{restore, save};
}
