//! What runs in handlers takes no lock, no memory and no system call; and what a naive handler
//! would do instead does not survive.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use plug_loader::{Audit, Config, Loader, SymbolReader};
use plug_tests::allocations::{self, Watched};
use plug_tests::confinement;
use plug_tests::host::Host;
use plug_tests::storm::{self, Storm};
use plug_tests::{child, isolated};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

static ADDRESS: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
/// Lookups and walks of confined readers, counted now and then.
static READS: AtomicU64 = AtomicU64::new(0);
/// How many of them there are to be at least.
const ENOUGH: u64 = 10_000_000;

/// One lookup and one walk.
fn read_once() {
    let reader = SymbolReader::new();
    let address = usize::try_from(ADDRESS.load(Ordering::Relaxed)).unwrap_or(0);
    if reader.resolve(address).is_some() {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    reader.walk(|view| {
        let symbols = view.symbols().count() as u64;
        SEEN.fetch_add(symbols, Ordering::Relaxed);
        true
    });
}

fn on_signal(_: usize) {
    read_once();
}

fn read_often() -> u64 {
    for _ in 0..2_000 {
        read_once();
    }
    2_000
}

fn read_until_stopped() -> u64 {
    let mut reads = 0;
    while !STOP.load(Ordering::Relaxed) {
        for _ in 0..512 {
            read_once();
        }
        reads += 512;
        READS.fetch_add(2 * 512, Ordering::Relaxed);
    }
    reads
}

/// A thread of std's, confined after it registered as a worker if it is to be one.
fn confined_reader(loader: Loader, registered: bool, done: Arc<AtomicU64>) {
    thread::spawn(move || {
        let _shelter = storm::shelter();
        let _worker = registered.then(|| loader.worker("confined").expect("worker"));
        confinement::confine();
        done.store(read_until_stopped().max(1), Ordering::SeqCst);
        confinement::exit_thread()
    });
}

#[test]
fn reads_under_seccomp_make_no_system_call() {
    isolated!({
        // Threads under a filter of their own that never rest cannot be asked where they are.
        let mut config = Config::default();
        config.audit = Audit::Off;
        let host = Host::with(config);
        host.useful("base64");
        let address = host.useful("wordcount").range().0 as u64;
        ADDRESS.store(address, Ordering::SeqCst);
        storm::prepare(on_signal);
        let storm = Storm::start();
        let done: Vec<Arc<AtomicU64>> = [true, false]
            .into_iter()
            .map(|registered| {
                let done = Arc::new(AtomicU64::new(0));
                confined_reader(host.loader.clone(), registered, Arc::clone(&done));
                done
            })
            .collect();
        let began = Instant::now();
        let (mut loads, mut fresh) = (0, 0);
        let is_enough = |began: Instant| {
            let reads = READS.load(Ordering::Relaxed);
            began.elapsed() >= Duration::from_secs(3) && reads >= ENOUGH
        };
        while !is_enough(began) && began.elapsed() < Duration::from_secs(60) {
            host.useful("checksum");
            host.unload("checksum");
            loads += 1;
            if loads % 4 == 0 {
                fresh += confinement::first_thing(read_often);
            }
        }
        STOP.store(true, Ordering::SeqCst);
        while done.iter().any(|done| done.load(Ordering::SeqCst) == 0) {
            storm::nap(Duration::from_millis(1));
        }
        let sent = storm.stop();
        let [worker, stranger] = [0, 1].map(|n| done[n].load(Ordering::SeqCst));
        println!(
            "confined: {worker} reads by a worker, {stranger} by an unregistered thread, {fresh} \
             by brand-new threads, {} in handlers of {sent} signals, during {loads} loads",
            storm::handled()
        );
        assert!(2 * (worker + stranger) >= ENOUGH && fresh > 2_000);
        assert!(worker > 1_000 && stranger > 1_000);
        assert!(storm::handled() > 1_000 && SEEN.load(Ordering::SeqCst) > 10_000);
        assert_eq!(allocations::in_handlers(), 0);
    });
}

#[test]
fn system_call_under_seccomp_kills() {
    let test = "system_call_under_seccomp_kills";
    if child::role().is_some() {
        confinement::first_thing(|| u64::from(std::process::id()));
        return;
    }
    let ended = child::run(test, "call", Duration::from_secs(20));
    assert_eq!(ended.signal(), Some(libc::SIGSYS), "{}", ended.output);
}

static NAIVE: OnceLock<ArcSwap<u64>> = OnceLock::new();

fn on_signal_naive(_: usize) {
    if let Some(naive) = NAIVE.get() {
        SEEN.fetch_add(**naive.load(), Ordering::Relaxed);
    }
}

/// The same storm over two threads that hold eight guards and load, with or without arc-swap in
/// the handler.
fn eight_guards(handler: storm::Handler) {
    let naive = NAIVE.get_or_init(|| ArcSwap::from_pointee(1));
    storm::prepare(handler);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _shelter = storm::shelter();
                let _held: Vec<_> = (0..8).map(|_| naive.load()).collect();
                while !STOP.load(Ordering::Relaxed) {
                    SEEN.fetch_add(**naive.load(), Ordering::Relaxed);
                }
            });
        }
        let storm = Storm::start();
        storm::nap(Duration::from_secs(2));
        STOP.store(true, Ordering::SeqCst);
        storm.stop();
    });
    assert!(storm::handled() > 1_000, "{} handlers", storm::handled());
    assert_eq!(allocations::in_handlers(), 0, "allocations in handlers");
}

#[test]
fn arc_swap_load_in_a_handler_crashes_where_a_section_does_not() {
    let test = "arc_swap_load_in_a_handler_crashes_where_a_section_does_not";
    match child::role().as_deref() {
        Some("naive") => return eight_guards(on_signal_naive),
        Some("section") => {
            let host = Host::new();
            let address = host.useful("base64").range().0 as u64;
            ADDRESS.store(address, Ordering::SeqCst);
            return eight_guards(on_signal);
        }
        _ => {}
    }
    let section = child::run(test, "section", Duration::from_secs(30));
    assert!(
        section.succeeded(),
        "{:?} {}",
        section.status,
        section.output
    );
    // It is a race, if one that is lost within milliseconds: a second chance to crash.
    let naive = (0..3)
        .map(|_| child::run(test, "naive", Duration::from_secs(20)))
        .find(|ended| !ended.succeeded());
    let naive = naive.expect("a naive handler survived three storms of two seconds");
    println!(
        "naive handler: {:?}, signal {:?}",
        naive.status,
        naive.signal()
    );
}
