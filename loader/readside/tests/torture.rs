//! Real threads, real signals and real barriers against the sections.
//!
//! Readers check every byte that they see against a checksum of the generation; the writer
//! overwrites each view as soon as its grace period is over. Each mode runs in a process of its
//! own, since the table of sections and its mode belong to the process. `PLUG_TORTURE_SECONDS`
//! sets the time of a mode that must pass.
#![cfg(not(plug_loom))]

use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, hint, io, mem, ptr, thread};

use plug_readside::elf::RawSymbol;
use plug_readside::index::{Bytes, Index, Table};
use plug_readside::snapshot::{self, Row, View};
use plug_readside::{PluginView, SymbolReader, ThreadPointer, thread_pointer};

/// Plugins in a view, symbols in a plugin, bytes in a name.
const ROWS: usize = 6;
const SYMBOLS: usize = 8;
const NAME: usize = 8;
/// Views that take turns; a freed one stays poisoned for as many publications.
const VIEWS: usize = 8;
/// First address of the first row; nothing is mapped there, since nothing is called.
const BASE: usize = 0x10_0000_0000;
const STEP: usize = 0x1_0000;

const READER: SymbolReader = SymbolReader::new();

static STOP: AtomicBool = AtomicBool::new(false);
static MISMATCHES: AtomicU64 = AtomicU64::new(0);
static WALKS: AtomicU64 = AtomicU64::new(0);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static NESTED: AtomicU64 = AtomicU64::new(0);

/// What the writer does wrong, and which readers run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Membarrier,
    Fences,
    /// Membarrier is given up half-way, under full load.
    Switch,
    NoBarrier,
    NoGracePeriod,
}

const MODES: [(&str, Mode); 5] = [
    ("membarrier", Mode::Membarrier),
    ("fences", Mode::Fences),
    ("switch", Mode::Switch),
    ("no-barrier", Mode::NoBarrier),
    ("no-grace-period", Mode::NoGracePeriod),
];

/// A zero byte, then names with a zero byte each.
const STRINGS: usize = 1 + (NAME + 1) * (SYMBOLS + 1);

/// Where name `n` starts.
fn place_of(n: usize) -> usize {
    1 + n * (NAME + 1)
}

/// One view with all that it points at.
#[repr(C)]
struct Package {
    view: View,
    rows: [Row; ROWS],
    starts: [usize; ROWS],
    indexes: [Index; ROWS],
    symbols: [[RawSymbol; SYMBOLS]; ROWS],
    strings: [[u8; STRINGS]; ROWS],
}

/// The name of symbol `n` of a load; of the load itself for `SYMBOLS`.
fn name_of(generation: u64, n: usize) -> [u8; NAME] {
    let mixed = (generation + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n as u64) << 32;
    // No zero bytes: they end names.
    (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) | 0x0101_0101_0101_0101).to_ne_bytes()
}

fn start_of(row: usize) -> usize {
    BASE + row * STEP
}

fn size_of_symbol(generation: u64) -> u64 {
    0x80 + generation % 0x40
}

/// Writes the view number `sequence` into `package`.
///
/// # Safety
/// - Nobody reads the package.
unsafe fn build(package: *mut Package, sequence: u64) {
    let small = |n: usize| u32::try_from(n).expect("a few bytes");
    for row in 0..ROWS {
        let generation = sequence * ROWS as u64 + row as u64;
        let symbols = std::array::from_fn(|n| RawSymbol {
            name: small(place_of(n)),
            info: 0x12,
            other: 0,
            section: 1,
            svma: n as u64 * 0x100,
            size: size_of_symbol(generation),
        });
        let mut strings = [0; STRINGS];
        for n in 0..=SYMBOLS {
            strings[place_of(n)..][..NAME].copy_from_slice(&name_of(generation, n));
        }
        // SAFETY: by the contract, nobody else has the package; all indices are in range.
        let package = unsafe { &mut *package };
        package.symbols[row] = symbols;
        package.strings[row] = strings;
        package.indexes[row] = Index {
            name: Bytes {
                start: package.strings[row][place_of(SYMBOLS)..].as_ptr(),
                len: NAME,
            },
            version: Bytes::EMPTY,
            build_id: [0; 32],
            build_id_len: 0,
            dynamic: Table {
                symbols: Bytes {
                    start: package.symbols[row].as_ptr().cast(),
                    len: size_of_val(&package.symbols[row]),
                },
                strings: Bytes {
                    start: package.strings[row].as_ptr(),
                    len: STRINGS,
                },
            },
            all: Table::EMPTY,
            gnu_hash: Bytes::EMPTY,
            sysv_hash: Bytes::EMPTY,
            versions: Bytes::EMPTY,
            frames: Bytes::EMPTY,
            frames_svma: 0,
            text: (0, 0),
            search: AtomicPtr::new(ptr::null_mut()),
        };
        package.starts[row] = start_of(row);
        package.rows[row] = Row {
            start: start_of(row),
            end: start_of(row) + STEP / 2,
            bias: start_of(row),
            id: 0,
            generation,
            index: &raw const package.indexes[row],
        };
    }
    // SAFETY: as above.
    let package = unsafe { &mut *package };
    package.view = View {
        rows: package.rows.as_ptr(),
        starts: package.starts.as_ptr(),
        n_rows: ROWS,
        sequence,
    };
}

