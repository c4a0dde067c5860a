//! Threads that plugins have the host start: told to stop, joined before `exit`, named when they do
//! not listen.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::{block_on, poll_once};
use plug_api::abi::Interface;
use plug_loader::{
    Answer, Deadline, Error, ErrorKind, EventKind, HolderKind, Loader, Params, Plugin, PluginFn,
    Source, State,
};
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};
use plug_tests::{isolated, process};

type Number = unsafe extern "C" fn() -> u64;
type Start = unsafe extern "C" fn(u32) -> i32;

/// Statuses and counts in three languages; `start` takes what the thread is to do.
const C: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t begun, ended, ended_at_exit, destroyed;
static uint32_t let_go;
static pthread_key_t key;

static void count(uint64_t *what) { __atomic_add_fetch(what, 1, __ATOMIC_SEQ_CST); }

static void destroy(void *value) { count(&destroyed); free(value); }

static void sleeps(void *data) {
    (void)data;
    count(&begun);
    while (!plug_sleep(plug_context(), UINT64_MAX)) {}
    count(&ended);
}

static void polls(void *data) {
    struct pollfd fd = {plug_stop_fd(plug_context()), POLLIN, 0};
    (void)data;
    count(&begun);
    while (poll(&fd, 1, -1) != 1) {}
    count(&ended);
}

static void spins(void *data) {
    (void)data;
    count(&begun);
    while (!plug_should_stop(plug_context())) {}
    count(&ended);
}

PLUG_EXPORT(void, ignores, (void *data)) {
    (void)data;
    count(&begun);
    while (__atomic_load_n(&let_go, __ATOMIC_SEQ_CST) == 0) usleep(1000);
    count(&ended);
}

static void exits(void *data) {
    (void)data;
    count(&begun);
    count(&ended);
    pthread_exit(NULL);
}

static void keeps(void *data) {
    (void)data;
    count(&begun);
    pthread_setspecific(key, malloc(10));
    while (!plug_sleep(plug_context(), 1000000)) {}
    count(&ended);
}

static void fails(void *data) {
    (void)data;
    count(&begun);
    plug_raise(plug_context(), "a thread of C fails");
    count(&ended);
}

static void (*const bodies[])(void *) = {sleeps, polls, spins, ignores, exits, keeps, fails};

static void spawner(void *data) {
    count(&begun);
    plug_spawn(plug_context(), "child", sleeps, data);
    while (!plug_sleep(plug_context(), UINT64_MAX)) {}
    count(&ended);
}

PLUG_EXPORT(int32_t, start, (uint32_t what)) {
    return plug_spawn(plug_context(), "a thread of C's", what == 7 ? spawner : bodies[what], NULL);
}
PLUG_EXPORT(uint64_t, n_begun, (void)) { return __atomic_load_n(&begun, __ATOMIC_SEQ_CST); }
PLUG_EXPORT(uint64_t, n_ended, (void)) { return __atomic_load_n(&ended, __ATOMIC_SEQ_CST); }
PLUG_EXPORT(uint64_t, release, (void)) { return __atomic_exchange_n(&let_go, 1, __ATOMIC_SEQ_CST); }

typedef struct tell { void (*tell)(uint64_t n); } tell;
static const tell *told;

static int32_t init(const plug_host_context *ctx) {
    plug_str value;
    pthread_key_create(&key, destroy);
    told = (const tell *)plug_service(ctx, "test.tell", 1, 0);
    if (plug_param(ctx, "spawn", &value)) {
        if (plug_spawn(ctx, "from-init", sleeps, NULL) != PLUG_OK) return -2;
    }
    if (plug_param(ctx, "fail", &value)) {
        plug_raise(ctx, "asked to fail");
        return -3;
    }
    return PLUG_OK;
}

static void stop(void) {
    ended_at_exit = n_ended();
    if (told != NULL) {
        /* A spawn from exit is refused. */
        uint64_t refused = plug_spawn(plug_context(), "late", sleeps, NULL) == PLUG_SPAWN_GOING;
        told->tell(refused * 1000000 + destroyed * 1000 + ended_at_exit);
    }
    pthread_key_delete(key);
}

PLUG_PLUGIN("threads-c", "1.0.0", "starts threads", "MIT", init, stop);
"#;

