//! The thread that ran `exit` runs the destructors as well, once other threads have paid what they
//! owe, and has ended before anything else happens to the plugin.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Deadline, Plugin, State, Unloaded};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin};

/// Writes down where its exit and its destructor run, and does there what it is asked to.
const FIXTURE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_key_t key;

static void note(const char *what) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %d %d\n", what, getpid(), gettid());
    int file = open(getenv("PLUG_NOTES"), O_WRONLY | O_APPEND | O_CLOEXEC);
    (void)!write(file, line, (size_t)length);
    close(file);
}

static int wants(const char *what) {
    const char *wanted = getenv("PLUG_WANTED");
    return wanted != NULL && strcmp(wanted, what) == 0;
}

static void gone(void *value) { (void)value; note("value"); }

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return pthread_key_create(&key, gone) == 0 ? PLUG_OK : 1;
}

static void stop(void) {
    note("exit");
    if (wants("fork") && fork() == 0) {
        note("child");
    }
}

__attribute__((destructor)) static void fini(void) {
    note("fini");
    while (wants("hold") && access(getenv("PLUG_HOLD"), F_OK) == 0) {
        const struct timespec time = {0, 1000000};
        nanosleep(&time, NULL);
    }
    if (wants("end")) {
        pthread_exit(NULL);
    }
}

PLUG_PLUGIN("last", "1.0.0", "tells its last threads", "MIT", init, stop);
PLUG_EXPORT(uint64_t, mark, (void)) { return pthread_setspecific(key, &key) == 0; }
"#;

struct Fixture {
    host: Host,
    plugin: Plugin,
    notes: PathBuf,
    hold: PathBuf,
    _scratch: Scratch,
}

impl Fixture {
    /// Loads it; it does what is `wanted`.
    fn load(wanted: &str) -> Self {
        let scratch = Scratch::new("last");
        let (notes, hold) = (scratch.write("notes", ""), scratch.write("hold", ""));
        let variables = [
            ("PLUG_NOTES", notes.as_os_str()),
            ("PLUG_HOLD", hold.as_os_str()),
            ("PLUG_WANTED", wanted.as_ref()),
        ];
        for (name, value) in variables {
            // SAFETY: libtest's other thread only waits for this one.
            unsafe { env::set_var(name, value) };
        }
        let file = c_plugin(&scratch, "last", FIXTURE);
        let host = Host::new();
        let plugin = host.load(&file).expect("loads");
        Self {
            host,
            plugin,
            notes,
            hold,
            _scratch: scratch,
        }
    }

    /// Has the plugin leave something on the running thread.
    fn mark(plugin: &Plugin) {
        let mark = plugin.function::<unsafe extern "C" fn() -> u64>("mark");
        // SAFETY: the fixture's signature.
        assert_eq!(unsafe { mark.expect("exported").call(()) }, Ok(1));
    }

    /// Process and thread of each note of this word.
    fn notes(&self, word: &str) -> Vec<(u32, u32)> {
        let text = fs::read_to_string(&self.notes).expect("notes");
        let of = |line: &str| {
            let mut words = line.split(' ');
            let is_it = words.next() == Some(word);
            let mut number = || {
                words
                    .next()
                    .and_then(|text| text.parse().ok())
                    .expect("number")
            };
            is_it.then(|| (number(), number()))
        };
        text.lines().filter_map(of).collect()
    }
}

/// Names of the process's threads.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc");
    let name = |task: PathBuf| fs::read_to_string(task.join("comm")).ok();
    let names = tasks.filter_map(|task| name(task.expect("entry").path()));
    names.map(|name| name.trim_end().to_owned()).collect()
}

