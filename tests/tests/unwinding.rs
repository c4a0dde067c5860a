//! A load that fails at any step leaves the process as it was, runs no destructor of what was
//! never built, and waits for nobody.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::checkpoint::{POINTS, Verdict, set_hook};
use plug_loader::{ErrorKind, Params, Source, SymbolReader, Unloaded};
use plug_tests::host::{Host, seconds, useful};
use plug_tests::isolated;
use plug_tests::journal::{Journal, PRELUDE};
use plug_tests::process::{assert_footprint, footprint};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin};

/// How often each failure is repeated.
const TIMES: usize = 100;

/// The point at which loads fail, and how many passes of it come before.
static FAILING: Mutex<(&str, usize)> = Mutex::new(("", 0));
static PASSED: AtomicUsize = AtomicUsize::new(0);

fn fail_at(point: &'static str, after: usize) {
    *FAILING.lock().expect("no panic") = (point, after);
    PASSED.store(0, Ordering::SeqCst);
}

fn install() {
    set_hook(|at| {
        let (point, after) = *FAILING.lock().expect("no panic");
        let fails = at == point && PASSED.fetch_add(1, Ordering::SeqCst) == after;
        if fails { Verdict::Fail } else { Verdict::Pass }
    });
}

/// The points that can fail.
fn failing_points() -> impl Iterator<Item = &'static str> {
    let before_live = |point: &&str| point.starts_with("load.") && *point != "load.live";
    POINTS.iter().copied().filter(before_live)
}

/// Three constructors, of which the first two register functions for the end. Destructors and
/// these functions crash when what they undo was never built.
const HALVES: &str = r#"
static char *first, *second, *third;

static void end_of_first(void) { note(first); first = NULL; }
static void end_of_second(void) { note(second); second = NULL; }

__attribute__((constructor(201))) static void build_first(void) {
    first = strdup("end of first");
    atexit(end_of_first);
    note("first");
}
__attribute__((constructor(202))) static void build_second(void) {
    second = strdup("end of second");
    atexit(end_of_second);
    note("second");
}
__attribute__((constructor(203))) static void build_third(void) {
    third = strdup("destructor of third");
    note("third");
}
__attribute__((destructor(203))) static void destroy_third(void) {
    note(third);
    third[0] = 'x';
    third = NULL;
}

static int32_t init(const plug_host_context *ctx) { (void)ctx; note("init"); return PLUG_OK; }
static void stop(void) { note("exit"); }

PLUG_PLUGIN("halves", "1.0.0", "is built in three steps", "MIT OR Apache-2.0", init, stop);
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { return 2 * n; }
"#;

/// Static objects with constructors of different priority; a destructor of one never built would
/// follow a null pointer.
const OBJECTS: &str = r#"
#include <string>
#include <vector>

namespace {
struct Object {
    std::vector<std::string> *names;
    explicit Object(const char *name) : names(new std::vector<std::string>{name}) { note(name); }
    ~Object() {
        note(("end of " + names->at(0)).c_str());
        delete names;
        names = nullptr;
    }
};
__attribute__((init_priority(201))) Object first("first");
__attribute__((init_priority(202))) Object second("second");
__attribute__((init_priority(203))) Object third("third");

int32_t init(const plug_host_context *) { note("init"); return PLUG_OK; }
void stop() { note("exit"); }
}
PLUG_PLUGIN("objects", "1.0.0", "has static objects", "MIT OR Apache-2.0", init, stop);
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { return 2 * n; }
"#;

struct Case {
    host: Host,
    journal: Journal,
    halves: PathBuf,
    objects: PathBuf,
    _scratch: Scratch,
}

fn case() -> Case {
    let scratch = Scratch::new("unwinding");
    let halves = c_plugin(&scratch, "halves", &format!("{PRELUDE}{HALVES}"));
    let objects = cpp_plugin(&scratch, "objects", &format!("{PRELUDE}{OBJECTS}"));
    let journal = Journal::at(scratch.path().join("journal"));
    // SAFETY: the process has no other thread that looks at the environment yet.
    unsafe { journal.use_here() };
    let host = Host::new();
    // What first loads bring in for good: the C++ runtime, the stage folder.
    for (name, path) in [("halves", &halves), ("objects", &objects)] {
        host.load(path).expect("loads");
        host.unload(name);
    }
    journal.take();
    install();
    Case {
        host,
        journal,
        halves,
        objects,
        _scratch: scratch,
    }
}

