//! The signal handler: who reports, on which stack, and what becomes of the signal afterwards.
//!
//! Async-signal-safe. One thread reports; it does so on a stack made for that, so that threads
//! need no more of an alternate stack than the kernel writes there. A fault in a step of the
//! report ends that step. Afterwards the handlers that were there before are in force again and
//! the signal meets them as if nobody had looked at it.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::attempt;
use super::memory::Memory;
use super::out::Out;
use super::registers::Registers;
use super::report::Report;
use super::signal::CrashSignal;
use super::{json, text, watch};
use crate::checkpoint::crash_step;
use crate::sys::{alternate_stack, task};

/// Nobody has reported.
const ARMED: u64 = 0;
/// A report was made; handlers only hand on.
const DONE: u64 = u64::MAX;

/// [`ARMED`], [`DONE`] or the id of the thread that reports. Written by handlers and by
/// [`install`] (SeqCst: cold).
static REPORTER: AtomicU64 = AtomicU64::new(ARMED);

/// Top of the stack that reports are made on; 0 until there is one. Written at installation.
static STACK: AtomicUsize = AtomicUsize::new(0);

/// What was there before, by signal. Never freed: a handler may be at it. Written at installation
/// (SeqCst: cold), read by handlers.
static BEFORE: [AtomicPtr<libc::sigaction>; CrashSignal::ALL.len()] =
    [const { AtomicPtr::new(ptr::null_mut()) }; CrashSignal::ALL.len()];

/// Where JSON goes; null where it does not. Never closed: a handler may write to it.
static JSON: AtomicPtr<OwnedFd> = AtomicPtr::new(ptr::null_mut());

/// The standard error stream's descriptor, which needs no lock to be borrowed.
static STDERR: OnceLock<std::io::Stderr> = OnceLock::new();

/// How long a thread that crashes while another reports waits for it, in steps of 5 ms.
const PATIENCE: u32 = 600;

/// What a reporter works with, in memory that is there before.
struct Desk {
    report: UnsafeCell<Report>,
    memory: UnsafeCell<Memory>,
}

// SAFETY: only the thread that REPORTER names uses the desk, and a handler that interrupts it
// there only recovers.
unsafe impl Sync for Desk {}

static DESK: Desk = Desk {
    report: UnsafeCell::new(Report::EMPTY),
    memory: UnsafeCell::new(Memory::new()),
};

/// What the kernel told a handler.
struct Told {
    signal: CrashSignal,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
}

impl Told {
    fn info(&self) -> &libc::siginfo_t {
        // SAFETY: the kernel's record, in place for as long as the handler runs.
        unsafe { &*self.info }
    }

    /// Whether the instruction will fault again when the handler returns; a signal that was sent
    /// will not come again by itself.
    fn recurs(&self) -> bool {
        const BUS_MCEERR_AO: c_int = 5;
        let code = self.info().si_code;
        let elsewhere = self.signal == CrashSignal::Bus && code == BUS_MCEERR_AO;
        code > 0 && self.signal != CrashSignal::Abrt && !elsewhere
    }
}

extern "C" fn on_signal(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = task::errno();
    if let Some(signal) = CrashSignal::of(number) {
        handle(&Told {
            signal,
            info,
            context,
        });
    }
    task::set_errno(errno);
}

fn handle(told: &Told) {
    let me = u64::from(task::id());
    match REPORTER.compare_exchange(ARMED, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {
            // SAFETY: this thread is the reporter, and `told` outlives the call.
            unsafe {
                attempt::on_stack(
                    STACK.load(Ordering::SeqCst),
                    report,
                    ptr::from_ref(told).cast_mut().cast(),
                );
            };
            for signal in CrashSignal::ALL {
                if is_ours(signal) {
                    put_back(signal);
                }
            }
            REPORTER.store(DONE, Ordering::SeqCst);
        }
        // SAFETY: the context of this very handler.
        Err(reporter) if reporter == me && unsafe { attempt::recover(told.context) } => return,
        Err(reporter) if reporter == me || reporter == DONE => {}
        Err(_) => wait(),
    }
    hand_on(told);
}

