//! How ld.so ends on a file: in a forked process, with the place of a crash told.

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// How far a child came; read by its signal handler.
static PHASE: AtomicI32 = AtomicI32::new(0);

const DLOPEN: i32 = 1;
const DLSYM: i32 = 2;
const DLCLOSE: i32 = 3;

/// Exit codes of a child: the phase is added to the last two.
const LOADED: i32 = 0;
const REFUSED: i32 = 1;
const IN_CODE: i32 = 20;
const ELSEWHERE: i32 = 40;

/// What became of a mutant in a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Opened, searched and closed.
    Loaded,
    /// Refused by ld.so, with an error.
    Refused,
    /// Crashed in the mutant's own code.
    Code,
    /// Crashed anywhere else.
    Crash,
    /// Ended by an assertion of ld.so.
    Assert,
    /// Still at it when its time was over.
    Hang,
}

/// Tells where a crash happened and ends the child.
extern "C" fn on_crash(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid context.
    let pc = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] } as u64;
    let code = if is_in_mutant(pc) { IN_CODE } else { ELSEWHERE };
    // SAFETY: ends the process, here and now.
    unsafe { libc::_exit(code + PHASE.load(Ordering::Relaxed)) };
}

/// Whether `pc` lies in an executable mapping of a file that is no library of the system: read from
/// /proc line by line, without allocating.
fn is_in_mutant(pc: u64) -> bool {
    // SAFETY: a terminated path.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY) };
    let mut line = [0u8; 512];
    let mut len = 0;
    let mut byte = 0u8;
    // SAFETY: room for one byte.
    while unsafe { libc::read(maps, (&raw mut byte).cast(), 1) } == 1 {
        if byte != b'\n' {
            if len < line.len() {
                line[len] = byte;
                len += 1;
            }
            continue;
        }
        let text = &line[..len];
        len = 0;
        let hex = |digits: &[u8]| {
            let digit = |value: u64, byte: &u8| {
                value << 4 | u64::from((*byte as char).to_digit(16).unwrap_or(0))
            };
            digits.iter().fold(0, digit)
        };
        let Some(dash) = text.iter().position(|byte| *byte == b'-') else {
            continue;
        };
        let Some(space) = text.iter().position(|byte| *byte == b' ') else {
            continue;
        };
        if !(hex(&text[..dash])..hex(&text[dash + 1..space])).contains(&pc) {
            continue;
        }
        let is_executable = text.get(space + 3) == Some(&b'x');
        let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
        return is_executable && (has(b"/memfd:") || has(b"/mutant.so"));
    }
    false
}

/// Runs `body` in a forked process; this one has no other threads.
///
/// # Panics
/// When no process can be made.
pub fn in_child(body: impl FnOnce()) -> End {
    // SAFETY: single-threaded, so that the child may do anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        confine();
        body();
        // SAFETY: ends the child.
        unsafe { libc::_exit(LOADED) };
    }
    let mut status = 0;
    // SAFETY: an own child and room for its status.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {}
    if libc::WIFSIGNALED(status) {
        return match libc::WTERMSIG(status) {
            libc::SIGXCPU | libc::SIGALRM | libc::SIGKILL => End::Hang,
            _ => End::Crash,
        };
    }
    match libc::WEXITSTATUS(status) {
        LOADED => End::Loaded,
        REFUSED => End::Refused,
        127 => End::Assert,
        code if code < ELSEWHERE => End::Code,
        _ => End::Crash,
    }
}

/// Limits what a damaged file may do, and has crashes told.
fn confine() {
    let limit = |resource, value| {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: a valid limit.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    };
    limit(libc::RLIMIT_CPU, 2);
    limit(libc::RLIMIT_CORE, 0);
    limit(libc::RLIMIT_FSIZE, 0);
    // SAFETY: plain calls; silence is what ld.so's last words get.
    unsafe {
        libc::alarm(60);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::dup2(null, 1);
        libc::dup2(null, 2);
    }
    static STACK: OnceLock<usize> = OnceLock::new();
    let stack = STACK
        .get_or_init(|| Box::leak(vec![0u8; 64 << 10].into_boxed_slice()).as_mut_ptr() as usize);
    let stack = libc::stack_t {
        ss_sp: *stack as *mut c_void,
        ss_flags: 0,
        ss_size: 64 << 10,
    };
    // SAFETY: memory that lives as long as the process.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    // SAFETY: zeros are an empty action.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_crash as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGTRAP,
        libc::SIGSYS,
    ] {
        // SAFETY: a handler of the right form.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// Opens a file, looks for names in it and closes it.
pub fn open_search_close(path: &CStr, names: &[CString]) {
    PHASE.store(DLOPEN, Ordering::Relaxed);
    // SAFETY: what may happen is what this test is about.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: ends the child.
        unsafe { libc::_exit(REFUSED) };
    }
    PHASE.store(DLSYM, Ordering::Relaxed);
    for name in names {
        // SAFETY: an open handle and a terminated name.
        unsafe { libc::dlsym(handle, name.as_ptr()) };
    }
    PHASE.store(DLCLOSE, Ordering::Relaxed);
    // SAFETY: an open handle.
    unsafe { libc::dlclose(handle) };
}

/// Gives up root's rights, which a file's own code has no need of.
pub fn become_nobody() {
    // SAFETY: plain calls; without the right to, there is nothing to give up.
    unsafe {
        libc::setgid(65534);
        libc::setuid(65534);
    }
}
