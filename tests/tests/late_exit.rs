//! An `exit` that does not return in time keeps the plugin for as long as it takes, and no longer.

use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{CallError, Deadline, ErrorKind, EventKind, State, Unloaded};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::process;
use plug_tests::standalone::{Scratch, c_plugin};

/// Its exit waits while a file is there, and leaves something behind that runs when its thread
/// ends, later still.
const FIXTURE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static pthread_key_t key;

static void nap(long milliseconds) {
    const struct timespec time = {0, milliseconds * 1000000};
    nanosleep(&time, NULL);
}

static void thread_ends(void *value) {
    (void)value;
    nap(500);
    pthread_key_delete(key);
    (void)!unlink(getenv("PLUG_TOLD"));
}

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }

static void stop(void) {
    while (access(getenv("PLUG_HOLD"), F_OK) == 0) {
        nap(1);
    }
    if (pthread_key_create(&key, thread_ends) != 0 || pthread_setspecific(key, &key) != 0) {
        abort();
    }
}

PLUG_PLUGIN("late", "1.0.0", "leaves late", "MIT", init, stop);
PLUG_EXPORT(uint64_t, seven, (void)) { return 7; }
"#;

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_late_exit_makes_a_zombie_that_is_collected_when_it_has_returned() {
    isolated!({
        let scratch = Scratch::new("late");
        let (hold, told) = (scratch.write("hold", ""), scratch.write("told", ""));
        // SAFETY: libtest's other thread only waits for this one.
        unsafe { env::set_var("PLUG_HOLD", &hold) };
        // SAFETY: as above.
        unsafe { env::set_var("PLUG_TOLD", &told) };
        let file = c_plugin(&scratch, "late", FIXTURE);
        let host = Host::new();
        let plugin = host.load(&file).expect("loads");
        let seven = plugin.function::<unsafe extern "C" fn() -> u64>("seven");
        let seven = seven.expect("exported");
        let (start, end) = plugin.range();
        let inodes = process::inodes_in(start, end);

        let verdict = host.loader.unload("late", Deadline::now()).expect("closed");
        let Unloaded::Zombie(left) = &verdict else {
            panic!("{verdict:?}");
        };
        let expected = "its exit has not returned; the thread plug-exit is in it";
        assert_eq!(left.reasons, [expected]);
        assert_eq!(plugin.state(), State::Zombie);
        // SAFETY: the fixture's signature.
        assert_eq!(unsafe { seven.call(()) }, Err(CallError::Gone));
        let again = host.loader.unload("late", seconds(1)).expect_err("closed");
        assert_eq!(again.kind(), ErrorKind::Busy);
        assert!(again.to_string().contains(expected), "{again}");
        // It stays for as long as that takes, and hinders nobody, its own successor included.
        let next = host.load(&file).expect("the name is free");
        thread::sleep(Duration::from_millis(1_500));
        assert_eq!(plugin.state(), State::Zombie);
        assert_eq!(host.loader.zombies().len(), 1);
        assert_eq!(next.state(), State::Live);

        fs::remove_file(&hold).expect("own file");
        eventually("collected", || plugin.state() == State::Empty);
        assert!(
            !Path::new(&told).exists(),
            "unmapped before its thread had ended"
        );
        assert!(host.loader.zombies().is_empty());
        for inode in inodes {
            assert!(!process::is_mapped(inode));
        }
        eventually("told", || {
            let events = host.loader.events(0, Deadline::now());
            events.iter().any(|event| {
                event.generation == plugin.generation() && event.kind == EventKind::Collected
            })
        });
        let departed = host.loader.history();
        assert_eq!(departed[0].plugin.generation(), plugin.generation());
        // The next one's exit is in time.
        assert!(host.unload("late").generation == next.generation());
    });
}