fn has_last_thread() -> bool {
    let last = ["plug-exit", "plug-fini"];
    threads().iter().any(|name| last.contains(&&**name))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn destructors_run_where_exit_ran_after_the_worker_has_paid() {
    isolated!({
        let fixture = Fixture::load("nothing");
        let _worker = fixture.host.loader.worker("caller").expect("a worker");
        Fixture::mark(&fixture.plugin);
        let verdict = fixture.host.loader.unload("last", seconds(60));
        assert!(verdict.as_ref().is_ok_and(Unloaded::is_gone), "{verdict:?}");
        let (exit, fini) = (fixture.notes("exit"), fixture.notes("fini"));
        assert_eq!(exit.len(), 1);
        assert_eq!(exit, fini);
        let values = fixture.notes("value");
        assert_eq!(values.len(), 1);
        assert_ne!(values, exit, "the worker's is its own to destroy");
        let text = fs::read_to_string(&fixture.notes).expect("notes");
        let order: Vec<_> = text.lines().map(|line| line.split(' ').next()).collect();
        assert_eq!(order, ["exit", "value", "fini"].map(Some));
        assert!(!has_last_thread(), "{:?}", threads());
    });
}

#[test]
fn where_a_thread_does_not_pay_the_last_one_ends_and_another_destroys_later() {
    isolated!({
        let fixture = Fixture::load("nothing");
        let (end, ended) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let plugin = fixture.plugin.clone();
        let debtor = thread::spawn(move || {
            Fixture::mark(&plugin);
            drop(plugin);
            tell.send(()).expect("heard");
            let _end = ended.recv();
        });
        told.recv().expect("marked");
        let verdict = fixture.host.loader.unload("last", seconds(60));
        let verdict = verdict.expect("closed");
        let Unloaded::Zombie(left) = &verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(left.debtors.len(), 1, "{left:?}");
        assert!(!has_last_thread(), "{:?}", threads());
        assert_eq!(fixture.notes("fini"), []);
        drop(end);
        debtor.join().expect("ends");
        eventually("collected", || fixture.plugin.state() == State::Empty);
        let (exit, fini) = (fixture.notes("exit"), fixture.notes("fini"));
        assert_eq!((exit.len(), fini.len()), (1, 1));
    });
}

#[test]
fn a_destructor_that_hangs_there_makes_a_zombie_until_it_returns() {
    isolated!({
        let fixture = Fixture::load("hold");
        let _worker = fixture.host.loader.worker("caller").expect("a worker");
        Fixture::mark(&fixture.plugin);
        let verdict = fixture.host.loader.unload("last", Deadline::now());
        let verdict = verdict.expect("closed");
        let Unloaded::Zombie(left) = &verdict else {
            panic!("{verdict:?}");
        };
        let expected = "a destructor has not returned; the thread plug-fini is in it";
        assert_eq!(left.reasons, [expected]);
        assert!(threads().iter().any(|name| name == "plug-fini"));
        assert_eq!(fixture.notes("exit"), fixture.notes("fini"));
        thread::sleep(Duration::from_millis(200));
        assert_eq!(fixture.plugin.state(), State::Zombie);
        fs::remove_file(&fixture.hold).expect("own file");
        eventually("collected", || fixture.plugin.state() == State::Empty);
        assert_eq!(fixture.notes("fini").len(), 1);
    });
}

#[test]
fn a_destructor_that_ends_the_thread_pins_the_plugin() {
    isolated!({
        let fixture = Fixture::load("end");
        let _worker = fixture.host.loader.worker("caller").expect("a worker");
        Fixture::mark(&fixture.plugin);
        let verdict = fixture.host.loader.unload("last", seconds(60));
        let verdict = verdict.expect("closed");
        let Unloaded::Pinned(left) = &verdict else {
            panic!("{verdict:?}");
        };
        let expected = "a destructor ended the loader's thread instead of returning";
        assert_eq!(left.reasons, [expected]);
        assert_eq!(fixture.notes("fini").len(), 1);
    });
}

#[test]
fn a_child_that_exit_forks_stands_by_for_nobody() {
    isolated!({
        let fixture = Fixture::load("fork");
        let _worker = fixture.host.loader.worker("caller").expect("a worker");
        Fixture::mark(&fixture.plugin);
        let verdict = fixture.host.loader.unload("last", seconds(600));
        assert!(verdict.as_ref().is_ok_and(Unloaded::is_gone), "{verdict:?}");
        eventually("forked", || !fixture.notes("child").is_empty());
        let (child, _) = fixture.notes("child")[0];
        assert_ne!(child, std::process::id());
        // Its only thread has nobody to wait for: it ends, and the process with it.
        let stat = format!("/proc/{child}/stat");
        let has_ended = || match fs::read_to_string(Path::new(&stat)) {
            Ok(stat) => stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('Z')),
            Err(_) => true,
        };
        eventually("ended", has_ended);
        let here = |notes: Vec<(u32, u32)>| -> Vec<_> {
            let own = notes.into_iter();
            own.filter(|(process, _)| *process == std::process::id())
                .collect()
        };
        assert_eq!(here(fixture.notes("exit")), here(fixture.notes("fini")));
    });
}