const CPP: &str = r#"
#include "plugin_api.h"
#include <atomic>
#include <pthread.h>
#include <stdexcept>
#include <string>

static std::atomic<uint64_t> begun{0}, ended{0};
struct Local { std::string text = std::string(100, 'x'); ~Local() { ended += 100; } };

static int32_t init(const plug_host_context *) { return PLUG_OK; }
static void stop() {}
PLUG_PLUGIN("threads-cpp", "1.0.0", "starts threads", "MIT", init, stop);

PLUG_EXPORT(int32_t, start, (uint32_t what)) {
    std::string text = "captured";
    return plug::spawn(plug_context(), "a thread of C++'s", [what, text] {
        thread_local Local local;
        begun += local.text.size() == 100 && text == "captured";
        if (what == 1) throw std::runtime_error("thrown in a thread");
        struct Last { ~Last() { ended++; } } last;
        if (what == 2) pthread_exit(nullptr);
        while (!plug_sleep(plug_context(), UINT64_MAX)) {}
    });
}
PLUG_EXPORT(uint64_t, n_begun, (void)) { return begun; }
PLUG_EXPORT(uint64_t, n_ended, (void)) { return ended; }
"#;

const RUST: &str = r#"
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

plug_api::plugin! {
    name: "threads-rust", version: "1.0.0", description: "starts threads", license: "MIT",
    init: |_| Ok(()), exit: || (),
}

static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

struct Local(Vec<u8>);
impl Drop for Local {
    fn drop(&mut self) { ENDED.fetch_add(100, Ordering::SeqCst); }
}
thread_local! { static LOCAL: RefCell<Local> = RefCell::new(Local(Vec::new())); }

plug_api::export! {
    pub fn start(what: u32) -> i32 {
        let text = String::from("captured");
        let started = plug_api::with_context(|ctx| ctx.spawn("a thread of Rust's", move |ctx| {
            LOCAL.with(|local| local.borrow_mut().0.push(1));
            assert_eq!(text, "captured");
            BEGUN.fetch_add(1, Ordering::SeqCst);
            match what {
                1 => panic!("panicked in a thread"),
                2 => while !ctx.should_stop() { std::thread::yield_now() },
                3 => assert!(ctx.stop_fd().is_some()),
                4 => { assert!(!ctx.sleep(Duration::from_millis(1))); assert!(ctx.sleep(Duration::MAX)); }
                5 => { ctx.spawn("child", |ctx| { while !ctx.sleep(Duration::MAX) {} }).expect("started"); }
                _ => while !ctx.sleep(Duration::from_secs(3600)) {},
            }
            ENDED.fetch_add(1, Ordering::SeqCst);
        }));
        match started { Some(Ok(())) => 0, Some(Err(_)) => -1, None => -9 }
    }
    pub fn n_begun() -> u64 { BEGUN.load(Ordering::SeqCst) }
    pub fn n_ended() -> u64 { ENDED.load(Ordering::SeqCst) }
}
"#;

/// A plugin that starts threads.
struct Starter {
    plugin: Plugin,
    start: PluginFn<Start>,
}

impl Starter {
    fn new(plugin: Plugin) -> Self {
        let start = plugin.function("start").expect("exported");
        Self { plugin, start }
    }

    fn start(&self, what: u32) -> i32 {
        // SAFETY: the signature is the plugin's.
        unsafe { self.start.call((what,)) }.expect("live")
    }

    fn number(&self, name: &str) -> u64 {
        let number = self.plugin.function::<Number>(name).expect("exported");
        // SAFETY: the signature is the plugin's.
        unsafe { number.call(()) }.expect("live")
    }

