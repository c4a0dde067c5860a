//! Races that the kernel's loader had, by the year in which they were found or mended, each forced here
//! by what stops where it hurts. Those of its notifiers are in `notifiers.rs`.
//!
//! | year | race | what proves that it is none here |
//! |---|---|---|
//! | 2005 | walkers without a lock see what an unload freed, or two tables mixed | `races::kernel_2005_walks_that_an_unload_overtakes_end_with_the_table_they_began`; at random `torture::torture_every_answer_equals_the_oracle`, `plug_torture::torture_of_sections_freed_before_the_grace_period_is_caught` |
//! | 2008 | an insertion stops readers, or waits for them | `races::kernel_2008_loads_beside_stopped_readers_are_seen_by_all_others_at_once`; at every point `unwinding::load_with_a_section_held_waits_for_nobody_while_an_unload_does`, `freeze::freeze_at_every_point_stops_no_reader` |
//! | 2008 | some readers use another primitive | the way to the rows takes a section by its type, and readers of every kind stand in one in `races::kernel_2005_walks_that_an_unload_overtakes_end_with_the_table_they_began` |
//! | 2009 | a load that fails waits for readers, and does not undo in balance | `races::kernel_2009_loads_and_replaces_that_fail_wait_for_no_reader_and_leave_nothing`; a hundred times at every point `unwinding::load_failing_at_every_point_leaves_nothing` |
//! | 2010 | a load waits for another one's `init`, which loads, under the lock | `races::kernel_2010_an_init_that_loads_what_loads_meets_no_lock_and_holds_up_nobody`, `races::kernel_2010_inits_that_wait_for_their_own_load_are_refused_in_time`, `notifiers::kernel_2010_a_subscriber_that_loads_and_unloads_meets_no_lock` |
//! | 2010 | the error names who is gone | `races::kernel_2010_a_load_from_an_init_that_fails_names_its_own_and_leaves_nothing` |
//! | 2013 | what is not formed is looked at | `races::kernel_2013_a_plugin_that_is_not_formed_is_looked_at_by_nobody` |
//! | 2013 | many loads at once take memory before all but one are refused | `races::kernel_2013_and_2023_one_of_many_loads_of_a_file_is_made_and_all_get_what_it_gives`, `races::kernel_2013_files_of_one_name_are_refused_before_a_second_one_is_mapped` |
//! | 2014 | a plugin is released before its readers have gone | `races::kernel_2005_walks_that_an_unload_overtakes_end_with_the_table_they_began`; before its callers have `plug_torture::torture_of_gates_that_nobody_waits_for_is_caught` |
//! | 2015 | readers and unloads wait by different primitives | in handlers, and inside of sections, too: `races::kernel_2005_walks_that_an_unload_overtakes_end_with_the_table_they_began` |
//! | 2015 | a listener hears of one who goes and never came, or sees another state than it is told | `notifiers::kernel_2015_going_is_told_to_those_who_were_told_of_coming_and_to_nobody_else`, `notifiers::kernel_2015_whoever_is_told_finds_the_plugin_in_the_state_it_is_told` |
//! | 2016 | a walker mixes the tables that are switched under it | `races::kernel_2016_addresses_have_the_names_of_nm_before_during_and_after_the_switch` |
//! | 2016 | a record is seen before all of it is there | `races::kernel_2016_a_row_is_whole_at_every_moment_that_it_is_seen` |
//! | 2021 (v5.11) | a load that fails is undone while it looks alive | `races::kernel_2021_a_load_that_fails_is_going_before_any_of_it_is_undone` |
//! | 2021 (v5.11) | ready is told before `init` has succeeded | `notifiers::kernel_2021_ready_is_told_only_after_init_succeeded`, `notifiers::kernel_2021_nobody_hears_that_a_plugin_goes_before_it_is_ready` |
//! | 2023 | loads of one file at once do not share the result, or keep it | `races::kernel_2013_and_2023_one_of_many_loads_of_a_file_is_made_and_all_get_what_it_gives`, `lifecycle::concurrent_loads_of_one_file_share_one_result`, `notifiers::kernel_2023_loads_that_share_a_result_are_announced_once` |
//! | 2024 (codetag) | an unload leaves live heap objects behind, and says nothing | `races::kernel_2024_an_unload_with_live_heap_objects_counts_them_and_warns`; to the byte `accounting::a_c_plugin_is_counted_to_the_byte` |

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plug_api::abi::{Interface, STATUS_FAILED};

use plug_loader::checkpoint::{POINTS, REPLACE_POINTS, Verdict, set_hook};
use plug_loader::{
    Accounting, Config, Deadline, Error, ErrorKind, Params, Plugin, PluginView, Source, State,
    SymbolReader, Unloaded, Vote,
};
use plug_tests::host::{Host, hostile, seconds, useful};
use plug_tests::oracle::{self, Oracle};
use plug_tests::process::{assert_footprint, footprint};
use plug_tests::standalone::{Scratch, c_plugin, library, run};
use plug_tests::storm;
use plug_tests::warnings::Warnings;
use plug_tests::{isolated, process};

/// Readers that have come to the middle of a table.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Lets them go on.
static GO_ON: AtomicBool = AtomicBool::new(false);
/// What a walk over all that was there when they began adds up to.
static EXPECTED: AtomicU64 = AtomicU64::new(0);
/// Walks that did and did not.
static RIGHT: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);

