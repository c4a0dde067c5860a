//! The warning about an unload that waits long: what it says, and that nobody it is about notices.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::{Config, Deadline, ErrorKind, EventKind, Plugin};
use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin};
use plug_tests::warnings::Warnings;

/// Blocks and spins until told, and counts the naps that somebody cut short.
const FIXTURE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <errno.h>
#include <time.h>

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("stayer", "1.0.0", "stays inside", "MIT", init, stop);

static int done(const uint32_t *released) {
    return __atomic_load_n(released, __ATOMIC_ACQUIRE) != 0;
}

PLUG_EXPORT(uint64_t, naps, (const uint32_t *released)) {
    uint64_t cut_short = 0;
    while (!done(released)) {
        const struct timespec nap = {0, 20000000};
        cut_short += nanosleep(&nap, NULL) != 0 && errno == EINTR;
    }
    return cut_short;
}

PLUG_EXPORT(uint64_t, spins, (const uint32_t *released)) {
    while (!done(released)) {
    }
    return 0;
}
"#;

type Stay = unsafe extern "C" fn(*const u32) -> u64;

fn host(first: Option<Duration>) -> (Host, Plugin, Warnings) {
    let log = Warnings::of("plug::stall");
    let mut config = Config::default();
    config.stall_warning = first;
    let host = Host::with(config);
    let scratch = Scratch::new("stall");
    let plugin = host.load(c_plugin(&scratch, "stayer", FIXTURE));
    (host, plugin.expect("loads"), log)
}

#[test]
fn a_stalled_unload_warns_with_holders_and_stacks_and_interrupts_nobody() {
    isolated!({
        static RELEASED: AtomicU32 = AtomicU32::new(0);
        let (host, plugin, log) = host(Some(Duration::from_millis(50)));
        let [naps, spins] =
            ["naps", "spins"].map(|name| plugin.function::<Stay>(name).expect("exported"));
        let pin = plugin.pin().expect("live");
        let line = line!() - 1;
        let refused = thread::scope(|scope| {
            let released = || (RELEASED.as_ptr().cast_const(),);
            let loader = &host.loader;
            let worker = move |name: &'static str, stay: plug_loader::PluginFn<Stay>| {
                let worker = loader.worker(name).expect("worker");
                // SAFETY: the flag outlives the call.
                unsafe { stay.call_on(&worker, released()) }
            };
            let napping = scope.spawn(move || worker("napper", naps));
            let spinning = scope.spawn(move || worker("spinner", spins));
            let stranger = thread::Builder::new()
                .name("stranger".into())
                // SAFETY: as above.
                .spawn_scoped(scope, move || unsafe { naps.call(released()) })
                .expect("thread");
            while host.loader.holders(&plugin).len() < 4 {
                thread::yield_now();
            }
            let deadline = Deadline::after(Duration::from_secs(2));
            let refused = host.loader.unload("stayer", deadline);
            RELEASED.store(1, Ordering::Release);
            let cut_short = [napping, stranger].map(|thread| thread.join().expect("no panic"));
            assert_eq!(cut_short, [Ok(0), Ok(0)], "naps were cut short");
            spinning.join().expect("no panic").expect("live");
            refused
        });
        assert_eq!(refused.expect_err("in use").kind(), ErrorKind::Deadline);

        let told = log.lines();
        // After 50, 100, 200, 400, 800 and 1,600 ms; a late one makes the next one later.
        assert!((2..=6).contains(&told.len()), "{told:#?}");
        // Whether a thread that may be met between two naps is met inside of one is chance.
        let seen = |parts: &[&str]| {
            let has = |text: &&String| parts.iter().all(|part| text.contains(part));
            assert!(told.iter().any(|text| has(&text)), "{parts:?} in {told:#?}");
        };
        seen(&[
            "plugin=\"stayer\"",
            "generation=1",
            "the unload has waited for ",
        ]);
        seen(&["worker napper (tid ", ") in naps since at least "]);
        seen(&["\n    #0 libc", "stayer: naps+0x"]);
        seen(&["worker spinner (tid ", ") in spins since at least "]);
        seen(&["\n    it runs: no stack to be read"]);
        seen(&[
            "unregistered thread stranger (tid ",
            ") in naps since at least ",
        ]);
        seen(&[&format!("1 pin held, taken at {}:{line} by ", file!())]);
        let events = host.loader.events(0, Deadline::now());
        let stalled =
            |kind: &EventKind| matches!(kind, EventKind::Stalled(text) if text.contains("napper"));
        let n = events.iter().filter(|event| stalled(&event.kind)).count();
        assert_eq!(n, told.len());
        drop(pin);
        host.unload("stayer");
        assert_eq!(log.lines().len(), told.len());
    });
}

#[test]
fn no_warning_comes_before_its_time_or_when_there_is_to_be_none() {
    isolated!({
        let (host, plugin, log) = host(None);
        let pin = plugin.pin().expect("live");
        let deadline = Deadline::after(Duration::from_millis(200));
        assert!(host.loader.unload("stayer", deadline).is_err());
        drop(pin);
        host.unload("stayer");
        assert!(log.lines().is_empty());
    });
}
