//! One version of a plugin in the place of another, under calls: nobody is refused, nobody goes back,
//! the state goes along, and what fails before the switch leaves the old version as it was.

use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_filter::FilterV1;
use plug_loader::checkpoint::{POINTS, REPLACE_POINTS, Verdict, set_hook};
use plug_loader::{
    CallError, Error, ErrorKind, Params, Plugin, PluginFn, Replaced, Source, State, SymbolReader,
    Unloaded,
};
use plug_tests::child::isolated_for;
use plug_tests::host::{Host, seconds, useful};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};
use plug_tests::storm::{self, Storm};

type Number = unsafe extern "C" fn() -> u64;

/// Each version says the generation that it was told to be.
const RUST: &str = r#"
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

plug_api::params! {
    /// what to call itself
    pub static IS: uint = 0;
}

static SEEN: AtomicU64 = AtomicU64::new(0);

plug_api::hand_over! { save: save, restore: restore }

fn save() -> Result<plug_api::State, plug_api::Error> {
    match IS.get() {
        90077 => return Err(plug_api::Error::new("seven is kept")),
        90078 => panic!("eight is too much"),
        _ => {}
    }
    Ok(plug_api::State { version: 3, bytes: SEEN.load(SeqCst).to_le_bytes().to_vec() })
}

fn restore(state: &plug_api::State) -> plug_api::Result {
    let bytes = <[u8; 8]>::try_from(&*state.bytes).map_err(|_| "not eight bytes")?;
    if IS.get() == 90087 || state.version != 3 {
        return Err(format!("form {} is unknown", state.version).into());
    }
    SEEN.store(u64::from_le_bytes(bytes), SeqCst);
    Ok(())
}

plug_api::plugin! {
    name: "version", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_ctx: &plug_api::Context| Ok(()), exit: || IS_OVER.store(1, SeqCst),
}

static IS_OVER: AtomicU64 = AtomicU64::new(0);

plug_api::export! {
    pub fn version() -> u64 { if IS_OVER.load(SeqCst) == 0 { IS.get() } else { 0 } }
    pub fn see() -> u64 { SEEN.fetch_add(1, SeqCst) + 1 }
}
"#;

/// The same in C and C++; `@FAIL@` is how they refuse.
const NATIVE: &str = r#"
#include "plugin_api.h"
#include <string.h>
#ifdef __cplusplus
#include <stdexcept>
#endif

static uint64_t is, seen;
static int is_over;

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

static void leave(void) { is_over = 1; }

static int32_t save(const plug_host_context *ctx, plug_put put, void *to) {
    if (is == 90077) {
        @FAIL@
    }
    (void)ctx;
    put(to, 3, &seen, sizeof seen);
    return PLUG_OK;
}

static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len) {
    if (is == 90087 || version != 3 || len != sizeof seen) {
        plug_raise(ctx, "form 3 is unknown");
        return PLUG_FAILED;
    }
    memcpy(&seen, bytes, sizeof seen);
    return PLUG_OK;
}

PLUG_PARAM(is, "uint", "0", "what to call itself");
PLUG_HAND_OVER(save, restore);
PLUG_PLUGIN("version", "1.0.0", "for a test", "MIT", init, leave);
PLUG_EXPORT(uint64_t, version, (void)) { return is_over ? 0 : is; }
PLUG_EXPORT(uint64_t, see, (void)) { return __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST); }
"#;

/// A version without state, and with a function that no other has.
const BARE: &str = r#"
#include "plugin_api.h"

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}
static void leave(void) {}

PLUG_PARAM(is, "uint", "0", "what to call itself");
PLUG_PLUGIN("version", "1.0.0", "for a test", "MIT", init, leave);
PLUG_EXPORT(uint64_t, only_here, (void)) { return 9; }
"#;

fn rust(scratch: &Scratch) -> PathBuf {
    rust_plugin(scratch, "version", RUST)
}

fn c(scratch: &Scratch) -> PathBuf {
    let refuse = "plug_raise(ctx, \"seven is kept\"); return PLUG_FAILED;";
    c_plugin(scratch, "version-c", &NATIVE.replace("@FAIL@", refuse))
}