/// Walks over all symbols and stops in the middle of the first table. Async-signal-safe.
fn walk_slowly(_: usize) {
    let (mut sum, mut has_stopped) = (0_u64, false);
    SymbolReader::new().walk(|plugin| {
        let half = plugin.symbols().count() / 2;
        for (n, symbol) in plugin.symbols().enumerate() {
            sum = sum.wrapping_add(oracle::share(symbol.name, symbol.address as u64));
            if n >= half && !has_stopped {
                has_stopped = true;
                INSIDE.fetch_add(1, Ordering::SeqCst);
                while !GO_ON.load(Ordering::SeqCst) {
                    storm::nap(Duration::from_millis(1));
                }
            }
        }
        true
    });
    let is_right = sum == EXPECTED.load(Ordering::SeqCst);
    let walks = if is_right { &RIGHT } else { &WRONG };
    walks.fetch_add(1, Ordering::SeqCst);
}

/// As a handler: the running thread is interrupted, and goes on when that has walked.
fn walk_in_a_handler(_: usize) {
    assert!(storm::send(storm::tid(), storm::PLAIN));
}

/// As a handler that interrupts a section of the same thread.
fn walk_in_a_handler_inside_a_section(_: usize) {
    SymbolReader::new().walk(|_| {
        walk_in_a_handler(0);
        false
    });
}

/// Lets readers go on, also where an assertion fails.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        GO_ON.store(true, Ordering::SeqCst);
    }
}

/// A plugin and its file.
type Walked = (Plugin, PathBuf);

/// What a walk adds up to over these plugins.
fn sum_of(plugins: &[Walked]) -> u64 {
    let sums = plugins
        .iter()
        .map(|(plugin, file)| Oracle::read(file).checksum(plugin.range().0 as u64));
    sums.fold(0, u64::wrapping_add)
}

/// A reader: whether it is a worker, and how it reads.
type Kind = (bool, fn(usize));

/// Threads and workers, handlers that interrupted either, and such inside of a section.
const KINDS: [Kind; 6] = [
    (false, walk_slowly),
    (true, walk_slowly),
    (false, walk_in_a_handler),
    (true, walk_in_a_handler),
    (false, walk_in_a_handler_inside_a_section),
    (true, walk_in_a_handler_inside_a_section),
];

/// Runs `body` while readers of these kinds are stopped in a walk over `plugins`, and lets them go on.
/// Fails unless each of them read to the end what was there when it began.
fn beside_stopped_readers<R>(
    host: &Host,
    plugins: &[Walked],
    kinds: &[Kind],
    body: impl FnOnce() -> R,
) -> R {
    EXPECTED.store(sum_of(plugins), Ordering::SeqCst);
    INSIDE.store(0, Ordering::SeqCst);
    RIGHT.store(0, Ordering::SeqCst);
    GO_ON.store(false, Ordering::SeqCst);
    thread::scope(|scope| {
        let release = Release;
        for &(is_worker, read) in kinds {
            scope.spawn(move || {
                let _worker = is_worker.then(|| host.loader.worker("reader").expect("worker"));
                read(0);
            });
        }
        let deadline = seconds(60);
        while INSIDE.load(Ordering::SeqCst) < kinds.len() {
            assert!(!deadline.has_passed(), "the readers do not come");
            thread::sleep(Duration::from_millis(1));
        }
        let done = body();
        assert_eq!(RIGHT.load(Ordering::SeqCst), 0, "they are still inside");
        drop(release);
        let deadline = seconds(60);
        while RIGHT.load(Ordering::SeqCst) + WRONG.load(Ordering::SeqCst) < kinds.len() {
            assert!(!deadline.has_passed(), "the readers do not end");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(WRONG.load(Ordering::SeqCst), 0, "walks of mixed tables");
        done
    })
}

/// A host with handlers that walk.
fn walked() -> Host {
    storm::prepare(walk_slowly);
    let mut config = Config::default();
    config.subscriber_patience = Duration::from_secs(60);
    Host::with(config)
}

/// Plugins of these files, and nothing that somebody is still busy with.
fn load_all<const N: usize>(host: &Host, files: [PathBuf; N]) -> [Walked; N] {
    let plugins = files.map(|file| (host.load(&file).expect("loads"), file));
    host.loader.settle_indexes();
    host.loader.reclaim();
    plugins
}

#[test]
fn kernel_2005_walks_that_an_unload_overtakes_end_with_the_table_they_began() {
    isolated!({
        static GRACE: AtomicBool = AtomicBool::new(false);
        static CLOSED: AtomicBool = AtomicBool::new(false);
        let host = walked();
        set_hook(|point| {
            match point {
                "unload.grace" => GRACE.store(true, Ordering::SeqCst),
                "unload.close" => CLOSED.store(true, Ordering::SeqCst),
                _ => {}
            }
            Verdict::Pass
        });
        // Each kind alone holds it up.
        for kind in KINDS {
            let plugins = load_all(&host, ["base64", "checksum"].map(useful));
            GRACE.store(false, Ordering::SeqCst);
            CLOSED.store(false, Ordering::SeqCst);
            let unloads = beside_stopped_readers(&host, &plugins, &[kind], || {
                let unloads = ["base64", "checksum"].map(|name| {
                    let loader = host.loader.clone();
                    thread::spawn(move || loader.unload(name, seconds(60)))
                });
                let deadline = seconds(60);
                while !GRACE.load(Ordering::SeqCst) {
                    assert!(
                        !deadline.has_passed(),
                        "no unload comes to its grace period"
                    );
                    thread::sleep(Duration::from_millis(1));
                }
                // Both are on their way out, and others come and fail meanwhile.
                host.useful("wordcount");
                host.hostile("init-fails").expect_err("its init fails");
                thread::sleep(Duration::from_millis(200));
                assert!(!CLOSED.load(Ordering::SeqCst), "closed under its readers");
                assert!(host.loader.retired_bytes() > 0, "freed under its readers");
                unloads
            });
            for unload in unloads {
                let unloaded = unload.join().expect("no panic");
                assert!(matches!(unloaded, Ok(Unloaded::Gone(_))), "{unloaded:?}");
            }
            host.unload("wordcount");
            host.loader.reclaim();
            assert_eq!(host.loader.retired_bytes(), 0);
        }
    });
}

#[test]
fn kernel_2008_loads_beside_stopped_readers_are_seen_by_all_others_at_once() {
    isolated!({
        const LOADS: usize = 20;
        let host = walked();
        let plugins = load_all(&host, ["base64", "checksum"].map(useful));
        beside_stopped_readers(&host, &plugins, &KINDS, || {
            // Whoever waited for a reader here would wait for ever.
            for n in 0..LOADS {
                let source = Source::path(useful("wordcount")).named(format!("added-{n}"));
                let loaded = host.loader.load(&host.trust, source, &Params::new());
                let plugin = loaded.expect("loads");
                let seen = host.loader.reader().resolve(plugin.range().0);
                assert_eq!(seen.map(|it| it.generation), Some(plugin.generation()));
                let mut rows = 0;
                host.loader.reader().walk(|_| {
                    rows += 1;
                    true
                });
                assert_eq!(rows, plugins.len() + n + 1);
            }
        });
        assert_eq!(host.loader.plugins().len(), plugins.len() + LOADS);
    });
}

/// Hands its state over.
const KEPT: &str = r#"
#include "plugin_api.h"

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void leave(void) {}
static int32_t save(const plug_host_context *ctx, plug_put put, void *to) {
    (void)ctx;
    put(to, 1, "", 0);
    return PLUG_OK;
}
static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len) {
    (void)ctx; (void)version; (void)bytes; (void)len;
    return PLUG_OK;
}
PLUG_HAND_OVER(save, restore);
PLUG_PLUGIN("kept", "1.0.0", "for a test", "MIT", init, leave);
PLUG_EXPORT(uint64_t, answer, (void)) { return 42; }
"#;

