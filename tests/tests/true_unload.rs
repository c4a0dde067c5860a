//! Plugins with thread-locals, keys and threads leave while the threads that used them live on.
//!
//! Rows are what the plugin does, columns are the threads that have it do so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use plug_loader::{Config, Loader, Plugin, Unloaded, Worker};
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};
use plug_tests::{isolated, process};

/// What each thread of a column runs: a number tells which behaviour of the plugin's.
type Act = unsafe extern "C" fn(u32) -> u32;

const RUST: &str = r#"
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

plug_api::plugin! {
    name: "rusty", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}

static DROPPED: AtomicU32 = AtomicU32::new(0);

struct Local(Vec<u8>);

impl Drop for Local {
    fn drop(&mut self) {
        DROPPED.fetch_add(self.0.len() as u32, Ordering::SeqCst);
        SECOND.with(|second| second.borrow_mut().0.push(1));
    }
}

struct Second(Vec<u8>);

impl Drop for Second {
    fn drop(&mut self) {
        DROPPED.fetch_add(100 * self.0.len() as u32, Ordering::SeqCst);
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local(Vec::new()));
    static SECOND: RefCell<Second> = RefCell::new(Second(Vec::new()));
}

plug_api::export! {
    pub fn act(what: u32) -> u32 {
        match what {
            0 => 1,
            1 => { eprintln!("a plugin prints"); 1 }
            2 => LOCAL.with(|local| { local.borrow_mut().0.push(1); 1 }),
            3 => u32::from(std::thread::current().name().is_some() || true),
            4 => u32::from(std::panic::catch_unwind(|| panic!("caught")).is_err()),
            5 => std::thread::spawn(|| LOCAL.with(|local| { local.borrow_mut().0.push(1); 1 }))
                .join().unwrap_or(0),
            6 => {
                let (give, take) = std::sync::mpsc::channel();
                std::thread::spawn(move || give.send(1));
                take.recv_timeout(std::time::Duration::from_secs(5)).unwrap_or(0)
            }
            7 => { std::thread::park_timeout(std::time::Duration::from_millis(1)); 1 }
            _ => 0,
        }
    }
}

plug_api::export! {
    pub fn dropped(none: u32) -> u32 { none + DROPPED.load(Ordering::SeqCst) }
}
"#;

const RUST_ROWS: [(u32, &str); 8] = [
    (0, "plain"),
    (1, "eprintln"),
    (2, "thread-local with Drop, whose drop makes another"),
    (3, "thread::current()"),
    (4, "caught panic"),
    (5, "thread spawned and joined, with a thread-local"),
    (6, "channel from a detached thread that ends"),
    (7, "park_timeout"),
];