fn cpp(scratch: &Scratch) -> PathBuf {
    let throw = "throw std::runtime_error(\"seven is kept\");";
    cpp_plugin(scratch, "version-cpp", &NATIVE.replace("@FAIL@", throw))
}

fn called(is: u64) -> Params {
    Params::new().with("is", is.to_string())
}

fn load(host: &Host, file: &PathBuf, is: u64) -> Plugin {
    let source = Source::path(file);
    let loaded = host.loader.load(&host.trust, source, &called(is));
    loaded.expect("loads")
}

fn replace(host: &Host, file: &PathBuf, is: u64) -> Result<Replaced, Error> {
    let source = Source::path(file);
    let loader = &host.loader;
    loader.replace(&host.trust, "version", source, &called(is), seconds(30))
}

fn replaced(host: &Host, file: &PathBuf, is: u64) -> Plugin {
    let Replaced { plugin, former, .. } = replace(host, file, is).expect("is replaced");
    match former {
        Ok(Unloaded::Gone(_)) => plugin,
        other => panic!("the old version: {other:?}"),
    }
}

fn call(function: PluginFn<Number>) -> Result<u64, CallError> {
    // SAFETY: the plugins above export it so.
    unsafe { function.call(()) }
}

#[test]
fn handles_of_every_version_follow_and_the_state_goes_along() {
    isolated!({
        let scratch = Scratch::new("replace");
        let host = Host::new();
        let mut is = 1;
        for file in [rust(&scratch), c(&scratch), cpp(&scratch)] {
            let first = load(&host, &file, is);
            let version = first.function::<Number>("version").expect("exported");
            let see = first.function::<Number>("see").expect("exported");
            let mut versions = vec![version];
            let mut sees = vec![see];
            for n in 1..=5 {
                for see in &sees {
                    assert!(call(*see).is_ok());
                }
                is += 1;
                let plugin = replaced(&host, &file, is);
                assert_eq!(plugin.state(), State::Live);
                for version in &versions {
                    assert_eq!(call(*version), Ok(is));
                }
                assert_eq!(call(see), Ok(n * (n + 1) / 2 + 1 + (n - 1)));
                versions.push(plugin.function("version").expect("exported"));
                sees.push(plugin.function("see").expect("exported"));
                let found = host.loader.plugin("version").expect("it is there");
                assert_eq!(found.generation(), plugin.generation());
            }
            assert_eq!(host.loader.plugins().len(), 1);
            assert_eq!(first.state(), State::Empty);
            host.unload("version");
            for version in &versions {
                assert_eq!(call(*version), Err(CallError::Gone));
            }
            // Another plugin of the name is not a version of the one that left.
            is += 1;
            let _other = load(&host, &file, is);
            let _asked = _other.function::<Number>("version").expect("exported");
            for version in &versions {
                assert_eq!(call(*version), Err(CallError::Gone));
            }
            host.unload("version");
            is += 1;
        }
    });
}

#[test]
fn refusals_leave_the_old_version_as_it_was() {
    isolated!({
        let scratch = Scratch::new("replace");
        let host = Host::new();
        let bare = c_plugin(&scratch, "version-bare", BARE);
        for file in [rust(&scratch), c(&scratch), cpp(&scratch)] {
            let missing = replace(&host, &file, 1).expect_err("not loaded");
            assert_eq!(
                missing.to_string(),
                "version: claim: no plugin of this name"
            );
            for (old, new, by, expected) in [
                (90077, 2, &file, "the old version refuses to save: "),
                (
                    1,
                    90087,
                    &file,
                    "the new version refuses state 3: form 3 is unknown",
                ),
                (
                    1,
                    2,
                    &bare,
                    "the old version saves its state; expected plug_restore_v1 in the new one, \
                     found none",
                ),
            ] {
                let plugin = load(&host, &file, old);
                let version = plugin.function::<Number>("version").expect("exported");
                let error = replace(&host, by, new).expect_err("is refused");
                assert_eq!(error.kind(), ErrorKind::HandOver, "{error}");
                assert!(error.to_string().contains(expected), "{error}");
                assert_eq!((plugin.state(), call(version)), (State::Live, Ok(old)));
                assert_eq!(host.loader.plugins().len(), 1);
                host.unload("version");
            }
        }
        // What a version lacks that handles were asked for, and one that saves nothing.
        let plugin = load(&host, &bare, 1);
        let only = plugin.function::<Number>("only_here").expect("exported");
        let error = replace(&host, &rust(&scratch), 2).expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::NoSymbol, "{error}");
        assert_eq!((plugin.state(), call(only)), (State::Live, Ok(9)));
        let _again = replaced(&host, &bare, 2);
        assert_eq!(call(only), Ok(9));
        host.unload("version");
    });
}

