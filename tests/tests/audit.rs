//! Threads that are inside a plugin without a call through the loader are found by their stacks,
//! and those that are not are not taken for it.

use std::ffi::{c_int, c_void};
use std::hint;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use plug_loader::{
    Audit, Config, Deadline, Doubt, ErrorKind, Holder, HolderKind, Plugin, Unloaded,
};
use plug_tests::confinement;
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin, run};
use plug_tests::{isolated, process};

const FIXTURE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <stdatomic.h>
#include <unistd.h>

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("roomy", "1.0.0", "is visited by its back door", "MIT", init, stop);

static volatile uint64_t sink;

/* Says that it has been entered, and computes. */
PLUG_EXPORT(uint64_t, compute, (_Atomic uint32_t *entering, uint64_t turns)) {
    atomic_store(entering, 0);
    uint64_t sum = 0;
    for (uint64_t n = 0; n < turns; n++) { sum += n ^ sink; }
    return sum + 1;
}

/* Calls back, with a frame of its own below. */
PLUG_EXPORT(uint64_t, through, (void (*call)(void *), void *with)) {
    call(with);
    return sink + 1;
}

PLUG_EXPORT(uint64_t, enters_and_calls, (_Atomic uint32_t *entering, void (*call)(void *), void *with)) {
    atomic_store(entering, 0);
    call(with);
    return sink + 1;
}

/* Many frames. */
PLUG_EXPORT(uint64_t, deep, (uint64_t n)) {
    volatile uint64_t room[4];
    room[n & 3] = n;
    return n == 0 ? 1 : deep(n - 1) + room[n & 3];
}

/* A leaf that says it is there and computes until it is told not to. */
PLUG_EXPORT(uint64_t, leaf, (_Atomic int32_t *there, _Atomic int32_t *done)) {
    atomic_store(there, 1);
    while (!atomic_load_explicit(done, memory_order_relaxed)) {}
    return 1;
}

/* A child that shares its memory, and this thread, which waits for it. */
PLUG_EXPORT(uint64_t, vforks, (_Atomic int32_t *there, uint32_t microseconds)) {
    pid_t child = vfork();
    if (child == 0) { atomic_store(there, 1); usleep(microseconds); _exit(0); }
    return child > 0;
}

/* What a thread starts with. */
PLUG_EXPORT(uint64_t, starts, (uint64_t turns)) {
    for (uint64_t n = 0; n < turns; n++) { sink = n; }
    return 0;
}
"#;

type Compute = unsafe extern "C" fn(*const AtomicU32, u64) -> u64;
type CallBack = unsafe extern "C" fn(*mut c_void);
type Through = unsafe extern "C" fn(CallBack, *mut c_void) -> u64;
type EntersAndCalls = unsafe extern "C" fn(*const AtomicU32, CallBack, *mut c_void) -> u64;
type Deep = unsafe extern "C" fn(u64) -> u64;
type Leaf = unsafe extern "C" fn(*const AtomicI32, *const AtomicI32) -> u64;
type Vforks = unsafe extern "C" fn(*const AtomicI32, u32) -> u64;

/// The fixture, loaded, and its functions by their bare addresses.
struct Room {
    host: Host,
    plugin: Plugin,
    _scratch: Scratch,
}

impl Room {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let host = Host::with(config);
        let scratch = Scratch::new("audit");
        let file = c_plugin(&scratch, "roomy", FIXTURE);
        let plugin = host.load(&file).expect("loads");
        Self {
            host,
            plugin,
            _scratch: scratch,
        }
    }

    /// An exported function as a bare pointer, which is what the audit is for.
    fn bare<F: Copy>(&self, name: &str) -> F {
        let address = self.plugin.address_of(name).expect("exported");
        assert_eq!(size_of::<F>(), size_of::<usize>());
        // SAFETY: each caller gives the fixture's own signature.
        unsafe { mem::transmute_copy(&address) }
    }

    fn audit(&self, deadline: Deadline) -> Vec<Holder> {
        self.host.loader.audit(&self.plugin, deadline)
    }

    /// Unloads in vain, and returns who was inside.
    fn refused(&self) -> Vec<Holder> {
        let soon = Deadline::after(Duration::from_millis(100));
        let error = self.host.loader.unload("roomy", soon).expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
        println!("{error}");
        error.blockers().to_vec()
    }

    fn gone(&self) {
        let verdict = self.host.loader.unload("roomy", seconds(20));
        assert!(matches!(verdict, Ok(Unloaded::Gone(_))), "{verdict:?}");
    }
}