/// Loads over and over, which must fail of `kind` each time, and leave nothing.
fn fail_often(host: &Host, kind: ErrorKind, load: &dyn Fn() -> Result<Plugin, Error>) {
    const TIMES: usize = 100;
    // What first loads bring in for good.
    assert_eq!(load().expect_err("fails").kind(), kind);
    let before = footprint();
    let plugins = host.loader.plugins().len();
    for _ in 0..TIMES {
        let error = load().expect_err("fails");
        assert_eq!(error.kind(), kind, "{error:#}");
        assert!(error.lingering().is_none(), "{error:#}");
    }
    assert_footprint(&before);
    assert_eq!(host.loader.plugins().len(), plugins);
    assert!(host.loader.zombies().is_empty());
}

#[test]
fn kernel_2009_loads_and_replaces_that_fail_wait_for_no_reader_and_leave_nothing() {
    isolated!({
        let scratch = Scratch::new("races");
        let kept = c_plugin(&scratch, "kept", KEPT);
        let host = walked();
        let plugins = load_all(&host, [kept.clone(), useful("checksum")]);
        let _guard = host
            .loader
            .subscribe("guard", |event| match &*event.plugin {
                "unwanted" => Vote::Veto("not here".into()),
                _ => Vote::Go,
            });
        beside_stopped_readers(&host, &plugins, &KINDS, || {
            // Whoever waited for a reader here would wait for ever.
            for (name, kind) in [
                ("init-fails", ErrorKind::InitFailed),
                ("init-panics", ErrorKind::InitFailed),
                ("no-descriptor", ErrorKind::Incompatible),
                ("wrong-abi", ErrorKind::Incompatible),
            ] {
                fail_often(&host, kind, &|| host.load(hostile(name)));
            }
            let load = |file: &str, name: &str| {
                let source = Source::path(useful(file)).named(name);
                host.loader.load(&host.trust, source, &Params::new())
            };
            fail_often(&host, ErrorKind::Vetoed, &|| load("wordcount", "unwanted"));
            let is_taken = ErrorKind::AlreadyLoaded;
            fail_often(&host, is_taken, &|| load("wordcount", "checksum"));
            // The version that was to be replaced is pinned, too.
            let _pin = plugins[0].0.pin().expect("live");
            let loads = POINTS.iter().take_while(|point| **point != "load.live");
            let loads = loads.filter(|point| point.starts_with("load."));
            for point in loads.chain(REPLACE_POINTS).copied() {
                set_hook(move |at| match at == point {
                    true => Verdict::Fail,
                    false => Verdict::Pass,
                });
                fail_replaces(&host, &kept, point);
            }
        });
        set_hook(|_| Verdict::Pass);
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
        host.unload("kept");
    });
}

fn fail_replaces(host: &Host, file: &Path, point: &str) {
    const TIMES: usize = 10;
    for _ in 0..TIMES {
        let source = Source::path(file);
        let (trust, params) = (&host.trust, Params::new());
        let replaced = host
            .loader
            .replace(trust, "kept", source, &params, seconds(60));
        let error = replaced.expect_err(point);
        assert_eq!(error.kind(), ErrorKind::Injected, "{point}: {error:#}");
        assert!(error.lingering().is_none(), "{point}: {error:#}");
    }
    assert_eq!(host.loader.plugins().len(), 2, "{point}");
}

/// A service of the host, which plugins ask what to do.
#[repr(C)]
struct Asked {
    ask: unsafe extern "C" fn(*const c_char, u32) -> i32,
}

// SAFETY: repr(C), one version.
unsafe impl Interface for Asked {
    const NAME: &'static str = "test.asked";
    const MAJOR: u32 = 1;
    const MINOR: u32 = 0;
}

static ASKED: Asked = Asked { ask };

/// Where a plugin asks from.
const IN_INIT: u32 = 1;
const IN_EXIT: u32 = 2;
const IN_DESTRUCTOR: u32 = 3;

