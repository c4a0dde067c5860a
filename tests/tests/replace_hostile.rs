//! What a replace meets beside callers: functions that the plugin chooses at run time, forks at any
//! moment, and versions that panic where they hand their state over.

use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use plug_loader::checkpoint::{POINTS, REPLACE_POINTS, Verdict, set_hook};
use plug_loader::{
    CallError, Deadline, Error, ErrorKind, Event, EventKind, Params, Plugin, PluginFn, Replaced,
    Source, State, Unloaded,
};
use plug_tests::child::forked;
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::relay::{calls_back, relay, within};
use plug_tests::standalone::{Scratch, c_plugin, rust_plugin};

type Number = unsafe extern "C" fn() -> u64;

/// A plugin that is told which version it is, and says so by the function `version`.
const VERSION: &str = r#"
#include "plugin_api.h"

static uint64_t is;

static int32_t init(const plug_host_context *ctx) {
    plug_str text;
    size_t i;
    if (!plug_param(ctx, "is", &text)) {
        return PLUG_FAILED;
    }
    for (i = 0; i < text.len; i++) {
        is = is * 10 + (uint64_t)((unsigned char)text.ptr[i] - '0');
    }
    return PLUG_OK;
}

/* What is called too late says 0. */
static void leave(void) { is = 0; }

PLUG_PARAM(is, "uint", "0", "what to call itself");
PLUG_PLUGIN("version", "1.0.0", "for a test", "MIT", init, leave);
"#;

/// The function itself.
const PLAIN: &str = "uint64_t version(void);\nuint64_t version(void) { return is; }\n";

/// The one that a resolver chooses by what `init` has learned: before that it would be the wrong one.
const CHOSEN: &str = r#"
static uint64_t too_early(void) { return 0; }
static uint64_t even(void) { return is % 2 == 0 ? is : 0; }
static uint64_t odd(void) { return is % 2 == 1 ? is : 0; }
static uint64_t (*choose(void))(void) {
    if (is == 0) {
        return too_early;
    }
    return is % 2 == 0 ? even : odd;
}
uint64_t version(void) __attribute__((ifunc("choose")));
"#;

/// Data of the name.
const DATA: &str = "extern uint64_t version;\nuint64_t version = 7;\n";

fn load(host: &Host, file: &Path, is: u64) -> Plugin {
    let (source, params) = (Source::path(file), Params::new().with("is", is.to_string()));
    let loaded = host.loader.load(&host.trust, source, &params);
    loaded.expect("loads")
}

fn replace(host: &Host, file: &Path, is: u64) -> Result<Replaced, Error> {
    let (source, params) = (Source::path(file), Params::new().with("is", is.to_string()));
    let (loader, trust) = (&host.loader, &host.trust);
    loader.replace(trust, "version", source, &params, seconds(30))
}

fn replaced(host: &Host, file: &Path, is: u64) -> Plugin {
    let Replaced { plugin, former, .. } = replace(host, file, is).expect("is replaced");
    assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
    plugin
}

fn call(function: PluginFn<Number>) -> Result<u64, CallError> {
    // SAFETY: the plugins here export it so.
    unsafe { function.call(()) }
}