#[test]
fn failures_at_every_point_leave_the_old_version_and_nothing_else() {
    isolated!({
        let scratch = Scratch::new("replace");
        let host = Host::new();
        let file = rust(&scratch);
        let plugin = load(&host, &file, 1);
        let version = plugin.function::<Number>("version").expect("exported");
        let loads = POINTS.iter().take_while(|point| **point != "load.live");
        let points = loads.chain(REPLACE_POINTS);
        let points = points.filter(|point| !point.starts_with("publish."));
        let mut failed = 0;
        for point in points.copied() {
            set_hook(move |at| {
                if at == point {
                    Verdict::Fail
                } else {
                    Verdict::Pass
                }
            });
            let error = replace(&host, &file, 2);
            set_hook(|_| Verdict::Pass);
            let Err(error) = error else {
                panic!("{point}: was not passed");
            };
            assert_eq!(error.kind(), ErrorKind::Injected, "{point}: {error}");
            assert!(error.lingering().is_none(), "{point}: {error}");
            assert_eq!(
                (plugin.state(), call(version)),
                (State::Live, Ok(1)),
                "{point}"
            );
            assert_eq!(host.loader.plugins().len(), 1, "{point}");
            assert_eq!(host.loader.zombies().len(), 0, "{point}");
            failed += 1;
        }
        assert!(failed >= 20, "{failed}");
        let plugin = replaced(&host, &file, 2);
        assert_eq!((plugin.state(), call(version)), (State::Live, Ok(2)));
        host.unload("version");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        assert!(!maps.contains("version"), "{maps}");
    });
}

#[test]
fn an_old_version_in_use_leaves_by_itself_later() {
    isolated!({
        let scratch = Scratch::new("replace");
        let host = Host::new();
        let file = c(&scratch);
        let plugin = load(&host, &file, 1);
        let version = plugin.function::<Number>("version").expect("exported");
        let pin = plugin.pin().expect("Live");
        let source = Source::path(&file);
        let soon = plug_loader::Deadline::after(Duration::from_millis(200));
        let loader = &host.loader;
        let replaced = loader.replace(&host.trust, "version", source, &called(2), soon);
        let replaced = replaced.expect("is replaced");
        let held = replaced.former.expect_err("it is pinned");
        assert_eq!(held.kind(), ErrorKind::Deadline);
        assert!(!held.blockers().is_empty());
        assert_eq!(plugin.state(), State::Going);
        assert_eq!(call(version), Ok(2));
        drop(pin);
        let patience = seconds(30);
        while plugin.state() != State::Empty {
            assert!(!patience.has_passed(), "it has not left");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(call(version), Ok(2));
        host.unload("version");
    });
}

/// What the callers of a storm saw.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    lost: AtomicU64,
    backwards: AtomicU64,
    worst: AtomicU64,
    over: AtomicBool,
}

impl Seen {
    fn watch(&self, mut call: impl FnMut() -> Result<u64, CallError>) -> Vec<u64> {
        let mut last = 0;
        let mut times = Vec::new();
        while !self.over.load(Ordering::SeqCst) {
            let began = Instant::now();
            let answer = call();
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.worst.fetch_max(took, Ordering::SeqCst);
            self.calls.fetch_add(1, Ordering::SeqCst);
            if times.len() < 100_000 {
                times.push(took);
            }
            match answer {
                Ok(version) if version >= last && version != 0 => last = version,
                Ok(_) => _ = self.backwards.fetch_add(1, Ordering::SeqCst),
                Err(_) => _ = self.lost.fetch_add(1, Ordering::SeqCst),
            }
        }
        times
    }
}

struct Over<'a>(&'a Seen);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

