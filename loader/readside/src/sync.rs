//! The one place that names atomics, so that the loom models run the very code of the product.

#[cfg(not(plug_loom))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};

#[cfg(plug_loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Loom runs every reader in fence mode, where the compiler fence has no part to play.
#[cfg(plug_loom)]
pub(crate) fn compiler_fence(_order: Ordering) {}
