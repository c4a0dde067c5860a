//! Unloads that would wait for the thread that asks for them are refused, and say where it is.

use std::env;
use std::ffi::c_int;
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use plug_loader::{Deadline, Departure, Error, ErrorKind, Loader, Plugin, State, SymbolReader};
use plug_tests::allocations::{self, Watched};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin};
use plug_tests::storm;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

static LOADER: OnceLock<Loader> = OnceLock::new();

/// What the host was told, by the place it was called from.
static TOLD: Mutex<Vec<(c_int, ErrorKind, String)>> = Mutex::new(Vec::new());

/// Calls the host from everywhere a plugin's code runs.
const CALLER: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <stdlib.h>

static void call(int32_t place) {
    const char *text = getenv("PLUG_CALL");
    if (text != NULL) {
        ((void (*)(int32_t))(uintptr_t)strtoull(text, NULL, 16))(place);
    }
}

__attribute__((constructor)) static void built(void) { call(1); }
__attribute__((destructor)) static void gone(void) { call(4); }

static int32_t init(const plug_host_context *ctx) { (void)ctx; call(2); return PLUG_OK; }
static void stop(void) { call(3); }

PLUG_PLUGIN("caller", "1.0.0", "calls its host", "MIT", init, stop);

PLUG_EXPORT(void, through, (void (*back)(int32_t))) { back(5); }

PLUG_EXPORT(uint64_t, allocates, (const uint32_t *released)) {
    uint64_t rounds = 0;
    while (__atomic_load_n(released, __ATOMIC_ACQUIRE) == 0) {
        free(malloc(1 + rounds++ % 100000));
    }
    return rounds;
}
"#;

fn loader() -> &'static Loader {
    LOADER.get().expect("made")
}

fn note(place: c_int, error: &Error) {
    let mut told = TOLD.lock().expect("told");
    told.push((place, error.kind(), error.to_string()));
}

