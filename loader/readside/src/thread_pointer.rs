//! The address of the running thread's control block: a name for a thread that needs no
//! thread-local storage of ours, no system call and no registration.

use core::marker::PhantomData;

/// The running thread's thread pointer.
///
/// Neither `Send` nor `Sync`: whoever has one is the thread it names, which is what lets a
/// section enter with plain stores into the line of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadPointer {
    address: usize,
    /// The id that a test gives the thread; 0 for the real one.
    #[cfg(test)]
    tid: u32,
    _not_send: PhantomData<*mut ()>,
}

impl ThreadPointer {
    /// Takes `address` and `tid` for the running thread's.
    ///
    /// # Safety
    /// - No other running thread of the process uses `address` or `tid` in the same table of
    ///   sections.
    #[cfg(test)]
    pub(crate) unsafe fn assume(address: usize, tid: u32) -> Self {
        Self {
            address,
            tid,
            _not_send: PhantomData,
        }
    }

    /// The running thread's id, found `at` bytes from the thread pointer.
    ///
    /// Async-signal-safe; one load.
    ///
    /// # Safety
    /// - Every thread of the process has its id at that distance, as [`at_distance`] found it.
    #[cfg(not(plug_loom))]
    #[inline]
    pub(crate) unsafe fn tid(self, at: usize) -> u32 {
        if let Some(tid) = self.assumed() {
            return tid;
        }
        let place = at_distance(self, at);
        // SAFETY: by our caller's word, the place is inside the thread's own control block, which
        // is there for as long as the thread runs. The kernel writes it before the thread's first
        // instruction, in a fork's child, and after the thread's last instruction.
        unsafe { place.read_volatile() }
    }

    /// The running thread's id in a model.
    #[cfg(plug_loom)]
    pub(crate) unsafe fn tid(self, _at: usize) -> u32 {
        self.assumed().unwrap_or(0)
    }

    #[cfg(test)]
    fn assumed(self) -> Option<u32> {
        (self.tid != 0).then_some(self.tid)
    }

    /// Threads have their own ids.
    #[cfg(not(test))]
    #[inline]
    const fn assumed(self) -> Option<u32> {
        let _ = self.address;
        None
    }

    /// The number itself, for reports and for choosing a place in a table.
    #[inline]
    #[must_use]
    pub const fn address(self) -> usize {
        self.address
    }
}

/// The running thread's thread pointer, unique among living threads of the process.
///
/// Async-signal-safe. One load from a segment register.
///
/// # Source
/// x86-64 psABI §3.4.6 (`%fs:0` holds its own address), AAPCS64 (`TPIDR_EL0`).
#[cfg(not(plug_loom))]
#[inline]
#[must_use]
pub fn thread_pointer() -> ThreadPointer {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the psABI makes `fs:0` readable in every thread and lets it hold its own address;
    // the instruction touches nothing else.
    unsafe {
        core::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: TPIDR_EL0 is readable in user mode and the read has no other effect.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem));
    }
    ThreadPointer {
        address: pointer,
        #[cfg(test)]
        tid: 0,
        _not_send: PhantomData,
    }
}

/// The place `at` bytes from the running thread's thread pointer; `at` wraps around, so that it
/// may lie before it.
///
/// glibc keeps the thread's id in its control block, `struct pthread`, at a distance that depends
/// on its version: see [`crate::section::Sections::know_tids`].
#[cfg(not(plug_loom))]
#[inline]
#[must_use]
pub fn at_distance(thread: ThreadPointer, at: usize) -> *const u32 {
    core::ptr::with_exposed_provenance(thread.address.wrapping_add(at))
}