/// Overwrites what a reader would notice, and no pointer, so that a broken writer is found by
/// the check and not by a crash.
///
/// # Safety
/// - The package is allocated; in a broken mode readers may be looking at it, which is the point.
unsafe fn poison(package: *mut Package) {
    for row in 0..ROWS {
        // SAFETY: a place inside the package.
        let generation = unsafe { &raw mut (*package).rows[row].generation };
        // SAFETY: as above.
        unsafe { generation.write_volatile(u64::MAX - 1) };
        // SAFETY: a place inside the package.
        let strings = unsafe { &raw mut (*package).strings[row] };
        // SAFETY: as above.
        unsafe { strings.write_volatile([0xde; STRINGS]) };
    }
}

fn mismatch() {
    MISMATCHES.fetch_add(1, Ordering::SeqCst);
}

/// Whether what a walk shows of a plugin is one generation and nothing else.
fn is_whole(plugin: &PluginView<'_>, row: usize) -> bool {
    let generation = plugin.generation();
    let named = plugin.name() == name_of(generation, SYMBOLS);
    let mut seen = 0;
    let mut fits = true;
    for (n, symbol) in plugin.symbols().enumerate() {
        fits &= symbol.name == name_of(generation, n)
            && symbol.address == start_of(row) + n * 0x100
            && symbol.size == size_of_symbol(generation);
        seen += 1;
    }
    compiler_fence(Ordering::SeqCst);
    // Once more at the end, so that a poisoning in between does not go unseen.
    named && fits && seen == SYMBOLS && plugin.name() == name_of(plugin.generation(), SYMBOLS)
}

/// Walks the view, with a lookup inside the walk, and checks all of it.
fn check_walk() {
    let mut row = 0;
    let mut first = None;
    let sequence = READER.walk(|plugin| {
        if !is_whole(&plugin, row) {
            mismatch();
            return false;
        }
        let number = plugin.generation() / ROWS as u64;
        if *first.get_or_insert(number) != number {
            mismatch();
        }
        if row == 2 {
            check_lookup(3, 5);
        }
        row += 1;
        true
    });
    if first.is_some_and(|first| first != sequence) {
        mismatch();
    }
    WALKS.fetch_add(1, Ordering::Relaxed);
}

/// Looks one address up and checks the answer.
fn check_lookup(row: usize, symbol: usize) {
    let address = start_of(row) + symbol * 0x100 + 0x10;
    let Some(found) = READER.resolve(address) else {
        mismatch();
        return;
    };
    let generation = found.generation;
    let fits = generation % ROWS as u64 == row as u64
        && found.plugin.as_bytes() == name_of(generation, SYMBOLS)
        && found.symbol.as_bytes() == name_of(generation, symbol)
        && found.symbol_start == start_of(row) + symbol * 0x100
        && found.offset == 0x10;
    if !fits {
        mismatch();
    }
}

/// Both signals end here; neither is blocked during the other, so handlers nest.
extern "C" fn handler(signal: libc::c_int) {
    if signal == libc::SIGUSR2 {
        NESTED.fetch_add(1, Ordering::Relaxed);
    }
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    check_lookup(1, 7);
    check_walk();
}

fn install_handlers() {
    for signal in [libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: all zeroes is a valid sigaction: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler is async-signal-safe: two atomics and the crate's own readers.
        let done = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        assert_eq!(done, 0);
    }
}

/// Gives the thread an alternate stack, which lives as long as the process.
fn use_alternate_stack() {
    let memory = Box::leak(vec![0_u8; 256 * 1024].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: memory.len(),
    };
    // SAFETY: the memory is never freed and used by this thread's signals only.
    let done = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    assert_eq!(done, 0);
}

/// Memory too large for the caches: stores into it wait in the store buffer, and the store that
/// enters a section waits behind them.
static FAR: [AtomicUsize; 1 << 23] = [const { AtomicUsize::new(0) }; 1 << 23];

