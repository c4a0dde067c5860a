//! Alternate signal stacks: where a handler runs whose thread has no stack left.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Size of a stack made here. A signal's frame alone can be 11 KiB, and handlers that the host
/// had before are to fit as well; half of it would still do, twice as much costs address space.
pub(crate) const SIZE: usize = 64 << 10;

/// Kept free of access below a stack, so that an overflow faults instead of writing elsewhere.
const GUARD: usize = 4 << 10;

/// Memory for a stack, with a guard below.
#[derive(Debug)]
pub(crate) struct StackMemory {
    /// Start of the guard. Constant.
    start: *mut c_void,
    /// Length with the guard. Constant.
    len: usize,
}

impl StackMemory {
    /// Maps `size` bytes and their guard; none where there is no memory.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let len = size.checked_add(GUARD)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with a null hint and no MAP_FIXED no existing memory is touched.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, rights, MapFlags::PRIVATE) };
        let memory = Self {
            start: start.ok()?,
            len,
        };
        // SAFETY: the first page of what was mapped just now.
        let guarded = unsafe { mprotect(memory.start, GUARD, MprotectFlags::empty()) };
        guarded.is_ok().then_some(memory)
    }

    /// One past the last byte, from where the stack grows down.
    pub(crate) fn top(&self) -> usize {
        self.start.addr().wrapping_add(self.len)
    }
}

impl Drop for StackMemory {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped in new(); whoever used it as a stack has stopped.
        let unmapped = unsafe { munmap(self.start, self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
    }
}

/// The running thread's alternate stack, made here; the one before is back when it is dropped.
#[derive(Debug)]
pub(crate) struct AlternateStack {
    memory: Option<StackMemory>,
    before: libc::stack_t,
    _not_send: PhantomData<*mut ()>,
}

const NONE: libc::stack_t = libc::stack_t {
    ss_sp: ptr::null_mut(),
    ss_flags: libc::SS_DISABLE,
    ss_size: 0,
};

/// The running thread's present alternate stack; its size is 0 where there is none.
/// Async-signal-safe.
pub(crate) fn present() -> libc::stack_t {
    let mut stack = NONE;
    // SAFETY: only reads the setting into `stack`.
    unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
    if stack.ss_flags & libc::SS_DISABLE != 0 {
        stack.ss_size = 0;
    }
    stack
}

impl AlternateStack {
    /// Gives the running thread an alternate stack of [`SIZE`], unless it has one of at least
    /// `enough` bytes. None where that is so, and where there is no memory.
    ///
    /// Thread context, not from a handler.
    pub(crate) fn unless_at_least(enough: usize) -> Option<Self> {
        let before = present();
        if before.ss_size >= enough {
            return None;
        }
        let memory = StackMemory::new(SIZE)?;
        let stack = libc::stack_t {
            ss_sp: memory.start.wrapping_byte_add(GUARD),
            ss_flags: 0,
            ss_size: SIZE,
        };
        // SAFETY: the memory stays until drop(), which takes the setting back first.
        let status = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
        (status == 0).then_some(Self {
            memory: Some(memory),
            before,
            _not_send: PhantomData,
        })
    }

    /// The stack stays for as long as the process.
    pub(crate) fn immortal(mut self) {
        // Immortal: 64 KiB for a thread that installs the crash handler.
        if let Some(memory) = self.memory.take() {
            let _stays = std::mem::ManuallyDrop::new(memory);
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        if present().ss_sp != memory.start.wrapping_byte_add(GUARD) {
            // Somebody else set another one, and may set this one again: it stays for good.
            let _stays = std::mem::ManuallyDrop::new(memory);
            return;
        }
        // SAFETY: what was there before is put back; its owner keeps it while it is set.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}

/// Sets or asks for the running thread's alternate stack, in the words of `sigaltstack`.
///
/// Async-signal-safe.
///
/// # Safety
/// - As for `sigaltstack`: the memory stays while it is set.
pub(crate) unsafe fn set(new: *const libc::stack_t, old: *mut libc::stack_t) -> c_int {
    // SAFETY: passed on to our caller.
    unsafe { libc::sigaltstack(new, old) }
}

/// Takes the running thread's alternate stack away, from a handler that has left it; the return
/// from the signal puts it back.
///
/// Async-signal-safe.
pub(crate) fn take_away() {
    let none = NONE;
    // SAFETY: without one, handlers run on the stack in use.
    unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) };
}