const CPP: &str = r#"
#include "plugin_api.h"
#include <atomic>
#include <future>
#include <map>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <thread>
static int32_t init(const plug_host_context *) { return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("plussy", "1.0.0", "for a test", "MIT", init, stop);

static std::atomic<uint32_t> destroyed{0};
struct Counted {
    std::string text = std::string(100, 'x');
    ~Counted() { destroyed += 1; }
};
template <typename T> struct Once { static std::map<int, T> &get() { static std::map<int, T> map; return map; } };
inline std::map<int, int> shared_inline;
static Counted at_start;

static void *keep_key(void *) { return nullptr; }
static void destroy_value(void *value) { destroyed += 1; delete static_cast<std::string *>(value); }

PLUG_EXPORT(uint32_t, act, (uint32_t what)) {
    switch (what) {
    case 0: return 1;
    case 2: { thread_local Counted local; return local.text.size() == 100; }
    case 3: { Once<int>::get()[1] = 1; shared_inline[1] = 1; return 1; }
    case 4: try { throw std::runtime_error("x"); } catch (const std::exception &) { return 1; }
    case 5: { std::thread t([] { thread_local Counted local; destroyed += local.text.size() == 0; }); t.join(); return 1; }
    case 6: return std::async(std::launch::async, [] { return 1u; }).get();
    case 7: {
        pthread_key_t key;
        if (pthread_key_create(&key, destroy_value)) return 0;
        return pthread_setspecific(key, new std::string("v")) == 0;
    }
    case 8: {
        pthread_t t;
        if (pthread_create(&t, nullptr, keep_key, nullptr)) return 0;
        return pthread_join(t, nullptr) == 0;
    }
    case 9: {
        pthread_t t;
        if (pthread_create(&t, nullptr, [](void *) -> void * { pthread_exit(nullptr); }, nullptr)) return 0;
        return pthread_join(t, nullptr) == 0;
    }
    case 10: {
        pthread_t t;
        if (pthread_create(&t, nullptr, [](void *) -> void * { thread_local Counted local; destroyed += local.text.size() == 0; for (;;) { pthread_testcancel(); } }, nullptr)) return 0;
        pthread_cancel(t);
        return pthread_join(t, nullptr) == 0;
    }
    default: return 0;
    }
}
"#;

const CPP_ROWS: [(u32, &str); 10] = [
    (0, "plain"),
    (2, "thread_local with a destructor"),
    (3, "statics in templates and inline variables"),
    (4, "exception"),
    (5, "std::thread joined, with a thread_local"),
    (6, "std::async"),
    (7, "pthread key with a value"),
    (8, "pthread joined"),
    (9, "pthread_exit in a thread of its own"),
    (10, "pthread_cancel of a thread of its own"),
];

/// A thread that runs what it is sent, until it is sent nothing more.
struct Actor {
    send: Option<Sender<(Act, u32)>>,
    heard: Receiver<u32>,
    thread: Option<JoinHandle<()>>,
}

impl Actor {
    /// A thread; `between` is what it does after each act, before it sleeps.
    fn start(between: impl FnMut() + Send + 'static) -> Self {
        Self::start_with(move || between)
    }

    fn start_with<F: FnMut()>(make: impl FnOnce() -> F + Send + 'static) -> Self {
        let (send, acts) = mpsc::channel::<(Act, u32)>();
        let (tell, heard) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut between = make();
            for (act, what) in acts {
                // SAFETY: sent while the plugin is Live and waited for.
                tell.send(unsafe { act(what) }).expect("heard");
                between();
            }
        });
        Self {
            send: Some(send),
            heard,
            thread: Some(thread),
        }
    }

    fn act(&self, act: Act, what: u32) -> u32 {
        let send = self.send.as_ref().expect("alive");
        send.send((act, what)).expect("alive");
        self.heard
            .recv_timeout(Duration::from_secs(20))
            .expect("acts")
    }

    fn end(mut self) {
        self.send = None;
        let thread = self.thread.take().expect("once");
        thread.join().expect("the thread survives the plugin");
    }
}

/// A worker that passes quiescent points all the time.
fn busy_worker(loader: &Loader) -> (Actor, Arc<Mutex<bool>>) {
    let stop = Arc::new(Mutex::new(false));
    let loader = loader.clone();
    let (send, acts) = mpsc::channel::<(Act, u32)>();
    let (tell, heard) = mpsc::channel();
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        let worker: Worker = loader.worker("busy").expect("worker");
        while !*stopped.lock().expect("no panic") {
            worker.quiescent();
            if let Ok((act, what)) = acts.recv_timeout(Duration::from_millis(1)) {
                // SAFETY: as in Actor.
                tell.send(unsafe { act(what) }).expect("heard");
            }
        }
    });
    let actor = Actor {
        send: Some(send),
        heard,
        thread: Some(thread),
    };
    (actor, stop)
}

fn address(plugin: &Plugin, name: &str) -> Act {
    let address = plugin.address_of(name).expect("exported");
    // SAFETY: the signature is the plugin's own.
    unsafe { std::mem::transmute::<usize, Act>(address) }
}

fn gone(host: &Host, name: &str) -> bool {
    matches!(host.loader.unload(name, seconds(5)), Ok(Unloaded::Gone(_)))
}

fn is_in_maps(name: &str) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    maps.contains(&format!("memfd:{name}"))
}

