//! Versions on trial: what counts as a failure, and the way back to the very bytes of the old version.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use plug_loader::{
    CallError, Error, ErrorKind, Fault, Params, Plugin, PluginFn, Replaced, Source, State, Trial,
    Unloaded,
};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, bringing, c_plugin, cpp_plugin, rust_plugin};

type Number = unsafe extern "C" fn() -> u64;
type Act = unsafe extern "C" fn(u32) -> u64;

/// More than any test here waits for something that happens.
const LONG: Duration = Duration::from_secs(100);

/// `act(1)` fails; @VERSION@ of 1 does not take state of form 7, which `act(7)` makes that of version 2.
const NATIVE: &str = r#"
#include "plugin_api.h"
#ifdef __cplusplus
#include <stdexcept>
#endif

static const plug_host_context *host;
static uint32_t form = 1;

static int32_t init(const plug_host_context *ctx) {
    host = ctx;
    return PLUG_OK;
}
static void leave(void) {}

static int32_t set_level(const plug_host_context *ctx, plug_str text) {
    if (plug_text_eq(text, "9")) {
        plug_raise(ctx, "nine is too much");
        return PLUG_FAILED;
    }
    return PLUG_OK;
}

static int32_t save(const plug_host_context *ctx, plug_put put, void *to) {
    (void)ctx;
    put(to, form, "", 0);
    return PLUG_OK;
}

static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len) {
    (void)bytes, (void)len;
    if (version == 7) {
        plug_raise(ctx, "form 7 is unknown");
        return PLUG_FAILED;
    }
    return PLUG_OK;
}

PLUG_PARAM_WRITABLE(level, "int", "1", "what to keep", set_level);
PLUG_PARAM(name, "string", "none", "what to keep, too");
PLUG_HAND_OVER(save, restore);
PLUG_PLUGIN("version", "@VERSION@.0.0", "for a test", "MIT", init, leave);
PLUG_EXPORT(uint64_t, version, (void)) { return @VERSION@; }
PLUG_EXPORT(uint64_t, act, (uint32_t what)) {
    if (what == 7) {
        form = 7;
    }
    if (what == 1) {
#ifdef __cplusplus
        return plug::guard(plug_context(), uint64_t(0), []() -> uint64_t {
            throw std::runtime_error("one is not done");
        });
#else
        plug_raise(host, "one is not done");
#endif
    }
    return what;
}
"#;

const RUST: &str = r#"
plug_api::params! {
    /// what to keep
    pub static LEVEL: int = 1, writable, check: not_nine;
    /// what to keep, too
    pub static NAME: string = "none";
}

fn not_nine(level: &i64) -> plug_api::Result {
    if *level == 9 { Err(plug_api::Error::new("nine is too much")) } else { Ok(()) }
}

static FORM: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

plug_api::hand_over! { save: save, restore: restore }

fn save() -> Result<plug_api::State, plug_api::Error> {
    Ok(plug_api::State { version: FORM.load(std::sync::atomic::Ordering::SeqCst), bytes: Vec::new() })
}

fn restore(state: &plug_api::State) -> plug_api::Result {
    match state.version {
        7 => Err(plug_api::Error::new("form 7 is unknown")),
        _ => Ok(()),
    }
}

plug_api::plugin! {
    name: "version", version: "@VERSION@.0.0", description: "for a test", license: "MIT",
    init: |ctx: &plug_api::Context| {
        if NAME.get() == "threads" {
            ctx.spawn("worker", |_| panic!("its thread is lost"))?;
        }
        Ok(())
    },
    exit: || (),
}

plug_api::export! {
    pub fn version() -> u64 { @VERSION@ }
    pub fn act(what: u32) -> u64 {
        if what == 7 {
            FORM.store(7, std::sync::atomic::Ordering::SeqCst);
        }
        assert!(what != 1, "one is not done");
        u64::from(what)
    }
}
"#;

/// A file of each of two versions, in one language.
fn versions(scratch: &Scratch, language: &str) -> [PathBuf; 2] {
    ["1", "2"].map(|version| {
        let name = format!("version-{language}-{version}");
        match language {
            "rust" => rust_plugin(scratch, &name, &RUST.replace("@VERSION@", version)),
            "c" => c_plugin(scratch, &name, &NATIVE.replace("@VERSION@", version)),
            _ => cpp_plugin(scratch, &name, &NATIVE.replace("@VERSION@", version)),
        }
    })
}