    fn wait_for(&self, name: &str, n: u64) {
        let began = Instant::now();
        while self.number(name) < n {
            assert!(began.elapsed() < Duration::from_secs(20), "{name}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Messages of threads that failed.
fn failures(host: &Host) -> Vec<String> {
    let events = host.loader.events(0, Deadline::now()).into_iter();
    let failed = events.filter_map(|event| match &event.kind {
        EventKind::ThreadFailed(message) => Some(message.to_string()),
        _ => None,
    });
    failed.collect()
}

/// Waits until so many threads have failed.
fn wait_for_failures(host: &Host, n: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        let failures = failures(host);
        if failures.len() >= n || began.elapsed() > Duration::from_secs(20) {
            return failures;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the C plugin's `exit` tells its host.
#[repr(C)]
struct Tell {
    tell: extern "C" fn(u64),
}

// SAFETY: repr(C), one version.
unsafe impl Interface for Tell {
    const NAME: &'static str = "test.tell";
    const MAJOR: u32 = 1;
    const MINOR: u32 = 0;
}

static TOLD: AtomicU64 = AtomicU64::new(0);

extern "C" fn tell(n: u64) {
    TOLD.store(n, Ordering::SeqCst);
}

static TELL: Tell = Tell { tell };

fn c_starter(host: &Host, scratch: &Scratch) -> Starter {
    host.loader.offer(&TELL);
    let path = c_plugin(scratch, "threads", C);
    Starter::new(host.load(path).expect("loads"))
}

#[test]
fn threads_are_told_to_stop_and_joined_before_exit() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        // What the loader opens once is open.
        let path = c_plugin(&scratch, "warm-up", &C.replace("threads-c", "warm-up"));
        let _plugin = host.load(path).expect("loads");
        host.unload("warm-up");
        let before = process::threads();
        let descriptors = process::descriptors();
        let starter = c_starter(&host, &scratch);
        // Asleep, in poll, spinning, by pthread_exit, with a key's value, and one that starts one.
        for what in [0, 1, 2, 4, 5, 7] {
            assert_eq!(starter.start(what), 0);
        }
        starter.wait_for("n_begun", 7);
        // The one that left by pthread_exit holds nothing any more; the others are told by the names
        // that they were given, and are workers by them.
        let began = Instant::now();
        loop {
            let holders = host.loader.holders(&starter.plugin);
            let threads = holders.iter().filter(|h| h.kind == HolderKind::Thread);
            let workers = host.loader.workers();
            let named = workers.iter().filter(|w| &*w.name == "a thread of C's");
            if (threads.count(), named.count()) == (6, 5) {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{holders:?} {workers:?}"
            );
            thread::yield_now();
        }
        host.unload("threads-c");
        // Six of its bodies ended before exit ran, which was refused another thread; the value was destroyed
        // before, too.
        assert_eq!(TOLD.load(Ordering::SeqCst), 1_000_000 + 1000 + 7);
        while process::threads() > before {
            thread::yield_now();
        }
        assert_eq!(process::descriptors(), descriptors);
        assert!(host.loader.workers().is_empty());
    });
}

fn refused(result: Result<plug_loader::Unloaded, Error>) -> Error {
    let error = result.expect_err("a thread runs");
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    error
}

#[test]
fn one_that_ignores_the_stop_is_named_and_the_plugin_is_live_again() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let starter = c_starter(&host, &scratch);
        assert_eq!(starter.start(3), 0);
        starter.wait_for("n_begun", 1);
        let soon = Deadline::after(Duration::from_millis(50));
        let error = refused(host.loader.unload("threads-c", soon));
        let [holder] = error.blockers() else {
            panic!("{error}");
        };
        assert_eq!(holder.kind, HolderKind::Thread);
        assert_eq!(
            (&*holder.thread, &*holder.function),
            ("a thread of C's", "ignores")
        );
        assert!(
            holder.tid != 0 && holder.since >= Duration::from_millis(40),
            "{holder:?}"
        );
        let text = format!(
            "its thread a thread of C's (tid {}), started at ignores",
            holder.tid
        );
        assert!(error.to_string().contains(&text), "{error}");
        // Back to work: others can be started, and are not told to stop.
        assert_eq!(starter.plugin.state(), State::Live);
        assert_eq!(starter.start(0), 0);
        starter.wait_for("n_begun", 2);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(starter.number("n_ended"), 0);
        starter.number("release");
        host.unload("threads-c");
    });
}

