//! An allocator that notices when a signal handler allocates or frees.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::storm;

static IN_HANDLERS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, watched. Make it the `#[global_allocator]` of a test binary.
#[derive(Debug)]
pub struct Watched;

/// Allocations and frees made inside handlers of a [`storm`].
pub fn in_handlers() -> u64 {
    IN_HANDLERS.load(Ordering::SeqCst)
}

fn watch() {
    if storm::is_inside_handler() {
        IN_HANDLERS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: passed on to our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        watch();
        // SAFETY: passed on to our caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        watch();
        // SAFETY: passed on to our caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