/// Whether a plugin of this name is to go on there.
type Answer = dyn Fn(&str, u32) -> bool + Send + Sync;

static ANSWER: RwLock<Option<Arc<Answer>>> = RwLock::new(None);

fn answer(how: impl Fn(&str, u32) -> bool + Send + Sync + 'static) {
    *ANSWER.write().expect("no panic") = Some(Arc::new(how));
}

unsafe extern "C" fn ask(name: *const c_char, place: u32) -> i32 {
    // SAFETY: a literal of the plugin's, which waits for this call.
    let name = unsafe { CStr::from_ptr(name) };
    let answer = ANSWER.read().expect("no panic").clone();
    let goes_on = answer.is_none_or(|how| how(&name.to_string_lossy(), place));
    i32::from(!goes_on)
}

/// The file of a plugin that asks in its `init`, its `exit` and its destructor.
fn asking(scratch: &Scratch, name: &str) -> PathBuf {
    const SOURCE: &str = r#"
#include "plugin_api.h"

typedef struct asked { int32_t (*ask)(const char *name, uint32_t place); } asked;
static const asked *host;

static int32_t init(const plug_host_context *ctx) {
    host = (const asked *)plug_service(ctx, "test.asked", 1, 0);
    if (host->ask("NAME", 1) != 0) {
        plug_raise(ctx, "told to fail");
        return PLUG_FAILED;
    }
    return PLUG_OK;
}
static void leave(void) { host->ask("NAME", 2); }
__attribute__((destructor)) static void end(void) {
    if (host != NULL) {
        host->ask("NAME", 3);
    }
}
PLUG_PLUGIN("NAME", "1.0.0", "asks its host", "MIT", init, leave);
PLUG_EXPORT(uint64_t, answer, (void)) { return 42; }
"#;
    c_plugin(scratch, name, &SOURCE.replace("NAME", name))
}

/// Another file with the same plugin.
fn copy_of(file: &Path, number: usize) -> PathBuf {
    let copy = file.with_extension(format!("{number}.so"));
    fs::copy(file, &copy).expect("a copy");
    copy
}

/// A host that is asked, and waits so long for others that only one that never ends is late.
fn asked() -> &'static Host {
    asked_for(Duration::from_secs(100))
}

fn asked_for(load_patience: Duration) -> &'static Host {
    let mut config = Config::default();
    config.load_patience = load_patience;
    config.subscriber_patience = Duration::from_secs(60);
    let host = Host::with(config);
    host.loader.offer(&ASKED);
    // What first loads bring in for good.
    host.useful("base64");
    host.unload("base64");
    // The process's one, which threads without an end use.
    Box::leak(Box::new(host))
}

/// How often loads have come to each point.
static PASSED: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());

fn count_points() {
    set_hook(|point| {
        *PASSED.lock().expect("no panic").entry(point).or_default() += 1;
        Verdict::Pass
    });
}

/// How often loads have come there since the last time.
fn passed<const N: usize>(points: [&str; N]) -> [usize; N] {
    let passed = mem::take(&mut *PASSED.lock().expect("no panic"));
    points.map(|point| passed.get(point).copied().unwrap_or(0))
}

/// Threads that load, by their ids.
static LOADING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Loads on a thread of its own that [`until_all_wait`] knows.
fn load_elsewhere(host: &'static Host, file: &Path) -> JoinHandle<Result<Plugin, Error>> {
    let file = file.to_owned();
    thread::spawn(move || {
        LOADING.lock().expect("no panic").push(storm::tid());
        host.load(file)
    })
}

/// Waits until `n` threads load and all of them wait: what they do they have done.
fn until_all_wait(n: usize) {
    let is_waiting = |tid: &i32| {
        let call = fs::read_to_string(format!("/proc/self/task/{tid}/syscall"));
        let futex = format!("{} ", libc::SYS_futex);
        call.is_ok_and(|call| call.starts_with(&futex))
    };
    let deadline = seconds(60);
    let mut times = 0;
    // A lock may be waited for in passing.
    while times < 5 {
        assert!(!deadline.has_passed(), "they do not wait");
        thread::sleep(Duration::from_millis(2));
        let loading = LOADING.lock().expect("no panic");
        let all_wait = loading.len() == n && loading.iter().all(is_waiting);
        times = if all_wait { times + 1 } else { 0 };
    }
}

/// Loads these files at the same time, each on its own thread.
fn load_at_once(host: &'static Host, files: &[PathBuf]) -> Vec<Result<Plugin, Error>> {
    LOADING.lock().expect("no panic").clear();
    let loads: Vec<_> = files
        .iter()
        .map(|file| load_elsewhere(host, file))
        .collect();
    let loads = loads.into_iter().map(|load| load.join().expect("no panic"));
    loads.collect()
}

/// How many events of `kind` there are of plugins of this name.
fn told(host: &Host, name: &str, kind: &str) -> usize {
    let events = host.loader.events(0, Deadline::now()).into_iter();
    events
        .filter(|event| *event.plugin == *name && event.kind.name() == kind)
        .count()
}

/// Files whose code is mapped from the loader's copies.
fn mapped_copies() -> usize {
    let maps = process::maps().into_iter();
    let code = maps.filter(|map| map.rights.contains('x') && map.path.contains("memfd"));
    code.map(|map| map.inode).collect::<BTreeSet<_>>().len()
}

const CROWD: usize = 8;
/// Points of a load in their order.
const STEPS: [&str; 4] = ["load.open", "load.stage", "load.rewrite", "load.map"];