/// Runs all rows on all columns; each cell loads, acts and unloads.
fn matrix(host: &Host, path: &Path, name: &str, rows: &[(u32, &str)]) {
    let (busy, stop) = busy_worker(&host.loader);
    let mut failed = Vec::new();
    for &(what, row) in rows {
        let mut cells = Vec::new();
        let mut cell = |column: &str, act: &dyn Fn(Act), verdict: &dyn Fn() -> Option<String>| {
            let plugin = host.load(path).expect("loads");
            act(address(&plugin, "act"));
            let wrong = verdict();
            let left = wrong.is_none() && is_in_maps(name);
            cells.push(format!(
                "{column}: {}",
                if wrong.is_none() && !left {
                    "unloaded"
                } else {
                    "STAYED"
                }
            ));
            if let Some(wrong) = wrong {
                failed.push(format!("{row} on {column}: {wrong}"));
            }
            if left {
                failed.push(format!("{row} on {column}: still in /proc/self/maps"));
            }
        };
        let leaves = || match host.loader.unload(name, seconds(5)) {
            Ok(Unloaded::Gone(_)) => None,
            other => Some(format!("{other:?}")),
        };
        cell(
            "the thread that unloads",
            // SAFETY: as in Actor.
            &|act| assert_eq!(unsafe { act(what) }, 1, "{row}"),
            &leaves,
        );
        cell(
            "a busy worker",
            &|act| assert_eq!(busy.act(act, what), 1, "{row}"),
            &leaves,
        );
        cell(
            "a joined thread",
            &|act| {
                let actor = Actor::start(|| ());
                assert_eq!(actor.act(act, what), 1, "{row}");
                actor.end();
            },
            &leaves,
        );
        // A foreign thread that sleeps: where it owes something, a zombie that names it, and gone
        // soon after its end.
        let foreign = Mutex::new(None);
        cell(
            "a foreign thread asleep",
            &|act| {
                let actor = Actor::start(|| ());
                assert_eq!(actor.act(act, what), 1, "{row}");
                *foreign.lock().expect("no panic") = Some(actor);
            },
            &|| {
                let actor = foreign.lock().expect("no panic").take().expect("acted");
                match host.loader.unload(name, seconds(5)) {
                    Ok(Unloaded::Gone(_)) => {
                        actor.end();
                        None
                    }
                    Ok(Unloaded::Zombie(left)) => {
                        let text = left.to_string();
                        if !text.contains("thread ") {
                            return Some(format!("names no thread: {text}"));
                        }
                        actor.end();
                        let ended = Instant::now();
                        while !host.loader.zombies().is_empty() {
                            if ended.elapsed() > Duration::from_secs(5) {
                                return Some(format!(
                                    "stays a zombie: {:?}",
                                    host.loader.zombies()
                                ));
                            }
                            thread::sleep(Duration::from_millis(1));
                        }
                        let took = ended.elapsed();
                        println!("  zombie left {took:.1?} after its thread's end");
                        None
                    }
                    other => Some(format!("{other:?}")),
                }
            },
        );
        println!("{row:<55} {}", cells.join(", "));
    }
    *stop.lock().expect("no panic") = true;
    busy.end();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn rust_plugins_leave_whatever_threads_they_ran_on() {
    isolated!({
        no_backtraces();
        let host = Host::new();
        let scratch = Scratch::new("rusty");
        let path = rust_plugin(&scratch, "rusty", RUST);
        matrix(&host, &path, "rusty", &RUST_ROWS);
    });
}

#[test]
fn cpp_plugins_leave_whatever_threads_they_ran_on() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("plussy");
        let path = cpp_plugin(&scratch, "plussy", CPP);
        matrix(&host, &path, "plussy", &CPP_ROWS);
    });
}

#[test]
fn thread_locals_are_destroyed_once_each_on_their_own_threads() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("rusty");
        let path = rust_plugin(&scratch, "rusty", RUST);
        let plugin = host.load(&path).expect("loads");
        let act = address(&plugin, "act");
        let actors: Vec<Actor> = (0..3).map(|_| Actor::start(|| ())).collect();
        for actor in &actors {
            assert_eq!(actor.act(act, 2), 1);
            assert_eq!(actor.act(act, 2), 1);
        }
        actors.into_iter().for_each(Actor::end);
        let dropped = plugin
            .function::<unsafe extern "C" fn(u32) -> u32>("dropped")
            .expect("exported");
        // SAFETY: the signature is the plugin's.
        let dropped = unsafe { dropped.call((0,)) };
        // Two bytes each, and the thread-local that the first one's drop made.
        assert_eq!(dropped, Ok(3 * (2 + 100)));
        assert!(gone(&host, "rusty"));
    });
}

/// A C plugin that starts a thread which runs until the flag of `begin` says otherwise; `WHERE` is
/// where else it starts one.
const LEAVER: &str = "#include \"plugin_api.h\"\n\
    #include <pthread.h>\n\
    #include <sched.h>\n\
    #include <stdatomic.h>\n\
    #include <stdlib.h>\n\
    static _Atomic int *flag;\n\
    static void *runs_on(void *none) { (void)none; while (!atomic_load(flag)) sched_yield(); return 0; }\n\
    static int start(void) { flag = (_Atomic int *)strtoull(getenv(\"PLUG_FLAG\"), 0, 10); pthread_t t; if (pthread_create(&t, 0, runs_on, 0)) return 0; return pthread_detach(t) == 0; }\n\
    static int32_t init(const plug_host_context *ctx) { (void)ctx; INIT }\n\
    static void stop(void) {}\n\
    __attribute__((destructor)) static void last(void) { LAST }\n\
    PLUG_PLUGIN(\"NAME\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
    int unused(void); int unused(void) { return start(); }\n";

