//! Every reason why a host does not unload, as operators see it: text, table, JSON and exit code.
//!
//! The host is this binary again, told by lines on its standard input what to hold. The loader has
//! no self-deadlock to tell here: it unloads for clients on a thread of its own.

mod kit;

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plug_loader::{Loader, Params, Plugin, PluginPin, Source, Trust};

use kit::told::{self, Told};
use kit::{Ended, Place, eventually, example, hostile};

type Stuck = unsafe extern "C" fn(*const u32) -> u64;

/// What the host holds.
#[derive(Default)]
struct Held {
    pins: Vec<PluginPin>,
    callers: Vec<JoinHandle<()>>,
}

static RELEASED: AtomicU32 = AtomicU32::new(0);

fn plugin(loader: &Loader, name: &str) -> Plugin {
    loader.plugin(name).expect("loaded")
}

/// The line that takes pins.
const PIN_LINE: u32 = line!() + 3;

fn pin(plugin: &Plugin) -> PluginPin {
    plugin.pin().expect("live")
}

/// Does what one line says.
fn act(loader: &Loader, trust: &Trust, held: &mut Held, words: &[&str]) {
    let stuck = |name: &str, function: &str| {
        let function = plugin(loader, name).function::<Stuck>(function);
        function.expect("exported")
    };
    match words {
        ["load", file] => {
            loader
                .load(trust, Source::path(file), &Params::new())
                .expect("loads");
        }
        ["pin", name] => {
            held.pins.push(pin(&plugin(loader, name)));
        }
        ["unpin"] => held.pins.clear(),
        ["call", name, function, thread] => {
            let function = stuck(name, function);
            let run = move || {
                // SAFETY: the fixture's signature; the flag is never freed.
                let _left = unsafe { function.call((RELEASED.as_ptr().cast_const(),)) };
            };
            let thread = thread::Builder::new().name((*thread).to_owned());
            held.callers.push(thread.spawn(run).expect("thread"));
            while loader.holders(&plugin(loader, name)).is_empty() {
                thread::yield_now();
            }
        }
        // Calls and leaves, but the thread that did stays until the release.
        ["visit", name, function] => {
            let function = stuck(name, function);
            let (tell, told) = mpsc::channel();
            held.callers.push(thread::spawn(move || {
                // SAFETY: as above.
                let visited = unsafe { function.call((RELEASED.as_ptr().cast_const(),)) };
                tell.send(visited).expect("asked for");
                while RELEASED.load(Ordering::Acquire) == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }));
            assert_eq!(told.recv().expect("told"), Ok(0));
        }
        ["release"] => {
            RELEASED.store(1, Ordering::Release);
            let callers = held.callers.drain(..);
            callers.for_each(|caller| caller.join().expect("no panic"));
        }
        _ => panic!("{words:?}"),
    }
}

/// The host of a test, if this process is to be one.
fn host() {
    let mut held = Held::default();
    told::host(|loader, trust, words| act(loader, trust, &mut held, words));
}

/// The rows of the table of holders, cells by heads, numbers as they are.
fn table(ended: &Ended) -> Vec<HashMap<&str, &str>> {
    let mut lines = ended.stderr.lines().skip(1);
    let heads = lines.next().expect("heads");
    assert_eq!(
        heads.split_whitespace().collect::<Vec<_>>(),
        ["Holder", "Thread", "TID", "Count", "Since", "Where"]
    );
    // Columns are at least two spaces apart.
    lines
        .map(|line| {
            let cells = line
                .split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty());
            ["Holder", "Thread", "TID", "Count", "Since", "Where"]
                .into_iter()
                .zip(cells)
                .collect()
        })
        .collect()
}