#[test]
fn kernel_2013_and_2023_one_of_many_loads_of_a_file_is_made_and_all_get_what_it_gives() {
    isolated!({
        static FAILS: AtomicBool = AtomicBool::new(true);
        let scratch = Scratch::new("races");
        let host = asked();
        let file = asking(&scratch, "shared");
        answer(|_, place| {
            if place == IN_INIT {
                until_all_wait(CROWD);
                assert_eq!(mapped_copies(), 1);
                return !FAILS.load(Ordering::SeqCst);
            }
            true
        });
        count_points();
        let before = footprint();
        let files = vec![file; CROWD];

        // A failure is everybody's who waited for it.
        let errors = load_at_once(host, &files).into_iter();
        let errors: Vec<_> = errors.map(|load| load.expect_err("fails")).collect();
        assert_eq!(passed(STEPS), [CROWD, 1, 1, 1]);
        for error in &errors {
            assert_eq!(error.kind(), ErrorKind::InitFailed);
            assert_eq!(
                error.to_string(),
                format!("shared: init: init returned {STATUS_FAILED}: told to fail")
            );
        }
        assert_eq!(
            (
                told(host, "shared", "coming"),
                told(host, "shared", "failed")
            ),
            (1, 1)
        );
        assert_footprint(&before);

        // And nobody's who comes later.
        FAILS.store(false, Ordering::SeqCst);
        let plugins = load_at_once(host, &files).into_iter();
        let plugins: Vec<_> = plugins.map(|load| load.expect("is shared")).collect();
        assert_eq!(passed(STEPS), [CROWD, 1, 1, 1]);
        for plugin in &plugins {
            assert_eq!(plugin.generation(), plugins[0].generation());
            assert_eq!(plugin.state(), State::Live);
        }
        assert_eq!(
            (told(host, "shared", "coming"), told(host, "shared", "live")),
            (2, 1)
        );
        host.unload("shared");
        assert_footprint(&before);
    });
}

#[test]
fn kernel_2013_files_of_one_name_are_refused_before_a_second_one_is_mapped() {
    isolated!({
        static FAILS: AtomicBool = AtomicBool::new(false);
        let scratch = Scratch::new("races");
        let host = asked();
        let file = asking(&scratch, "same");
        // Each of them is loaded by two.
        let copies = (0..CROWD / 2).map(|n| copy_of(&file, n));
        let files: Vec<_> = copies.flat_map(|file| [file.clone(), file]).collect();
        answer(|_, place| {
            if place == IN_INIT {
                until_all_wait(CROWD);
                assert_eq!(mapped_copies(), 1);
                let objects = process::objects().into_iter();
                assert_eq!(objects.filter(|name| name.contains("plug-")).count(), 1);
                return !FAILS.load(Ordering::SeqCst);
            }
            true
        });
        count_points();
        let before = footprint();
        for (fails, of_one, of_others) in [
            (false, None, ErrorKind::AlreadyLoaded),
            // Nor does one of them try again: a storm of loads is no queue of loads.
            (true, Some(ErrorKind::InitFailed), ErrorKind::Busy),
        ] {
            FAILS.store(fails, Ordering::SeqCst);
            let loads = load_at_once(host, &files).into_iter();
            let kinds: Vec<_> = loads.map(|load| load.err().map(|it| it.kind())).collect();
            let ones = kinds.iter().filter(|kind| **kind == of_one).count();
            let others = kinds.iter().filter(|kind| **kind == Some(of_others));
            assert_eq!((ones, others.count()), (2, CROWD - 2), "{kinds:?}");
            // Copies are made of all files, since the name is written in the file.
            assert_eq!(passed(STEPS), [CROWD, CROWD / 2, 1, 1]);
            if !fails {
                host.unload("same");
            }
            assert_footprint(&before);
        }
        assert_eq!(told(host, "same", "coming"), 2);
    });
}

#[test]
fn kernel_2013_a_plugin_that_is_not_formed_is_looked_at_by_nobody() {
    isolated!({
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let host = asked();
        let loader = &host.loader;
        let unformed = [
            "load.rewrite",
            "load.link",
            "load.symbols",
            "load.map",
            "load.describe",
        ];
        set_hook(move |point| {
            if unformed.contains(&point) {
                assert!(loader.plugin("checksum").is_none() && loader.plugins().is_empty());
                assert_eq!(loader.snapshot().plugins().count(), 0);
                loader.reader().walk(|_| panic!("{point}: it is shown"));
                let unload = loader.unload("checksum", seconds(60)).expect_err(point);
                assert_eq!(unload.kind(), ErrorKind::Busy, "{unload}");
                let (source, params) = (Source::path(useful("checksum")), Params::new());
                let replace = loader.replace(&host.trust, "checksum", source, &params, seconds(60));
                assert_eq!(replace.expect_err(point).kind(), ErrorKind::NotFound);
                SEEN.fetch_add(1, Ordering::SeqCst);
            }
            Verdict::Pass
        });
        host.useful("checksum");
        assert_eq!(SEEN.load(Ordering::SeqCst), unformed.len());
        host.unload("checksum");
    });
}

#[test]
fn kernel_2021_a_load_that_fails_is_going_before_any_of_it_is_undone() {
    isolated!({
        static FAILS: AtomicBool = AtomicBool::new(true);
        static SEEN: Mutex<Vec<(u32, State, Option<State>)>> = Mutex::new(Vec::new());
        let scratch = Scratch::new("races");
        let host = asked();
        let file = asking(&scratch, "failing");
        answer(|name, place| {
            let plugin = host.loader.plugin(name).expect("it is still shown");
            let seen = host.loader.reader().resolve(plugin.range().0);
            let seen = seen.map(|seen| seen.state());
            let mut all = SEEN.lock().expect("no panic");
            all.push((place, plugin.state(), seen));
            place != IN_INIT || !FAILS.load(Ordering::SeqCst)
        });
        let seen = || mem::take(&mut *SEEN.lock().expect("no panic"));
        let at = |place, state| (place, state, Some(state));
        host.load(&file).expect_err("its init fails");
        assert_eq!(
            seen(),
            [at(IN_INIT, State::Coming), at(IN_DESTRUCTOR, State::Going)]
        );
        // One whose init has succeeded.
        FAILS.store(false, Ordering::SeqCst);
        set_hook(|point| match point {
            "load.activate" => Verdict::Fail,
            _ => Verdict::Pass,
        });
        host.load(&file).expect_err("is failed");
        assert_eq!(
            seen(),
            [
                at(IN_INIT, State::Coming),
                at(IN_EXIT, State::Going),
                at(IN_DESTRUCTOR, State::Going)
            ]
        );
    });
}