/// Every way to wait for the end of `caller`, from wherever this is called.
extern "C" fn ask(place: c_int) {
    let loader = loader();
    let began = Instant::now();
    note(
        place,
        &loader.unload("caller", seconds(60)).expect_err("inside"),
    );
    note(place, &loader.shutdown(seconds(60)).expect_err("inside"));
    if let Some(plugin) = loader.plugin("caller") {
        let refused = loader.unload_exactly(&plugin, seconds(60));
        note(place, &refused.expect_err("inside"));
    }
    // Begun from inside is fine, as long as somebody else waits.
    for wait in [|departure: Departure| departure.wait(seconds(60)), block_on] {
        if let Ok(departure) = loader.begin_unload("caller") {
            note(place, &wait(departure).expect_err("inside"));
            let plugin = loader.plugin("caller").expect("there");
            assert_eq!(plugin.state(), State::Live);
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "it waited");
}

/// A host whose loader the callbacks know, and the plugin's file.
fn host(scratch: &Scratch) -> (Host, std::path::PathBuf) {
    let host = Host::new();
    LOADER.set(host.loader.clone()).expect("first");
    (host, c_plugin(scratch, "caller", CALLER))
}

/// What was told since the last time, all of it as a self-deadlock.
#[track_caller]
fn told(place: c_int) -> Vec<String> {
    let mut told = TOLD.lock().expect("told");
    let (here, rest) = told.drain(..).partition(|(at, ..)| *at == place);
    *told = rest;
    let here: Vec<(c_int, ErrorKind, String)> = here;
    assert!(!here.is_empty(), "nothing was told at {place}");
    here.into_iter()
        .map(|(_, kind, text)| {
            assert_eq!(kind, ErrorKind::SelfDeadlock, "{text}");
            text
        })
        .collect()
}

#[track_caller]
fn all_say(told: &[String], within: &str) {
    for text in told {
        let end = format!(" asked for from inside {within}; return from it first");
        assert!(text.ends_with(&end), "{text:?} does not end with {end:?}");
    }
    let begin = |what: &str| told.iter().filter(|text| text.starts_with(what)).count();
    assert!(begin("unload asked") >= 1, "{told:?}");
    assert_eq!(begin("shutdown asked"), 1, "{told:?}");
}

#[test]
fn from_a_callback_of_a_worker_and_of_a_stranger() {
    isolated!({
        let scratch = Scratch::new("self");
        let (host, file) = host(&scratch);
        let plugin = host.load(file).expect("loads");
        let through = plugin
            .function::<unsafe extern "C" fn(extern "C" fn(c_int))>("through")
            .expect("exported");
        // SAFETY: the signature is the plugin's.
        unsafe { through.call((ask,)) }.expect("live");
        let of_stranger = told(5);
        assert_eq!(of_stranger.len(), 5);
        all_say(&of_stranger, "caller, in through");
        let waits = ["waiting for an unload", "awaiting an unload"];
        for (text, what) in of_stranger.iter().skip(3).zip(waits) {
            assert!(text.starts_with(what), "{text}");
        }
        let worker = host.loader.worker("io-3").expect("worker");
        // SAFETY: as above.
        unsafe { through.call_on(&worker, (ask,)) }.expect("live");
        all_say(&told(5), "caller, in through");

        // Nothing of it was done: it works and goes.
        assert_eq!(plugin.state(), State::Live);
        host.useful("base64");
        host.unload("caller");
        let left = host.loader.shutdown(seconds(10)).expect("outside");
        assert_eq!(left.len(), 1);
    });
}

#[test]
fn from_its_own_constructor_init_exit_and_destructor() {
    isolated!({
        let scratch = Scratch::new("self");
        let address = ask as extern "C" fn(c_int) as usize;
        // SAFETY: libtest's other thread only waits for this one.
        unsafe { env::set_var("PLUG_CALL", format!("{address:x}")) };
        let (host, file) = host(&scratch);
        host.load(file).expect("loads");
        all_say(&told(1), "caller, in a constructor of its own");
        all_say(&told(2), "caller, in its init");
        host.unload("caller");
        all_say(&told(3), "caller, in its exit");
        all_say(&told(4), "caller, in a destructor of its own");
    });
}

static IN_HANDLER: OnceLock<[Error; 2]> = OnceLock::new();
static HANDLED: AtomicU32 = AtomicU32::new(0);

fn on_signal(_: usize) {
    let loader = loader();
    let unload = loader.unload("caller", seconds(60)).expect_err("inside");
    let shutdown = loader.shutdown(seconds(60)).expect_err("inside");
    if IN_HANDLER.get().is_none() {
        let _first = IN_HANDLER.set([unload, shutdown]);
    }
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn from_a_signal_handler_inside_plugin_code_without_allocating() {
    isolated!({
        static RELEASED: AtomicU32 = AtomicU32::new(0);
        static TID: AtomicI32 = AtomicI32::new(0);
        let scratch = Scratch::new("self");
        let (host, file) = host(&scratch);
        let plugin = host.load(file).expect("loads");
        let allocates = plugin
            .function::<unsafe extern "C" fn(*const u32) -> u64>("allocates")
            .expect("exported");
        storm::prepare(on_signal);
        let thread = thread::spawn(move || {
            let _sheltered = storm::shelter();
            TID.store(storm::tid(), Ordering::SeqCst);
            // SAFETY: the flag outlives the call.
            unsafe { allocates.call((RELEASED.as_ptr().cast_const(),)) }
        });
        while host.loader.holders(&plugin).is_empty() {
            thread::yield_now();
        }
        let tid = TID.load(Ordering::SeqCst);
        for n in 1..=300 {
            assert!(storm::send(tid, libc::SIGUSR1));
            let began = Instant::now();
            while HANDLED.load(Ordering::SeqCst) < n {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "handler {n} hangs"
                );
                thread::yield_now();
            }
        }
        let [unload, shutdown] = IN_HANDLER.get().expect("handled");
        assert_eq!(unload.kind(), ErrorKind::SelfDeadlock);
        assert_eq!(
            (unload.to_string(), shutdown.to_string()),
            (
                "unload asked for from inside caller, in allocates; return from it first".into(),
                "shutdown asked for from inside caller, in allocates; return from it first".into()
            )
        );
        assert_eq!(allocations::in_handlers(), 0);
        RELEASED.store(1, Ordering::Release);
        thread.join().expect("no panic").expect("live");
        host.unload("caller");
    });
}

/// Asks from inside a walk over the plugins, which is one read section.
fn ask_in_a_section(loader: &Loader) -> Error {
    let mut refused = None;
    let began = Instant::now();
    SymbolReader::new().walk(|_| {
        refused = loader.unload("base64", seconds(60)).err();
        let departure = loader.begin_unload("base64").expect("does not wait");
        let waited = departure.wait(seconds(60)).expect_err("inside");
        assert_eq!(waited.kind(), ErrorKind::SelfDeadlock);
        false
    });
    assert!(began.elapsed() < Duration::from_secs(5), "it waited");
    refused.expect("a plugin was shown, and refused to go")
}

#[test]
fn from_a_read_section_of_a_stranger_and_of_a_worker() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("base64");
        let expected = "unload asked for from inside a read section; leave it first";
        let refused = ask_in_a_section(&host.loader);
        assert_eq!(
            (refused.kind(), refused.to_string().as_str()),
            (ErrorKind::SelfDeadlock, expected)
        );
        {
            let _worker = host.loader.worker("io-3").expect("worker");
            let refused = ask_in_a_section(&host.loader);
            assert_eq!(refused.to_string(), expected);
        }
        assert_eq!(plugin.state(), State::Live);
        // Sections of others are waited for, and not taken for one's own.
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while done.load(Ordering::Relaxed) == 0 {
                        SymbolReader::new().walk(|_| true);
                    }
                });
            }
            for _ in 0..30 {
                host.unload("base64");
                host.useful("base64");
            }
            done.store(1, Ordering::Relaxed);
        });
        host.unload("base64");
    });
}