/// Waits until another thread's report is made, but not for ever.
fn wait() {
    let nap = libc::timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    for _ in 0..PATIENCE {
        if REPORTER.load(Ordering::SeqCst) == DONE {
            return;
        }
        // SAFETY: reads one timespec.
        unsafe { libc::nanosleep(&raw const nap, ptr::null_mut()) };
    }
}

/// Lets the handler before meet the signal.
fn hand_on(told: &Told) {
    put_back(told.signal);
    if told.recurs() {
        return;
    }
    // It is sent again with all that came with it, and kept back until this handler has returned.
    // SAFETY: a set of signals without a pointer, made by the next two calls.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: an own set.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, told.signal.number()) };
    // SAFETY: the return from the handler sets the mask that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    let (process, thread) = (task::process(), task::id());
    // SAFETY: a signal to the running thread, with the kernel's own record of it.
    let status = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            libc::c_long::from(process),
            libc::c_long::from(thread),
            libc::c_long::from(told.signal.number()),
            told.info,
        )
    };
    if status != 0 {
        // SAFETY: the same without the record, which the kernel may not take back.
        unsafe {
            libc::syscall(
                libc::SYS_tgkill,
                libc::c_long::from(process),
                libc::c_long::from(thread),
                libc::c_long::from(told.signal.number()),
            )
        };
    }
}

/// Runs on the report's own stack.
unsafe extern "C" fn report(told: *mut c_void) {
    // Faults from here on are met on this stack, and not on top of the handler's frame.
    alternate_stack::take_away();
    // SAFETY: handle() passes its own record, which outlives this call.
    let told = unsafe { &*told.cast::<Told>() };
    // SAFETY: the context that the kernel gave with the signal.
    let registers = unsafe { Registers::of(told.context) };
    begin(told, registers);
    STEPS.iter().for_each(step);
}

/// The steps of a report, in an order that lets what matters most be written first.
const STEPS: [Step; 8] = [
    Step {
        name: "head",
        make: |facts, _| to_stderr(|out| text::head(out, facts)),
    },
    Step {
        name: "locate",
        make: |facts, memory| facts.locate(memory),
    },
    Step {
        name: "unwind",
        make: |facts, memory| facts.unwind(memory),
    },
    Step {
        name: "blame",
        make: |facts, _| to_stderr(|out| text::blame(out, facts, watch::name())),
    },
    Step {
        name: "plugins",
        make: |facts, _| to_stderr(|out| text::plugins(out, facts)),
    },
    Step {
        name: "backtrace",
        make: |facts, _| to_stderr(|out| text::backtrace(out, facts, watch::name())),
    },
    Step {
        name: "json",
        make: |facts, _| to_json(facts),
    },
    Step {
        name: "foot",
        make: |facts, _| to_stderr(|out| text::foot(out, facts.microseconds())),
    },
];

/// Writes down what the kernel said.
fn begin(told: &Told, registers: Registers) {
    let desk = DESK.report.get();
    // SAFETY: this thread is the reporter and nobody else is at the desk (see Desk).
    let facts = unsafe { &mut *desk };
    let info = told.info();
    facts.begin(told.signal, info.si_code, registers);
    // SAFETY: as above. What was readable at an earlier report may be gone.
    unsafe { DESK.memory.get().write(Memory::new()) };
    facts.address = (info.si_code > 0).then(|| {
        // SAFETY: a positive code means that the kernel filled in the address.
        unsafe { info.si_addr() }.addr()
    });
    facts.sender = (info.si_code <= 0).then(|| {
        // SAFETY: with these codes there is the sender's id, or a number of another meaning.
        unsafe { info.si_pid() }.unsigned_abs()
    });
}

/// One step, which a fault in it ends.
struct Step {
    name: &'static str,
    make: fn(&mut Report, &Memory),
}

fn step(step: &Step) {
    unsafe extern "C" fn run(step: *mut c_void) {
        // SAFETY: the step passed below, which outlives the call.
        let step = unsafe { &*step.cast::<Step>() };
        crash_step(step.name);
        let (report, memory) = (DESK.report.get(), DESK.memory.get());
        // SAFETY: the reporter's (see Desk); steps run one after the other.
        let report = unsafe { &mut *report };
        // SAFETY: as above.
        let memory = unsafe { &*memory };
        (step.make)(report, memory);
    }
    let argument = ptr::from_ref(step).cast_mut().cast();
    // SAFETY: runs a function with what it expects. What a step that ended in a fault leaves
    // behind is plain memory of the desk, valid whatever was written of it; a read section that
    // it was in stays open, which holds up an unload that is not to be expected any more.
    unsafe { attempt::attempt(run, argument) };
}

