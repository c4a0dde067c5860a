//! A timer signal on each worker, a thousand times a second, whose handler asks where it is.
//!
//! The handler uses nothing but [`SymbolReader`] and atomics made before the first signal.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use plug_loader::SymbolReader;

use crate::stream::Filters;

const PERIOD_NS: i64 = 1_000_000;

/// Room for the kernel's frame with all vector registers, and a handler built without optimizing.
const STACK: usize = 64 * 1024;

static READER: SymbolReader = SymbolReader::new();
static NAMES: OnceLock<Vec<String>> = OnceLock::new();

// Counters of the handler: Relaxed, because they are read when the workers have been joined.
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static HITS: [AtomicU64; Filters::MAX] = [const { AtomicU64::new(0) }; Filters::MAX];
static NAMED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// What the handlers counted.
#[derive(Debug)]
pub struct Samples {
    pub signals: u64,
    /// Hits by plugin, in the order given to [`install`].
    pub hits: Vec<u64>,
    /// Hits inside an exported symbol.
    pub named: u64,
    /// Answers that cannot be true.
    pub wrong: u64,
}

fn signal() -> c_int {
    libc::SIGRTMIN() + 3
}

/// Installs the handler for plugins of these names.
pub fn install(names: Vec<String>) -> io::Result<()> {
    let _once = NAMES.set(names);
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler is async-signal-safe, and the signal is nobody else's.
    match unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What was counted so far.
pub fn samples() -> Samples {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let names = NAMES.get().map_or(0, Vec::len);
    Samples {
        signals: get(&SIGNALS),
        hits: HITS[..names].iter().map(get).collect(),
        named: get(&NAMED),
        wrong: get(&WRONG),
    }
}

extern "C" fn handler(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel passes the interrupted thread's context to an SA_SIGINFO handler.
    let pc = interrupted_pc(unsafe { &*context.cast::<libc::ucontext_t>() });
    let Some(found) = READER.resolve(pc) else {
        return;
    };
    let name = found.plugin.as_bytes();
    let known = NAMES
        .get()
        .and_then(|names| names.iter().position(|known| known.as_bytes() == name));
    let inside = (found.plugin_start..found.plugin_end).contains(&pc);
    let adds_up = found.symbol_start.wrapping_add(found.offset as usize) == pc;
    match known.and_then(|at| HITS.get(at)) {
        Some(hits) if inside && adds_up => hits.fetch_add(1, Ordering::Relaxed),
        _ => WRONG.fetch_add(1, Ordering::Relaxed),
    };
    if !found.symbol.as_bytes().is_empty() {
        NAMED.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(target_arch = "x86_64")]
fn interrupted_pc(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

#[cfg(target_arch = "aarch64")]
fn interrupted_pc(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

/// The running thread's timer and signal stack; both end when it is dropped.
#[derive(Debug)]
pub struct Timer {
    /// None until it was created: 0 is a timer like any other.
    timer: Option<libc::timer_t>,
    before: libc::stack_t,
    _stack: Box<[u8]>,
}

impl Timer {
    /// Starts signals to the running thread.
    pub fn start() -> io::Result<Self> {
        let mut stack = vec![0; STACK].into_boxed_slice();
        let ours = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        let mut before = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: 0,
            ss_size: 0,
        };
        // SAFETY: the stack lives in the value returned, whose drop takes it back first.
        if unsafe { libc::sigaltstack(&raw const ours, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut this = Self {
            timer: None,
            before,
            _stack: stack,
        };
        // SAFETY: all-zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        // SAFETY: has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let clock = libc::CLOCK_MONOTONIC;
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to values that live for the call.
        if unsafe { libc::timer_create(clock, &raw mut event, &raw mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        this.timer = Some(timer);
        let period = libc::timespec {
            tv_sec: 0,
            tv_nsec: PERIOD_NS,
        };
        let times = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the timer was created above; the times live for the call.
        match unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) } {
            0 => Ok(this),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // SAFETY: created by start() on this thread and deleted once. A signal that is
            // already queued finds the handler and a stack all the same.
            unsafe { libc::timer_delete(timer) };
        }
        // SAFETY: gives the thread its stack from before start(); `!Send` keeps it this thread.
        unsafe { libc::sigaltstack(&raw const self.before, ptr::null_mut()) };
    }
}