/// A thread that tells its id and is inside until it is let go.
struct Guest {
    tid: u32,
    let_go: Arc<Barrier>,
    thread: JoinHandle<()>,
}

fn own_tid() -> u32 {
    // SAFETY: asks only.
    let tid = unsafe { libc::gettid() };
    tid.unsigned_abs()
}

fn nap(time: Duration) {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: reads one timespec.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "never {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

impl Guest {
    /// A thread that runs `visit` with what is to be called there: it waits to be let go.
    fn visits(visit: impl FnOnce(CallBack, *mut c_void) + Send + 'static) -> Self {
        unsafe extern "C" fn wait(barrier: *mut c_void) {
            // SAFETY: the barrier is kept by the thread that visits.
            let barrier = unsafe { &*barrier.cast::<Barrier>() };
            barrier.wait();
        }
        let let_go = Arc::new(Barrier::new(2));
        let barrier = Arc::clone(&let_go);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name("guest".into()).spawn(move || {
            tell.send(own_tid()).expect("heard");
            visit(wait, Arc::as_ptr(&barrier).cast_mut().cast());
        });
        let guest = Self {
            tid: told.recv().expect("told"),
            let_go,
            thread: thread.expect("started"),
        };
        guest.sleeps();
        guest
    }

    fn sleeps(&self) {
        let path = format!("/proc/self/task/{}/syscall", self.tid);
        eventually("asleep", || {
            fs::read_to_string(&path).is_ok_and(|text| text.starts_with("202 "))
        });
    }

    fn leaves(self) {
        self.let_go.wait();
        self.thread.join().expect("no panic");
    }
}

#[track_caller]
fn is_named(holders: &[Holder], tid: u32, kind: HolderKind, function: &str) {
    let found = holders.iter().find(|holder| holder.tid == tid);
    let found = found.unwrap_or_else(|| panic!("thread {tid} is not among {holders:?}"));
    assert_eq!((found.kind, &*found.function), (kind, function), "{found}");
}

#[test]
fn a_thread_that_sleeps_below_the_plugin_is_named_and_waited_for() {
    isolated!({
        let room = Room::new();
        let through: Through = room.bare("through");
        assert_eq!(room.audit(Deadline::now()), [], "nobody is there yet");
        // SAFETY: the fixture's own signature; it stays mapped, which is the point.
        let guest = Guest::visits(move |call, with| _ = unsafe { through(call, with) });
        let holders = room.refused();
        is_named(&holders, guest.tid, HolderKind::Stack, "through");
        assert_eq!(&*holders[0].thread, "guest");
        assert_eq!(holders.len(), 1, "{holders:?}");
        let unload = thread::scope(|scope| {
            let unload = scope.spawn(|| room.host.loader.unload("roomy", seconds(20)));
            thread::sleep(Duration::from_millis(50));
            guest.leaves();
            unload.join().expect("no panic")
        });
        assert!(matches!(unload, Ok(Unloaded::Gone(_))), "{unload:?}");
    });
}

#[test]
fn a_thread_that_computes_in_the_plugin_is_asked_and_named() {
    isolated!({
        let room = Room::new();
        let leaf: Leaf = room.bare("leaf");
        let (there, done) = (AtomicI32::new(0), AtomicI32::new(0));
        thread::scope(|scope| {
            let computes = scope.spawn(|| {
                // SAFETY: the fixture's own signature.
                unsafe { leaf(&raw const there, &raw const done) };
                own_tid()
            });
            // One that computes outside is asked as well, and not held against the plugin.
            scope.spawn(|| {
                while done.load(Ordering::SeqCst) == 0 {
                    hint::spin_loop();
                }
            });
            eventually("inside", || there.load(Ordering::SeqCst) == 1);
            let refused = room.refused();
            let at_length = room.audit(seconds(3));
            done.store(1, Ordering::SeqCst);
            let tid = computes.join().expect("no panic");
            is_named(&refused, tid, HolderKind::Stack, "leaf");
            is_named(&at_length, tid, HolderKind::Stack, "leaf");
            assert_eq!(at_length.len(), 1, "{at_length:?}");
        });
        room.gone();
    });
}

#[test]
fn nobodys_stack_counts_where_the_host_says_so() {
    isolated!({
        let mut config = Config::default();
        config.audit = Audit::Off;
        let room = Room::with(config);
        let through: Through = room.bare("through");
        // SAFETY: the fixture's own signature.
        let guest = Guest::visits(move |call, with| _ = unsafe { through(call, with) });
        assert_eq!(room.audit(Deadline::now()), []);
        guest.leaves();
        room.gone();
    });
}

#[test]
fn workers_stacks_count_at_the_level_of_all_alone() {
    isolated!({
        let mut config = Config::default();
        config.audit = Audit::All;
        let room = Room::with(config);
        let through: Through = room.bare("through");
        let loader = room.host.loader.clone();
        let guest = Guest::visits(move |call, with| {
            let worker = loader.worker("io").expect("worker");
            // SAFETY: the fixture's own signature.
            unsafe { through(call, with) };
            drop(worker);
        });
        is_named(&room.refused(), guest.tid, HolderKind::Stack, "through");
        guest.leaves();
        room.gone();
    });
}

/// Sleeps with a buffer on the stack that nobody wrote to; whether former calls left words there that
/// lead into `code`.
#[inline(never)]
fn sleeps_above_what_was(code: &Range<usize>, sleep: &dyn Fn(), found: &AtomicU32) {
    let mut room = [const { MaybeUninit::<usize>::uninit() }; 1024];
    let start = hint::black_box(room.as_mut_ptr());
    let words = process::words(start.addr(), room.len());
    let words = words.iter().filter(|word| code.contains(word)).count();
    if words > 0 {
        found.fetch_add(1, Ordering::SeqCst);
    }
    sleep();
    hint::black_box(&mut room);
}

#[test]
fn what_former_calls_left_on_a_stack_is_not_taken_for_a_call() {
    isolated!({
        const THREADS: u32 = 100;
        let room = Room::new();
        let deep: Deep = room.bare("deep");
        let (start, end) = room.plugin.range();
        let code = start..end;
        let found = AtomicU32::new(0);
        let asleep = AtomicU32::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for n in 0..THREADS {
                let (code, found, asleep, done) = (&code, &found, &asleep, &done);
                scope.spawn(move || {
                    // SAFETY: the fixture's own signature.
                    assert!(unsafe { deep(60) } > 0);
                    let sleep = || {
                        asleep.fetch_add(1, Ordering::SeqCst);
                        while !done.load(Ordering::SeqCst) {
                            match n % 3 {
                                0 => nap(Duration::from_millis(900)),
                                1 => thread::park_timeout(Duration::from_secs(5)),
                                // SAFETY: no descriptors are given.
                                _ => _ = unsafe { libc::poll(ptr::null_mut(), 0, 900) },
                            }
                        }
                    };
                    sleeps_above_what_was(code, &sleep, found);
                });
            }
            eventually("asleep", || asleep.load(Ordering::SeqCst) == THREADS);
            let found = found.load(Ordering::SeqCst);
            assert!(
                found >= THREADS * 9 / 10,
                "stale words on {found} stacks only"
            );
            let began = Instant::now();
            let inside = room.audit(seconds(5));
            println!(
                "{found} of {THREADS} stacks with stale words, {:?}",
                began.elapsed()
            );
            done.store(true, Ordering::SeqCst);
            assert_eq!(inside, [], "{} false positives", inside.len());
        });
        room.gone();
    });
}

