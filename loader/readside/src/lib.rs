//! The read side of Plug: everything that may run in a signal handler, and nothing else.
//!
//! The crate has no allocator and no standard library, so that a lock, an allocation or a
//! thread-local with a destructor does not compile here. It holds the *sections* that keep the
//! current snapshot alive while somebody reads it, the *gates* that count who is inside a
//! plugin's code, the flat rows of the snapshot, and the copy-out answers given to readers.
//!
//! It knows nobody: the loader above fills the rows, publishes them and waits for grace periods.
//!
//! # Contexts
//! Every function whose documentation says "Async-signal-safe" may be called from any thread, at
//! any moment, signal handlers on alternate stacks included. The writer's functions say so.
#![cfg_attr(not(plug_loom), no_std)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]
#![cfg_attr(
    plug_loom,
    expect(clippy::modulo_one, reason = "the tables of a model have one line")
)]

#[cfg(not(plug_loom))]
pub mod departed;
#[cfg(not(plug_loom))]
pub mod elf;
#[cfg(not(plug_loom))]
pub mod frames;
pub mod gate;
#[cfg(not(plug_loom))]
pub mod index;
pub mod line;
#[cfg(not(plug_loom))]
pub mod phase;
pub mod route;
#[cfg(not(plug_loom))]
pub mod search;
pub mod section;
pub mod state;
mod sync;

#[cfg(not(plug_loom))]
mod reader;
#[cfg(not(plug_loom))]
pub mod snapshot;
mod thread_pointer;

#[cfg(all(test, plug_loom))]
mod loom;

#[cfg(not(plug_loom))]
pub use reader::{
    Location, PluginView, Resolved, SymbolReader, SymbolView, Symbols, Text, plug_resolve,
};
pub use thread_pointer::ThreadPointer;
#[cfg(not(plug_loom))]
pub use thread_pointer::{at_distance, thread_pointer};