#[test]
fn begun_and_cancelled_stops_nobody_and_a_wait_that_is_given_up_lets_the_rest_go_on() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let starter = c_starter(&host, &scratch);
        for what in [0, 1, 3] {
            assert_eq!(starter.start(what), 0);
        }
        starter.wait_for("n_begun", 3);
        assert!(
            host.loader
                .begin_unload("threads-c")
                .expect("live")
                .cancel()
        );
        thread::sleep(Duration::from_millis(20));
        assert_eq!(starter.number("n_ended"), 0);
        let soon = Deadline::after(Duration::from_millis(50));
        let error = refused(host.loader.unload("threads-c", soon));
        assert_eq!(error.blockers().len(), 1, "{error}");
        // Those that listened have ended; the descriptor is not readable any more.
        assert_eq!(starter.number("n_ended"), 2);
        assert_eq!(starter.start(1), 0);
        starter.wait_for("n_begun", 4);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(starter.number("n_ended"), 2);
        starter.number("release");
        host.unload("threads-c");
    });
}

#[test]
fn a_wait_that_is_cancelled_as_it_begins_leaves_nobody_told_to_stop() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let starter = c_starter(&host, &scratch);
        let mut late = 0;
        for round in 0..300 {
            // A call that is in progress keeps the wait from getting through.
            let pin = starter.plugin.pin().expect("live");
            let mut departure = host.loader.begin_unload("threads-c").expect("live");
            let polled = poll_once(&mut departure);
            assert!(block_on(polled).is_none(), "{round}");
            (0..round % 100).for_each(|_| thread::yield_now());
            assert!(departure.cancel(), "{round}");
            drop(pin);
            (0..100).for_each(|_| thread::yield_now());
            late += i32::from(starter.start(4) != 0);
        }
        assert_eq!(late, 0);
        host.unload("threads-c");
    });
}

#[test]
fn panics_exceptions_and_errors_end_a_thread_alone_and_are_told() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let c = c_starter(&host, &scratch);
        let cpp = cpp_plugin(&scratch, "threads-cpp", CPP);
        let cpp = Starter::new(host.load(cpp).expect("loads"));
        let rust = rust_plugin(&scratch, "threads-rust", RUST);
        let rust = Starter::new(host.load(rust).expect("loads"));
        assert_eq!((c.start(6), cpp.start(1), rust.start(1)), (0, 0, 0));
        let failures = wait_for_failures(&host, 3);
        for (name, message) in [
            ("a thread of C's", "a thread of C fails"),
            ("a thread of C++'s", "thrown in a thread"),
            ("a thread of Rust's", "panicked: panicked in a thread"),
        ] {
            let told = |text: &String| text.contains(name) && text.contains(message);
            assert!(failures.iter().any(told), "{name}: {failures:?}");
        }
        // Others of the same plugins go on, whatever they do.
        for what in [0, 2] {
            assert_eq!(cpp.start(what), 0);
        }
        for what in [0, 2, 3, 4, 5] {
            assert_eq!(rust.start(what), 0);
        }
        cpp.wait_for("n_begun", 3);
        rust.wait_for("n_begun", 6);
        // The thread-locals of those that ended, by exception, pthread_exit and return.
        cpp.wait_for("n_ended", 201);
        rust.wait_for("n_ended", 302);
        for name in ["threads-c", "threads-cpp", "threads-rust"] {
            host.unload(name);
        }
        assert_eq!(self::failures(&host).len(), 3);
    });
}

#[test]
fn a_load_that_fails_stops_the_threads_that_init_started() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let path = c_plugin(&scratch, "threads", C);
        let load = |params: &Params| host.loader.load(&host.trust, Source::path(&path), params);
        let before = process::threads();
        let params = Params::new().with("spawn", "yes").with("fail", "yes");
        let error = load(&params).expect_err("asked to fail");
        assert_eq!(error.kind(), ErrorKind::InitFailed);
        assert!(error.lingering().is_none(), "{error}");
        while process::threads() > before {
            thread::yield_now();
        }
        let starter = Starter::new(load(&Params::new().with("spawn", "yes")).expect("loads"));
        starter.wait_for("n_begun", 1);
        host.unload("threads-c");
    });
}