/// An alternate stack for the running thread, kept for ever.
fn take_alternate_stack() {
    let memory = vec![0_u8; 64 << 10].leak();
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: memory.len(),
    };
    // SAFETY: the memory stays.
    assert_eq!(
        unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) },
        0
    );
}

/// Set while a handler of the host's waits for it to be unset.
static HANDLING: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_interrupt(_: c_int) {
    HANDLING.store(1, Ordering::SeqCst);
    while HANDLING.load(Ordering::SeqCst) != 0 {
        nap(Duration::from_millis(5));
    }
}

fn handle(signal: c_int, flags: c_int) {
    // SAFETY: a set of bits, numbers and null pointers.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_interrupt as *const () as usize;
    action.sa_flags = flags;
    // SAFETY: a handler that sleeps and stores.
    assert_eq!(
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) },
        0
    );
}

/// A leaf of the plugin interrupted by a handler of the host's that sleeps: no return address of the
/// plugin's is on any stack.
fn interrupted_in_a_leaf(flags: c_int) {
    let room = Room::new();
    let leaf: Leaf = room.bare("leaf");
    handle(libc::SIGUSR1, flags);
    let (there, done, tid) = (AtomicI32::new(0), AtomicI32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            take_alternate_stack();
            tid.store(own_tid(), Ordering::SeqCst);
            // SAFETY: the fixture's own signature.
            unsafe { leaf(&raw const there, &raw const done) };
        });
        eventually("inside", || there.load(Ordering::SeqCst) == 1);
        let tid = tid.load(Ordering::SeqCst);
        // SAFETY: a handler is installed.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
        eventually("interrupted", || HANDLING.load(Ordering::SeqCst) == 1);
        is_named(&room.refused(), tid, HolderKind::Stack, "leaf");
        done.store(1, Ordering::SeqCst);
        HANDLING.store(0, Ordering::SeqCst);
    });
    room.gone();
}