fn replaces_under_a_storm(build: fn(&Scratch) -> PathBuf) {
    let rounds = env::var("PLUG_REPLACES").map_or(40, |n| n.parse().expect("a number"));
    let scratch = Scratch::new("replace");
    let host = Host::forgetful();
    let file = build(&scratch);
    let first = load(&host, &file, 1);
    let version = first.function::<Number>("version").expect("exported");
    storm::prepare(|pc| {
        let _found = SymbolReader::new().locate(pc);
    });
    let seen = Seen::default();
    let mut times = thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|n| {
                let (seen, host) = (&seen, &host);
                scope.spawn(move || {
                    let _shelter = storm::shelter();
                    // Four workers, and two threads that are none and look for the newest handle.
                    let worker = (n < 4).then(|| host.loader.worker("calls").expect("worker"));
                    let mut newest = version;
                    seen.watch(|| match &worker {
                        // SAFETY: the plugins above export it so.
                        Some(worker) => unsafe { version.call_on(worker, ()) },
                        None => {
                            let plugin = host.loader.plugin("version");
                            let asked = plugin.and_then(|plugin| plugin.function("version").ok());
                            newest = asked.unwrap_or(newest);
                            call(newest).and_then(|_| call(version))
                        }
                    })
                })
            })
            .collect();
        // Callers end also where an assertion fails.
        let over = Over(&seen);
        let raging = Storm::start();
        for is in 2..2 + rounds {
            let _plugin = replaced(&host, &file, is);
        }
        drop(over);
        assert!(raging.stop() > 0);
        let times = callers
            .into_iter()
            .map(|caller| caller.join().expect("ends"));
        times.flatten().collect::<Vec<u64>>()
    });
    times.sort_unstable();
    let median = times[times.len() / 2];
    let worst = seen.worst.load(Ordering::SeqCst);
    let calls = seen.calls.load(Ordering::SeqCst);
    println!("{rounds} replaces, {calls} calls: median {median} ns, worst {worst} ns");
    assert!(calls > 0);
    assert_eq!(seen.lost.load(Ordering::SeqCst), 0, "calls were lost");
    assert_eq!(
        seen.backwards.load(Ordering::SeqCst),
        0,
        "versions went backwards"
    );
    assert_eq!(call(version), Ok(1 + rounds));
    host.unload("version");
}

#[test]
fn replaces_under_a_storm_lose_no_call_of_a_rust_plugin() {
    let name = "replaces_under_a_storm_lose_no_call_of_a_rust_plugin";
    isolated_for(Duration::from_secs(3600), name, || {
        replaces_under_a_storm(rust)
    });
}

#[test]
fn replaces_under_a_storm_lose_no_call_of_a_cpp_plugin() {
    let name = "replaces_under_a_storm_lose_no_call_of_a_cpp_plugin";
    isolated_for(Duration::from_secs(3600), name, || {
        replaces_under_a_storm(cpp)
    });
}

#[test]
fn interfaces_follow_and_a_version_without_one_is_refused() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("replace"));
        let source = Source::path(useful("checksum")).named("codec");
        let old = host.loader.load(&host.trust, source, &Params::new());
        let old = old.expect("loads");
        let filter = old.interface::<FilterV1>().expect("a filter");
        // SAFETY: nothing is called.
        let create =
            || unsafe { filter.call_raw(|table, _| table.create as usize) }.expect("lives");
        let is_of = |plugin: &Plugin| {
            let (start, end) = plugin.range();
            (start..end).contains(&create())
        };
        assert!(is_of(&old));
        let by = |file: PathBuf| {
            let source = Source::path(file);
            let params = Params::new();
            host.loader
                .replace(&host.trust, "codec", source, &params, seconds(20))
        };
        let refused = by(c(&scratch)).expect_err("no filter");
        assert_eq!(refused.kind(), ErrorKind::NoInterface, "{refused}");
        assert!(is_of(&old));
        for file in ["base64", "wordcount", "checksum"] {
            let replaced = by(useful(file)).expect("replaced");
            assert!(is_of(&replaced.plugin), "{file}");
            let former = &replaced.former;
            assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
        }
        host.unload("codec");
        // SAFETY: as above.
        let gone = unsafe { filter.call_raw(|_, _| ()) };
        assert_eq!(gone, Err(CallError::Gone));
    });
}
