//! What a plugin may leave behind so that the process crashes once it is unmapped: each does so
//! after a plain `dlclose`, in a process of its own, and is named by an unload instead.
//!
//! The plugin asks ld.so for the functions by which it leaves them, so that no import of its tells.

use std::ffi::{CString, c_int, c_uint, c_void};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, process};

use plug_loader::{Deadline, ErrorKind, HolderKind, RootKind, Unloaded};
use plug_tests::child;
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin};

const FIXTURE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("leaver", "1.0.0", "leaves things behind", "MIT", init, stop);

#define FIND(name) ((__typeof__(&name))(uintptr_t)dlsym(RTLD_DEFAULT, #name))

_Atomic int is_over;
static char room[4096];
static char text[] = "PLUG_LEFT=a text of the plugin's";

PLUG_EXPORT(void, on_signal, (int number)) { room[0] = (char)number; }
PLUG_EXPORT(void, on_timer, (union sigval value)) { room[1] = (char)value.sival_int; }
PLUG_EXPORT(void, on_value, (void *value)) { room[2] = *(char *)value; }
PLUG_EXPORT(void, at_end, (int status, void *argument)) { room[3] = (char)(status + *(char *)argument); }
PLUG_EXPORT(void *, runs_on, (void *none)) {
    while (!atomic_load(&is_over)) { nanosleep(&(struct timespec){0, 1000000}, NULL); }
    return none;
}

PLUG_EXPORT(uint64_t, leave, (uint64_t what)) {
    switch (what) {
    case 0: {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_signal;
        return FIND(sigaction)(SIGUSR1, &action, NULL) == 0;
    }
    case 1: {
        struct sigevent event;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_THREAD;
        event.sigev_notify_function = on_timer;
        timer_t timer;
        struct itimerspec often = {{0, 50000000}, {0, 300000000}};
        if (FIND(timer_create)(CLOCK_MONOTONIC, &event, &timer)) return 0;
        return FIND(timer_settime)(timer, 0, &often, NULL) == 0 ? (uint64_t)(uintptr_t)timer : 0;
    }
    case 2: {
        pthread_key_t key;
        if (FIND(pthread_key_create)(&key, on_value)) return 0;
        return FIND(pthread_setspecific)(key, "v") == 0 ? (uint64_t)key + 1 : 0;
    }
    case 3: return FIND(on_exit)(at_end, "v") == 0;
    case 4: return FIND(setvbuf)(stdout, room, _IOFBF, sizeof room) == 0;
    case 5: return FIND(putenv)(text) == 0;
    case 6: {
        pthread_t thread;
        return FIND(pthread_create)(&thread, NULL, runs_on, NULL) == 0;
    }
    default: return 0;
    }
}
PLUG_EXPORT(uint64_t, ends, (void)) { atomic_store(&is_over, 1); return 1; }
"#;

