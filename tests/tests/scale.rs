//! As many workers as a process may have threads, and thousands of plugins.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{MAX_PLUGINS, Params, PluginFn, Proof, Source, Stage};
use plug_tests::child::isolated_for;
use plug_tests::host::{Host, useful};
use plug_tests::isolated;
use plug_tests::process::resident_kb;
use plug_tests::standalone::{Scratch, c_plugin};

type Checksum = unsafe extern "C" fn(*const u8, usize) -> u64;

const WORKERS: usize = 1000;

/// Lets the process have as many descriptors and threads as it may.
fn lift_limits() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid record.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

/// Runs `body` while [`WORKERS`] workers are registered; each runs `work` first.
fn among_workers(host: &Host, work: impl Fn(usize) + Sync, body: impl FnOnce()) {
    let ready = Arc::new(Barrier::new(WORKERS + 1));
    let done = Arc::new(Barrier::new(WORKERS + 1));
    thread::scope(|scope| {
        for n in 0..WORKERS {
            let (ready, done, work) = (Arc::clone(&ready), Arc::clone(&done), &work);
            let spawned =
                thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, move || {
                        let worker = host.loader.worker(&format!("worker-{n}")).expect("worker");
                        work(n);
                        ready.wait();
                        worker.quiescent();
                        let asleep = worker.asleep();
                        done.wait();
                        drop(asleep);
                    });
            spawned.expect("a thousand threads");
        }
        ready.wait();
        body();
        done.wait();
    });
}

#[test]
fn thousand_workers_call_correctly_with_and_without_a_line() {
    isolated!({
        const CALLS: u64 = 2000;
        static WRONG: AtomicU64 = AtomicU64::new(0);
        let host = Host::new();
        let plugin = host.useful("checksum");
        let sum: PluginFn<Checksum> = plugin.function("checksum_of").expect("exported");
        // SAFETY: the example's signature; the text is 'static.
        let call = move || unsafe { sum.call((b"text".as_ptr(), 4)) };
        let expected = call().expect("Live");
        let times: Vec<AtomicU64> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
        let reads: Vec<AtomicU64> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
        let work = |n: usize| {
            let ns = |began: Instant| u64::try_from(began.elapsed().as_nanos()).expect("short");
            // The best of a few: most are interrupted by a thousand others.
            let mut best = (u64::MAX, u64::MAX);
            for _ in 0..10 {
                let began = Instant::now();
                for _ in 0..CALLS / 10 {
                    if call() != Ok(expected) {
                        WRONG.fetch_add(1, Ordering::SeqCst);
                    }
                }
                best.0 = best.0.min(ns(began));
                let began = Instant::now();
                for _ in 0..CALLS / 10 {
                    assert!(host.loader.reader().resolve(1).is_none());
                }
                best.1 = best.1.min(ns(began));
            }
            times[n].store(best.0 * 10 / CALLS, Ordering::SeqCst);
            reads[n].store(best.1 * 10 / CALLS, Ordering::SeqCst);
        };
        among_workers(&host, work, || {
            let info = host.loader.workers();
            assert_eq!(info.len(), WORKERS);
            let lines = host.loader.capabilities().reader_lines;
            let with_line = info.iter().filter(|w| w.has_line).count();
            assert!(with_line <= lines && with_line > lines / 2, "{with_line}");
            assert!(info.iter().all(|w| w.calls == CALLS && w.inside.is_empty()));
            assert_eq!(WRONG.load(Ordering::SeqCst), 0);
            assert_eq!(host.loader.calls(&plugin), WORKERS as u64 * CALLS + 1);
            let median = |values: &[AtomicU64], has_line| {
                let mut of: Vec<_> = info
                    .iter()
                    .filter(|w| w.has_line == has_line)
                    .map(|w| {
                        let n: usize = w.name["worker-".len()..].parse().expect("a number");
                        values[n].load(Ordering::SeqCst)
                    })
                    .collect();
                of.sort_unstable();
                of[of.len() / 2]
            };
            let [call, other_call] = [true, false].map(|line| median(&times, line));
            println!(
                "{with_line} of {WORKERS} workers have a line; a call {call} ns with it and \
                 {other_call} ns without, a read {} ns and {} ns",
                median(&reads, true),
                median(&reads, false)
            );
            assert!(other_call < call * 3, "calls need no line");

            let began = Instant::now();
            let report = host.unload("checksum");
            let took = began.elapsed();
            let drain = report
                .stages
                .iter()
                .find(|(stage, _)| *stage == Stage::Drain);
            let drain = drain.expect("drained").1;
            println!("an unload past {WORKERS} idle workers: {took:.1?}, its drain {drain:.1?}");
            assert_eq!(report.workers.len(), WORKERS);
            assert!(report.workers.iter().all(|w| w.proof == Proof::Idle));
        });
        assert!(host.loader.workers().is_empty());
        // Lines are free again.
        let _again = host.loader.worker("again").expect("worker");
        assert!(host.loader.workers()[0].has_line);
    });
}