#[test]
fn a_leaf_interrupted_by_a_handler_that_sleeps_is_found() {
    isolated!({ interrupted_in_a_leaf(0) });
}

#[test]
fn a_leaf_interrupted_by_a_handler_on_an_alternate_stack_is_found() {
    isolated!({ interrupted_in_a_leaf(libc::SA_ONSTACK) });
}

#[test]
fn a_handler_on_an_alternate_stack_above_the_hosts_own_code_is_outside() {
    isolated!({
        let room = Room::new();
        handle(libc::SIGUSR1, libc::SA_ONSTACK);
        let (tid, done) = (AtomicU32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                take_alternate_stack();
                let deep: Deep = room.bare("deep");
                // SAFETY: the fixture's own signature.
                assert!(unsafe { deep(60) } > 0);
                tid.store(own_tid(), Ordering::SeqCst);
                while !done.load(Ordering::SeqCst) {
                    hint::spin_loop();
                }
            });
            eventually("there", || tid.load(Ordering::SeqCst) != 0);
            let tid = tid.load(Ordering::SeqCst);
            // SAFETY: a handler is installed.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
            eventually("interrupted", || HANDLING.load(Ordering::SeqCst) == 1);
            assert_eq!(room.audit(seconds(5)), []);
            HANDLING.store(0, Ordering::SeqCst);
            done.store(true, Ordering::SeqCst);
        });
        room.gone();
    });
}

fn block_all_signals() {
    // SAFETY: a set of bits.
    let mut all: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: an own set.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut()) };
}

#[test]
fn threads_that_block_all_signals_are_read_and_where_they_compute_refused() {
    isolated!({
        let room = Room::new();
        let through: Through = room.bare("through");
        let outside = Guest::visits(|call, with| {
            block_all_signals();
            // SAFETY: waits for the barrier that it is given.
            unsafe { call(with) };
        });
        assert_eq!(room.audit(seconds(5)), [], "it sleeps outside");
        let inside = Guest::visits(move |call, with| {
            block_all_signals();
            // SAFETY: the fixture's own signature.
            unsafe { through(call, with) };
        });
        is_named(&room.refused(), inside.tid, HolderKind::Stack, "through");
        inside.leaves();
        let (tid, done) = (AtomicU32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                block_all_signals();
                tid.store(own_tid(), Ordering::SeqCst);
                while !done.load(Ordering::SeqCst) {
                    hint::spin_loop();
                }
            });
            eventually("there", || tid.load(Ordering::SeqCst) != 0);
            let holders = room.refused();
            done.store(true, Ordering::SeqCst);
            let doubt = HolderKind::PerhapsStack(Doubt::BlocksSignal);
            is_named(&holders, tid.load(Ordering::SeqCst), doubt, "");
        });
        outside.leaves();
        room.gone();
    });
}