const PLUSSY: &str = r#"
#include "plugin_api.h"
#include <cstdlib>
#include <exception>
#include <new>
static int32_t init(const plug_host_context *) { return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("leaver", "1.0.0", "leaves things behind", "MIT", init, stop);
PLUG_EXPORT(void, no_way_on, (void)) { std::_Exit(9); }
PLUG_EXPORT(uint64_t, leave, (uint64_t)) { std::set_terminate(no_way_on); return 1; }
"#;

/// What is left, its number, and what an unload says of it.
const LEFTOVERS: [(&str, u64, &str); 8] = [
    ("signal", 0, "is handled by its on_signal"),
    ("timer", 1, "a timer has its on_timer"),
    ("key", 2, "are destroyed by its on_value"),
    ("exit", 3, "the process's end calls its at_end"),
    ("stream", 4, "a stream buffers in "),
    ("environment", 5, "the environment has "),
    ("thread", 6, "has its code on the stack"),
    ("terminate", 7, "libstdc++.so.6's data at "),
];

const TEST: &str = "each_leftover_crashes_a_plain_dlclose_and_is_named_here";
const FILE: &str = "PLUG_LEAVER";

type Leave = unsafe extern "C" fn(u64) -> u64;

unsafe extern "C" {
    fn timer_delete(timer: *mut c_void) -> c_int;
    static stdout: *mut libc::FILE;
}

#[test]
fn each_leftover_crashes_a_plain_dlclose_and_is_named_here() {
    if let Some(role) = child::role() {
        let (how, what) = role.split_once(' ').expect("two words");
        let leftover = LEFTOVERS.iter().find(|(name, ..)| *name == what);
        let &(what, number, says) = leftover.expect("known");
        let file = PathBuf::from(env::var_os(FILE).expect("given"));
        match how {
            "plain" => plain(&file, what, number),
            _ => here(&file, what, number, says),
        }
        return;
    }
    let scratch = Scratch::new("leftovers");
    let c = c_plugin(&scratch, "leaver", FIXTURE);
    let cpp = cpp_plugin(&scratch, "plussy", PLUSSY);
    for (what, ..) in LEFTOVERS {
        let file = if what == "terminate" { &cpp } else { &c };
        // SAFETY: libtest's other thread only waits for this one.
        unsafe { env::set_var(FILE, file) };
        let time = Duration::from_secs(60);
        let plain = child::run(TEST, &format!("plain {what}"), time);
        let signal = plain.signal();
        assert_eq!(signal, Some(libc::SIGSEGV), "{what}: {plain:?}");
        let here = child::run(TEST, &format!("here {what}"), time);
        assert!(
            here.succeeded(),
            "{what}: {:?}\n{}",
            here.status,
            here.output
        );
        let told = here
            .output
            .lines()
            .find_map(|line| Some(line.split_once("told: ")?.1));
        let told = told.unwrap_or_else(|| panic!("{what}: no word of it in\n{}", here.output));
        println!("{what}: {told}");
    }
}

/// What makes the process use what was left.
fn trigger(what: &str) {
    match what {
        // SAFETY: a signal to this thread.
        "signal" => _ = unsafe { libc::raise(libc::SIGUSR1) },
        "timer" | "thread" => thread::sleep(Duration::from_millis(500)),
        // The thread that has a value ends.
        "key" => {}
        "exit" => process::exit(0),
        "stream" => {
            // SAFETY: a terminated text.
            unsafe { libc::puts(c"written".as_ptr()) };
        }
        "environment" => {
            // SAFETY: terminated, and nobody changes the environment.
            let text = unsafe { libc::getenv(c"PLUG_LEFT".as_ptr()) };
            // SAFETY: libc's word, which is the question.
            assert!(!text.is_null() && unsafe { libc::strlen(text) } > 1);
        }
        _ => {
            // SAFETY: a terminated name.
            let library = unsafe { libc::dlopen(c"libstdc++.so.6".as_ptr(), libc::RTLD_NOW) };
            // SAFETY: as above.
            let terminate = unsafe { libc::dlsym(library, c"_ZSt9terminatev".as_ptr()) };
            // SAFETY: std::terminate(), which takes nothing.
            let terminate: extern "C" fn() = unsafe { mem::transmute(terminate) };
            terminate();
        }
    }
}

/// Leaves it, unmaps the plugin as everybody does, and goes on.
fn plain(file: &Path, what: &str, number: u64) {
    if what == "terminate" {
        // Brought in by the host, which lets the plugin be unmapped.
        // SAFETY: a terminated name.
        unsafe { libc::dlopen(c"libstdc++.so.6".as_ptr(), libc::RTLD_NOW) };
    }
    let file = CString::new(file.as_os_str().as_bytes()).expect("no zero");
    let user = thread::spawn(move || {
        // SAFETY: a terminated path.
        let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        // SAFETY: a terminated name.
        let leave = unsafe { libc::dlsym(library, c"leave".as_ptr()) };
        // SAFETY: the fixture's own signature.
        let leave: Leave = unsafe { mem::transmute(leave) };
        // SAFETY: as above.
        assert_ne!(unsafe { leave(number) }, 0);
        // SAFETY: nothing is called any more, as far as anybody can tell.
        assert_eq!(unsafe { libc::dlclose(library) }, 0);
    });
    user.join().expect("no panic");
    trigger(what);
}

/// Takes what was left back in the host's own words; false where that cannot be done.
fn undo(what: &str, left: u64) -> bool {
    match what {
        // SAFETY: the default action.
        "signal" => _ = unsafe { libc::signal(libc::SIGUSR1, libc::SIG_DFL) },
        // SAFETY: the timer that the plugin made.
        "timer" => _ = unsafe { timer_delete(left as *mut c_void) },
        "key" => {
            let key = c_uint::try_from(left - 1).expect("a key");
            // SAFETY: the key that the plugin made.
            unsafe { libc::pthread_key_delete(key) };
        }
        "stream" => {
            // SAFETY: libc's own stream.
            unsafe { libc::setvbuf(stdout, ptr::null_mut(), libc::_IONBF, 0) };
        }
        // SAFETY: nobody else looks at the environment.
        "environment" => unsafe { env::remove_var("PLUG_LEFT") },
        _ => return false,
    }
    true
}

/// Leaves it, and finds it named.
fn here(file: &Path, what: &str, number: u64, says: &str) {
    let host = Host::new();
    let plugin = host.load(file).expect("loads");
    assert_eq!(
        host.loader.roots(&plugin).iter().find(|root| root.holds()),
        None
    );
    let leave = plugin.function::<Leave>("leave").expect("exported");
    // A thread that lives on, or none that has a value could end.
    // SAFETY: the fixture's own signature.
    let left = unsafe { leave.call((number,)) }.expect("live");
    assert_ne!(left, 0);
    if what == "thread" {
        let ends = plugin.function::<unsafe extern "C" fn() -> u64>("ends");
        let soon = Deadline::after(Duration::from_millis(100));
        let error = host.loader.unload("leaver", soon).expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Deadline);
        assert_eq!(error.blockers()[0].kind, HolderKind::Stack, "{error}");
        eprintln!("told: {error}");
        assert!(error.to_string().contains(says), "{error}");
        // SAFETY: the fixture's own signature.
        assert_eq!(unsafe { ends.expect("exported").call(()) }, Ok(1));
        let verdict = host.loader.unload("leaver", seconds(20));
        assert!(matches!(verdict, Ok(Unloaded::Gone(_))), "{verdict:?}");
        return trigger(what);
    }
    let roots = host.loader.roots(&plugin);
    let held: Vec<_> = roots.iter().filter(|root| root.holds()).collect();
    assert!(!held.is_empty(), "not found");
    if what == "signal" {
        assert_eq!(held[0].kind, RootKind::Signal(libc::SIGUSR1));
    }
    let verdict = host.loader.unload("leaver", seconds(5)).expect("closed");
    let Unloaded::Zombie(lingering) = &verdict else {
        panic!("{what}: {verdict:?}");
    };
    eprintln!("told: {}", lingering.reasons.join("; "));
    assert!(lingering.to_string().contains(says), "{lingering}");
    if undo(what, left) {
        let began = Instant::now();
        while !host.loader.zombies().is_empty() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{:?}",
                host.loader.zombies()
            );
            thread::sleep(Duration::from_millis(10));
        }
        assert!(plugin.state() == plug_loader::State::Empty);
        if !["signal", "environment"].contains(&what) {
            trigger(what);
        }
    } else if what == "exit" {
        // It stays mapped, so that the process ends as it wants to.
        trigger(what);
    }
}

