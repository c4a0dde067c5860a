//! Forks: from anywhere, and in the middle of everything.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Deadline, ErrorKind, HolderKind, Params, Source, State};
use plug_tests::child::forked;
use plug_tests::host::{Host, seconds, useful};
use plug_tests::isolated;
use plug_tests::relay::{calls_back, relay, within};
use plug_tests::standalone::Scratch;

/// Microseconds that the slowest fork took in the parent.
static SLOWEST_FORK: AtomicU64 = AtomicU64::new(0);

/// Runs `body` in a forked child and returns the child's status.
fn in_child(body: impl FnOnce()) -> i32 {
    let (status, took) = forked(body);
    let took = took.as_micros().try_into().unwrap_or(u64::MAX);
    SLOWEST_FORK.fetch_max(took, Ordering::Relaxed);
    status
}

/// What a child must be able to do with the loader it inherited.
fn uses_the_loader(host: &Host) {
    let plugin = host.load(useful("wordcount")).expect("loads in the child");
    let count = plugin
        .function::<unsafe extern "C" fn(*const u8, usize) -> u64>("count_words")
        .expect("exported");
    // SAFETY: the example's signature; the text is 'static.
    assert_eq!(unsafe { count.call((b"one two".as_ptr(), 7)) }, Ok(2));
    let worker = host.loader.worker("child").expect("worker");
    // SAFETY: as above.
    assert_eq!(
        unsafe { count.call_on(&worker, (b"one two".as_ptr(), 7)) },
        Ok(2)
    );
    let (start, _) = plugin.range();
    assert!(host.loader.reader().resolve(start).is_some());
    host.unload("wordcount");
    host.loader.reclaim();
    assert_eq!(host.loader.retired_bytes(), 0, "all can be freed");
}

fn wait_for(flag: &AtomicU32, value: u32) {
    while flag.load(Ordering::SeqCst) != value {
        thread::yield_now();
    }
}

#[test]
fn child_knows_only_the_thread_that_forked() {
    isolated!({
        static INSIDE: AtomicU32 = AtomicU32::new(0);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let scratch = Scratch::new("fork");
        let host = Host::new();
        let plugin = host.load(relay(&scratch, "relay")).expect("loads");
        let calls = calls_back(&plugin);
        let stay = || {
            INSIDE.fetch_add(1, Ordering::SeqCst);
            while !GO_ON.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        };
        let own = host.loader.worker("forks").expect("worker");
        thread::scope(|scope| {
            let host = &host;
            // One of each kind stays inside: a call by row, a shared one, and two readers.
            for registered in [true, false] {
                scope.spawn(move || {
                    let _worker = registered.then(|| host.loader.worker("stays"));
                    within(calls, stay);
                });
                scope.spawn(move || {
                    let _worker = registered.then(|| host.loader.worker("reads"));
                    host.loader.reader().walk(|_| {
                        stay();
                        true
                    });
                });
            }
            wait_for(&INSIDE, 4);
            let status = in_child(|| {
                let report = host.unload("relay");
                assert!(
                    report
                        .workers
                        .iter()
                        .all(|w| w.tid == own.tid() || { w.proof == plug_loader::Proof::Idle })
                );
                uses_the_loader(host);
                assert_eq!(own.tid(), std::process::id(), "the child's own id");
            });
            assert_eq!(status, 0, "the child");
            let soon = Deadline::after(Duration::from_millis(100));
            let refused = host.loader.unload("relay", soon).expect_err("in use here");
            assert_eq!(refused.kind(), ErrorKind::Deadline);
            let mut kinds: Vec<_> = refused.blockers().iter().map(|b| b.kind).collect();
            kinds.sort_by_key(|kind| *kind == HolderKind::Call);
            assert_eq!(kinds, [HolderKind::UnregisteredCalls, HolderKind::Call]);
            GO_ON.store(true, Ordering::SeqCst);
        });
        host.unload("relay");
    });
}