#[test]
fn the_frames_of_a_program_with_gaps_between_its_segments_are_followed() {
    let program = env!("CARGO_BIN_EXE_gaps-host");
    let layout = run(Command::new("readelf").args(["-lW", program]));
    let segments = layout.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let number = |n: usize| u64::from_str_radix(fields.get(n)?.strip_prefix("0x")?, 16).ok();
        (fields.first() == Some(&"LOAD")).then_some((number(2)?, number(5)?))
    });
    let segments: Vec<_> = segments.collect();
    let leaves_a_gap = |pair: &[(u64, u64)]| {
        let [(start, size), (next, _)] = pair else {
            return false;
        };
        (start + size).next_multiple_of(4096) < next & !4095
    };
    assert!(segments.windows(2).any(leaves_a_gap), "{layout}");
    let scratch = Scratch::new("gaps");
    let file = c_plugin(&scratch, "roomy", FIXTURE);
    let said = run(Command::new(program).arg(file));
    println!("{said}");
    assert!(!said.starts_with("0 words left"), "{said}");
    assert!(said.contains("0 holders []\ngone: true"), "{said}");
}

#[test]
fn a_thread_that_waits_for_its_vfork_is_named() {
    isolated!({
        let room = Room::new();
        let vforks: Vforks = room.bare("vforks");
        let (there, tid) = (AtomicI32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                tid.store(own_tid(), Ordering::SeqCst);
                // SAFETY: the fixture's own signature.
                assert_eq!(unsafe { vforks(&raw const there, 2_000_000) }, 1);
            });
            eventually("inside", || there.load(Ordering::SeqCst) == 1);
            let holders = room.refused();
            is_named(
                &holders,
                tid.load(Ordering::SeqCst),
                HolderKind::Stack,
                "vforks",
            );
        });
        room.gone();
    });
}

/// Sleeps on a stack that is no thread's, until it is told not to.
extern "C" fn on_a_fiber(done: *const AtomicBool) {
    // SAFETY: given by the one who waits for this to return.
    while !unsafe { &*done }.load(Ordering::SeqCst) {
        nap(Duration::from_millis(5));
    }
}

std::arch::global_asm!(
    ".text",
    ".globl plug_test_on_stack",
    "plug_test_on_stack:",
    // rdi function, rsi argument, rdx stack to change to. Whatever was there is not to be found.
    "push rbx",
    "mov rbx, rsp",
    "mov rsp, rdx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "mov rsp, rbx",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn plug_test_on_stack(
        job: extern "C" fn(*const AtomicBool),
        with: *const AtomicBool,
        top: usize,
    );
}

#[test]
fn a_thread_on_a_fibers_stack_is_not_told_to_be_outside() {
    isolated!({
        let room = Room::new();
        let (tid, done) = (AtomicU32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                tid.store(own_tid(), Ordering::SeqCst);
                let stack = vec![0_usize; 32 << 10];
                let top = stack.as_ptr_range().end.addr() & !15;
                // SAFETY: memory of its own that is large enough, and the flag outlives the call.
                unsafe { plug_test_on_stack(on_a_fiber, &raw const done, top) };
                assert!(!stack.is_empty());
            });
            eventually("there", || tid.load(Ordering::SeqCst) != 0);
            let holders = room.refused();
            done.store(true, Ordering::SeqCst);
            let doubt = HolderKind::PerhapsStack(Doubt::ForeignStack);
            is_named(&holders, tid.load(Ordering::SeqCst), doubt, "");
        });
        room.gone();
    });
}