/// A plugin that makes memory of its own the thread's alternate stack. By an import, since another
/// thread's alternate stack can be read by nobody: what the loader sees is the call.
const STACK: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <signal.h>
#include <string.h>
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("leaver", "1.0.0", "leaves things behind", "MIT", init, stop);
static char room[1 << 16];
PLUG_EXPORT(uint64_t, leave, (uint64_t none)) {
    stack_t stack;
    (void)none;
    memset(&stack, 0, sizeof stack);
    stack.ss_sp = room;
    stack.ss_size = sizeof room;
    return sigaltstack(&stack, NULL) == 0;
}
"#;

extern "C" fn on_alternate_stack(_: c_int) {}

/// Has the running thread handle a signal on its alternate stack.
fn use_alternate_stack() {
    // SAFETY: all zeroes is a valid one.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_alternate_stack as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: a handler that does nothing.
    unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()) };
    // SAFETY: a signal to this thread.
    unsafe { libc::raise(libc::SIGUSR2) };
}

#[test]
fn alternate_stack_crashes_a_plain_dlclose_and_is_given_back_here() {
    const TEST: &str = "alternate_stack_crashes_a_plain_dlclose_and_is_given_back_here";
    let Some(role) = child::role() else {
        let scratch = Scratch::new("leftovers");
        let file = c_plugin(&scratch, "leaver", STACK);
        // SAFETY: libtest's other threads do not look at the environment.
        unsafe { env::set_var(FILE, &file) };
        let time = Duration::from_secs(60);
        let plain = child::run(TEST, "plain", time);
        assert_eq!(plain.signal(), Some(libc::SIGSEGV), "{plain:?}");
        let here = child::run(TEST, "here", time);
        assert!(here.succeeded(), "{:?}\n{}", here.status, here.output);
        return;
    };
    let file = PathBuf::from(env::var_os(FILE).expect("given"));
    if role == "plain" {
        let file = CString::new(file.as_os_str().as_bytes()).expect("no zero");
        // SAFETY: a terminated path.
        let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        // SAFETY: a terminated name.
        let leave = unsafe { libc::dlsym(library, c"leave".as_ptr()) };
        // SAFETY: the fixture's own signature.
        let leave: Leave = unsafe { mem::transmute(leave) };
        // SAFETY: as above.
        assert_eq!(unsafe { leave(0) }, 1);
        // SAFETY: nothing is called any more, as far as anybody can tell.
        assert_eq!(unsafe { libc::dlclose(library) }, 0);
        return use_alternate_stack();
    }
    let host = Host::new();
    let plugin = host.load(&file).expect("loads");
    let leave = plugin.function::<Leave>("leave").expect("exported");
    // SAFETY: the fixture's own signature.
    assert_eq!(unsafe { leave.call((0,)) }, Ok(1));
    // A thread that sleeps is named, and gives it back when it ends.
    let (tell, told) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let sleeper = thread::spawn(move || {
        // SAFETY: as above.
        tell.send(unsafe { leave.call((0,)) }).expect("heard");
        ends.recv().expect("told");
        use_alternate_stack();
    });
    assert_eq!(told.recv().expect("told"), Ok(1));
    let verdict = host.loader.unload("leaver", seconds(5)).expect("closed");
    let Unloaded::Zombie(lingering) = &verdict else {
        panic!("{verdict:?}");
    };
    let says = "has an alternate signal stack that it set";
    assert!(lingering.to_string().contains(says), "{lingering}");
    use_alternate_stack();
    end.send(()).expect("alive");
    sleeper.join().expect("survives");
    let began = Instant::now();
    while !host.loader.zombies().is_empty() {
        let left = host.loader.zombies();
        assert!(began.elapsed() < Duration::from_secs(20), "{left:?}");
        thread::sleep(Duration::from_millis(10));
    }
    use_alternate_stack();
}

