//! A thread of the loader's stopped for good at any step of load, publish, unload and reclaim
//! stops no reader: handlers and profilers elsewhere, and handlers on the stopped thread itself,
//! go on to resolve and walk at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::checkpoint::{POINTS, Verdict, set_hook};
use plug_loader::{Plugin, PluginFn, SymbolReader, Worker};
use plug_tests::child::{self, Ended};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::oracle::{self, Oracle};
use plug_tests::storm;

const TEST: &str = "freeze_at_every_point_stops_no_reader";

/// What a reader gets, however loaded the machine is, in the best of [`TRIES`].
const AT_ONCE: Duration = Duration::from_millis(10);

const TRIES: usize = 5;

/// The thread that is stopped, once it is.
static FROZEN: AtomicI32 = AtomicI32::new(0);

/// Plugins that were Live before: their file's exports and their bias.
static BYSTANDERS: OnceLock<Vec<(&'static str, Oracle, u64)>> = OnceLock::new();

static RIGHT: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Resolves one address of each bystander and walks. Async-signal-safe.
fn read(_: usize) {
    let reader = SymbolReader::new();
    let Some(bystanders) = BYSTANDERS.get() else {
        return;
    };
    let mut right = true;
    for (name, oracle, bias) in bystanders {
        let symbol = &oracle.symbols[oracle.symbols.len() / 2];
        let address = usize::try_from(bias + symbol.svma).unwrap_or(0);
        right &= reader.resolve(address).is_some_and(|found| {
            found.plugin.as_str() == *name
                && found.bias as u64 == *bias
                && found.offset == 0
                && oracle.has(
                    symbol.svma,
                    found.symbol.as_bytes(),
                    found.symbol.is_truncated(),
                )
        });
    }
    let mut seen = 0;
    reader.walk(|view| {
        for (name, oracle, bias) in bystanders {
            if view.name() == name.as_bytes() {
                let sum = view.symbols().fold(0_u64, |sum, symbol| {
                    sum.wrapping_add(oracle::share(symbol.name, symbol.address as u64))
                });
                right &= sum == oracle.checksum(*bias);
                seen += 1;
            }
        }
        true
    });
    right &= seen == bystanders.len();
    let counter = if right { &RIGHT } else { &WRONG };
    counter.fetch_add(1, Ordering::SeqCst);
}

/// Runs `read` several times; the best time. Each one must end.
fn best(what: &str, read: impl Fn()) -> Duration {
    let times = (0..TRIES).map(|_| {
        let (right, wrong) = (RIGHT.load(Ordering::SeqCst), WRONG.load(Ordering::SeqCst));
        let began = Instant::now();
        read();
        while RIGHT.load(Ordering::SeqCst) == right {
            assert_eq!(
                WRONG.load(Ordering::SeqCst),
                wrong,
                "{what}: a wrong answer"
            );
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{what}: no answer"
            );
            thread::yield_now();
        }
        began.elapsed()
    });
    let best = times.min().expect("several");
    assert!(best < AT_ONCE, "{what} took {best:?} at best");
    best
}

type Encode = unsafe extern "C" fn(*const u8, usize, *mut u8, usize) -> usize;

fn call(function: &PluginFn<Encode>, worker: Option<&Worker>) {
    let mut out = [0; 4];
    let args = (b"abc".as_ptr(), 3, out.as_mut_ptr(), 4);
    let called = match worker {
        // SAFETY: the signature is the plugin's.
        Some(worker) => unsafe { function.call_on(worker, args) },
        // SAFETY: as above.
        None => unsafe { function.call(args) },
    };
    assert_eq!((called, &out), (Ok(4), b"YWJj"));
    RIGHT.fetch_add(1, Ordering::SeqCst);
}

fn freeze_at(point: &'static str) {
    let host = Host::new();
    let live: Vec<Plugin> = ["base64", "wordcount"].map(|name| host.useful(name)).into();
    let bystanders = live.iter().map(|plugin| {
        let name = if plugin.name() == "base64" {
            "base64"
        } else {
            "wordcount"
        };
        (name, Oracle::read(&useful(name)), plugin.range().0 as u64)
    });
    assert!(BYSTANDERS.set(bystanders.collect()).is_ok());
    let encode: PluginFn<Encode> = live[0].function("base64_encode").expect("exported");
    let worker = host.loader.worker("bystander").expect("worker");
    // Nothing is left for the drainer to be busy with at the points of a load.
    host.loader.reclaim();
    storm::prepare(read);

    static TAKEN: AtomicBool = AtomicBool::new(false);
    set_hook(move |at| {
        if at == point && !TAKEN.swap(true, Ordering::SeqCst) {
            FROZEN.store(storm::tid(), Ordering::SeqCst);
            loop {
                // SAFETY: waits for a signal, again and again.
                unsafe { libc::pause() };
            }
        }
        Verdict::Pass
    });
    let began = Instant::now();
    let loader = host.loader.clone();
    thread::spawn(move || {
        let plugin = host.useful("checksum");
        let unloaded = loader.unload_exactly(&plugin, seconds(600));
        assert!(unloaded.is_ok(), "{unloaded:?}");
        loader.reclaim();
    });
    while FROZEN.load(Ordering::SeqCst) == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{point} was never reached"
        );
        thread::sleep(Duration::from_millis(1));
    }
    // Whatever it holds, it holds it for good.
    thread::sleep(Duration::from_millis(5));

    let frozen = FROZEN.load(Ordering::SeqCst);
    let own = storm::tid();
    let times = [
        best("a handler on the frozen thread", || {
            assert!(storm::send(frozen, libc::SIGUSR1))
        }),
        best("a handler elsewhere", || {
            assert!(storm::send(own, libc::SIGUSR1))
        }),
        best("a profiler", || read(0)),
        best("a fresh thread", || {
            thread::spawn(|| read(0)).join().expect("no panic")
        }),
        best("a worker's call", || call(&encode, Some(&worker))),
        best("a stranger's call", || {
            thread::scope(|scope| {
                scope
                    .spawn(|| call(&encode, None))
                    .join()
                    .expect("no panic")
            });
        }),
    ];
    assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    assert!(live.iter().all(|plugin| plugin.symbols().len() > 1));
    println!("frozen {times:?}");
    // No exit handlers: one thread is never to go on.
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) };
}

#[test]
fn freeze_at_every_point_stops_no_reader() {
    if let Some(role) = child::role() {
        let point = POINTS
            .iter()
            .find(|point| **point == role)
            .expect("a point");
        return freeze_at(point);
    }
    let waiting: Mutex<VecDeque<&str>> = Mutex::new(POINTS.iter().copied().collect());
    let ended: Mutex<Vec<(&str, Ended)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no panic").pop_front();
                    let Some(point) = next else { break };
                    let child = child::run(TEST, point, Duration::from_secs(60));
                    ended.lock().expect("no panic").push((point, child));
                }
            });
        }
    });
    let ended = ended.into_inner().expect("no panic");
    assert_eq!(ended.len(), POINTS.len());
    let failed: Vec<_> = ended
        .iter()
        .filter(|(_, child)| !child.succeeded())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for (point, child) in &ended {
        let times = child
            .output
            .find("frozen ")
            .map(|at| &child.output[at + 7..]);
        println!("{point}: {}", times.expect("printed").trim_end());
    }
}