#[test]
fn child_forked_inside_calls_counts_as_inside_until_it_returns() {
    isolated!({
        let scratch = Scratch::new("fork");
        let host = Host::new();
        for registered in [true, false] {
            let outer = host.load(relay(&scratch, "outer")).expect("loads");
            let inner = host.load(relay(&scratch, "inner")).expect("loads");
            let worker = registered.then(|| host.loader.worker("forks").expect("worker"));
            let mut statuses = Vec::new();
            let mut is_child = false;
            within(calls_back(&outer), || {
                within(calls_back(&inner), || {
                    // SAFETY: the child goes on here and ends below.
                    let pid = unsafe { libc::fork() };
                    is_child = pid == 0;
                    if is_child {
                        // SAFETY: a plain number.
                        unsafe { libc::alarm(20) };
                        let soon = Deadline::after(Duration::from_millis(50));
                        let refused = thread::scope(|scope| {
                            let unload = scope.spawn(|| host.loader.unload("inner", soon));
                            unload.join().expect("no panic")
                        });
                        let refused = refused.expect_err("the forking thread is inside");
                        if refused.blockers().len() != 1 {
                            // SAFETY: ends this process.
                            unsafe { libc::_exit(2) };
                        }
                    } else {
                        let mut status = 0;
                        // SAFETY: own child.
                        unsafe { libc::waitpid(pid, &raw mut status, 0) };
                        statuses.push(status);
                    }
                });
                if is_child {
                    // Left the inner one, still in the outer one.
                    let soon = Deadline::after(Duration::from_millis(50));
                    let [inner, outer] = thread::scope(|scope| {
                        let unload =
                            scope.spawn(|| ["inner", "outer"].map(|n| leaves(&host, n, soon)));
                        unload.join().expect("no panic")
                    });
                    // SAFETY: ends this process.
                    unsafe { libc::_exit(if inner && !outer { 0 } else { 3 }) };
                }
            });
            assert_eq!(statuses, [0], "registered: {registered}");
            drop(worker);
            host.unload("outer");
            host.unload("inner");
        }
    });
}

/// Whether the plugin is gone.
fn leaves(host: &Host, name: &str, deadline: Deadline) -> bool {
    host.loader
        .unload(name, deadline)
        .is_ok_and(|unloaded| unloaded.is_gone())
}

#[test]
fn child_forked_inside_a_read_section_goes_on_reading() {
    isolated!({
        let host = Host::new();
        host.useful("checksum");
        host.useful("base64");
        for registered in [true, false] {
            let _worker = registered.then(|| host.loader.worker("forks").expect("worker"));
            let mut child = None;
            let mut unload = None;
            let mut names = Vec::new();
            host.loader.reader().walk(|plugin| {
                if child.is_none() {
                    // SAFETY: the child goes on here and ends below.
                    let pid = unsafe { libc::fork() };
                    child = Some(pid);
                    if pid == 0 {
                        // SAFETY: a plain number.
                        unsafe { libc::alarm(20) };
                        // What this section sees goes as soon as it ends, and not before.
                        let loader = host.loader.clone();
                        unload = Some(thread::spawn(move || loader.unload("base64", seconds(9))));
                        thread::sleep(Duration::from_millis(50));
                    }
                }
                names.push(String::from_utf8_lossy(plugin.name()).into_owned());
                true
            });
            names.sort();
            if child == Some(0) {
                let whole = names == ["base64", "checksum"]
                    && unload
                        .take()
                        .and_then(|unload| unload.join().ok()?.ok())
                        .is_some_and(|unloaded| unloaded.is_gone());
                host.loader.reclaim();
                let freed = host.loader.retired_bytes() == 0;
                // SAFETY: ends this process.
                unsafe { libc::_exit(if whole && freed { 0 } else { 1 }) };
            }
            assert_eq!(names, ["base64", "checksum"]);
            let mut status = 0;
            // SAFETY: own child.
            unsafe { libc::waitpid(child.expect("forked"), &raw mut status, 0) };
            assert_eq!(status, 0, "registered: {registered}");
        }
    });
}