/// Ends callers, also where an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn functions_that_a_resolver_chooses_are_chosen_anew_by_each_version() {
    isolated!({
        const REPLACES: u64 = 30;
        static OVER: AtomicBool = AtomicBool::new(false);
        let scratch = Scratch::new("replace");
        let host = Host::new();
        let build = |name, function| c_plugin(&scratch, name, &format!("{VERSION}{function}"));
        let files = [
            build("chosen", CHOSEN),
            build("plain", PLAIN),
            build("other", CHOSEN),
        ];
        let plugin = load(&host, &files[0], 1);
        let version = plugin.function::<Number>("version").expect("exported");
        assert_eq!(call(version), Ok(1));
        thread::scope(|scope| {
            let callers = [true, false].map(|is_worker| {
                let loader = &host.loader;
                scope.spawn(move || {
                    let worker = is_worker.then(|| loader.worker("caller").expect("worker"));
                    let (mut last, mut calls) = (1, 0);
                    while !OVER.load(Ordering::SeqCst) {
                        let said = match &worker {
                            // SAFETY: the plugins here export it so.
                            Some(worker) => unsafe { version.call_on(worker, ()) },
                            None => call(version),
                        };
                        let said = said.expect("no call is lost");
                        // 0 is the wrong function, or one of a version that has left.
                        assert!(said >= last, "{said} after {last}");
                        (last, calls) = (said, calls + 1);
                    }
                    calls
                })
            });
            let over = Over(&OVER);
            for is in 2..2 + REPLACES {
                let plugin = replaced(&host, &files[usize::try_from(is % 3).expect("small")], is);
                assert_eq!(call(version), Ok(is));
                // Asked of the version itself, it is the same one.
                let own = plugin.function::<Number>("version").expect("exported");
                assert_eq!(call(own), Ok(is));
            }
            drop(over);
            for caller in callers {
                assert!(caller.join().expect("right answers") > 0);
            }
        });
        // A version that has something else of the name takes nobody's place.
        let last = 1 + REPLACES;
        let refused = replace(&host, &build("data", DATA), last + 1).expect_err("no function");
        assert_eq!(refused.kind(), ErrorKind::NotAFunction, "{refused}");
        assert_eq!(call(version), Ok(last));
        host.unload("version");
        assert_eq!(call(version), Err(CallError::Gone));
    });
}

/// What a child must find where the version `is` is whole: handles lead there, and it can be replaced
/// and unloaded, as can others.
fn child_has(host: &Host, file: &Path, version: PluginFn<Number>, is: u64) {
    assert_eq!(call(version), Ok(is), "in the child");
    let found = host.loader.plugin("version").expect("it has its name");
    let own = found.function::<Number>("version").expect("exported");
    assert_eq!((found.state(), call(own)), (State::Live, Ok(is)));
    let next = replaced(host, file, is + 1000);
    assert_eq!(next.state(), State::Live);
    for function in [version, own] {
        assert_eq!(
            call(function),
            Ok(is + 1000),
            "after the child's own replace"
        );
    }
    host.useful("base64");
    host.unload("base64");
    host.unload("version");
    assert_eq!(call(version), Err(CallError::Gone));
}

