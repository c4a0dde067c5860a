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
    _not_send: PhantomData<*mut ()>,
}

impl ThreadPointer {
    /// Takes `address` for the running thread's name.
    ///
    /// # Safety
    /// - No other running thread of the process uses `address` in the same table of sections.
    #[cfg(test)]
    pub(crate) unsafe fn assume(address: usize) -> Self {
        Self {
            address,
            _not_send: PhantomData,
        }
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
        _not_send: PhantomData,
    }
}
