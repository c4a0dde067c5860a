//! Threads that may not call the kernel any more: whatever they do from then on is free of system
//! calls, and with them of locks that wait and of memory from the system.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a confined thread does; returns how often.
pub type Body = fn() -> u64;

static DONE: AtomicU64 = AtomicU64::new(0);

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;

fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).expect("16 bits");
    libc::sock_filter { code, jt, jf, k }
}

fn number(n: i64) -> u32 {
    u32::try_from(n).expect("a system call's number")
}

/// Puts a filter in force, for the running thread or, with `SECCOMP_FILTER_FLAG_TSYNC`, for all.
fn filter(steps: &mut [libc::sock_filter], flags: libc::c_ulong) {
    let program = libc::sock_fprog {
        len: u16::try_from(steps.len()).expect("a few steps"),
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: plain numbers.
    let status = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(status, 0, "no new privileges");
    // SAFETY: a valid program.
    let status = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    assert_eq!(status, 0, "seccomp");
}

/// Kills the process at the running thread's next system call, but for the return from a signal
/// handler and the thread's raw exit.
pub fn confine() {
    let mut steps = [
        // The number is the first word of seccomp_data.
        step(LOAD, 0, 0, 0),
        step(EQUAL, 2, 0, number(libc::SYS_rt_sigreturn)),
        step(EQUAL, 1, 0, number(libc::SYS_exit)),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    filter(&mut steps, 0);
}

/// Lets the system call `n` fail with `errno` in all threads of the process, from now on.
pub fn refuse(n: i64, errno: i32) {
    let errno = u32::try_from(errno).expect("positive");
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 1, number(n)),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    filter(&mut steps, libc::SECCOMP_FILTER_FLAG_TSYNC);
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