#[test]
fn children_forked_in_a_storm_of_loads_unloads_and_calls_use_the_loader() {
    isolated!({
        static STOP: AtomicBool = AtomicBool::new(false);
        static LOADS: AtomicU32 = AtomicU32::new(0);
        let host = Host::new();
        let stays = host.useful("checksum");
        let sum = stays
            .function::<unsafe extern "C" fn(*const u8, usize) -> u64>("checksum_of")
            .expect("exported");
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        thread::scope(|scope| {
            let host = &host;
            for name in ["storm-1", "storm-2"] {
                scope.spawn(move || {
                    while !STOP.load(Ordering::Relaxed) {
                        let source = Source::path(useful("base64")).named(name);
                        let loaded = host.loader.load(&host.trust, source, &Params::new());
                        assert_eq!(loaded.expect("loads").state(), State::Live);
                        host.unload(name);
                        LOADS.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for registered in [true, false] {
                scope.spawn(move || {
                    let _worker = registered.then(|| host.loader.worker("calls"));
                    while !STOP.load(Ordering::Relaxed) {
                        // SAFETY: the example's signature; the text is 'static.
                        assert!(unsafe { sum.call((b"text".as_ptr(), 4)) }.is_ok());
                        host.loader.reader().walk(|_| true);
                    }
                });
            }
            let forks = 60;
            let mut failed = Vec::new();
            for n in 0..forks {
                let before = Instant::now();
                let status = in_child(|| uses_the_loader(host));
                if status != 0 {
                    failed.push((n, status));
                }
                slowest = slowest.max(before.elapsed());
            }
            STOP.store(true, Ordering::SeqCst);
            assert!(failed.is_empty(), "children and their statuses: {failed:?}");
            println!(
                "{forks} forks and {} loads in {:.1?}; the slowest fork took {:.1?}, the slowest \
                 child {slowest:.1?}",
                LOADS.load(Ordering::SeqCst),
                began.elapsed(),
                Duration::from_micros(SLOWEST_FORK.load(Ordering::Relaxed)),
            );
        });
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
    });
}

#[test]
fn grandchild_uses_the_loader() {
    isolated!({
        let host = Host::new();
        let status = in_child(|| {
            assert_eq!(in_child(|| uses_the_loader(&host)), 0, "the grandchild");
            uses_the_loader(&host);
        });
        assert_eq!(status, 0, "the child");
        uses_the_loader(&host);
    });
}

#[test]
fn child_of_vfork_reads_and_leaves_no_trace() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("checksum");
        let (start, _) = plugin.range();
        for registered in [true, false] {
            let _worker = registered.then(|| host.loader.worker("forks").expect("worker"));
            let reader = host.loader.reader();
            for _ in 0..100 {
                // The child has the parent's memory, thread pointer and table; its sections nest
                // like those of a handler.
                #[expect(deprecated, reason = "what is tested")]
                // SAFETY: the child reads and ends; the parent sleeps meanwhile.
                let pid = unsafe { libc::vfork() };
                if pid == 0 {
                    let found = reader.resolve(start).is_some() && reader.walk(|_| true) > 0;
                    // SAFETY: ends the child alone.
                    unsafe { libc::_exit(i32::from(!found)) };
                }
                assert!(pid > 0, "vfork");
                let mut status = 0;
                // SAFETY: own child.
                unsafe { libc::waitpid(pid, &raw mut status, 0) };
                assert_eq!(status, 0);
            }
        }
        host.unload("checksum");
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0, "nobody is left inside");
    });
}

#[test]
fn fork_in_an_init_ends_with_a_child_that_may_exec() {
    isolated!({
        const SOURCE: &str = r#"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <sys/wait.h>
#include <unistd.h>
static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return status == 0 ? PLUG_OK : 1;
}
static void stop(void) {}
PLUG_PLUGIN("forks", "1.0.0", "forks in its init", "MIT OR Apache-2.0", init, stop);
"#;
        let scratch = Scratch::new("fork");
        let host = Host::new();
        let file = plug_tests::standalone::c_plugin(&scratch, "forks", SOURCE);
        host.load(file).expect("init forks and goes on");
        let unloaded = host.loader.unload("forks", seconds(10)).expect("unloads");
        assert!(unloaded.is_gone());
    });
}