#[test]
fn kernel_2010_an_init_that_loads_what_loads_meets_no_lock_and_holds_up_nobody() {
    isolated!({
        /// Loads that were begun while the `init` in the middle ran.
        static OTHERS: Mutex<Vec<JoinHandle<Result<Plugin, Error>>>> = Mutex::new(Vec::new());
        let scratch = Scratch::new("races");
        let host = asked();
        let [outer, middle, inner] = ["outer", "middle", "inner"].map(|it| asking(&scratch, it));
        let others = [middle.clone(), copy_of(&middle, 1), copy_of(&outer, 1)];
        answer(move |name, place| {
            let state = |name| host.loader.plugin(name).map(|plugin| plugin.state());
            match (name, place) {
                ("outer", IN_INIT) => {
                    let nested = host.load(&middle).expect("loads from an init");
                    assert_eq!(nested.state(), State::Live);
                }
                ("middle", IN_INIT) => {
                    // One shares this load; the others wait for this name and for that of who loads.
                    let others = others.each_ref().map(|file| load_elsewhere(host, file));
                    OTHERS.lock().expect("no panic").extend(others);
                    until_all_wait(3);
                    host.load(&inner).expect("loads from an init in an init");
                    assert_eq!(state("outer"), Some(State::Coming));
                    assert_eq!(state("middle"), Some(State::Coming));
                    assert_eq!(state("inner"), Some(State::Live));
                }
                _ => {}
            }
            true
        });
        let plugin = host.load(outer).expect("loads");
        assert_eq!(plugin.state(), State::Live);
        let others = mem::take(&mut *OTHERS.lock().expect("no panic")).into_iter();
        let others = others.map(|load| load.join().expect("no panic"));
        let [shared, middle, outer] = others.collect::<Vec<_>>().try_into().expect("three");
        let named = host.loader.plugin("middle").expect("Live");
        let shared = shared.expect("the load that was made");
        assert_eq!(shared.generation(), named.generation());
        for (load, name) in [(middle, "middle"), (outer, "outer")] {
            let error = load.expect_err("the name is taken");
            assert_eq!(error.kind(), ErrorKind::AlreadyLoaded);
            assert_eq!(error.plugin_name(), name);
            host.unload(name);
        }
        host.unload("inner");
    });
}

#[test]
fn kernel_2010_a_load_from_an_init_that_fails_names_its_own_and_leaves_nothing() {
    isolated!({
        static GOES_ON: AtomicBool = AtomicBool::new(true);
        static ERRORS: Mutex<Vec<Error>> = Mutex::new(Vec::new());
        let scratch = Scratch::new("races");
        let host = asked();
        let [outer, inner] = ["outer", "inner"].map(|it| asking(&scratch, it));
        answer(move |name, place| match (name, place) {
            ("outer", IN_INIT) => {
                let error = host.load(&inner).expect_err("its init fails");
                ERRORS.lock().expect("no panic").push(error);
                GOES_ON.load(Ordering::SeqCst)
            }
            ("inner", IN_INIT) => false,
            _ => true,
        });
        let before = footprint();
        host.load(&outer).expect("goes on without");
        host.unload("outer");
        GOES_ON.store(false, Ordering::SeqCst);
        let failed = host.load(&outer).expect_err("its init fails as well");
        assert_footprint(&before);
        assert!(host.loader.plugins().is_empty() && host.loader.zombies().is_empty());
        host.loader.reclaim();
        assert_eq!(host.loader.retired_bytes(), 0);
        // Everybody whom the errors name is gone.
        let mut errors = mem::take(&mut *ERRORS.lock().expect("no panic"));
        errors.push(failed);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let text = |name| format!("{name}: init: init returned {STATUS_FAILED}: told to fail");
        assert_eq!(texts, [text("inner"), text("inner"), text("outer")]);
    });
}

#[test]
fn kernel_2010_inits_that_wait_for_their_own_load_are_refused_in_time() {
    isolated!({
        static REFUSED: Mutex<Vec<Error>> = Mutex::new(Vec::new());
        let scratch = Scratch::new("races");
        let host = asked_for(Duration::from_millis(300));
        let [selfish, first, second] =
            ["selfish", "first", "second"].map(|name| asking(&scratch, name));
        let files = [selfish.clone(), first.clone(), second];
        answer(move |name, place| {
            let [selfish, first, second] = &files;
            if place == IN_INIT {
                let nested = match name {
                    // The same file is the same load, and another one wants the same name.
                    "selfish" => vec![host.load(selfish), host.load(copy_of(selfish, 1))],
                    "first" => vec![host.load(second)],
                    _ => vec![host.load(first)],
                };
                let mut refused = REFUSED.lock().expect("no panic");
                refused.extend(nested.into_iter().filter_map(Result::err));
            }
            true
        });
        let refused = || -> Vec<Error> { mem::take(&mut *REFUSED.lock().expect("no panic")) };
        host.load(&selfish).expect("goes on without itself");
        let errors = refused();
        let kinds: Vec<_> = errors.iter().map(Error::kind).collect();
        assert_eq!(kinds, [ErrorKind::Deadline, ErrorKind::Busy]);
        assert_eq!(
            errors[1].to_string(),
            "selfish: claim: a plugin of this name is Coming; try again when it is done"
        );
        host.unload("selfish");
        // Two that load each other: one of them goes without the other.
        host.load(&first).expect("has what it loaded");
        let kinds: Vec<_> = refused().iter().map(Error::kind).collect();
        assert_eq!(kinds, [ErrorKind::Deadline]);
        host.unload("first");
        host.unload("second");
    });
}