/// Fills the store buffer with stores that miss every cache.
fn fill_store_buffer(round: usize) {
    for n in 0..40 {
        let at = (round * 40 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 41;
        FAR[at].store(round, Ordering::Relaxed);
    }
}

/// A walk that stays in its section for microseconds.
fn check_walk_slowly() {
    let mut row = 0;
    READER.walk(|plugin| {
        for _ in 0..64 {
            // Or the compiler reads once and compares again and again.
            compiler_fence(Ordering::SeqCst);
            if !is_whole(&plugin, row) {
                mismatch();
                return false;
            }
        }
        row += 1;
        row < 2
    });
    WALKS.fetch_add(1, Ordering::Relaxed);
}

/// Whether the one delayed reader has been found.
static CHOSEN: AtomicBool = AtomicBool::new(false);

/// The line that the table gives a thread first.
fn home_of(thread: ThreadPointer) -> usize {
    (thread.address().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 256
}

/// A reader; a registered one goes out and in again all the time.
fn read(registered: bool, delayed: bool) {
    // Of many threads one whose line is scanned first, while its stores still wait.
    if delayed && (home_of(thread_pointer()) >= 8 || CHOSEN.swap(true, Ordering::SeqCst)) {
        return;
    }
    let sections = snapshot::sections();
    let mut round = 0_usize;
    while !STOP.load(Ordering::Relaxed) {
        if registered && round.is_multiple_of(4096) {
            assert!(sections.register(thread_pointer(), 1));
        }
        if delayed {
            // Of varying length, or reader and writer fall into step.
            for _ in 0..round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54 {
                hint::spin_loop();
            }
            fill_store_buffer(round);
            check_walk_slowly();
        } else {
            check_walk();
            check_lookup(round % ROWS, round % SYMBOLS);
        }
        if registered && round % 4096 == 4095 {
            sections.unregister(thread_pointer());
        }
        round += 1;
    }
    sections.unregister(thread_pointer());
}

fn membarrier(command: libc::c_int) -> Result<(), io::Error> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Publishes, waits and poisons until the time is over, or in a broken mode until it is found.
/// Returns the number of grace periods.
fn write(mode: Mode, time: Duration) -> u64 {
    let sections = snapshot::sections();
    let packages: Vec<*mut Package> = (0..VIEWS)
        .map(|_| Box::into_raw(Box::new(mem::MaybeUninit::<Package>::zeroed())).cast())
        .collect();
    let broken = matches!(mode, Mode::NoBarrier | Mode::NoGracePeriod);
    let mut old: *mut Package = ptr::null_mut();
    let begun = Instant::now();
    let mut grace_periods = 0;
    for sequence in 1_u64.. {
        let found = broken && MISMATCHES.load(Ordering::Relaxed) != 0;
        if found || (sequence.is_multiple_of(64) && begun.elapsed() > time) {
            break;
        }
        let next = packages[usize::try_from(sequence).expect("64 bits") % VIEWS];
        // SAFETY: the package was freed `VIEWS - 1` publications ago.
        unsafe { build(next, sequence) };
        // SAFETY: a place inside the package.
        let view = unsafe { &raw const (*next).view };
        // SAFETY: rows and symbols are sorted, spans are inside; the package is built again only
        // after its grace period, except in the mode that is to be found out.
        unsafe { snapshot::publish(view) };
        if mode != Mode::NoGracePeriod {
            let mut looks = 0_u32;
            let done = sections.synchronize(
                || match mode {
                    Mode::NoBarrier => Ok(()),
                    _ => membarrier(PRIVATE_EXPEDITED),
                },
                |_| {
                    looks += 1;
                    if looks.is_multiple_of(128) {
                        thread::yield_now();
                    } else {
                        hint::spin_loop();
                    }
                    true
                },
            );
            assert!(done.is_ok(), "the barrier failed");
        }
        if !old.is_null() {
            // SAFETY: allocated above and never freed.
            unsafe { poison(old) };
        }
        old = next;
        grace_periods += 1;
    }
    grace_periods
}

/// Runs one mode in this process and returns the number of mismatches.
fn torture(mode: Mode, time: Duration) -> u64 {
    if mode == Mode::Fences {
        // SAFETY: no thread of this process has registered yet.
        unsafe { snapshot::sections().use_fences() };
    } else {
        membarrier(REGISTER_PRIVATE_EXPEDITED).expect("a kernel with membarrier");
    }
    install_handlers();
    let registered: &[bool] = match mode {
        // Enough for one with a low line.
        Mode::NoBarrier => &[true; 300],
        _ => &[true, true, false, false],
    };
    let ready = Arc::new(Barrier::new(registered.len() + 1));
    // The first view stands before anybody looks.
    write(Mode::Fences, Duration::ZERO);
    let readers: Vec<_> = registered
        .iter()
        .map(|&registered| {
            let ready = Arc::clone(&ready);
            thread::spawn(move || {
                // Before the first signal: the stack that Rust gives a thread is too small for
                // nested handlers.
                use_alternate_stack();
                ready.wait();
                read(registered, mode == Mode::NoBarrier);
            })
        })
        .collect();
    ready.wait();
    let grace_periods = thread::scope(|scope| {
        if mode != Mode::NoBarrier {
            scope.spawn(|| {
                use std::os::unix::thread::JoinHandleExt;
                while !STOP.load(Ordering::Relaxed) {
                    for reader in &readers {
                        for signal in [libc::SIGUSR1, libc::SIGUSR2] {
                            // SAFETY: the thread has not been joined.
                            unsafe { libc::pthread_kill(reader.as_pthread_t(), signal) };
                        }
                    }
                    thread::sleep(Duration::from_micros(50));
                }
            });
        }
        if mode == Mode::Switch {
            scope.spawn(move || {
                thread::sleep(time / 2);
                let switched =
                    snapshot::sections().switch_to_fences(|| membarrier(PRIVATE_EXPEDITED));
                assert!(switched.is_ok(), "the last barrier");
                assert!(!snapshot::sections().needs_barrier());
            });
        }
        let grace_periods = write(mode, time);
        STOP.store(true, Ordering::SeqCst);
        grace_periods
    });
    for reader in readers {
        reader.join().expect("a reader ends");
    }
    let mismatches = MISMATCHES.load(Ordering::SeqCst);
    let (walks, signals) = (WALKS.load(Ordering::SeqCst), SIGNALS.load(Ordering::SeqCst));
    let nested = NESTED.load(Ordering::SeqCst);
    writeln!(
        io::stderr(),
        "{grace_periods} publications, {walks} walks, {signals} signals ({nested} of the second \
         kind), {mismatches} mismatches"
    )
    .expect("stderr takes a line");
    if matches!(mode, Mode::Membarrier | Mode::Fences | Mode::Switch) {
        assert!(grace_periods > 10 && walks > 1000 && signals > 100 && nested > 10);
    }
    mismatches
}

/// Not a test by itself: the body of the others' child processes.
#[test]
fn child_runs_the_mode_of_its_environment() {
    let Ok(wanted) = env::var("PLUG_TORTURE_MODE") else {
        return;
    };
    let seconds = env::var("PLUG_TORTURE_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(3);
    let (_, mode) = MODES
        .into_iter()
        .find(|(name, _)| *name == wanted)
        .expect("a known mode");
    let mismatches = torture(mode, Duration::from_secs(seconds));
    assert_eq!(mismatches, 0, "torn or freed rows were read");
}

/// Whether a child in `mode` ends without a mismatch, and what it said.
fn run(mode: &str, seconds: Option<u32>) -> (bool, String) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut child = Command::new(env::current_exe().expect("the test's own path"));
    child
        .args(["--exact", "child_runs_the_mode_of_its_environment"])
        .arg("--nocapture")
        .env("PLUG_TORTURE_MODE", mode);
    if let Some(seconds) = seconds {
        child.env("PLUG_TORTURE_SECONDS", seconds.to_string());
    }
    let output = child.output().expect("the child runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn torture_with_membarrier_reads_only_whole_views() {
    let (passed, said) = run("membarrier", None);
    assert!(passed, "{said}");
}

#[test]
fn torture_with_fences_reads_only_whole_views() {
    let (passed, said) = run("fences", None);
    assert!(passed, "{said}");
}

#[test]
fn torture_that_gives_membarrier_up_reads_only_whole_views() {
    let (passed, said) = run("switch", None);
    assert!(passed, "{said}");
}

#[test]
fn torture_without_grace_period_is_caught() {
    let (passed, said) = run("no-grace-period", Some(10));
    assert!(!passed && said.contains("rows were read"), "{said}");
}

/// Found within seconds on two processors; on one alone there is nothing to find. Without
/// optimisation the store buffer empties faster than the code fills it.
#[test]
#[cfg(not(debug_assertions))]
fn torture_without_barrier_is_caught() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    // Where the stacks lie decides whether a process finds it soon or hardly ever; most do.
    let found = (0..10).any(|_| {
        let (passed, said) = run("no-barrier", Some(4));
        !passed && said.contains("rows were read")
    });
    assert!(found, "ten processes did not miss the barrier");
}