#[test]
fn children_forked_at_every_point_of_a_replace_have_one_version_whole() {
    isolated!({
        static FORKED: AtomicUsize = AtomicUsize::new(0);
        let scratch = Scratch::new("replace");
        let host: &Host = Box::leak(Box::new(Host::new()));
        let file: Arc<PathBuf> =
            Arc::new(c_plugin(&scratch, "version", &format!("{VERSION}{PLAIN}")));
        let plugin = load(host, &file, 1);
        let version = plugin.function::<Number>("version").expect("exported");
        // At these the writer's lock is held, which a fork waits for.
        let all = POINTS.iter().chain(REPLACE_POINTS).copied();
        let all = all.filter(|point| !point.starts_with("publish."));
        let is_met = |point: &&str| {
            let is_elsewhere = ["history.", "reclaim.", "index."].iter();
            // This version has no state.
            let has_state = ["replace.save", "replace.restore"].contains(point);
            !has_state && !is_elsewhere.into_iter().any(|it| point.starts_with(it))
        };
        let points: Vec<&str> = all.filter(is_met).collect();
        let mut is = 1;
        for &point in &points {
            let (old, new) = (is, is + 1);
            let own = Arc::clone(&file);
            FORKED.store(0, Ordering::SeqCst);
            set_hook(move |at| {
                // Once, and not in the child.
                let is_first = || FORKED.fetch_add(1, Ordering::SeqCst) == 0;
                if at == point && is_first() {
                    let is_switched = point == "load.live" || point.starts_with("unload.");
                    let is = if is_switched { new } else { old };
                    // By a thread that is not in the replace itself.
                    let own = Arc::clone(&own);
                    let fork = thread::spawn(move || {
                        let (status, _) = forked(|| child_has(host, &own, version, is));
                        status
                    });
                    assert_eq!(fork.join().expect("no panic"), 0, "{point}: the child");
                }
                Verdict::Pass
            });
            let plugin = replaced(host, &file, new);
            set_hook(|_| Verdict::Pass);
            assert!(FORKED.load(Ordering::SeqCst) > 0, "{point} was not passed");
            assert_eq!(
                (plugin.state(), call(version)),
                (State::Live, Ok(new)),
                "{point}"
            );
            assert_eq!(host.loader.plugins().len(), 1, "{point}");
            assert!(host.loader.zombies().is_empty(), "{point}");
            is = new;
        }
        assert!(points.len() > 25, "{points:?}");
        // And after it.
        let (status, _) = forked(|| child_has(host, &file, version, is));
        assert_eq!(status, 0);
        assert_eq!(call(version), Ok(is));
        host.unload("version");
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}

#[test]
fn children_forked_in_a_storm_of_replaces_have_one_version_or_none() {
    isolated!({
        const FORKS: usize = 40;
        static OVER: AtomicBool = AtomicBool::new(false);
        static LATEST: AtomicU64 = AtomicU64::new(1);
        let scratch = Scratch::new("replace");
        let host = Host::forgetful();
        let file = c_plugin(&scratch, "version", &format!("{VERSION}{PLAIN}"));
        let plugin = load(&host, &file, 1);
        let version = plugin.function::<Number>("version").expect("exported");
        let mut answered = 0;
        thread::scope(|scope| {
            let (host, file) = (&host, &file);
            let replacing = scope.spawn(move || {
                while !OVER.load(Ordering::SeqCst) {
                    let next = LATEST.load(Ordering::SeqCst) + 1;
                    let _plugin = replaced(host, file, next);
                    LATEST.store(next, Ordering::SeqCst);
                }
            });
            let calling = scope.spawn(move || {
                let mut last = 1;
                while !OVER.load(Ordering::SeqCst) {
                    let said = call(version).expect("the parent loses no call");
                    assert!(said >= last, "{said} after {last}");
                    last = said;
                    thread::sleep(Duration::from_micros(100));
                }
            });
            let over = Over(&OVER);
            let worker = host.loader.worker("forks").expect("worker");
            for n in 0..FORKS {
                let before = LATEST.load(Ordering::SeqCst);
                let (status, _) = forked(|| {
                    // SAFETY: the plugins here export it so.
                    let as_worker = || unsafe { version.call_on(&worker, ()) };
                    let first = call(version);
                    for _ in 0..1000 {
                        assert_eq!((call(version), as_worker()), (first.clone(), first.clone()));
                    }
                    match first {
                        Ok(is) => assert!(is >= before, "{is} after {before}"),
                        Err(error) => assert_eq!(error, CallError::Gone),
                    }
                    host.useful("base64");
                    host.unload("base64");
                    // SAFETY: ends this process.
                    unsafe { libc::_exit(if call(version).is_ok() { 42 } else { 43 }) };
                });
                match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
                    (true, 42) => answered += 1,
                    (true, 43) => {}
                    _ => panic!("child {n}: status {status:#x}"),
                }
            }
            drop(over);
            replacing.join().expect("no panic");
            calling.join().expect("no panic");
        });
        let replaces = LATEST.load(Ordering::SeqCst) - 1;
        println!("{FORKS} forks in {replaces} replaces, {answered} children with a version");
        assert!(replaces > 0 && answered > 0);
        assert_eq!(call(version), Ok(1 + replaces));
        host.unload("version");
    });
}

#[test]
fn a_child_forked_inside_of_the_old_version_leaves_it_and_calls_the_new_one() {
    isolated!({
        let scratch = Scratch::new("replace");
        let host: &Host = Box::leak(Box::new(Host::new()));
        let file = relay(&scratch, "relay");
        for is_worker in [true, false] {
            let old = host.load(&file).expect("loads");
            let through = calls_back(&old);
            let _worker = is_worker.then(|| host.loader.worker("forks").expect("worker"));
            let source = Source::path(&file);
            let (mut replacing, mut child) = (None, 0);
            within(through, || {
                replacing = Some(thread::spawn(move || {
                    let (loader, trust) = (&host.loader, &host.trust);
                    loader.replace(trust, "relay", source, &Params::new(), seconds(60))
                }));
                let patience = seconds(60);
                let is_new = |event: &Event| {
                    event.kind == EventKind::Live && event.generation > old.generation()
                };
                while !host
                    .loader
                    .events(0, Deadline::now())
                    .iter()
                    .any(|it| is_new(it))
                {
                    assert!(!patience.has_passed(), "it is not replaced");
                    thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(old.state(), State::Going, "this call is in it");
                // SAFETY: the child goes on here and ends below.
                child = unsafe { libc::fork() };
                if child != 0 {
                    let mut status = 0;
                    // SAFETY: own child.
                    unsafe { libc::waitpid(child, &raw mut status, 0) };
                    assert_eq!(status, 0, "the child, a worker: {is_worker}");
                } else {
                    // SAFETY: a plain number.
                    unsafe { libc::alarm(60) };
                }
            });
            if child == 0 {
                // The thread that forked has come back through the old version's code.
                let has_new = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                    let mut calls = 0;
                    within(through, || calls += 1);
                    within(
                        calls_back(&host.loader.plugin("relay").expect("new")),
                        || calls += 1,
                    );
                    assert_eq!(calls, 2);
                    host.unload("relay");
                    host.useful("base64");
                    host.unload("base64");
                }));
                // SAFETY: ends this process.
                unsafe { libc::_exit(i32::from(has_new.is_err())) };
            }
            let replaced = replacing.expect("begun").join().expect("no panic");
            let former = replaced.expect("is replaced").former;
            assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
            let mut calls = 0;
            within(through, || calls += 1);
            assert_eq!(calls, 1);
            host.unload("relay");
        }
    });
}