/// What the threads of [`LEAVER`] look at.
static FLAG: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

fn leaver(scratch: &Scratch, name: &str, init: &str, last: &str) -> PathBuf {
    // SAFETY: the process has one thread that looks at the environment, this one.
    unsafe { std::env::set_var("PLUG_FLAG", (FLAG.as_ptr().addr()).to_string()) };
    let source = LEAVER
        .replace("NAME", name)
        .replace("INIT", init)
        .replace("LAST", last);
    c_plugin(scratch, name, &source)
}

fn let_go(host: &Host, name: &str) {
    let left = host.loader.zombies();
    assert_eq!(left.len(), 1, "{left:?}");
    let text = left[0].to_string();
    assert!(text.contains("still runs"), "{text}");
    thread::sleep(Duration::from_millis(100));
    assert!(is_in_maps(name));
    FLAG.store(1, std::sync::atomic::Ordering::SeqCst);
    let deadline = seconds(5);
    while !host.loader.zombies().is_empty() {
        assert!(!deadline.has_passed(), "{:?}", host.loader.zombies());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!is_in_maps(name));
}

#[test]
fn load_that_fails_with_a_thread_running_keeps_the_plugin_until_that_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("failer");
        let path = leaver(&scratch, "failer", "start(); return -1;", "");
        let error = host.load(&path).expect_err("init fails");
        assert!(error.lingering().is_some(), "{error}");
        let_go(&host, "failer");
    });
}

#[test]
fn destructor_that_starts_a_thread_keeps_the_plugin_until_that_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("flusher");
        let path = leaver(&scratch, "flusher", "return PLUG_OK;", "start();");
        host.load(&path).expect("loads");
        let verdict = host.loader.unload("flusher", seconds(1)).expect("closes");
        assert!(matches!(verdict, Unloaded::Zombie(_)), "{verdict:?}");
        let_go(&host, "flusher");
    });
}

#[test]
fn value_that_is_set_to_nothing_is_owed_nothing_and_keys_of_any_kind_are_given_back() {
    isolated!({
        let host = forgetful();
        let scratch = Scratch::new("keyed");
        let source = "#include \"plugin_api.h\"\n\
            #include <pthread.h>\n\
            #include <stdlib.h>\n\
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
            static void stop(void) {}\n\
            static pthread_key_t with, without, freed;\n\
            static void destroy(void *value) { (void)value; }\n\
            PLUG_PLUGIN(\"keyed\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
            PLUG_EXPORT(uint32_t, act, (uint32_t what)) {\n\
                static int made;\n\
                if (!made && (pthread_key_create(&with, destroy) || pthread_key_create(&without, 0) || pthread_key_create(&freed, free))) return 0;\n\
                made = 1;\n\
                return !pthread_setspecific(with, &made) && !pthread_setspecific(with, 0) && what == 0;\n\
            }\n";
        let path = c_plugin(&scratch, "keyed", source);
        let actor = Actor::start(|| ());
        let mut keys = None;
        for _ in 0..20 {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(actor.act(address(&plugin, "act"), 0), 1);
            assert!(gone(&host, "keyed"), "the sleeping thread owes nothing");
            let now = keys_in_use();
            assert_eq!(*keys.get_or_insert(now), now);
        }
        actor.end();
    });
}

#[test]
fn thread_that_a_plugin_leaves_running_is_named_and_the_plugin_goes_when_it_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("leaver");
        let source = "#include \"plugin_api.h\"\n\
            #include <pthread.h>\n\
            #include <stdatomic.h>\n\
            #include <sched.h>\n\
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
            static void stop(void) {}\n\
            PLUG_PLUGIN(\"leaver\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
            extern _Atomic int *ended_flag;\n\
            static _Atomic int *flag;\n\
            PLUG_EXPORT(void *, runs_on, (void *none)) { (void)none; while (!atomic_load(flag)) sched_yield(); return 0; }\n\
            PLUG_EXPORT(uint32_t, begin, (_Atomic int *stop)) { flag = stop; pthread_t t; if (pthread_create(&t, 0, runs_on, 0)) return 0; return pthread_detach(t) == 0; }\n"
            .replace("extern _Atomic int *ended_flag;\n", "");
        let path = c_plugin(&scratch, "leaver", &source);
        let plugin = host.load(&path).expect("loads");
        let begin = plugin
            .function::<unsafe extern "C" fn(*mut i32) -> u32>("begin")
            .expect("exported");
        static STOP: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
        // SAFETY: the signature is the plugin's; the flag is there for ever.
        assert_eq!(unsafe { begin.call((STOP.as_ptr(),)) }, Ok(1));
        let verdict = host.loader.unload("leaver", seconds(1)).expect("closes");
        let Unloaded::Zombie(left) = verdict else {
            panic!("{verdict:?}");
        };
        let text = left.to_string();
        assert!(text.contains("started at runs_on, still runs"), "{text}");
        STOP.store(1, std::sync::atomic::Ordering::SeqCst);
        let deadline = seconds(5);
        while !host.loader.zombies().is_empty() {
            assert!(!deadline.has_passed(), "{:?}", host.loader.zombies());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_in_maps("leaver"));
    });
}