#[test]
fn sleeping_host_code_sees_no_interruption() {
    isolated!({
        const AUDITS: usize = 100;
        let room = Room::new();
        let (done, interrupted, waits) =
            (AtomicBool::new(false), AtomicU32::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..12 {
                let (done, interrupted, waits) = (&done, &interrupted, &waits);
                scope.spawn(move || {
                    // SAFETY: makes a descriptor.
                    let epoll = unsafe { libc::epoll_create1(0) };
                    while !done.load(Ordering::SeqCst) {
                        let status = match n % 3 {
                            0 => {
                                let time = libc::timespec {
                                    tv_sec: 0,
                                    tv_nsec: 2_000_000,
                                };
                                // SAFETY: reads one timespec.
                                unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) }
                            }
                            // SAFETY: no descriptors are given.
                            1 => unsafe { libc::poll(ptr::null_mut(), 0, 2) },
                            _ => {
                                let mut event = libc::epoll_event { events: 0, u64: 0 };
                                // SAFETY: there is room for one event.
                                unsafe { libc::epoll_wait(epoll, &raw mut event, 1, 2) }
                            }
                        };
                        waits.fetch_add(1, Ordering::Relaxed);
                        if status < 0 {
                            interrupted.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            // One that is asked by the signal each time.
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    hint::spin_loop();
                }
            });
            for _ in 0..AUDITS {
                assert_eq!(room.audit(seconds(20)), []);
            }
            done.store(true, Ordering::SeqCst);
        });
        let waits = waits.load(Ordering::Relaxed);
        println!("{AUDITS} audits, {waits} waits of the host's");
        assert!(waits > 100, "nobody slept");
        assert_eq!(
            interrupted.load(Ordering::SeqCst),
            0,
            "EINTR seen by the host"
        );
        room.gone();
    });
}

/// What the callers of the torture share.
struct Torture {
    /// Whether the back door is open.
    open: AtomicBool,
    stop: AtomicBool,
    calls: AtomicU64,
}