#[test]
fn a_hundred_threads_and_a_storm_of_spawns_end_with_their_plugin() {
    isolated!({
        static OVER: AtomicBool = AtomicBool::new(false);
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let path: PathBuf = c_plugin(&scratch, "threads", C);
        let (before, mut all) = (process::threads(), 0);
        for round in 0..20 {
            let starter = Starter::new(host.load(&path).expect("loads"));
            if round == 0 {
                for n in 0..100 {
                    assert_eq!(starter.start(n % 3), 0);
                }
                starter.wait_for("n_begun", 100);
            }
            OVER.store(false, Ordering::SeqCst);
            thread::scope(|scope| {
                let stormers: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            let (mut started, mut n) = (0, 0);
                            while !OVER.load(Ordering::SeqCst) {
                                n += 1;
                                // Those that return at once and those that stay.
                                let what = if n % 50 == 0 { 0 } else { 4 };
                                // SAFETY: the signature is the plugin's.
                                match unsafe { starter.start.call((what,)) } {
                                    Ok(0) => started += 1,
                                    Ok(_) | Err(_) => break,
                                }
                            }
                            started
                        })
                    })
                    .collect();
                starter.wait_for("n_begun", 100);
                host.unload("threads-c");
                OVER.store(true, Ordering::SeqCst);
                all += stormers
                    .into_iter()
                    .map(|s| s.join().expect("no panic"))
                    .sum::<u32>();
            });
        }
        assert!(all > 1000, "{all}");
        while process::threads() > before {
            thread::yield_now();
        }
        assert!(
            !process::objects()
                .iter()
                .any(|name| name.contains("plug-threads"))
        );
    });
}

#[test]
fn one_that_sleeps_is_at_a_quiescent_point_and_one_that_unloads_is_told() {
    isolated!({
        /// The host's functions that a thread of the plugin's calls.
        static LOADER: OnceLock<Loader> = OnceLock::new();
        static ASKED: AtomicBool = AtomicBool::new(false);
        extern "C" fn ask(_: u64) {
            let error = LOADER
                .get()
                .expect("made")
                .unload("asks", seconds(5))
                .expect_err("from inside");
            assert_eq!(error.kind(), ErrorKind::SelfDeadlock, "{error}");
            assert!(error.to_string().contains("asks, in asking"), "{error}");
            ASKED.store(true, Ordering::SeqCst);
        }
        static ASK: Tell = Tell { tell: ask };
        let host = Host::new();
        LOADER.get_or_init(|| host.loader.clone());
        host.loader.offer(&ASK);
        let scratch = Scratch::new("threads");
        let path = c_plugin(
            &scratch,
            "asks",
            "#include \"plugin_api.h\"\n\
             typedef struct tell { void (*tell)(uint64_t n); } tell;\n\
             PLUG_EXPORT(void, asking, (void *data)) {\n\
                 const plug_host_context *ctx = (const plug_host_context *)data;\n\
                 ((const tell *)plug_service(ctx, \"test.tell\", 1, 0))->tell(0);\n\
                 while (!plug_sleep(ctx, UINT64_MAX)) {}\n\
             }\n\
             static int32_t init(const plug_host_context *ctx) {\n\
                 return plug_spawn(ctx, \"asking\", asking, (void *)ctx);\n\
             }\n\
             static void stop(void) {}\n\
             PLUG_PLUGIN(\"asks\", \"1.0.0\", \"asks\", \"MIT\", init, stop);\n",
        );
        let _plugin = host.load(path).expect("loads");
        let began = Instant::now();
        while !ASKED.load(Ordering::SeqCst) {
            assert!(began.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
        // It can be woken for a point though it sleeps for ever.
        let answers = host.loader.ask_for_quiescence(seconds(20));
        let [answer] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!((&*answer.name, answer.answer), ("asking", Answer::Passed));
        host.unload("asks");
    });
}

#[test]
fn a_forked_child_unloads_without_the_threads_that_it_does_not_have() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("threads");
        let starter = c_starter(&host, &scratch);
        for what in [0, 1, 3] {
            assert_eq!(starter.start(what), 0);
        }
        starter.wait_for("n_begun", 3);
        // SAFETY: the child does what children of this loader may do.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let gone = host.loader.unload("threads-c", seconds(10));
            let status = i32::from(!gone.is_ok_and(|unloaded| unloaded.is_gone()));
            // SAFETY: ends the child alone.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: the child made above.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        starter.number("release");
        host.unload("threads-c");
    });
}