struct Handles {
    version: PluginFn<Number>,
    act: PluginFn<Act>,
}

impl Handles {
    fn of(plugin: &Plugin) -> Self {
        Self {
            version: plugin.function("version").expect("exported"),
            act: plugin.function("act").expect("exported"),
        }
    }

    fn version(&self) -> Result<u64, CallError> {
        // SAFETY: the plugins above export it so.
        unsafe { self.version.call(()) }
    }

    fn act(&self, what: u32) -> Result<u64, CallError> {
        // SAFETY: as above.
        unsafe { self.act.call((what,)) }
    }
}

fn load(host: &Host, file: &PathBuf) -> Plugin {
    let params = Params::new().with("name", "kept");
    let loaded = host.loader.load(&host.trust, Source::path(file), &params);
    loaded.expect("loads")
}

fn try_out(host: &Host, file: &PathBuf, params: &Params) -> Trial {
    let source = Source::path(file);
    let trial = host
        .loader
        .replace_on_trial(&host.trust, "version", source, params, seconds(30));
    let trial = trial.expect("is replaced");
    let former = &trial.replaced().former;
    assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
    trial
}

fn failed(fault: Option<Fault>) -> (String, String) {
    let fault = fault.expect("it has failed");
    assert_eq!(
        fault.to_string(),
        format!("{} failed: {}", fault.function, fault.message)
    );
    (fault.function.into(), fault.message.into())
}

fn back(back: Result<Replaced, Error>) -> Plugin {
    let back = back.expect("is rolled back");
    assert!(
        matches!(back.former, Ok(Unloaded::Gone(_))),
        "{:?}",
        back.former
    );
    back.plugin
}

#[test]
fn a_version_that_fails_is_rolled_back_to_the_bytes_of_the_old_one() {
    isolated!({
        let scratch = Scratch::new("trial");
        let host = Host::new();
        for language in ["rust", "c", "cpp"] {
            let [one, two] = versions(&scratch, language);
            let old = load(&host, &one);
            let digest = old.digest().expect("told");
            let handles = Handles::of(&old);
            // A failure of the old version is none of the new one's.
            assert!(matches!(handles.act(1), Err(CallError::Raised(_))));
            old.set_param("level", "5", LONG).expect("written");
            let trial = try_out(&host, &two, &Params::new());
            assert_eq!(trial.fault(), None);
            assert_eq!(handles.version(), Ok(2));

            // Whatever has become of the file.
            fs::write(&one, "something else").expect("file");
            let fault = thread::scope(|scope| {
                let waiting = scope.spawn(|| trial.wait(LONG));
                assert!(matches!(handles.act(1), Err(CallError::Raised(_))));
                waiting.join().expect("no panic")
            });
            let (function, message) = failed(fault.clone());
            assert_eq!(function, "act", "{language}");
            assert!(message.ends_with("one is not done"), "{message}");
            assert_eq!(trial.fault(), fault);
            let again = back(trial.roll_back(&host.trust, seconds(30)));
            assert_eq!(handles.version(), Ok(1), "{language}");
            assert_eq!(again.version(), "1.0.0");
            assert_eq!(again.digest(), Some(digest));
            assert_eq!(again.origin(), one.display().to_string());
            assert!(again.generation() > trial.replaced().plugin.generation());
            // As it was: what was given, and what was written since.
            let values: Vec<_> = again.params().into_iter().map(|p| p.value).collect();
            assert_eq!(values, ["5", "kept"], "{language}");
            // That version is not in force any more.
            let gone = trial.roll_back(&host.trust, seconds(30));
            assert_eq!(gone.expect_err("twice").kind(), ErrorKind::Gone);
            host.unload("version");
            assert_eq!(host.loader.plugins().len(), 0);
        }
    });
}

