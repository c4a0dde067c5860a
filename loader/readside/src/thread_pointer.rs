//! The address of the running thread's control block: a name for a thread that needs no
//! thread-local storage of ours, no system call and no registration.

/// The running thread's thread pointer, unique among living threads of the process.
///
/// Async-signal-safe. One load from a segment register.
///
/// # Source
/// x86-64 psABI §3.4.6 (`%fs:0` holds its own address), AAPCS64 (`TPIDR_EL0`).
#[inline]
#[must_use]
pub fn thread_pointer() -> usize {
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
    pointer
}