#[test]
fn holders_are_told_as_a_table_and_in_json() {
    if told::is_host() {
        return host();
    }
    let place = Place::new();
    let mut host = Told::new(&place, "holders_are_told_as_a_table_and_in_json");
    let file = hostile("never-returns");
    host.tell(&format!("load {file}"));
    for _ in 0..2 {
        host.tell("pin never-returns");
    }
    host.tell("call never-returns never_returns stranger");
    let unload = |more: &[&str]| place.run(&[&["unload", "never-returns"], more].concat());

    // It naps between looks: on a busy machine it may be met awake, and is then only counted.
    let ended = eventually(|| {
        let ended = unload(&["--wait", "0"]);
        ended.stderr.contains("stranger").then_some(ended)
    });
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""));
    assert!(
        ended
            .stderr
            .starts_with("plugctl: never-returns is in use\n")
    );
    let rows = table(&ended);
    assert_eq!(rows.len(), 2, "{ended:?}");
    let cells =
        |row: usize, heads: &[&str]| heads.iter().map(|head| rows[row][head]).collect::<Vec<_>>();
    assert_eq!(
        cells(0, &["Holder", "Thread", "Count", "Where"]),
        ["call", "stranger", "1", "never_returns"]
    );
    let place_of_pin = format!("plugctl/tests/refusals.rs:{PIN_LINE}");
    assert_eq!(
        cells(1, &["Holder", "Count", "Where"]),
        ["pin", "2", &place_of_pin]
    );
    for row in &rows {
        assert!(
            row["TID"].parse::<u32>().is_ok_and(|tid| tid > 1),
            "{row:?}"
        );
        let (number, unit) = row["Since"].split_once(' ').expect("a duration");
        assert!(number.parse::<f64>().is_ok() && ["µs", "ms", "s"].contains(&unit));
    }
    let ended = unload(&["--wait", "0.1"]);
    assert_eq!(ended.code, Some(6), "{ended:?}");
    let begin = "plugctl: never-returns is still in use after 100.0 ms\nHolder ";
    assert!(ended.stderr.starts_with(begin), "{ended:?}");

    let ended = unload(&["--wait", "0", "--json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""));
    let failure: serde_json::Value = serde_json::from_str(&ended.stderr).expect("JSON");
    assert_eq!(failure["kind"], "deadline");
    let holders = failure["holders"].as_array().expect("holders");
    assert_eq!(holders.len(), 2);
    let pins = &holders[1];
    assert_eq!(
        (&pins["kind"], &pins["count"], &pins["place"]),
        (&"pins".into(), &2.into(), &place_of_pin.into())
    );
    assert!(pins["micros"].as_u64().is_some_and(|since| since > 0));
    let list = place.run(&["list", "--json"]).json();
    assert_eq!(
        list[0]["users"],
        serde_json::json!(["unregistered", "pins"])
    );
    assert_eq!(list[0]["refs"], 3);

    // A wait that took long is an event of one line.
    let ended = unload(&["--wait", "0.5"]);
    assert_eq!(ended.code, Some(6), "{ended:?}");
    let events = place.run(&["events"]).stdout;
    let stalled = events
        .lines()
        .find(|line| line.contains(" stalled never-returns "));
    let stalled = stalled.expect("an event");
    assert!(stalled.contains("the unload has waited for 1"), "{stalled}");
    assert!(stalled.contains("; 2 pins held, taken at "), "{stalled}");

    host.tell("unpin");
    host.tell("release");
    unload(&["--wait", "10"]).is(0, "quiesced 0 workers in 1 s: 0 idle, 0 drained\n", "");
}

const FOREVER: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PERMANENT("its threads never end");
PLUG_PLUGIN("forever", "1.0.0", "stays", "MIT", init, stop);
"#;

#[test]
fn permanent_ones_are_shown_and_refused() {
    let place = Place::new();
    let forever = place.plugin("forever", FOREVER, &[]);
    let forever = forever.to_str().expect("text");
    let host = place.serve("keeps", &["--workers", "1", forever]);
    place.run(&["load", "--permanent", &example("base64")]).is(
        0,
        "base64 1.0.0 is Live at 0x1: 1 bytes, generation 2, in 1 ms\n",
        "",
    );
    let reasons = [
        ("forever", "its threads never end"),
        ("base64", "the host loaded it as such"),
    ];
    for (name, reason) in reasons {
        let message =
            format!("{name}: going: it is permanent: {reason}; it stays until the process ends");
        place
            .run(&["unload", name, "--wait", "10"])
            .is(4, "", &format!("plugctl: {message}\n"));
        let ended = place.run(&["unload", name, "--json"]);
        let failure: serde_json::Value = serde_json::from_str(&ended.stderr).expect("JSON");
        assert_eq!(
            (&failure["kind"], &failure["stage"], &failure["message"]),
            (&"permanent".into(), &"going".into(), &message.into())
        );
        place
            .run(&["info", "-F", "permanent", name])
            .is(0, &format!("{reason}\n"), "");
        place
            .run(&["info", "-F", "state", name])
            .is(0, "Live\n", "");
    }
    place
        .run(&["info", "-F", "permanent", forever])
        .is(0, "its threads never end\n", "");
    let list = place.run(&["list", "--json"]).json();
    assert_eq!(list[0]["permanent"], "its threads never end");
    let text = place.run(&["list"]).stdout;
    let marked = text.lines().filter(|line| line.contains(" [permanent]"));
    assert_eq!(marked.count(), 2, "{text}");
    // What can never go is no failure of a shutdown.
    host.end().is(0, "", "");
}

#[test]
fn one_on_its_way_in_and_one_of_another_generation_are_refused() {
    let place = Place::new();
    let host = place.serve("ways", &["--workers", "1"]);
    let base64 = example("base64");
    for _ in 0..2 {
        assert_eq!(place.run(&["load", &base64]).code, Some(0));
        let unload = ["unload", "base64", "--generation"];
        let generation = place.run(&["list", "--json"]).json()[0]["generation"].to_string();
        let wrong = place.run(&[&unload[..], &["77"]].concat());
        let text = format!(
            "plugctl: base64: going: expected generation 77, found {generation}: another load has \
             its name\n"
        );
        assert_eq!((wrong.code, wrong.stderr), (Some(3), text));
        let right = place.run(&[&unload[..], &[&generation, "--wait", "10"]].concat());
        assert_eq!(right.code, Some(0), "{right:?}");
    }
    place.run(&["unload", "base64", "--generation", "1"]).is(
        3,
        "",
        "plugctl: no plugin named base64\n",
    );

    let mut load = place
        .command(&["load", &hostile("constructor-slow")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("plugctl");
    eventually(|| {
        let rows = place.run(&["list", "--json"]).json();
        (rows[0]["state"] == "Coming").then_some(())
    });
    place.run(&["unload", "constructor-slow"]).is(
        4,
        "",
        "plugctl: constructor-slow: going: the plugin is Coming, not Live\n",
    );
    assert!(load.wait().expect("plugctl").success());
    host.end().is(0, "", "");
}

/// Leaves a destructor on the thread that calls it, and exits while no file is there.
const CLINGING: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

extern int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern void *__dso_handle;
static void nothing(void *unused) { (void)unused; }

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }

static void stop(void) {
    const struct timespec nap = {0, 1000000};
    while (access("@HOLD@", F_OK) == 0) {
        nanosleep(&nap, NULL);
    }
}

PLUG_PLUGIN("clinging", "1.0.0", "stays a while", "MIT", init, stop);

/* Leaves at once, while the thread that came stays under `released`. */
PLUG_EXPORT(uint64_t, cling, (const uint32_t *released)) {
    (void)released;
    return (uint64_t)__cxa_thread_atexit_impl(nothing, NULL, &__dso_handle);
}
"#;

#[test]
fn one_that_a_thread_keeps_says_what_holds_it() {
    if told::is_host() {
        return host();
    }
    let place = Place::new();
    let mut host = Told::new(&place, "one_that_a_thread_keeps_says_what_holds_it");
    let source = CLINGING.replace("@HOLD@", "/no/such/file");
    let file = place.plugin("clinging", &source, &[]);
    host.tell(&format!("load {}", file.display()));
    host.tell("visit clinging cling");
    let why = "thread _ (one_that_a_thre) has _ of its thread-locals to destroy, when it ends";
    place.run(&["unload", "clinging", "--wait", "10"]).is(
        7,
        "",
        &format!("plugctl: clinging is closed but still mapped until its holders let go: {why}\n"),
    );
    let text = format!("plugctl: clinging was closed 1 ms ago and is still mapped: {why}\n");
    place
        .run(&["unload", "clinging", "--wait", "0"])
        .is(7, "", &text);
    place
        .run(&["unload", "clinging", "--wait", "0.1"])
        .is(7, "", &text);
    place.run(&["unload", "clinging", "--generation", "77"]).is(
        3,
        "",
        "plugctl: clinging: going: expected generation 77, found 1, which is closed but still \
             mapped\n",
    );
    // JSON has the thread by itself.
    let ended = place.run(&["unload", "clinging", "--wait", "0", "--json"]);
    let refused: serde_json::Value = serde_json::from_str(&ended.stderr).expect("JSON");
    let holder = &refused["holders"][0];
    assert_eq!(
        (&refused["kind"], &holder["kind"], &holder["count"]),
        (&"zombie".into(), &"thread_locals".into(), &1.into())
    );
    assert_eq!(holder["thread"], "one_that_a_thre");
    assert_eq!(refused["lingering"]["pinned"], false);
    place.run(&["list"]).is(
        0,
        "Plugin Size Used by State Version Calls Taints\n\
         clinging 1 1 one_that_a_thre Zombie 1.0.0 1 -\n",
        "",
    );
    let info = |field: &str| place.run(&["info", "-F", field, "clinging"]).stdout;
    assert_eq!(kit::masked(&info("held-by")), kit::masked(why));
    assert_eq!(kit::masked(&info("closed")), "_ time ago");

    // Waited for, it is gone when the thread is.
    let waiting = place
        .command(&["unload", "clinging", "--wait", "20"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plugctl");
    thread::sleep(Duration::from_millis(1200));
    host.tell("release");
    let ended = Ended::of(waiting.wait_with_output().expect("ends"));
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "clinging has left: what held it has ended\n"),
        "{ended:?}"
    );
    let waited = kit::masked(&format!("plugctl: waiting for clinging: {why}"));
    assert!(
        kit::masked(&ended.stderr)
            .lines()
            .all(|line| line == waited)
            && !ended.stderr.is_empty(),
        "{ended:?}"
    );
    let left = place.run(&["history", "--json"]).json();
    let left = left.as_array().expect("rows");
    assert!(left.iter().any(|row| row["name"] == "clinging"), "{left:?}");
}

#[test]
fn one_whose_exit_is_late_says_what_it_waits_for() {
    let place = Place::new();
    let hold = place.dir.join("hold");
    std::fs::write(&hold, "").expect("file");
    let source = CLINGING.replace("@HOLD@", hold.to_str().expect("text"));
    let file = place.plugin("clinging", &source, &[]);
    let host = place.serve("slow", &["--workers", "1", file.to_str().expect("text")]);
    let why = "its exit has not returned; the thread plug-exit is in it";
    let ended = place.run(&["unload", "clinging", "--wait", "0"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(7), ""));
    // Exits get a second, after which the wait may have been told.
    let mut lines = ended.stderr.lines().rev();
    let text =
        format!("plugctl: clinging is closed but still mapped until its holders let go: {why}");
    assert_eq!(lines.next(), Some(text.as_str()));
    let waiting = "plugctl: waiting for clinging: its exit";
    assert!(lines.all(|line| line == waiting), "{ended:?}");
    let text = format!("plugctl: clinging was closed 1 s ago and is still mapped: {why}\n");
    place
        .run(&["unload", "clinging", "--wait", "0"])
        .is(7, "", &text);
    let again = place.run(&["unload", "clinging", "--json"]);
    assert!(again.stderr.contains("\"kind\":\"zombie\""), "{again:?}");
    let state = |name: &str| place.run(&["info", "-F", "state", name]).stdout;
    assert_eq!(state("clinging"), "Zombie\n");
    std::fs::remove_file(&hold).expect("file");
    eventually(|| {
        let left = place.run(&["history", "--json"]).json();
        (left[0]["name"] == "clinging").then_some(())
    });
    place
        .run(&["unload", "clinging"])
        .is(3, "", "plugctl: no plugin named clinging\n");
    host.end().is(0, "", "");
}