fn to_stderr(write: impl FnOnce(&mut Out<'_>)) {
    if let Some(stderr) = STDERR.get() {
        write(&mut Out::to(stderr.as_fd()));
    }
}

fn to_json(report: &Report) {
    let fd = JSON.load(Ordering::SeqCst);
    // SAFETY: null, or a descriptor that is never closed or freed.
    if let Some(fd) = unsafe { fd.as_ref() } {
        json::write(&mut Out::to(fd.as_fd()), report, watch::name());
    }
}

fn ours() -> usize {
    on_signal as *const () as usize
}

/// The action in force.
fn present(signal: CrashSignal) -> Option<libc::sigaction> {
    // SAFETY: numbers, a set of bits and a null pointer are all valid as zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only reads the action.
    let status = unsafe { libc::sigaction(signal.number(), ptr::null(), &raw mut action) };
    (status == 0).then_some(action)
}

/// Whether the handler in force is the one here. Async-signal-safe.
pub(crate) fn is_ours(signal: CrashSignal) -> bool {
    present(signal).is_some_and(|action| action.sa_sigaction == ours())
}

fn before(signal: CrashSignal) -> Option<&'static AtomicPtr<libc::sigaction>> {
    let n = CrashSignal::ALL.iter().position(|other| *other == signal)?;
    BEFORE.get(n)
}

/// Puts the action in force that was there before.
fn put_back(signal: CrashSignal) {
    // SAFETY: zero is the default action without flags.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    let before = before(signal).map_or(ptr::null_mut(), |before| before.load(Ordering::SeqCst));
    // SAFETY: null, or an action that is never freed.
    let action = unsafe { before.as_ref() }.unwrap_or(&default);
    // SAFETY: an action that was in force before, whose handler the host keeps.
    unsafe { libc::sigaction(signal.number(), action, ptr::null_mut()) };
}

/// Whether a handler was ever installed.
pub(crate) fn is_installed() -> bool {
    STACK.load(Ordering::SeqCst) != 0
}

/// Installs the handler where another one is in force, and arms it. Reports go to the standard
/// error stream, and as JSON to `json`.
///
/// Thread context, one caller at a time.
///
/// # Errors
/// The operating system's, when there is no memory for a stack or an action is refused.
pub(crate) fn install(json: Option<OwnedFd>) -> std::io::Result<()> {
    /// A report is made of a few fixed structures of some KiB; code that is not optimised takes
    /// several times as much as the rest.
    const SIZE: usize = 256 << 10;
    STDERR.get_or_init(std::io::stderr);
    if !is_installed() {
        let memory = alternate_stack::StackMemory::new(SIZE)
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        // Immortal: one a process.
        let memory = std::mem::ManuallyDrop::new(memory);
        STACK.store(memory.top(), Ordering::SeqCst);
    }
    // Immortal: a handler on another thread may be writing to the one before.
    let json = json.map_or(ptr::null_mut(), |json| Box::into_raw(Box::new(json)));
    JSON.store(json, Ordering::SeqCst);
    // SAFETY: as in present().
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ours();
    // SA_NODEFER: a fault in the report must reach the handler and not the kernel's default.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: an own set.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    for signal in CrashSignal::ALL {
        // SAFETY: as above.
        unsafe { libc::sigdelset(&raw mut action.sa_mask, signal.number()) };
    }
    for signal in CrashSignal::ALL {
        if is_ours(signal) {
            continue;
        }
        watch::forget(signal);
        let old = present(signal).ok_or_else(std::io::Error::last_os_error)?;
        if let Some(before) = before(signal) {
            // Immortal: a handler on another thread may be reading the one before.
            before.store(Box::into_raw(Box::new(old)), Ordering::SeqCst);
        }
        // SAFETY: the handler keeps to what is allowed in one; it is code of the host's, which
        // stays mapped.
        let status =
            unsafe { libc::sigaction(signal.number(), &raw const action, ptr::null_mut()) };
        if status != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    REPORTER.store(ARMED, Ordering::SeqCst);
    Ok(())
}
