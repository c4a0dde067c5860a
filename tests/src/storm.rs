//! A storm of signals: every thread of the process interrupted as fast as one thread can send.
//!
//! Threads that [`shelter`] get an alternate stack large enough for nested handlers and are sent
//! a signal that may interrupt its own handler; all others, the loader's included, are sent one
//! that may not. What runs in the handler is given by the test.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fs;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Interrupts its own handler.
const NESTING: c_int = libc::SIGUSR2;
/// Does not.
pub const PLAIN: c_int = libc::SIGUSR1;

/// How deep handlers nest: further signals are held back at this depth.
const DEPTH: u32 = 5;

/// An alternate stack for that depth, with room to spare: a frame with AVX-512 state is 3.5 KiB.
const STACK: usize = 256 << 10;

/// What a handler is told: the interrupted program counter.
pub type Handler = fn(usize);

struct Slot {
    tid: AtomicI32,
    /// A signal was sent and its handler has not begun.
    pending: AtomicBool,
    depth: AtomicU32,
}

static SLOTS: [Slot; 64] = [const {
    Slot {
        tid: AtomicI32::new(0),
        pending: AtomicBool::new(false),
        depth: AtomicU32::new(0),
    }
}; 64];

static HANDLER: OnceLock<Handler> = OnceLock::new();
static HANDLED: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// One more than the thread's slot, 0 for none. No destructor, no lazy initialisation.
    static SLOT: Cell<usize> = const { Cell::new(0) };
    /// Handlers the thread is in.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Whether the running thread is in a handler of the storm. Async-signal-safe.
pub fn is_inside_handler() -> bool {
    INSIDE.with(Cell::get) > 0
}

/// Handlers that have run.
pub fn handled() -> u64 {
    HANDLED.load(Ordering::SeqCst)
}

/// How deep they were nested at most.
pub fn deepest() -> u32 {
    DEEPEST.load(Ordering::SeqCst)
}

extern "C" fn handle(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let depth = INSIDE.with(Cell::get) + 1;
    INSIDE.with(|inside| inside.set(depth));
    let slot = SLOT.with(Cell::get).checked_sub(1).map(|n| &SLOTS[n]);
    if let Some(slot) = slot.filter(|_| signal == NESTING) {
        slot.depth.fetch_add(1, Ordering::SeqCst);
        slot.pending.store(false, Ordering::SeqCst);
    }
    DEEPEST.fetch_max(depth, Ordering::Relaxed);
    HANDLED.fetch_add(1, Ordering::Relaxed);
    if let Some(handler) = HANDLER.get() {
        handler(program_counter(context));
    }
    if let Some(slot) = slot.filter(|_| signal == NESTING) {
        slot.depth.fetch_sub(1, Ordering::SeqCst);
    }
    INSIDE.with(|inside| inside.set(depth - 1));
}

/// The program counter that a signal interrupted. Async-signal-safe.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::cast_sign_loss, reason = "an address in a signed register")]
pub fn program_counter(context: *mut c_void) -> usize {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a context to a handler installed with SA_SIGINFO.
    let registers = unsafe { &(*context).uc_mcontext.gregs };
    registers[libc::REG_RIP as usize] as usize
}

/// The program counter that a signal interrupted. Async-signal-safe.
#[cfg(target_arch = "aarch64")]
pub fn program_counter(context: *mut c_void) -> usize {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: as on x86-64.
    unsafe { (*context).uc_mcontext.pc as usize }
}

/// Installs a signal handler on alternate stacks, during which `blocked` is held back.
pub fn install(
    signal: c_int,
    flags: c_int,
    blocked: c_int,
    handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
) {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: an initialised set and a valid signal.
    unsafe { libc::sigaddset(&raw mut action.sa_mask, blocked) };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART | flags;
    // SAFETY: a valid action with a handler of the right type.
    let status = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(status, 0, "sigaction");
}

/// Lets `handler` run in every handler from now on.
pub fn prepare(handler: Handler) {
    HANDLER.set(handler).expect("one storm a process");
    // Only sheltered threads have room for two: neither signal interrupts the other's handler.
    install(PLAIN, 0, NESTING, handle);
    install(NESTING, libc::SA_NODEFER, PLAIN, handle);
}