/// The functions of a file as nm names them: link-time address, size and name.
type Functions = Vec<(u64, u64, String)>;

/// A library with as many functions as this, and what nm says of them.
fn crowded(scratch: &Scratch, functions: usize) -> (PathBuf, Functions) {
    let function = |n| format!("int f{n}(int x);\nint f{n}(int x) {{ return x * {n}; }}\n");
    let source: String = (0..functions).map(function).collect();
    let file = library(scratch, &format!("libcrowded{functions}.so"), &source, &[]);
    let nm = run(Command::new("nm").args(["-S", "--defined-only"]).arg(&file));
    let hex = |word: &str| u64::from_str_radix(word, 16).expect("hexadecimal");
    let named = nm.lines().filter_map(|line| {
        let [at, size, "T", name] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some((hex(at), hex(size), name.to_owned()))
    });
    let mut named: Functions = named.collect();
    named.sort();
    assert_eq!(named.len(), functions);
    (file, named)
}

/// Whether the byte at this link-time address is called as nm calls it; none where no plugin is.
fn is_well_named(functions: &Functions, bias: usize, svma: u64) -> Option<Result<(), String>> {
    let address = bias + usize::try_from(svma).expect("64 bits");
    let found = SymbolReader::new().resolve(address)?;
    // Of a later load, which may lie elsewhere.
    let svma = (address - found.bias) as u64;
    let at = functions.partition_point(|(start, ..)| *start <= svma);
    let (start, size, name) = functions.get(at.checked_sub(1)?)?;
    let is_right =
        svma - start >= *size || found.symbol.as_str() == name && found.offset == svma - start;
    let wrong = || format!("{svma:#x}: {name} is called {}", found.symbol.as_str());
    Some(if is_right { Ok(()) } else { Err(wrong()) })
}

#[test]
fn kernel_2016_addresses_have_the_names_of_nm_before_during_and_after_the_switch() {
    isolated!({
        const ROUNDS: usize = 5;
        static FUNCTIONS: RwLock<Functions> = RwLock::new(Vec::new());
        static BIAS: AtomicUsize = AtomicUsize::new(0);
        static ASKED_AT: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());
        static OVER: AtomicBool = AtomicBool::new(false);
        let scratch = Scratch::new("races");
        let host = Host::new();
        // On the thread that makes the switch: nothing of it passes by meanwhile.
        let loader = host.loader.clone();
        set_hook(move |point| {
            if point.starts_with("index.") && !point.starts_with("index.detach") {
                let mut bias = 0;
                loader.reader().walk(|plugin| {
                    bias = plugin.bias();
                    false
                });
                assert_ne!(bias, 0, "{point}: it is not shown");
                let functions = FUNCTIONS.read().expect("no panic");
                for (at, size, _) in functions.iter().step_by(7) {
                    for svma in [*at, at + size - 1] {
                        let answer = is_well_named(&functions, bias, svma);
                        assert_eq!(answer, Some(Ok(())), "{point}");
                    }
                }
                let mut asked = ASKED_AT.lock().expect("no panic");
                *asked.entry(point).or_default() += 1;
            }
            Verdict::Pass
        });
        // Few have their search before their constructors run, many some time later.
        for functions in [100, 1500] {
            let (file, functions) = crowded(&scratch, functions);
            *FUNCTIONS.write().expect("no panic") = functions;
            OVER.store(false, Ordering::SeqCst);
            thread::scope(|scope| {
                let answers = [(); 2].map(|()| {
                    scope.spawn(|| {
                        let functions = FUNCTIONS.read().expect("no panic");
                        let mut answers = 0;
                        for (at, size, _) in functions.iter().cycle() {
                            if OVER.load(Ordering::SeqCst) {
                                break;
                            }
                            let bias = BIAS.load(Ordering::SeqCst);
                            let answer = is_well_named(&functions, bias, at + size / 2);
                            answers += answer.map_or(0, |is_right| {
                                is_right.expect("the name of nm");
                                1_u64
                            });
                        }
                        answers
                    })
                });
                for _ in 0..ROUNDS {
                    let plugin = host.load(&file).expect("loads");
                    BIAS.store(plugin.range().0, Ordering::SeqCst);
                    host.loader.settle_indexes();
                    host.unload(plugin.name());
                }
                OVER.store(true, Ordering::SeqCst);
                for answers in answers {
                    assert!(answers.join().expect("right answers") > 0);
                }
            });
        }
        let asked = ASKED_AT.lock().expect("no panic");
        let all = ["index.begin", "index.built", "index.stored"];
        assert_eq!(
            all.map(|point| asked.get(point).copied()),
            [Some(2 * ROUNDS); 3]
        );
    });
}

/// What there is to see of a plugin: its version, its size and how many symbols it has.
type Sight = (String, usize, usize);

/// A plugin of this version with as many functions.
fn twin(scratch: &Scratch, version: &str, functions: usize) -> PathBuf {
    let function = |n| format!("PLUG_EXPORT(uint64_t, f{n}, (void)) {{ return {n}; }}\n");
    let functions: String = (0..functions).map(function).collect();
    let source = format!(
        "#include \"plugin_api.h\"\n\
         static int32_t init(const plug_host_context *ctx) {{ (void)ctx; return PLUG_OK; }}\n\
         static void leave(void) {{}}\n\
         PLUG_PLUGIN(\"twin\", \"{version}\", \"for a test\", \"MIT\", init, leave);\n{functions}"
    );
    c_plugin(scratch, &format!("twin-{version}"), &source)
}