/// Where the host keeps an address.
static KEPT: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_pointer_in_the_hosts_data_is_told_and_holds_nothing() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("kept");
        let file = c_plugin(&scratch, "leaver", FIXTURE);
        for keeps in [false, true] {
            let plugin = host.load(&file).expect("loads");
            let address = plugin.address_of("leave").expect("exported");
            KEPT.store(if keeps { address } else { 0 }, Ordering::SeqCst);
            let report = host.unload("leaver");
            let place = KEPT.as_ptr().addr();
            let told = report.warnings.iter().find(|root| root.place == place);
            assert_eq!(told.is_some(), keeps, "{:?}", report.warnings);
            if let Some(root) = told {
                assert_eq!((&root.kind, &*root.symbol), (&RootKind::Data, "leave"));
            }
        }
    });
}

#[test]
fn what_the_loader_remembers_of_plugins_that_left_is_no_pointer_that_stays() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("grows");
        let mut before = Vec::new();
        let mut overlapping = 0;
        // Each is larger, so that it reaches over the place where the last one was.
        for size in 1..=12 {
            let source = format!(
                "{FIXTURE}\nPLUG_EXPORT(uint64_t, grown, (void)) {{ static char big[{size} << 16]; \
                 return (uint64_t)(uintptr_t)big; }}\n"
            );
            let file = c_plugin(&scratch, &format!("grows{size}"), &source);
            let (start, end) = host.load(&file).expect("loads").range();
            let inside = |other: &usize| start < *other && *other < end;
            overlapping += before.iter().filter(|other| inside(other)).count();
            before.push(start);
            let report = host.unload("leaver");
            assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        }
        assert!(overlapping > 0, "{before:x?}");
    });
}