/// Fails a load over and over, and looks each time that nothing is left.
fn fail(case: &Case, path: &Path, point: &'static str, after: usize, expected: &[&str]) {
    let host = &case.host;
    let before = footprint();
    for round in 0..TIMES {
        fail_at(point, after);
        let error = host.load(path).expect_err(point);
        assert_eq!(error.kind(), ErrorKind::Injected, "{point}: {error:#}");
        assert!(error.stage().is_some(), "{point}: {error:#}");
        assert!(error.lingering().is_none(), "{point}: {error:#}");
        assert_eq!(
            case.journal.take(),
            expected,
            "{point} after {after}, round {round}"
        );
        if round % 20 == 0 {
            assert_footprint(&before);
        }
    }
    assert_footprint(&before);
    assert!(host.loader.plugins().is_empty() && host.loader.zombies().is_empty());
    let mut seen = 0;
    SymbolReader::new().walk(|_| {
        seen += 1;
        true
    });
    assert_eq!(seen, 0, "{point}: nothing is visible");
    // The name is free at once.
    fail_at("", 0);
    let plugin = host.load(path).expect("the name is free");
    host.unload(plugin.name());
    case.journal.take();
    assert_footprint(&before);
    host.loader.reclaim();
    assert_eq!(host.loader.retired_bytes(), 0, "{point}");
}

#[test]
fn load_failing_at_every_point_leaves_nothing() {
    isolated!({
        let case = case();
        let built = ["first", "second", "third"];
        // As ld.so would: the start files' own destructor, which ends what was registered, is the
        // last of the array and runs first.
        let unbuilt = ["end of second", "end of first", "destructor of third"];
        for point in failing_points() {
            let expected: Vec<&str> = match point {
                "load.constructors" | "load.bind" | "load.init" => [built, unbuilt].concat(),
                "load.activate" => [&built[..], &["init", "exit"], &unbuilt].concat(),
                _ => Vec::new(),
            };
            fail(&case, &case.halves, point, 0, &expected);
        }
    });
}

/// How many constructors a file has before its own: those of the compiler's start files.
fn own_constructors_begin(case: &Case, path: &Path) -> usize {
    for after in 0..8 {
        fail_at("load.constructor", after);
        let failed = case.host.load(path);
        assert!(failed.is_err(), "too few constructors");
        if !case.journal.take().is_empty() {
            return after - 1;
        }
    }
    panic!("no constructor wrote to the journal");
}

#[test]
fn load_failing_between_constructors_runs_no_destructor_of_what_was_never_built() {
    isolated!({
        let case = case();
        let begin = own_constructors_begin(&case, &case.halves);
        let ends: [&[&str]; 2] = [
            &["first", "end of first"],
            &["first", "second", "end of second", "end of first"],
        ];
        for (n, expected) in ends.into_iter().enumerate() {
            fail(
                &case,
                &case.halves,
                "load.constructor",
                begin + 1 + n,
                expected,
            );
        }
        let begin = own_constructors_begin(&case, &case.objects);
        for (n, expected) in ends.into_iter().enumerate() {
            fail(
                &case,
                &case.objects,
                "load.constructor",
                begin + 1 + n,
                expected,
            );
        }
        let all = [
            "first",
            "second",
            "third",
            "end of third",
            "end of second",
            "end of first",
        ];
        fail(&case, &case.objects, "load.init", 0, &all);
    });
}

/// A reader that stays inside its section until told otherwise.
fn stay_inside(left: &AtomicBool, entered: mpsc::Sender<()>) {
    SymbolReader::new().walk(|_| {
        if entered.send(()).is_ok() {
            while !left.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        false
    });
}

#[test]
fn load_with_a_section_held_waits_for_nobody_while_an_unload_does() {
    isolated!({
        let host = Host::new();
        install();
        host.useful("base64");
        host.useful("checksum");
        host.unload("checksum");
        let left = AtomicBool::new(false);
        thread::scope(|scope| {
            let (entered, told) = mpsc::channel();
            scope.spawn(|| stay_inside(&left, entered));
            told.recv().expect("inside");
            let load = || {
                let source = Source::path(useful("checksum"));
                host.loader.load(&host.trust, source, &Params::new())
            };
            let quickly = |what: &str, action: &dyn Fn()| {
                let began = Instant::now();
                action();
                let took = began.elapsed();
                assert!(took < Duration::from_millis(500), "{what} took {took:?}");
            };
            for point in failing_points() {
                fail_at(point, 0);
                quickly(point, &|| assert!(load().is_err(), "{point}"));
            }
            fail_at("", 0);
            quickly("a load", &|| drop(load().expect("loads")));
            let unload = scope.spawn(|| host.loader.unload("checksum", seconds(10)));
            thread::sleep(Duration::from_millis(200));
            assert!(!unload.is_finished(), "an unload waits for the reader");
            assert!(host.loader.retired_bytes() > 0);
            left.store(true, Ordering::SeqCst);
            let unloaded = unload.join().expect("no panic");
            assert!(matches!(unloaded, Ok(Unloaded::Gone(_))), "{unloaded:?}");
        });
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}