#[test]
fn thousands_of_plugins_and_thousand_workers_fit() {
    fn here() {}
    let name = std::any::type_name_of_val(&here);
    let name = name.strip_suffix("::here").unwrap_or(name);
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    isolated_for(Duration::from_secs(600), name, || {
        const PLUGINS: usize = 5000;
        const SOURCE: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}
static void stop(void) {}
PLUG_PLUGIN("tiny", "1.0.0", "does nothing", "MIT OR Apache-2.0", init, stop);
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { return 2 * n; }
"#;
        static DONE: AtomicBool = AtomicBool::new(false);
        lift_limits();
        let scratch = Scratch::new("scale");
        let file = c_plugin(&scratch, "tiny", SOURCE);
        let host = Host::new();
        let before = resident_kb();
        among_workers(
            &host,
            |_| {},
            || {
                let with_workers = resident_kb();
                let began = Instant::now();
                let plugins: Vec<_> = (0..PLUGINS)
                    .map(|n| {
                        let source = Source::path(&file).named(format!("tiny-{n}"));
                        let loaded = host.loader.load(&host.trust, source, &Params::new());
                        loaded.unwrap_or_else(|error| panic!("plugin {n}: {error:#}"))
                    })
                    .collect();
                let loading = began.elapsed();
                host.loader.reclaim();
                let with_plugins = resident_kb();
                // A worker that is made late has all counters, too.
                let worker = host.loader.worker("late").expect("worker");
                for (n, plugin) in plugins.iter().enumerate() {
                    let twice = plugin
                        .function::<unsafe extern "C" fn(u64) -> u64>("twice")
                        .expect("exported");
                    // SAFETY: the signature above.
                    assert_eq!(
                        unsafe { twice.call_on(&worker, (n as u64,)) },
                        Ok(2 * n as u64)
                    );
                }
                let began = Instant::now();
                let info = host.loader.workers();
                let looking = began.elapsed();
                let late = info.iter().find(|w| &*w.name == "late").expect("listed");
                assert_eq!(late.calls, PLUGINS as u64, "all in its own row");
                let began = Instant::now();
                for n in 0..100 {
                    let report = host.unload(&format!("tiny-{}", n * 49));
                    assert_eq!(report.workers.len(), WORKERS + 1);
                }
                let unloading = began.elapsed() / 100;
                let rows = WORKERS * (PLUGINS.div_ceil(64) * 512 + 1024) / 1024;
                println!(
                    "{WORKERS} workers: {} KiB with their threads; {PLUGINS} plugins loaded in \
                 {loading:.1?}: {} KiB, of which rows {rows} KiB; all workers looked at in \
                 {looking:.1?}; an unload {unloading:.1?}; at most {MAX_PLUGINS} plugins",
                    with_workers - before,
                    with_plugins - with_workers
                );
                DONE.store(true, Ordering::SeqCst);
            },
        );
        assert!(DONE.load(Ordering::SeqCst));
        assert_eq!(host.loader.capabilities().max_plugins, MAX_PLUGINS);
    });
}

#[test]
fn unregistered_threads_beyond_all_slots_read_and_are_waited_for() {
    isolated!({
        const READERS: usize = 400;
        static STOP: AtomicBool = AtomicBool::new(false);
        static INSIDE: AtomicU64 = AtomicU64::new(0);
        let host = Host::new();
        host.load(useful("checksum")).expect("loads");
        thread::scope(|scope| {
            for _ in 0..READERS {
                let spawned =
                    thread::Builder::new()
                        .stack_size(128 << 10)
                        .spawn_scoped(scope, || {
                            // Nested, so that 2,000 sections are open: more than there are slots.
                            fn nest(levels: u32) {
                                plug_loader::SymbolReader::new().walk(|plugin| {
                                    assert_eq!(plugin.name(), b"checksum");
                                    if levels > 0 {
                                        nest(levels - 1);
                                    } else {
                                        INSIDE.fetch_add(1, Ordering::SeqCst);
                                        while !STOP.load(Ordering::SeqCst) {
                                            thread::sleep(Duration::from_millis(1));
                                        }
                                    }
                                    false
                                });
                            }
                            nest(4);
                        });
                spawned.expect("a thread");
            }
            while INSIDE.load(Ordering::SeqCst) < READERS as u64 {
                thread::yield_now();
            }
            host.load(useful("base64"))
                .expect("loads beside all readers");
            let stays = host.loader.retired_bytes();
            assert!(stays > 0);
            STOP.store(true, Ordering::SeqCst);
        });
        host.unload("base64");
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}