#[test]
fn a_version_that_panics_where_it_hands_over_refuses_in_its_words() {
    isolated!({
        const SOURCE: &str = r#"
plug_api::params! {
    /// what to call itself
    pub static IS: uint = 0;
}
plug_api::hand_over! { save: save, restore: restore }
fn save() -> Result<plug_api::State, plug_api::Error> {
    assert!(IS.get() != 8, "eight is too much");
    Ok(plug_api::State { version: 3, bytes: Vec::new() })
}
fn restore(_: &plug_api::State) -> plug_api::Result {
    assert!(IS.get() != 9, "nine is too much");
    Ok(())
}
plug_api::plugin! {
    name: "version", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_ctx: &plug_api::Context| Ok(()), exit: || {},
}
plug_api::export! {
    pub fn version() -> u64 { IS.get() }
}
"#;
        let scratch = Scratch::new("replace");
        let host = Host::new();
        let file = rust_plugin(&scratch, "version", SOURCE);
        for (old, new, says) in [
            (8, 2, "the old version refuses to save: "),
            (1, 9, "the new version refuses state 3: "),
        ] {
            let plugin = load(&host, &file, old);
            let version = plugin.function::<Number>("version").expect("exported");
            let why = if old == 8 {
                "eight is too much"
            } else {
                "nine is too much"
            };
            // Over and over: it is not hurt by it.
            for _ in 0..3 {
                let refused = replace(&host, &file, new).expect_err("panics");
                assert_eq!(refused.kind(), ErrorKind::HandOver, "{refused}");
                let text = refused.to_string();
                assert!(text.contains(says) && text.ends_with(why), "{text}");
                assert!(refused.lingering().is_none(), "{refused:#}");
                assert_eq!((plugin.state(), call(version)), (State::Live, Ok(old)));
                assert_eq!(host.loader.plugins().len(), 1);
            }
            if old != 8 {
                let _next = replaced(&host, &file, 2);
                assert_eq!(call(version), Ok(2));
            }
            host.unload("version");
        }
    });
}
