//! Running a function on another stack, and getting out of one that faults.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is run.
pub(crate) type Job = unsafe extern "C" fn(*mut c_void);

/// Stack pointer to go back to when the job of [`attempt`] faults; 0 outside of one. Written and
/// read by the one thread that reports, and by handlers on it (SeqCst: cold).
static BACK: AtomicUsize = AtomicUsize::new(0);

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".p2align 4",
    ".hidden plug_crash_run",
    ".globl plug_crash_run",
    ".type plug_crash_run, @function",
    // rdi job, rsi argument, rdx stack to change to or 0, rcx where to keep the stack pointer.
    "plug_crash_run:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov [rcx], rsp",
    "mov r12, rsp",
    "test rdx, rdx",
    "cmovnz rsp, rdx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "mov rsp, r12",
    // A handler that gives the job up continues here, with the kept stack pointer.
    ".hidden plug_crash_back",
    ".globl plug_crash_back",
    "plug_crash_back:",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size plug_crash_run, . - plug_crash_run",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn plug_crash_run(job: Job, argument: *mut c_void, stack: usize, keep: *mut usize);
    fn plug_crash_back();
}

/// Runs `job` on the stack that ends at `top`.
///
/// # Safety
/// - `top` is one past the last byte of unused memory that suffices, aligned to 16.
/// - `job` may be called with `argument`, and does not unwind.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn on_stack(top: usize, job: Job, argument: *mut c_void) {
    let mut kept = 0;
    // SAFETY: passed on to our caller.
    unsafe { plug_crash_run(job, argument, top, &raw mut kept) };
}

/// Runs `job`; a fault in it ends it, if the handler calls [`recover`].
///
/// # Safety
/// - `job` may be called with `argument`, does not unwind, and may end anywhere.
/// - One thread at a time, not nested.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn attempt(job: Job, argument: *mut c_void) {
    // SAFETY: passed on to our caller; 0 is to stay on this stack.
    unsafe { plug_crash_run(job, argument, 0, BACK.as_ptr()) };
    BACK.store(0, Ordering::SeqCst);
}

/// Lets a handler return behind the [`attempt`] that its thread is in; false outside of one.
///
/// # Safety
/// - `context` is the third argument of the running handler, and the handler interrupted the
///   thread that may be in an attempt.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn recover(context: *mut c_void) -> bool {
    let back = BACK.swap(0, Ordering::SeqCst);
    if back == 0 {
        return false;
    }
    // SAFETY: passed on to our caller.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    let places = [
        (libc::REG_RIP, plug_crash_back as *const () as usize),
        (libc::REG_RSP, back),
    ];
    for (register, value) in places {
        let register = usize::try_from(register).unwrap_or(usize::MAX);
        if let Some(place) = registers.get_mut(register) {
            *place = libc::greg_t::from_ne_bytes(value.to_ne_bytes());
        }
    }
    true
}

/// Runs `job` on the stack in use: stacks are changed on x86-64 only.
///
/// # Safety
/// - `job` may be called with `argument`.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn on_stack(_top: usize, job: Job, argument: *mut c_void) {
    // SAFETY: passed on to our caller.
    unsafe { job(argument) };
}

/// Runs `job`; a fault in it ends the report here.
///
/// # Safety
/// - `job` may be called with `argument`.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn attempt(job: Job, argument: *mut c_void) {
    // SAFETY: passed on to our caller.
    unsafe { job(argument) };
}

/// There is no way back.
///
/// # Safety
/// - None on this machine.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn recover(_context: *mut c_void) -> bool {
    BACK.load(Ordering::SeqCst) != 0
}