#[test]
fn a_version_that_does_not_fail_is_kept() {
    isolated!({
        let scratch = Scratch::new("trial");
        let host = Host::new();
        for language in ["rust", "c"] {
            let [one, two] = versions(&scratch, language);
            let old = load(&host, &one);
            let handles = Handles::of(&old);
            let trial = try_out(&host, &two, &Params::new());
            // What it may refuse is no failure.
            let new = &trial.replaced().plugin;
            let refused = new.set_param("level", "9", LONG).expect_err("refused");
            assert_eq!(refused.kind(), ErrorKind::Parameter, "{refused}");
            assert_eq!(handles.act(2), Ok(2));
            assert_eq!(trial.wait(Duration::from_millis(20)), None, "{language}");
            // One that comes later is a failure, but not in that time.
            thread::sleep(Duration::from_millis(20));
            assert!(handles.act(1).is_err());
            assert_eq!(trial.wait(Duration::from_nanos(1)), None);
            assert!(trial.fault().is_some());
            let kept = trial.keep();
            assert_eq!(kept.plugin.state(), State::Live);
            assert_eq!(kept.old.version(), "1.0.0");
            assert_eq!(handles.version(), Ok(2));
            host.unload("version");
        }
    });
}

#[test]
fn a_thread_of_the_new_version_that_panics_is_a_failure() {
    isolated!({
        let scratch = Scratch::new("trial");
        let host = Host::new();
        let [one, two] = versions(&scratch, "rust");
        let handles = Handles::of(&load(&host, &one));
        let trial = try_out(&host, &two, &Params::new().with("name", "threads"));
        let (_, message) = failed(trial.wait(LONG));
        assert!(message.ends_with("its thread is lost"), "{message}");
        let _old = back(trial.roll_back(&host.trust, seconds(30)));
        assert_eq!(handles.version(), Ok(1));
        host.unload("version");
    });
}

#[test]
fn where_rolling_back_fails_the_new_version_stays() {
    isolated!({
        let scratch = Scratch::new("trial");
        let host = Host::new();
        for language in ["rust", "c"] {
            let [one, two] = versions(&scratch, language);
            let handles = Handles::of(&load(&host, &one));
            let trial = try_out(&host, &two, &Params::new());
            assert_eq!(handles.act(7), Ok(7));
            assert!(handles.act(1).is_err());
            assert!(trial.wait(LONG).is_some());
            let refused = trial.roll_back(&host.trust, seconds(30));
            assert_eq!(
                refused.expect_err("refused").to_string(),
                "version: activate: the new version refuses state 7: form 7 is unknown"
            );
            let new = &trial.replaced().plugin;
            assert_eq!((new.state(), handles.version()), (State::Live, Ok(2)));
            assert_eq!(host.loader.plugins().len(), 1);
            host.unload("version");
            let gone = trial.roll_back(&host.trust, seconds(30));
            let gone = gone.expect_err("unloaded");
            assert_eq!(gone.to_string(), "version: claim: no plugin of this name");
        }
        // One that is not there is not tried out.
        let missing = host.loader.replace_on_trial(
            &host.trust,
            "nobody",
            Source::path("/no/such.so"),
            &Params::new(),
            seconds(30),
        );
        let missing = missing.expect_err("not loaded");
        assert_eq!(missing.to_string(), "nobody: claim: no plugin of this name");
    });
}

#[test]
fn libraries_that_the_old_version_brought_must_be_the_same() {
    isolated!({
        let scratch = Scratch::new("trial");
        let host = Host::new();
        let (one, core) = bringing(&scratch, "first", "", &[]);
        let (two, _) = bringing(&scratch, "second", "", &[]);
        let source = Source::path(&one).named("answer");
        let old = host.loader.load(&host.trust, source, &Params::new());
        let answer = old
            .expect("loads")
            .function::<unsafe extern "C" fn() -> i32>("answer");
        let answer = answer.expect("exported");
        // SAFETY: the library exports it so.
        let answer = || unsafe { answer.call(()) };
        let try_out = || {
            let (trust, params) = (&host.trust, Params::new());
            let source = Source::path(&two);
            let loader = &host.loader;
            let trial = loader.replace_on_trial(trust, "answer", source, &params, seconds(30));
            trial.expect("is replaced")
        };
        let trial = try_out();
        assert_eq!(answer(), Ok(42));
        let _old = back(trial.roll_back(&host.trust, seconds(30)));
        assert_eq!(answer(), Ok(42));

        let trial = try_out();
        let mut other = fs::read(&core).expect("file");
        other.push(0);
        fs::write(&core, other).expect("file");
        let refused = trial.roll_back(&host.trust, seconds(30));
        let refused = refused.expect_err("another library");
        assert_eq!(refused.kind(), ErrorKind::Probe, "{refused}");
        assert_eq!(trial.replaced().plugin.state(), State::Live);
        assert_eq!(answer(), Ok(42));
        host.unload("answer");
    });
}