/// How many cycles; `PLUG_CYCLES` says otherwise.
fn cycles() -> u32 {
    let asked = std::env::var("PLUG_CYCLES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(500)
}

fn keys_in_use() -> usize {
    let mut made = Vec::new();
    let mut key = 0;
    // SAFETY: keys without destructors, given back below.
    while unsafe { libc::pthread_key_create(&raw mut key, None) } == 0 {
        made.push(key);
    }
    for key in &made {
        // SAFETY: made above.
        unsafe { libc::pthread_key_delete(*key) };
    }
    1024 - made.len()
}

/// Keeps the plugins' own standard libraries from mapping the plugins' files once more, which they do
/// to name the frames of a panic and never undo.
fn no_backtraces() {
    // SAFETY: the process has one thread that looks at the environment, this one.
    unsafe { std::env::set_var("RUST_BACKTRACE", "0") };
}

/// A host whose history is full before it is looked at.
fn forgetful() -> Host {
    let mut config = Config::default();
    config.history = 4;
    Host::with(config)
}

/// Resident memory in KiB once nothing waits to be freed: what the allocator keeps for later is given
/// back first, so that what is left is held by somebody.
fn held_kb(loader: &Loader) -> u64 {
    let look = || {
        loader.reclaim();
        // SAFETY: gives free memory back to the kernel.
        unsafe { libc::malloc_trim(0) };
        thread::sleep(Duration::from_millis(20));
        process::resident_kb()
    };
    (0..10).map(|_| look()).min().expect("ten looks")
}

/// Loads, acts on four permanent workers and unloads, again and again: nothing grows.
fn cycle(host: &Host, path: &PathBuf, name: &str, acts: &[u32]) {
    let workers: Vec<_> = (0..4).map(|_| busy_worker(&host.loader)).collect();
    let round = || {
        let plugin = host.load(path).expect("loads");
        let act = address(&plugin, "act");
        for (worker, _) in &workers {
            for what in acts {
                assert_eq!(worker.act(act, *what), 1);
            }
        }
        match host.loader.unload(name, seconds(10)) {
            Ok(Unloaded::Gone(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    let n = cycles();
    for _ in 0..200 {
        round();
    }
    let (keys, kb, before) = (keys_in_use(), held_kb(&host.loader), process::footprint());
    for _ in 0..n {
        round();
    }
    let grown = held_kb(&host.loader).saturating_sub(kb);
    println!(
        "{name}: {n} cycles, RSS grew by {grown} KiB, {} keys in use",
        keys_in_use()
    );
    assert_eq!(keys_in_use(), keys, "keys");
    process::assert_footprint(&before);
    assert!(grown < 1024, "RSS grew by {grown} KiB in {n} cycles");
    for (worker, stop) in workers {
        *stop.lock().expect("no panic") = true;
        worker.end();
    }
}

#[test]
fn cycles_of_a_rust_plugin_on_living_workers_leave_nothing() {
    isolated!({
        no_backtraces();
        let host = forgetful();
        let scratch = Scratch::new("rusty");
        let path = rust_plugin(&scratch, "rusty", RUST);
        cycle(&host, &path, "rusty", &[1, 2, 3, 4, 5, 6]);
    });
}

#[test]
fn cycles_of_a_cpp_plugin_on_living_workers_leave_nothing() {
    isolated!({
        let host = forgetful();
        let scratch = Scratch::new("plussy");
        let path = cpp_plugin(&scratch, "plussy", CPP);
        cycle(&host, &path, "plussy", &[2, 3, 4, 5, 7, 8]);
    });
}