/// One that calls by bare pointers: `entering` is set from before it looks at the door until it is
/// inside, or has seen it closed.
fn torments(torture: &Torture, entering: &AtomicU32, what: impl Fn(&AtomicU32), spins: bool) {
    while !torture.stop.load(Ordering::SeqCst) {
        entering.store(1, Ordering::SeqCst);
        if torture.open.load(Ordering::SeqCst) {
            what(entering);
            torture.calls.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        entering.store(0, Ordering::SeqCst);
        if spins {
            hint::spin_loop();
        } else {
            nap(Duration::from_micros(50));
        }
    }
}

/// The plugin's code, as the kernel has it mapped.
fn code_of(plugin: &Plugin) -> Range<usize> {
    let (start, end) = plugin.range();
    let maps = plug_tests::process::maps();
    let mut code = maps
        .iter()
        .filter(|m| m.rights == "r-xp" && start <= m.start && m.end <= end);
    let code = code.next().expect("code");
    code.start..code.end
}

fn protect(code: &Range<usize>, rights: c_int) {
    // SAFETY: the plugin's own code, which nobody runs if the audit is right: the question.
    let done = unsafe { libc::mprotect(code.start as *mut c_void, code.len(), rights) };
    assert_eq!(done, 0, "mprotect");
}

/// Rounds of closing the back door, waiting until nobody is inside, and making the code inaccessible:
/// whoever was overlooked faults. `PLUG_AUDIT_ROUNDS` is how many; 50,000 make a million calls and
/// more.
#[test]
fn nobody_inside_is_overlooked() {
    let rounds: u64 = env::var("PLUG_AUDIT_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(300);
    let time = Duration::from_secs(120 + rounds / 10);
    plug_tests::child::isolated_for(time, "nobody_inside_is_overlooked", || {
        let room = Room::new();
        let code = code_of(&room.plugin);
        let compute: Compute = room.bare("compute");
        let enters_and_calls: EntersAndCalls = room.bare("enters_and_calls");
        let torture = Torture {
            open: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        };
        let entering = [const { AtomicU32::new(0) }; 6];
        let mut audits = Vec::new();
        let mut found = 0_u64;
        thread::scope(|scope| {
            let (torture, entering) = (&torture, &entering);
            // Short calls, a long one, one that sleeps below the plugin, and threads that begin in it.
            scope.spawn(|| {
                let call = |flag: &AtomicU32| {
                    // SAFETY: the fixture's own signature.
                    unsafe { compute(flag, 50) };
                };
                torments(torture, &entering[0], call, true);
            });
            scope.spawn(|| {
                let call = |flag: &AtomicU32| {
                    // SAFETY: the fixture's own signature.
                    unsafe { compute(flag, 1_000_000) };
                };
                torments(torture, &entering[1], call, false);
            });
            unsafe extern "C" fn sleep(_: *mut c_void) {
                nap(Duration::from_millis(2));
            }
            unsafe extern "C" fn park(_: *mut c_void) {
                thread::park_timeout(Duration::from_millis(1));
            }
            for (flag, call) in [(&entering[2], sleep as CallBack), (&entering[3], park)] {
                scope.spawn(move || {
                    let call = |flag: &AtomicU32| {
                        // SAFETY: the fixture's own signature.
                        unsafe { enters_and_calls(flag, call, ptr::null_mut()) };
                    };
                    torments(torture, flag, call, false);
                });
            }
            scope.spawn(|| {
                let call = |flag: &AtomicU32| begins_there(&room, flag);
                torments(torture, &entering[4], call, false);
            });
            for _ in 0..rounds {
                torture.open.store(false, Ordering::SeqCst);
                while entering.iter().any(|flag| flag.load(Ordering::SeqCst) != 0) {
                    thread::yield_now();
                }
                found += u64::from(!room.audit(Deadline::now()).is_empty());
                let began = Instant::now();
                let inside = room.audit(seconds(60));
                audits.push(began.elapsed());
                assert_eq!(inside, []);
                protect(&code, libc::PROT_NONE);
                nap(Duration::from_micros(50));
                protect(&code, libc::PROT_READ | libc::PROT_EXEC);
                torture.open.store(true, Ordering::SeqCst);
                nap(Duration::from_micros(100));
            }
            torture.stop.store(true, Ordering::SeqCst);
        });
        audits.sort_unstable();
        let calls = torture.calls.load(Ordering::Relaxed);
        println!(
            "{rounds} rounds, {calls} calls, somebody inside in {found}, median of the audits {:?}",
            audits[audits.len() / 2]
        );
        assert!(found > rounds / 100, "nobody was ever inside");
        assert!(calls > rounds);
        room.gone();
    });
}

/// Makes a thread that begins in the plugin, and does not wait until it has begun.
fn begins_there(room: &Room, flag: &AtomicU32) {
    type Start = extern "C" fn(*mut c_void) -> *mut c_void;
    // It takes one word and returns one, as the start of a thread does.
    let starts: Start = room.bare("starts");
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: there is room for the handle.
    let status = unsafe {
        libc::pthread_create(
            thread.as_mut_ptr(),
            ptr::null(),
            starts,
            ptr::without_provenance_mut(200),
        )
    };
    assert_eq!(status, 0);
    flag.store(0, Ordering::SeqCst);
    // SAFETY: made just now, and joined once.
    unsafe { libc::pthread_join(thread.assume_init(), ptr::null_mut()) };
}

#[test]
fn threads_that_begin_and_end_all_the_time_hold_nothing_up() {
    isolated!({
        let room = Room::new();
        let done = AtomicBool::new(false);
        let ended = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        thread::scope(|scope| _ = scope.spawn(|| nap(Duration::from_micros(20))));
                        ended.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..50 {
                let began = Instant::now();
                assert_eq!(room.audit(seconds(20)), []);
                assert!(began.elapsed() < Duration::from_secs(10));
            }
            done.store(true, Ordering::SeqCst);
        });
        println!("{} threads ended meanwhile", ended.load(Ordering::SeqCst));
        room.gone();
    });
}

#[test]
fn a_thread_under_a_filter_of_its_own_is_not_sent_a_signal_that_would_end_it() {
    static THERE: AtomicU32 = AtomicU32::new(0);
    static DONE: AtomicBool = AtomicBool::new(false);
    isolated!({
        let room = Room::new();
        // Not joined: it ends without any clean-up, as it must.
        thread::spawn(|| {
            let tid = own_tid();
            confinement::confine();
            THERE.store(tid, Ordering::SeqCst);
            while !DONE.load(Ordering::SeqCst) {
                hint::spin_loop();
            }
            confinement::exit_thread()
        });
        eventually("there", || THERE.load(Ordering::SeqCst) != 0);
        let holders = room.refused();
        let doubt = HolderKind::PerhapsStack(Doubt::Confined);
        is_named(&holders, THERE.load(Ordering::SeqCst), doubt, "");
        DONE.store(true, Ordering::SeqCst);
        room.gone();
    });
}