/// What a reader sees of a row.
fn sight_of(view: &PluginView<'_>) -> Sight {
    assert_eq!(view.name(), b"twin");
    let version = String::from_utf8_lossy(view.version()).into_owned();
    let (start, end) = view.range();
    (version, end - start, view.symbols().count())
}

#[test]
fn kernel_2016_a_row_is_whole_at_every_moment_that_it_is_seen() {
    isolated!({
        static WHOLE: Mutex<Vec<Sight>> = Mutex::new(Vec::new());
        static SEEN: Mutex<BTreeSet<(String, &str)>> = Mutex::new(BTreeSet::new());
        let scratch = Scratch::new("races");
        let host = Host::new();
        let files = [twin(&scratch, "1.0.0", 3), twin(&scratch, "2.0.0", 300)];
        for file in &files {
            host.load(file).expect("loads");
            host.loader.reader().walk(|view| {
                WHOLE.lock().expect("no panic").push(sight_of(&view));
                true
            });
            host.unload("twin");
        }
        let fails = Arc::new(AtomicBool::new(false));
        let (loader, fail) = (host.loader.clone(), Arc::clone(&fails));
        set_hook(move |point| {
            let mut rows: Vec<(Sight, State)> = Vec::new();
            let snapshot = loader.snapshot();
            rows.extend(
                snapshot
                    .plugins()
                    .map(|view| (sight_of(&view), view.state())),
            );
            loader.reader().walk(|view| {
                rows.push((sight_of(&view), view.state()));
                true
            });
            // The list is the writer's, who is at work at these.
            if !point.starts_with("publish.") {
                rows.extend(loader.plugins().iter().map(|plugin| {
                    assert_eq!(plugin.name(), "twin");
                    let (start, end) = plugin.range();
                    let symbols = plugin.symbols().len();
                    (
                        (plugin.version().to_owned(), end - start, symbols),
                        plugin.state(),
                    )
                }));
            }
            for (sight, state) in rows {
                assert!(
                    WHOLE.lock().expect("no panic").contains(&sight),
                    "{point}: {sight:?}"
                );
                assert_ne!(state, State::Unformed, "{point}: {sight:?}");
                SEEN.lock()
                    .expect("no panic")
                    .insert((sight.0, state.name()));
            }
            match point == "load.activate" && fail.load(Ordering::SeqCst) {
                true => Verdict::Fail,
                false => Verdict::Pass,
            }
        });
        for n in 0..10 {
            let [file, other] = [&files[n % 2], &files[(n + 1) % 2]];
            fails.store(true, Ordering::SeqCst);
            host.load(other).expect_err("is failed");
            fails.store(false, Ordering::SeqCst);
            host.load(file).expect("loads");
            let (source, params) = (Source::path(other), Params::new());
            let loader = &host.loader;
            let replaced = loader.replace(&host.trust, "twin", source, &params, seconds(60));
            let former = replaced.expect("is replaced").former;
            assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
            host.unload("twin");
            host.loader.reclaim();
        }
        let seen = SEEN.lock().expect("no panic");
        for version in ["1.0.0", "2.0.0"] {
            for state in ["Coming", "Live", "Going"] {
                assert!(seen.contains(&(version.to_owned(), state)), "{seen:?}");
            }
        }
    });
}

#[test]
fn kernel_2024_an_unload_with_live_heap_objects_counts_them_and_warns() {
    isolated!({
        type Take = unsafe extern "C" fn(u64) -> u64;
        let scratch = Scratch::new("races");
        let source = r#"
#include "plugin_api.h"
#include <stdlib.h>
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void leave(void) {}
PLUG_PLUGIN("taker", "1.0.0", "for a test", "MIT", init, leave);
static void *volatile kept;
PLUG_EXPORT(uint64_t, take, (uint64_t size)) { kept = malloc(size); return kept != NULL; }
PLUG_EXPORT(uint64_t, give_back, (uint64_t none)) { free(kept); return none; }
"#;
        let file = c_plugin(&scratch, "taker", source);
        let warnings = Warnings::of("plug::unload");
        let host = Host::new();
        for keeps in [true, false] {
            let source = Source::path(&file).accounted(Accounting::Counts);
            let plugin = host.loader.load(&host.trust, source, &Params::new());
            let plugin = plugin.expect("loads");
            let call = |name, with: u64| {
                let function = plugin.function::<Take>(name).expect("exported");
                // SAFETY: the signature is the plugin's.
                unsafe { function.call((with,)) }.expect("live")
            };
            assert_eq!((call("take", 100), call("take", 23)), (1, 1));
            if !keeps {
                call("give_back", 0);
            }
            // It leaves nevertheless, and says what it left.
            let left = host.unload("taker").leaks.expect("left").balance;
            let expected = if keeps { (2, 123) } else { (1, 100) };
            assert_eq!((left.heap_blocks, left.heap_bytes), expected);
            let (blocks, bytes) = expected;
            let told = format!("it left {blocks} blocks of together {bytes} bytes");
            let lines = warnings.lines();
            let last = lines.last().expect("a warning");
            assert!(last.contains(&told) && last.contains("\"taker\""), "{last}");
        }
        // One that leaves nothing is not warned of.
        let before = warnings.lines();
        let source = Source::path(&file).accounted(Accounting::Counts);
        let plugin = host.loader.load(&host.trust, source, &Params::new());
        plugin.expect("loads");
        assert!(host.unload("taker").leaks.is_none());
        assert_eq!(warnings.lines(), before);
    });
}
