//! Plugins come, run on four workers that live on, and leave, thousands of times: nothing stays behind
//! and nothing grows. What cannot be undone is counted by the cycle.
//!
//! `PLUG_CYCLES` is how often.

use std::env;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Loader, Unloaded};
use plug_tests::actors::{Actor, address};
use plug_tests::child;
use plug_tests::host::{Host, seconds};
use plug_tests::matrix::{Libraries, Library};
use plug_tests::process::{self, keys_in_use};

/// Cycles by default.
const CYCLES: u32 = 5_000;

/// Cycles of what leaves memory behind, of which only the figure is wanted.
const FEW: u32 = 300;

/// Cycles until everything that is made once has been made, and the list of events is full.
const WARM: u32 = 500;

/// Time for one test's process; a cycle takes milliseconds.
fn time() -> Duration {
    Duration::from_secs(300) + Duration::from_millis(60) * cycles()
}

fn cycles() -> u32 {
    let asked = env::var("PLUG_CYCLES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

/// What the plugins write: how many of their destructors have run. The second says whether their
/// threads shall end.
static WORDS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(1)];

/// Where plugins print goes nowhere; a test that fails says so on the other stream.
fn quiet() {
    let nowhere = File::options()
        .write(true)
        .open("/dev/null")
        .expect("there");
    // SAFETY: valid descriptors.
    unsafe { libc::dup2(nowhere.as_raw_fd(), 2) };
    panic::set_hook(Box::new(|info| println!("{info}")));
}

/// What is in use once nothing waits to be freed.
struct Held {
    /// Resident memory in KiB; what the allocator keeps for later is given back first.
    kb: u64,
    /// Bytes of blocks that somebody owns.
    heap: usize,
}

fn held(loader: &Loader) -> Held {
    let look = || {
        loader.reclaim();
        // SAFETY: gives free memory back to the kernel.
        unsafe { libc::malloc_trim(0) };
        thread::sleep(Duration::from_millis(20));
        (process::resident_kb(), process::heap_bytes())
    };
    let looks: Vec<_> = (0..10).map(|_| look()).collect();
    let kb = looks.iter().map(|look| look.0).min();
    let heap = looks.iter().map(|look| look.1).min();
    Held {
        kb: kb.expect("ten looks"),
        heap: heap.expect("ten looks"),
    }
}

impl Held {
    /// How many bytes of blocks more there are `now`.
    fn grown(&self, now: &Self) -> isize {
        now.heap.cast_signed() - self.heap.cast_signed()
    }
}

/// One plugin, loaded, run and unloaded again and again.
struct Cycle<'a> {
    host: &'a Host,
    workers: Vec<Actor>,
    path: &'a Path,
    acts: &'a [u32],
}

impl<'a> Cycle<'a> {
    fn new(host: &'a Host, path: &'a Path, acts: &'a [u32]) -> Self {
        let workers = (0..4).map(|_| Actor::busy(Some(&host.loader))).collect();
        Self {
            host,
            workers,
            path,
            acts,
        }
    }

    /// One cycle; how many destructors ran.
    fn once(&self) -> u32 {
        let before = WORDS[0].load(Ordering::SeqCst);
        let plugin = self.host.load(self.path).expect("loads");
        if let Some(at) = plugin.address_of("listen_at") {
            // SAFETY: the signature is the plugin's own.
            let listen = unsafe { std::mem::transmute::<usize, extern "C" fn(u64) -> u32>(at) };
            listen(WORDS.as_ptr().addr() as u64);
        }
        let act = address(&plugin, "act");
        for worker in &self.workers {
            for what in self.acts {
                assert_eq!(worker.act(act, *what), 1, "{what}");
            }
        }
        match self.host.loader.unload(plugin.name(), seconds(30)) {
            Ok(Unloaded::Gone(_)) => {}
            other => panic!("{other:?}"),
        }
        WORDS[0].load(Ordering::SeqCst) - before
    }

    fn end(self) {
        self.workers.into_iter().for_each(Actor::end);
    }
}