#[test]
fn a_plugin_begins_its_own_unload_and_somebody_else_finishes_it() {
    isolated!({
        static BEGUN: Mutex<Option<Departure>> = Mutex::new(None);
        extern "C" fn begin(_: c_int) {
            let departure = loader().begin_unload("caller").expect("does not wait");
            *BEGUN.lock().expect("begun") = Some(departure);
        }
        let scratch = Scratch::new("self");
        let (host, file) = host(&scratch);
        let plugin: Plugin = host.load(&file).expect("loads");
        let through = plugin
            .function::<unsafe extern "C" fn(extern "C" fn(c_int))>("through")
            .expect("exported");
        // SAFETY: the signature is the plugin's.
        unsafe { through.call((begin,)) }.expect("live when it was entered");
        assert_eq!(plugin.state(), State::Going);
        let departure = BEGUN.lock().expect("begun").take().expect("begun");
        assert!(departure.wait(seconds(10)).expect("unloads").is_gone());
        fs::remove_file(file).expect("own file");
    });
}

#[test]
fn a_pin_of_the_same_thread_is_named_with_its_line_at_the_deadline() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("base64");
        let pin = plugin.pin().expect("live");
        let line = line!() - 1;
        let deadline = Deadline::after(Duration::from_millis(20));
        let refused = host.loader.unload("base64", deadline).expect_err("pinned");
        let text = refused.to_string();
        // The pin may be dropped by another thread: it is not for the loader to know.
        assert_eq!(refused.kind(), ErrorKind::Deadline);
        let place = format!("1 pin held, taken at {}:{line} by ", file!());
        assert!(text.contains(&place), "{text}");
        assert!(
            text.contains(", also by pins that this thread took"),
            "{text}"
        );
        // Those of others are told without the hint.
        let refused = thread::scope(|scope| {
            let unload = || host.loader.unload("base64", Deadline::now());
            scope.spawn(unload).join().expect("no panic")
        });
        let text = refused.expect_err("pinned").to_string();
        assert!(
            text.contains(&place) && !text.contains("this thread"),
            "{text}"
        );
        drop(pin);
        host.unload("base64");
    });
}