/// Sleeps by the clock: under a storm, a relative sleep makes no progress, since the time spent
/// in handlers does not count.
pub fn nap(time: Duration) {
    let mut until = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid clock and room for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut until) };
    until.tv_nsec += i64::from(time.subsec_nanos());
    until.tv_sec += i64::try_from(time.as_secs()).expect("short") + until.tv_nsec / 1_000_000_000;
    until.tv_nsec %= 1_000_000_000;
    let sleep = || {
        // SAFETY: a valid clock and time; nothing is written in absolute mode.
        unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &raw const until,
                ptr::null_mut(),
            )
        }
    };
    while sleep() == libc::EINTR {}
}

/// The running thread's id.
pub fn tid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// Sends `signal` to one thread of the process; false when there is no such thread any more.
pub fn send(tid: i32, signal: c_int) -> bool {
    // SAFETY: plain numbers; a handler is installed before anything is sent.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) == 0 }
}

/// The running thread's place in the storm, until dropped.
#[derive(Debug)]
#[must_use = "the thread leaves the storm when it is dropped"]
pub struct Shelter {
    slot: usize,
    stack: *mut c_void,
    before: libc::stack_t,
}

/// Gives the running thread its own alternate stack and exposes it to nested signals.
pub fn shelter() -> Shelter {
    // SAFETY: a fresh anonymous mapping.
    let stack = unsafe {
        libc::mmap(
            ptr::null_mut(),
            STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(stack, libc::MAP_FAILED, "mmap");
    let own = libc::stack_t {
        ss_sp: stack,
        ss_flags: 0,
        ss_size: STACK,
    };
    let mut before = own;
    // SAFETY: the stack stays mapped until Shelter's drop has put the old one back.
    let status = unsafe { libc::sigaltstack(&raw const own, &raw mut before) };
    assert_eq!(status, 0, "sigaltstack");
    let slot = SLOTS
        .iter()
        .position(|slot| {
            slot.tid
                .compare_exchange(0, -1, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        })
        .expect("fewer than 64 threads");
    SLOTS[slot].depth.store(0, Ordering::SeqCst);
    SLOTS[slot].pending.store(false, Ordering::SeqCst);
    SLOT.with(|own| own.set(slot + 1));
    SLOTS[slot].tid.store(tid(), Ordering::SeqCst);
    Shelter {
        slot,
        stack,
        before,
    }
}

impl Drop for Shelter {
    fn drop(&mut self) {
        // A signal on its way still finds a stack: the one from before, or the thread's own.
        SLOT.with(|own| own.set(0));
        SLOTS[self.slot].tid.store(0, Ordering::SeqCst);
        // SAFETY: puts back what was there.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
        // SAFETY: mapped in shelter(); no handler is on it, since this is not one.
        unsafe { libc::munmap(self.stack, STACK) };
    }
}

/// The thread that sends, until it is stopped.
#[derive(Debug)]
pub struct Storm {
    thread: JoinHandle<u64>,
}

static RAGING: AtomicBool = AtomicBool::new(false);

impl Storm {
    /// Starts to interrupt every thread but the sender.
    pub fn start() -> Self {
        RAGING.store(true, Ordering::SeqCst);
        let thread = thread::Builder::new()
            .name("storm".into())
            .spawn(rage)
            .expect("thread");
        Self { thread }
    }

    /// Stops it; returns how many signals were sent.
    pub fn stop(self) -> u64 {
        RAGING.store(false, Ordering::SeqCst);
        self.thread.join().expect("the storm does not panic")
    }
}

fn rage() -> u64 {
    let own = tid();
    let mut sent = 0_u64;
    let mut round = 0_u32;
    while RAGING.load(Ordering::Relaxed) {
        for slot in &SLOTS {
            let tid = slot.tid.load(Ordering::SeqCst);
            if tid <= 0 || slot.pending.swap(true, Ordering::SeqCst) {
                continue;
            }
            if slot.depth.load(Ordering::SeqCst) >= DEPTH || !send(tid, NESTING) {
                slot.pending.store(false, Ordering::SeqCst);
                continue;
            }
            sent += 1;
        }
        round += 1;
        if round.is_multiple_of(32) {
            for tid in tasks() {
                let sheltered = |slot: &Slot| slot.tid.load(Ordering::SeqCst) == tid;
                if tid != own && !SLOTS.iter().any(sheltered) && send(tid, PLAIN) {
                    sent += 1;
                }
            }
        }
    }
    sent
}

/// The process's threads.
pub fn tasks() -> Vec<i32> {
    fs::read_dir("/proc/self/task")
        .expect("procfs")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
