//! Threads that may not call the kernel any more: whatever they do from then on is free of system
//! calls, and with them of locks that wait and of memory from the system. And threads that may
//! make all calls but one.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a confined thread does; returns how often.
pub type Body = fn() -> u64;

static DONE: AtomicU64 = AtomicU64::new(0);

/// Kills the process at the running thread's next system call, but for the return from a signal
/// handler and the thread's raw exit.
pub fn confine() {
    filter(&mut [
        LOAD_NUMBER,
        skip(libc::SYS_rt_sigreturn, 2, 0),
        skip(libc::SYS_exit, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

/// Lets the running thread, and all threads it makes, be refused one system call with `EPERM`.
pub fn deny(call: i64) {
    filter(&mut [
        LOAD_NUMBER,
        skip(call, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        // The codes have 8 bits.
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// The number is the first word of seccomp_data.
const LOAD_NUMBER: libc::sock_filter = step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);

/// Skips so many steps where the number is, and is not, that of `call`.
fn skip(call: i64, is: u8, is_not: u8) -> libc::sock_filter {
    let number = u32::try_from(call).expect("a system call's number");
    step(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        is,
        is_not,
        number,
    )
}

fn answer(with: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, 0, with)
}

fn filter(steps: &mut [libc::sock_filter]) {
    let program = libc::sock_fprog {
        len: u16::try_from(steps.len()).expect("a few steps"),
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: plain numbers.
    let status = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(status, 0, "no new privileges");
    // SAFETY: a valid program for this one thread.
    let status = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(status, 0, "seccomp");
}

/// Runs `body` as the first thing that a brand-new confined thread does, and waits for its end.
///
/// A raw thread: nothing of std's runs on it, and it ends by the raw system call.
pub fn first_thing(body: Body) -> u64 {
    extern "C" fn start(body: *mut c_void) -> *mut c_void {
        // SAFETY: the pointer is the function passed below.
        let body: Body = unsafe { std::mem::transmute(body) };
        confine();
        DONE.store(body(), Ordering::SeqCst);
        exit_thread()
    }
    let mut thread: libc::pthread_t = 0;
    // SAFETY: a plain start routine; the thread is joined below.
    let status = unsafe {
        libc::pthread_create(
            &raw mut thread,
            ptr::null(),
            start,
            (body as *const ()).cast_mut().cast(),
        )
    };
    assert_eq!(status, 0, "pthread_create");
    // SAFETY: created above, joined once; the kernel tells the joiner of a raw exit as well.
    unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    DONE.load(Ordering::SeqCst)
}

/// Ends the running thread without any clean-up, as a confined one must.
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: ends this thread alone; what it owned is leaked.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}