/// Nothing stays behind and nothing grows, and in each cycle all `destroyed` destructors run.
fn leaves_nothing(path: &Path, acts: &[u32], destroyed: u32) {
    let host = Host::forgetful();
    let cycle = Cycle::new(&host, path, acts);
    for _ in 0..WARM {
        assert_eq!(cycle.once(), destroyed, "destructors");
    }
    let (keys, held_before, before) = (keys_in_use(), held(&host.loader), process::footprint());
    let (n, began) = (cycles(), Instant::now());
    for _ in 0..n {
        assert_eq!(cycle.once(), destroyed, "destructors");
    }
    let took = began.elapsed() / n.max(1);
    let held = held(&host.loader);
    let (grown, heap) = (
        held.kb.saturating_sub(held_before.kb),
        held_before.grown(&held),
    );
    println!(
        "{n} cycles of {took:.2?}: RSS grew by {grown} KiB, blocks in use by {heap} bytes, {} zombies, \
         {} keys in use",
        host.loader.zombies().len(),
        keys_in_use()
    );
    assert!(host.loader.zombies().is_empty());
    assert_eq!(keys_in_use(), keys, "keys");
    process::assert_footprint(&before);
    assert!(grown < 1024, "RSS grew by {grown} KiB in {n} cycles");
    cycle.end();
}

#[test]
fn cycles_of_a_rust_plugin_on_living_workers_leave_nothing() {
    let test = "cycles_of_a_rust_plugin_on_living_workers_leave_nothing";
    child::isolated_for(time(), test, || {
        // With names of frames see below: they take memory.
        // SAFETY: the process has one thread that looks at the environment, this one.
        unsafe { env::set_var("RUST_BACKTRACE", "0") };
        quiet();
        let library = Library::RustStatics;
        let libraries = Libraries::build(|wanted| wanted == library);
        // eprintln, thread-local, thread::current(), panic, thread joined, detached thread, static, key.
        // Two for each worker's thread-local and for each thread's, one for each key, one static.
        let acts = [15, 2, 3, 4, 5, 6, 10, 12];
        leaves_nothing(&libraries.path(library), &acts, 4 * (2 + 2 + 1) + 1);
    });
}

#[test]
fn cycles_of_a_cpp_plugin_on_living_workers_leave_nothing() {
    let test = "cycles_of_a_cpp_plugin_on_living_workers_leave_nothing";
    child::isolated_for(time(), test, || {
        let library = Library::CppUniqueStatics;
        let libraries = Libraries::build(|wanted| wanted == library);
        // thread_local, exception, static, key, threads of both kinds joined, unique statics. One for
        // each worker's thread-local, for each key and for each thread's, one static.
        let acts = [2, 3, 4, 6, 8, 10, 16];
        leaves_nothing(&libraries.path(library), &acts, 4 * (1 + 1 + 1 + 1) + 1);
    });
}

/// What keeps memory of its own in statics that nobody destroys, which no loader can free: the
/// behaviour, its file, its number, and how many cycles are enough: the names of a panic's frames are
/// found anew in each, which takes long.
const LEAVES_MEMORY: [(&str, Library, u32, u32); 7] = [
    ("plain", Library::Rust, 0, FEW),
    ("println", Library::Rust, 1, FEW),
    ("thread::current()", Library::Rust, 3, FEW),
    ("caught panic, RUST_BACKTRACE=1", Library::Rust, 4, FEW / 10),
    ("tokio runtime, dropped", Library::Frameworks, 0, FEW),
    ("rayon pool, dropped", Library::Frameworks, 2, FEW),
    ("tracing subscriber installed", Library::Frameworks, 3, FEW),
];

#[test]
fn cycles_of_plugins_that_keep_memory_in_statics_leave_nothing_else() {
    let test = "cycles_of_plugins_that_keep_memory_in_statics_leave_nothing_else";
    child::isolated_for(time(), test, || {
        // SAFETY: the process has one thread that looks at the environment, this one.
        unsafe { env::set_var("RUST_BACKTRACE", "1") };
        quiet();
        let libraries = Libraries::build(|library| library == Library::Rust);
        let host = Host::forgetful();
        for (what, library, act, few) in LEAVES_MEMORY {
            let (path, acts) = (libraries.path(library), [act]);
            let cycle = Cycle::new(&host, &path, &acts);
            // The list of events fills up meanwhile.
            for _ in 0..few {
                cycle.once();
            }
            let (keys, held_before) = (keys_in_use(), held(&host.loader));
            let before = process::footprint();
            for _ in 0..few {
                cycle.once();
            }
            let left = f64::from(few).recip() * held_before.grown(&held(&host.loader)) as f64;
            println!("{what}, four times a cycle: {left:.0} bytes of heap a cycle");
            assert!(host.loader.zombies().is_empty());
            assert_eq!(keys_in_use(), keys, "keys");
            process::assert_footprint(&before);
            cycle.end();
        }
    });
}
