//! Plugins that use plugins, in three languages: what is bound, who is kept, and what is refused.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use plug_loader::checkpoint::{POINTS, REPLACE_POINTS, Verdict, set_hook};
use plug_loader::probe::Probe;
use plug_loader::{
    CallError, Config, Deadline, Directives, Error, ErrorKind, EventKind, Params, Plugin, Source,
    Stage, State, Unloaded,
};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, library, rust_plugin};

type Number = unsafe extern "C" fn(u64) -> u64;

/// What the tests' own plugins are made of, in C.
const PREFACE: &str = r#"
#include "plugin_api.h"
#ifndef INIT
#define INIT (void)ctx; return PLUG_OK;
#endif
static int32_t init(const plug_host_context *ctx) { INIT }
static void stop(void) {}
"#;

/// A plugin in C that exports `twice`; it raises for 13.
fn provider(scratch: &Scratch, version: &str) -> PathBuf {
    provider_of(scratch, version, "return 2 * n;")
}

fn provider_of(scratch: &Scratch, version: &str, body: &str) -> PathBuf {
    let source = format!(
        "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"{version}\", \"for a test\", \"MIT\", init, stop);\n\
         PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{\n\
         if (n == 13) {{ plug_raise(plug_context(), \"13 is unlucky\"); return 0; }}\n{body}\n}}\n\
         PLUG_EXPORT(void, nothing, (void)) {{ }}\n\
         extern int32_t number; int32_t number = 1;\n"
    );
    c_plugin(
        scratch,
        &format!("numbers-{}", version.replace('.', "-")),
        &source,
    )
}

/// A plugin that passes its argument on to `twice` and adds one.
fn user(scratch: &Scratch, requirement: &str) -> PathBuf {
    let source = format!(
        "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
         PLUG_IMPORT(\"numbers\", \"{requirement}\", uint64_t, twice, (uint64_t n), (n));\n\
         PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + 1; }}\n"
    );
    c_plugin(scratch, "user", &source)
}

fn call(plugin: &Plugin, name: &str, n: u64) -> Result<u64, CallError> {
    let function = plugin.function::<Number>(name).expect("exported");
    // SAFETY: the signature is the source's above, and compared.
    unsafe { function.call((n,)) }
}

fn refused(result: Result<Plugin, Error>) -> (ErrorKind, Option<Stage>, String) {
    let error = result.expect_err("refused");
    (error.kind(), error.stage(), error.to_string())
}

const RUST_USER: &str = r#"
plug_api::import! {
    unsafe plugin "numbers" version "^1.2" {
        /// Twice as much.
        fn twice(n: u64) -> u64;
        fn nothing();
    }
}
plug_api::plugin! {
    name: "user", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| {
        let four = unsafe { twice(2) }?;
        if four == 4 { Ok(()) } else { Err("twice two is not four".into()) }
    },
    exit: || (),
}
plug_api::export! {
    pub fn odd(n: u64) -> u64 {
        unsafe { nothing() }.unwrap();
        unsafe { twice(n) }.unwrap() + 1
    }
    pub fn taken(n: u64) -> u64 {
        match unsafe { twice(n) } {
            Ok(n) => n,
            Err(error) => error.message().len() as u64,
        }
    }
}
"#;

const C_USER: &str = r#"
#define INIT (void)ctx; return twice(2) == 4 ? PLUG_OK : PLUG_FAILED;
#include "plugin_api.h"
PLUG_IMPORT("numbers", "^1.2", uint64_t, twice, (uint64_t n), (n));
PLUG_IMPORT_VOID("numbers", "^1.2", nothing, (void), ());
static int32_t init(const plug_host_context *ctx) { INIT }
static void stop(void) {}
PLUG_PLUGIN("user", "1.0.0", "for a test", "MIT", init, stop);
PLUG_EXPORT(uint64_t, odd, (uint64_t n)) { nothing(); return twice(n) + 1; }
PLUG_EXPORT(uint64_t, taken, (uint64_t n)) {
    char text[64];
    uint64_t doubled = twice(n);
    if (plug_import_error(twice, text, sizeof text)) { return strlen(text); }
    return doubled;
}
"#;

const CPP_USER: &str = r#"
#include "plugin_api.h"
PLUG_IMPORT("numbers", "^1.2", uint64_t, twice, (uint64_t n), (n));
PLUG_IMPORT_VOID("numbers", "^1.2", nothing, (), ());
static int32_t init(const plug_host_context *) { return twice(2) == 4 ? PLUG_OK : PLUG_FAILED; }
static void stop() {}
PLUG_PLUGIN("user", "1.0.0", "for a test", "MIT", init, stop);
PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {
    return plug::guard(plug_context(), uint64_t(0), [&] { nothing(); return twice(n) + 1; });
}
PLUG_EXPORT(uint64_t, taken, (uint64_t n)) {
    return plug::guard(plug_context(), uint64_t(0), [&]() -> uint64_t {
        try {
            return twice(n);
        } catch (const plug::import_error &error) {
            return strlen(error.what());
        }
    });
}
"#;

/// A user that is bound, called, keeps its provider, and lets it go.
fn uses(plugin: impl FnOnce(&Scratch) -> PathBuf) {
    let scratch = Scratch::new("imports");
    let host = Host::new();
    let file = plugin(&scratch);
    let numbers = host.load(provider(&scratch, "1.4.0")).expect("loads");
    assert!(numbers.used_by().is_empty());
    let user = host.load(&file).expect("loads");
    assert_eq!(call(&user, "odd", 20), Ok(41));
    assert_eq!(call(&user, "taken", 21), Ok(42));
    // 13 bytes, and none of them raised.
    assert_eq!(call(&user, "taken", 13), Ok(13));
    let raised = call(&user, "odd", 13).expect_err("raised");
    assert!(raised.to_string().contains("13 is unlucky"), "{raised}");
    assert_eq!(call(&user, "odd", 1), Ok(3));
    let imports: Vec<String> = user.imports().map(ToString::to_string).collect();
    assert_eq!(
        imports,
        ["nothing of numbers ^1.2", "twice of numbers ^1.2"]
    );
    let told = user.imports().map(|import| import.signature.clone());
    assert_eq!(
        told.collect::<Vec<_>>(),
        [Some("fn()".to_owned()), Some("fn(u64) -> u64".to_owned())]
    );
    assert_eq!(numbers.used_by(), ["user".into()]);
    let error = host.loader.unload("numbers", seconds(5)).expect_err("used");
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(
        error.to_string(),
        "numbers: going: it is used by user; unload that first"
    );
    assert_eq!(numbers.state(), State::Live);
    host.unload("user");
    assert!(numbers.used_by().is_empty());
    host.unload("numbers");
}

#[test]
fn a_plugin_in_rust_uses_another_one() {
    isolated!({ uses(|scratch| rust_plugin(scratch, "user", RUST_USER)) });
}

#[test]
fn a_plugin_in_c_uses_another_one() {
    isolated!({ uses(|scratch| c_plugin(scratch, "user", C_USER)) });
}

#[test]
fn a_plugin_in_cpp_uses_another_one() {
    isolated!({ uses(|scratch| cpp_plugin(scratch, "user", CPP_USER)) });
}

/// Where there are no exceptions, what is returned beside an error is zero, whatever the function says.
#[test]
fn a_function_that_raises_returns_zero_where_nothing_is_thrown() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let body = "if (n == 14) { plug_raise(plug_context(), \"so is 14\"); } return n + 7;";
        host.load(provider_of(&scratch, "1.2.0", body))
            .expect("loads");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n); }}\n\
             PLUG_EXPORT(uint64_t, taken, (uint64_t n)) {{\n\
             char text[64];\n\
             uint64_t result = twice(n);\n\
             return plug_import_error(twice, text, sizeof text) ? 100 + result : result;\n}}\n"
        );
        for (compiler, language) in [("gcc", "c"), ("g++", "c++")] {
            let file = scratch.write("silent.c", &source);
            let output = scratch.path().join("libsilent.so");
            let mut command = std::process::Command::new(compiler);
            command.args(["-shared", "-fPIC", "-O2", "-fno-exceptions", "-x", language]);
            command.args(plug_tests::standalone::STRICT);
            command.arg("-I").arg(plug_tests::standalone::include());
            command.arg(file).arg("-o").arg(&output);
            plug_tests::standalone::run(&mut command);
            let user = host.load(&output).expect("loads");
            assert_eq!(call(&user, "taken", 1), Ok(8), "{language}");
            assert_eq!(call(&user, "taken", 14), Ok(100), "{language}");
            let raised = call(&user, "odd", 14).expect_err("raised");
            assert!(raised.to_string().contains("so is 14"), "{raised}");
            host.unload("user");
        }
        host.unload("numbers");
    });
}

#[test]
fn what_does_not_fit_is_refused_before_any_of_it_runs() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let one = user(&scratch, "^1.2");
        assert_eq!(
            refused(host.load(&one)),
            (
                ErrorKind::NoProvider,
                Some(Stage::Imports),
                "user: imports: import twice of numbers ^1.2: no plugin numbers is loaded; load it \
                 first, or with its users"
                    .to_owned()
            )
        );
        let old = provider(&scratch, "1.1.9");
        host.load(&old).expect("loads");
        assert_eq!(
            refused(host.load(&one)),
            (
                ErrorKind::ProviderVersion,
                Some(Stage::Imports),
                "user: imports: import twice of numbers ^1.2: expected version ^1.2, found 1.1.9"
                    .to_owned()
            )
        );
        // Nothing of the refused ones is left on it.
        host.unload("numbers");
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let refusals = [
            (
                "int32_t, number, (void), ()",
                ErrorKind::NotAFunction,
                "import number of numbers *: symbol \"number\": expected a function, found data",
            ),
            (
                "int32_t, absent, (void), ()",
                ErrorKind::NoSymbol,
                "import absent of numbers *: no exported symbol \"absent\"",
            ),
            (
                "uint64_t, twice, (uint32_t n), (n)",
                ErrorKind::SignatureMismatch,
                "import twice of numbers *: function twice: expected fn(u32) -> u64, found fn(u64) \
                 -> u64; rebuild the older of the two",
            ),
        ];
        for (n, (import, kind, told)) in refusals.into_iter().enumerate() {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
                 PLUG_IMPORT(\"numbers\", \"*\", {import});\n"
            );
            let file = c_plugin(&scratch, &format!("user{n}"), &source);
            let told = format!("user: imports: {told}");
            let refusal = refused(host.load(file));
            assert_eq!(refusal, (kind, Some(Stage::Imports), told));
        }
        // A plugin that tells no types is called as before.
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             typedef uint64_t amount;\n\
             PLUG_IMPORT(\"numbers\", \"*\", amount, twice, (amount n), (n));\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + 1; }}\n"
        );
        let user = host
            .load(c_plugin(&scratch, "untold", &source))
            .expect("loads");
        assert_eq!(call(&user, "odd", 4), Ok(9));
        host.unload("user");
        host.unload("numbers");
    });
}

#[test]
fn metadata_of_imports_is_checked() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        for (n, (extra, kind, told)) in [
            (
                "PLUG_META_(_import_x, \"import=numbers:twice:newest\");",
                ErrorKind::Incompatible,
                "expected PLUGIN:SYMBOL:REQUIREMENT, with a requirement such as ^1.2, found \
                 \"import=numbers:twice:newest\"",
            ),
            (
                "PLUG_META_(_import_x, \"import=numbers:twice:*\\0import=other:twice:*\");",
                ErrorKind::Incompatible,
                "expected one import of a symbol, found \"import=other:twice:*\"",
            ),
            (
                "PLUG_META_(_import_x, \"import=numbers:twice:*\");",
                ErrorKind::Incompatible,
                "import twice of numbers *: expected a slot of version 1, 40 writable, aligned bytes, \
                 under the exported symbol plug_import_v1_twice, found none",
            ),
            (
                "PLUG_META_(_import_x, \"import=numbers:twice:*\");\n\
                 extern const plug_import_slot plug_import_v1_twice;\n\
                 const plug_import_slot plug_import_v1_twice = {0};",
                ErrorKind::Incompatible,
                "symbol plug_import_v1_twice, found read-only ones",
            ),
            (
                "PLUG_META_(_import_x, \"import=numbers:twice:*\");\n\
                 extern char plug_import_v1_twice[8];\nchar plug_import_v1_twice[8];",
                ErrorKind::Incompatible,
                "symbol plug_import_v1_twice, found 8 bytes",
            ),
            (
                "PLUG_META_(_import_x, \"import=numbers:twice:*\");\n\
                 extern plug_import_slot plug_import_v1_twice;\n\
                 plug_import_slot plug_import_v1_twice = {2, 64, 0, 0, 0, 0};",
                ErrorKind::Incompatible,
                "symbol plug_import_v1_twice, found version 2 of 64 bytes",
            ),
            (
                "PLUG_META_(_import_x, \"import=user:twice:*\");\n\
                 extern plug_import_slot plug_import_v1_twice;\n\
                 plug_import_slot plug_import_v1_twice = {1, 40, 0, 0, 0, 0};",
                ErrorKind::Cycle,
                "import twice of user *: plugins would import of each other: user -> user",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n{extra}\n"
            );
            let source = scratch.write(&format!("odd{n}.c"), &source);
            let include = plug_tests::standalone::include();
            // Braces around nothing are for a compiler that is not strict.
            let output = scratch.path().join(format!("libodd{n}.so"));
            let mut gcc = std::process::Command::new("gcc");
            gcc.args(["-shared", "-fPIC", "-I"]).arg(include);
            gcc.arg(&source).arg("-o").arg(&output);
            plug_tests::standalone::run(&mut gcc);
            let (found, _, text) = refused(host.load(output));
            assert_eq!(found, kind, "{text}");
            assert!(text.contains(told), "{text}");
        }
        host.unload("numbers");
    });
}

/// A constructor that calls what is not bound yet does no harm: it gets an error, and the load is
/// refused.
#[test]
fn a_call_before_init_refuses_the_load() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let numbers = host.load(provider(&scratch, "1.2.0")).expect("loads");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
             extern uint64_t early; uint64_t early = 7;\n\
             __attribute__((constructor)) static void build(void) {{ early = twice(1); }}\n"
        );
        let file = c_plugin(&scratch, "early", &source);
        assert_eq!(
            refused(host.load(file)),
            (
                ErrorKind::Unbound,
                Some(Stage::Bind),
                "user: bind: a constructor called twice of numbers ^1, which is bound after the \
                 constructors; call it in init or later"
                    .to_owned()
            )
        );
        assert_eq!(host.loader.calls(&numbers), 0);
        assert!(numbers.used_by().is_empty());
        let source = r#"
#include "plugin_api.h"
#include <string>
PLUG_IMPORT("numbers", "^1", uint64_t, twice, (uint64_t n), (n));
namespace {
struct Early {
    std::string why;
    Early() {
        try {
            twice(1);
        } catch (const plug::import_error &error) {
            why = error.what();
        }
    }
} early;
int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop() {}
}
PLUG_PLUGIN("user", "1.0.0", "x", "MIT", init, stop);
"#;
        let file = cpp_plugin(&scratch, "early-too", source);
        assert_eq!(refused(host.load(file)).0, ErrorKind::Unbound);
        host.unload("numbers");
    });
}

/// Stops every load of one plugin at a point until it is told to go on.
struct Gate {
    arrived: Receiver<()>,
    go_on: Sender<Verdict>,
}

impl Gate {
    /// The next thread that comes to `point` stops there.
    fn at(point: &'static str) -> Self {
        let (arrive, arrived) = mpsc::channel();
        let (go_on, going) = mpsc::channel();
        let (once, going) = (AtomicBool::new(true), Mutex::new(going));
        let arrive = Mutex::new(arrive);
        set_hook(move |at| {
            if at == point && once.swap(false, Ordering::SeqCst) {
                arrive.lock().unwrap().send(()).expect("the test waits");
                let going = going.lock().unwrap();
                return going.recv().unwrap_or(Verdict::Pass);
            }
            Verdict::Pass
        });
        Self { arrived, go_on }
    }

    fn wait(&self) {
        let patience = Duration::from_secs(60);
        self.arrived.recv_timeout(patience).expect("comes there");
    }

    fn release(&self, verdict: Verdict) {
        self.go_on.send(verdict).expect("it waits");
    }
}

/// Begins a load, and waits until it has come to where it looks for what it imports. Who stands at another
/// point stays there.
fn arrives<T>(load: impl FnOnce() -> T) -> T {
    let arriving = Gate::at("load.imports");
    let load = load();
    arriving.wait();
    arriving.release(Verdict::Pass);
    load
}

/// Waits until the load of a plugin has been going on for a while, with nothing coming of it.
fn still_waits<T>(thread: &thread::ScopedJoinHandle<'_, T>) {
    thread::sleep(Duration::from_millis(200));
    assert!(!thread.is_finished(), "it did not wait");
}

#[test]
fn a_provider_on_its_way_in_is_waited_for() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, user) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        for point in [
            "load.map",
            "load.constructors",
            "load.init",
            "load.activate",
        ] {
            let gate = Gate::at(point);
            thread::scope(|scope| {
                let coming = scope.spawn(|| host.load(&numbers));
                gate.wait();
                let waiting = arrives(|| scope.spawn(|| host.load(&user)));
                still_waits(&waiting);
                // No lock is held meanwhile: others load, are listed and unloaded.
                let source = format!(
                    "{PREFACE}\nPLUG_PLUGIN(\"other\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n"
                );
                host.load(c_plugin(&scratch, "other", &source))
                    .expect("loads");
                host.unload("other");
                gate.release(Verdict::Pass);
                coming.join().unwrap().expect("loads");
                let user = waiting.join().unwrap().expect("loads");
                assert_eq!(call(&user, "odd", 3), Ok(7));
            });
            host.unload("user");
            host.unload("numbers");
        }
    });
}

/// Race of 2010: to wait for a dependency's `init` must hold nothing that this needs.
#[test]
fn a_provider_that_fails_in_init_fails_who_waits_for_it() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, user) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        let gate = Gate::at("load.init");
        thread::scope(|scope| {
            let coming = scope.spawn(|| host.load(&numbers));
            gate.wait();
            let waiting = arrives(|| scope.spawn(|| host.load(&user)));
            still_waits(&waiting);
            gate.release(Verdict::Fail);
            assert_eq!(refused(coming.join().unwrap()).0, ErrorKind::Injected);
            assert_eq!(
                refused(waiting.join().unwrap()),
                (
                    ErrorKind::NoProvider,
                    Some(Stage::Imports),
                    "user: imports: import twice of numbers ^1: numbers was waited for, and its load \
                     failed"
                        .to_owned()
                )
            );
        });
        assert!(host.loader.plugins().is_empty());
    });
}

#[test]
fn the_wait_for_a_provider_ends() {
    isolated!({
        let scratch = Scratch::new("imports");
        let mut config = Config::default();
        config.load_patience = Duration::from_millis(300);
        let host = Host::with(config);
        let (numbers, user) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        let gate = Gate::at("load.constructors");
        thread::scope(|scope| {
            let coming = scope.spawn(|| host.load(&numbers));
            gate.wait();
            assert_eq!(
                refused(host.load(&user)),
                (
                    ErrorKind::Deadline,
                    Some(Stage::Imports),
                    "user: imports: import twice of numbers ^1: numbers is still Coming".to_owned()
                )
            );
            gate.release(Verdict::Pass);
            coming.join().unwrap().expect("loads");
        });
        host.unload("numbers");
    });
}

/// A service by which plugins of the test have others loaded.
mod loading {
    use super::{Host, Path};
    use std::sync::OnceLock;

    plug_api::interface! {
        /// Loads `user.so` and tells what came of it.
        pub struct LoadV1("test.load", 1, 0) {
            load: unsafe extern "C-unwind" fn() -> i32,
        }
    }

    pub(super) static HOST: OnceLock<&'static Host> = OnceLock::new();
    pub(super) static FILE: OnceLock<Box<Path>> = OnceLock::new();
    pub(super) static TOLD: OnceLock<String> = OnceLock::new();

    pub(super) static SERVICE: LoadV1 = LoadV1 { load };

    unsafe extern "C-unwind" fn load() -> i32 {
        let (Some(host), Some(file)) = (HOST.get(), FILE.get()) else {
            return -1;
        };
        match host.load(file.to_path_buf()) {
            Ok(_) => 0,
            Err(error) => {
                let _first = TOLD.set(error.to_string());
                -2
            }
        }
    }
}

/// A provider whose `init` loads its own user would wait for itself.
#[test]
fn an_init_that_loads_its_own_user_is_no_deadlock() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host: &'static Host = Box::leak(Box::new(Host::new()));
        host.loader.offer(&loading::SERVICE);
        let _first = loading::HOST.set(host);
        let _first = loading::FILE.set(user(&scratch, "^1").into());
        let source = r#"
#include "plugin_api.h"
typedef struct { int32_t (*load)(void); } loads;
static int32_t init(const plug_host_context *ctx) {
    const loads *service = (const loads *)plug_service(ctx, "test.load", 1, 0);
    return service != NULL && service->load() == -2 ? PLUG_OK : PLUG_FAILED;
}
static void stop(void) {}
PLUG_PLUGIN("numbers", "1.2.0", "x", "MIT", init, stop);
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { return 2 * n; }
"#;
        let began = std::time::Instant::now();
        host.load(c_plugin(&scratch, "numbers", source))
            .expect("loads");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it waited for itself"
        );
        assert_eq!(
            loading::TOLD.get().map(String::as_str),
            Some(
                "user: imports: import twice of numbers ^1: plugins would import of each other: user \
                 -> numbers -> user"
            )
        );
        host.unload("numbers");
    });
}

#[test]
fn a_provider_on_its_way_out_refuses_users() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, user) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        host.load(&numbers).expect("loads");
        let departure = host.loader.begin_unload("numbers").expect("begins");
        assert_eq!(
            refused(host.load(&user)),
            (
                ErrorKind::Busy,
                Some(Stage::Imports),
                "user: imports: import twice of numbers ^1: numbers is Going, not Live; load it again"
                    .to_owned()
            )
        );
        departure.cancel();
        host.load(&user).expect("loads");
        host.unload("user");
        host.unload("numbers");
    });
}

#[test]
fn a_provider_stays_while_its_user_is_on_its_way_in() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, user) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        let numbers = host.load(&numbers).expect("loads");
        // From the moment on at which it was found, whatever becomes of the load.
        for (point, verdict) in [
            ("load.rewrite", Verdict::Pass),
            ("load.map", Verdict::Fail),
            ("load.constructors", Verdict::Pass),
            ("load.bind", Verdict::Fail),
            ("load.init", Verdict::Fail),
            ("load.activate", Verdict::Fail),
        ] {
            let gate = Gate::at(point);
            thread::scope(|scope| {
                let coming = scope.spawn(|| host.load(&user));
                gate.wait();
                assert_eq!(numbers.used_by(), ["user".into()], "{point}");
                let error = host.loader.unload("numbers", Deadline::now());
                let error = error.expect_err("used");
                assert_eq!(error.kind(), ErrorKind::InUse, "{point}: {error}");
                gate.release(verdict);
                let loaded = coming.join().unwrap();
                match verdict {
                    Verdict::Pass => {
                        assert_eq!(call(&loaded.expect("loads"), "odd", 1), Ok(3));
                        host.unload("user");
                    }
                    Verdict::Fail => assert_eq!(refused(loaded).0, ErrorKind::Injected),
                }
            });
            assert!(numbers.used_by().is_empty(), "{point}");
        }
        host.unload("numbers");
    });
}

/// Fails at every point of a load in turn; nothing stays on the provider.
#[test]
fn a_load_that_fails_lets_its_providers_go() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, user) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        let numbers = host.load(&numbers).expect("loads");
        for point in POINTS.iter().filter(|point| point.starts_with("load.")) {
            if matches!(*point, "load.live" | "load.constructor") {
                // The first cannot fail, the second is not come to.
                continue;
            }
            let wanted = *point;
            set_hook(move |at| match at == wanted {
                true => Verdict::Fail,
                false => Verdict::Pass,
            });
            assert_eq!(refused(host.load(&user)).0, ErrorKind::Injected, "{point}");
            set_hook(|_| Verdict::Pass);
            assert!(numbers.used_by().is_empty(), "{point}");
            let user = host.load(&user).expect("loads");
            assert_eq!(call(&user, "odd", 1), Ok(3));
            host.unload("user");
        }
        host.unload("numbers");
    });
}

/// Two loads that would wait for each other: the second one is refused.
#[test]
fn plugins_that_import_of_each_other_are_refused() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let plugin = |name: &str, of: &str, version: &str| {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"{name}\", \"{version}\", \"x\", \"MIT\", init, stop);\n\
                 PLUG_IMPORT(\"{of}\", \"*\", uint64_t, from_{of}, (void), ());\n\
                 PLUG_EXPORT(uint64_t, from_{name}, (void)) {{ return from_{of}(); }}\n"
            );
            c_plugin(&scratch, &format!("{name}-{version}"), &source)
        };
        let (a, b, c) = (
            plugin("a", "b", "1.0.0"),
            plugin("b", "c", "1.0.0"),
            plugin("c", "a", "1.0.0"),
        );
        // Each holds its name and waits for the next one, which is not there yet.
        let gate = Gate::at("load.imports");
        thread::scope(|scope| {
            let c = scope.spawn(|| host.load(&c));
            gate.wait();
            let b = arrives(|| scope.spawn(|| host.load(&b)));
            still_waits(&b);
            let a = arrives(|| scope.spawn(|| host.load(&a)));
            still_waits(&a);
            gate.release(Verdict::Pass);
            // Whoever closes it is told, and with that the others have nobody.
            let told = [c, b, a].map(|load| refused(load.join().unwrap()));
            let rounds: Vec<&str> = told
                .iter()
                .filter(|(kind, ..)| *kind == ErrorKind::Cycle)
                .filter_map(|(.., text)| text.split("import of each other: ").nth(1))
                .collect();
            let all = ["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"];
            assert!(!rounds.is_empty(), "{told:?}");
            assert!(rounds.iter().all(|round| all.contains(round)), "{told:?}");
            let is_fine = |kind| matches!(kind, ErrorKind::Cycle | ErrorKind::NoProvider);
            assert!(told.iter().all(|(kind, ..)| is_fine(*kind)), "{told:?}");
        });
        assert!(host.loader.plugins().is_empty());
        // A version that imports of its own user would close the circle, too.
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"c\", \"0.9.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, from_c, (void)) {{ return 9; }}\n"
        );
        host.load(c_plugin(&scratch, "c-plain", &source))
            .expect("loads");
        host.load(&b).expect("loads");
        let a = host.load(&a).expect("loads");
        let closing = host.loader.replace(
            &host.trust,
            "c",
            Source::path(&c),
            &Params::new(),
            seconds(5),
        );
        assert_eq!(closing.expect_err("a circle").kind(), ErrorKind::Cycle);
        let from_a = a
            .function::<unsafe extern "C" fn() -> u64>("from_a")
            .unwrap();
        // SAFETY: the signature is the source's.
        assert_eq!(unsafe { from_a.call(()) }, Ok(9));
        let names = ["a", "b", "c"].map(|name| {
            let result = host.loader.unload(name, seconds(5));
            matches!(result, Ok(Unloaded::Gone(_)))
        });
        assert_eq!(names, [true; 3]);
    });
}

/// Users follow a replace as handles do, and have a say in it.
#[test]
fn imports_follow_a_replace() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let first = provider_of(&scratch, "1.2.0", "return 2 * n;");
        host.load(&first).expect("loads");
        let user = host.load(user(&scratch, "^1")).expect("loads");
        let replace = |file: &Path| {
            let source = Source::path(file);
            let (name, params) = ("numbers", Params::new());
            host.loader
                .replace(&host.trust, name, source, &params, seconds(20))
        };
        assert_eq!(call(&user, "odd", 5), Ok(11));
        let second = provider_of(&scratch, "1.3.0", "return 20 * n;");
        let replaced = replace(&second).expect("replaces");
        assert!(
            matches!(replaced.former, Ok(Unloaded::Gone(_))),
            "{:?}",
            replaced.former
        );
        assert_eq!(replaced.plugin.used_by(), ["user".into()]);
        assert_eq!(call(&user, "odd", 5), Ok(101));
        // Errors come back from there, too.
        assert!(call(&user, "odd", 13).is_err());
        let third = provider(&scratch, "2.0.0");
        let error = replace(&third).expect_err("the user wants another one");
        assert_eq!(error.kind(), ErrorKind::ProviderVersion);
        assert_eq!(
            error.to_string(),
            "numbers: activate: import twice of numbers ^1 by user: expected version ^1, found 2.0.0"
        );
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"1.9.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, twice, (uint32_t n)) {{ return 2 * (uint64_t)n; }}\n"
        );
        let narrow = c_plugin(&scratch, "narrow", &source);
        let error = replace(&narrow).expect_err("another signature");
        assert_eq!(
            error.to_string(),
            "numbers: activate: import twice of numbers ^1 by user: function twice: expected fn(u64) \
             -> u64, found fn(u32) -> u64; rebuild the older of the two"
        );
        assert_eq!(call(&user, "odd", 5), Ok(101));
        let error = host.loader.unload("numbers", seconds(5)).expect_err("used");
        assert_eq!(error.kind(), ErrorKind::InUse);
        host.unload("user");
        // Nobody wants anything any more.
        let replaced = replace(&third).expect("replaces");
        assert!(
            matches!(replaced.former, Ok(Unloaded::Gone(_))),
            "{:?}",
            replaced.former
        );
        host.unload("numbers");
        assert!(host.loader.zombies().is_empty());
    });
}

/// A user that is replaced: both versions keep the provider, and whichever goes lets it go.
#[test]
fn a_replaced_user_lets_its_provider_go_once() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let numbers = host.load(provider(&scratch, "1.2.0")).expect("loads");
        let version = |version: &str, plus: u32| {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"user\", \"{version}\", \"x\", \"MIT\", init, stop);\n\
                 PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
                 PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + {plus}; }}\n"
            );
            c_plugin(&scratch, &format!("user{plus}"), &source)
        };
        let (first, second) = (version("1.0.0", 1), version("2.0.0", 2));
        let user = host.load(&first).expect("loads");
        let odd = user.function::<Number>("odd").expect("exported");
        // SAFETY: the signature is the source's.
        let ask = || unsafe { odd.call((10,)) };
        let replace = || {
            let (source, params) = (Source::path(&second), Params::new());
            host.loader
                .replace(&host.trust, "user", source, &params, seconds(20))
        };
        let points = POINTS.iter().filter(|point| point.starts_with("load."));
        for point in points.chain(REPLACE_POINTS) {
            // What cannot fail, and what such a plugin does not come to.
            if matches!(
                *point,
                "load.live" | "load.constructor" | "replace.save" | "replace.restore"
            ) {
                continue;
            }
            let wanted = *point;
            set_hook(move |at| match at == wanted {
                true => Verdict::Fail,
                false => Verdict::Pass,
            });
            let error = replace().expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Injected, "{point}");
            set_hook(|_| Verdict::Pass);
            assert_eq!(ask(), Ok(21), "{point}");
            assert_eq!(numbers.used_by(), ["user".into()], "{point}");
        }
        let former = replace().expect("replaces").former;
        assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
        assert_eq!(ask(), Ok(22));
        assert_eq!(numbers.used_by(), ["user".into()]);
        host.unload("user");
        assert!(numbers.used_by().is_empty());
        host.unload("numbers");
    });
}

/// Calls through an import while its provider is replaced all the time: none is lost, none fails,
/// and no thread goes back.
#[test]
fn no_call_through_an_import_is_lost_in_a_replace() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let version = |stamp: u64| {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"1.{stamp}.0\", \"x\", \"MIT\", init, stop);\n\
                 PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{ (void)n; return {stamp}; }}\n"
            );
            c_plugin(&scratch, &format!("stamp{stamp}"), &source)
        };
        let rounds = 30;
        let files: Vec<PathBuf> = (0..rounds).map(version).collect();
        host.load(&files[0]).expect("loads");
        let user = host.load(user(&scratch, "^1")).expect("loads");
        let odd = user.function::<Number>("odd").expect("exported");
        let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..4 {
                let (over, calls, host) = (&over, &calls, &host);
                scope.spawn(move || {
                    let worker = (n < 2).then(|| host.loader.worker("user").expect("worker"));
                    let mut last = 0;
                    while !over.load(Ordering::SeqCst) {
                        // SAFETY: the signature is the source's.
                        let answer = match &worker {
                            Some(worker) => unsafe { odd.call_on(worker, (1,)) },
                            None => unsafe { odd.call((1,)) },
                        };
                        let now = answer.expect("no call fails");
                        assert!(now >= last, "went back from {last} to {now}");
                        last = now;
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                    assert_eq!(last, rounds);
                });
            }
            for file in &files[1..] {
                let before = calls.load(Ordering::Relaxed);
                let (source, params) = (Source::path(file), Params::new());
                let replaced =
                    host.loader
                        .replace(&host.trust, "numbers", source, &params, seconds(60));
                let former = replaced.expect("replaces").former;
                assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
                while calls.load(Ordering::Relaxed) < before + 100 {
                    thread::yield_now();
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        assert_eq!(call(&user, "odd", 1), Ok(rounds));
        host.unload("user");
        host.unload("numbers");
    });
}

/// A user whose thread never ends keeps its provider: its code may still call it.
#[test]
fn a_zombie_keeps_what_it_imports() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let numbers = host.load(provider(&scratch, "1.2.0")).expect("loads");
        let source = r#"
#include "plugin_api.h"
PLUG_IMPORT("numbers", "^1", uint64_t, twice, (uint64_t n), (n));
namespace {
struct Owed {
    ~Owed() { if (twice(2) != 4) { __builtin_trap(); } }
    int used = 0;
};
thread_local Owed owed;
int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop() {}
}
PLUG_PLUGIN("user", "1.0.0", "x", "MIT", init, stop);
PLUG_EXPORT(uint64_t, odd, (uint64_t n)) { owed.used++; return n; }
"#;
        let user = host
            .load(cpp_plugin(&scratch, "owing", source))
            .expect("loads");
        let (done, wait) = mpsc::channel::<()>();
        let (called, has_called) = mpsc::channel();
        thread::scope(|scope| {
            let user = &user;
            scope.spawn(move || {
                called.send(call(user, "odd", 1)).expect("the test waits");
                let _ = wait.recv();
            });
            assert_eq!(has_called.recv(), Ok(Ok(1)));
            let left = host.loader.unload("user", seconds(1)).expect("leaves");
            assert!(matches!(left, Unloaded::Zombie(_)), "{left:?}");
            assert_eq!(numbers.used_by(), ["user".into()]);
            let error = host.loader.unload("numbers", seconds(1)).expect_err("used");
            assert_eq!(error.kind(), ErrorKind::InUse);
            drop(done);
        });
        match host.loader.wait_for_zombie("user", seconds(20)) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
        assert!(numbers.used_by().is_empty());
        host.unload("numbers");
    });
}

/// The name of the plugin `n` of a graph, and those that it imports of: diamonds, all over.
fn node(n: usize) -> (String, Vec<String>) {
    let of = [n / 2, n / 3, n.saturating_sub(1)];
    let mut of: Vec<usize> = of.into_iter().filter(|other| *other < n).collect();
    of.sort_unstable();
    of.dedup();
    let name = |n: usize| format!("node{n}");
    (name(n), of.into_iter().map(name).collect())
}

const NODES: usize = 50;

/// Builds the graph in `folder`; every plugin's answer is one more than the sum of those it imports.
fn graph(scratch: &Scratch) {
    for n in 0..NODES {
        let (name, of) = node(n);
        let mut source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"{name}\", \"1.{n}.0\", \"x\", \"MIT\", init, stop);\n"
        );
        let mut sum = String::from("1");
        for other in of {
            writeln!(
                source,
                "PLUG_IMPORT(\"{other}\", \"^1\", uint64_t, from_{other}, (void), ());"
            )
            .unwrap();
            write!(sum, " + from_{other}()").unwrap();
        }
        writeln!(
            source,
            "PLUG_EXPORT(uint64_t, from_{name}, (void)) {{ return {sum}; }}"
        )
        .unwrap();
        c_plugin(scratch, &name, &source);
    }
}

/// What the plugin `n` of the graph answers.
fn answer(n: usize) -> u64 {
    let mut answers: Vec<u64> = Vec::new();
    for n in 0..=n {
        let (_, of) = node(n);
        let of = of
            .iter()
            .map(|name| name["node".len()..].parse::<usize>().unwrap());
        let sum = of.fold(1_u64, |sum, other| sum.wrapping_add(answers[other]));
        answers.push(sum);
    }
    answers[n]
}

fn directed(scratch: &Scratch) -> Host {
    let text = format!("search = [{:?}]\n", scratch.path());
    let folder = scratch.write("plug.d/search.toml", &text);
    let folder = folder.parent().expect("in a folder").to_path_buf();
    let mut config = Config::default();
    config.directives = Directives::read([folder]).expect("reads");
    Host::with(config)
}

#[test]
fn a_graph_of_fifty_loads_lists_refuses_and_unloads_in_order() {
    isolated!({
        let scratch = Scratch::new("imports");
        graph(&scratch);
        let host = directed(&scratch);
        let top = format!("node{}", NODES - 1);
        let plan = host.loader.plan(&Source::plugin(&top)).expect("plans");
        assert_eq!(plan.steps.len(), NODES);
        // Nobody before those that it imports of.
        for (at, step) in plan.steps.iter().enumerate() {
            let n: usize = step.name["node".len()..].parse().unwrap();
            assert!(!step.is_loaded);
            assert_eq!(step.version, format!("1.{n}.0"));
            for other in node(n).1 {
                let place = plan.steps.iter().position(|step| step.name == other);
                assert!(place.expect("planned") < at, "{other} after {}", step.name);
                let step = &plan.steps[place.unwrap()];
                assert!(step.used_by.contains(&format!("node{n}")), "{step:?}");
            }
        }
        assert!(host.loader.plugins().is_empty(), "a plan loads nothing");
        // Three that are wanted for themselves; the rest comes with the last one.
        for n in 0..3 {
            let name = format!("node{n}");
            let source = Source::plugin(name).with_providers();
            host.loader
                .load(&host.trust, source, &Params::new())
                .expect("loads");
        }
        let source = Source::plugin(&top).with_providers();
        let loaded = host.loader.load(&host.trust, source, &Params::new());
        let loaded = loaded.expect("loads");
        assert_eq!(host.loader.plugins().len(), NODES);
        let ask = |plugin: &Plugin| {
            let name = format!("from_{}", plugin.name());
            let function = plugin.function::<unsafe extern "C" fn() -> u64>(&name);
            // SAFETY: the signature is the source's.
            unsafe { function.expect("exported").call(()) }
        };
        // All 50 have run, and those below more than once.
        assert_eq!(
            ask(&host.loader.plugin("node12").expect("listed")),
            Ok(answer(12))
        );
        for plugin in host.loader.plugins() {
            let n: usize = plugin.name()["node".len()..].parse().unwrap();
            let mut users: Vec<String> = (0..NODES)
                .map(node)
                .filter(|(_, of)| of.iter().any(|of| of == plugin.name()))
                .map(|(name, _)| name)
                .collect();
            users.sort_unstable();
            let found: Vec<String> = plugin.used_by().into_iter().map(String::from).collect();
            assert_eq!(found, users, "{}", plugin.name());
            assert_eq!(plugin.is_automatic(), (3..NODES - 1).contains(&n));
            let unloaded = n + 1 < NODES;
            if unloaded {
                let error = host.loader.unload(plugin.name(), Deadline::now());
                let error = error.expect_err("used");
                let told = format!(
                    "{}: going: it is used by {}; unload that first",
                    plugin.name(),
                    users.join(", ")
                );
                assert_eq!(error.to_string(), told);
            }
        }
        assert_eq!(loaded.state(), State::Live);
        host.unload(&top);
        let done = host
            .loader
            .unload_unused(seconds(60))
            .expect("from outside");
        let names: Vec<String> = done.iter().map(|(name, _)| name.clone()).collect();
        let wanted: Vec<String> = (3..NODES - 1).rev().map(|n| format!("node{n}")).collect();
        assert_eq!(names, wanted);
        for (name, result) in done {
            assert!(
                matches!(result, Ok(Unloaded::Gone(_))),
                "{name}: {result:?}"
            );
        }
        // What was loaded for itself stays.
        let left: Vec<String> = host
            .loader
            .plugins()
            .iter()
            .map(|plugin| plugin.name().to_owned())
            .collect();
        assert_eq!(left, ["node0", "node1", "node2"]);
        let done = host.loader.shutdown(seconds(60)).expect("from outside");
        let names: Vec<&str> = done.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["node2", "node1", "node0"]);
        assert!(
            done.iter()
                .all(|(_, it)| matches!(it, Ok(Unloaded::Gone(_))))
        );
    });
}

/// A rehearsal is alone: what needs its providers there is let pass, and runs in the host.
#[test]
fn a_user_is_rehearsed_without_its_providers() {
    isolated!({
        let scratch = Scratch::new("imports");
        let mut config = Config::default();
        config.probe = Some(Probe::by(env!("CARGO_BIN_EXE_plug-probe")));
        let host = Host::with(config);
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let file = c_plugin(&scratch, "user", C_USER);
        let user = host.load(&file).expect("loads");
        assert_eq!(call(&user, "odd", 2), Ok(5));
        let events = host.loader.events(0, Deadline::now());
        let told = events.iter().find_map(|event| match &event.kind {
            EventKind::Probed(why) if &*event.plugin == "user" => Some(why.to_string()),
            _ => None,
        });
        let told = told.expect("rehearsed");
        let expected = "init returned -1: import twice of numbers ^1.2: there are no other plugins in \
                        a rehearsal; it asked for the plugin numbers, which a probe does not offer";
        assert!(told.contains(expected), "{told}");
        host.unload("user");
        // One whose init needs nothing passes.
        let file = self::user(&scratch, "^1");
        host.load(&file).expect("loads");
        host.unload("user");
        host.unload("numbers");
    });
}

/// Runs `body` in a forked child; whether it ended well.
fn in_child(body: impl FnOnce()) -> bool {
    // SAFETY: the child runs `body` and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        // SAFETY: plain numbers.
        unsafe { libc::alarm(60) };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: own child.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    status == 0
}

#[test]
fn a_forked_child_has_imports_and_users_of_its_own() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, file) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        let numbers = host.load(&numbers).expect("loads");
        let user = host.load(&file).expect("loads");
        assert!(in_child(|| {
            assert_eq!(call(&user, "odd", 4), Ok(9));
            let error = host.loader.unload("numbers", seconds(5)).expect_err("used");
            assert_eq!(error.kind(), ErrorKind::InUse);
            host.unload("user");
            host.unload("numbers");
        }));
        host.unload("user");
        // A load that only the parent goes on with holds nothing in the child.
        let gate = Gate::at("load.constructors");
        thread::scope(|scope| {
            let coming = scope.spawn(|| host.load(&file));
            gate.wait();
            assert_eq!(numbers.used_by(), ["user".into()]);
            assert!(in_child(|| {
                set_hook(|_| Verdict::Pass);
                host.unload("numbers");
            }));
            gate.release(Verdict::Pass);
            let user = coming.join().unwrap().expect("loads");
            assert_eq!(call(&user, "odd", 4), Ok(9));
        });
        host.unload("user");
        host.unload("numbers");
    });
}

fn two_calls(scratch: &Scratch) -> PathBuf {
    let source = format!(
        "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
         PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
         PLUG_EXPORT(uint64_t, both, (uint64_t n)) {{ (void)twice(n); (void)twice(n); return 1; }}\n"
    );
    c_plugin(scratch, "user", &source)
}

#[test]
fn two_errors_that_nobody_takes_are_one() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let user = host.load(two_calls(&scratch)).expect("loads");
        for _ in 0..100 {
            let error = call(&user, "both", 13).expect_err("raised");
            assert!(error.to_string().contains("13 is unlucky"), "{error}");
        }
    });
}

/// Two replaces at once that close a circle.
#[test]
fn two_replaces_at_once_close_no_circle() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let plain = |name: &str| {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"{name}\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
                 PLUG_EXPORT(uint64_t, from_{name}, (void)) {{ return 9; }}\n"
            );
            c_plugin(&scratch, &format!("{name}-plain"), &source)
        };
        let importing = |name: &str, of: &str| {
            let source = format!(
                "{PREFACE}\nPLUG_PLUGIN(\"{name}\", \"1.1.0\", \"x\", \"MIT\", init, stop);\n\
                 PLUG_IMPORT(\"{of}\", \"*\", uint64_t, from_{of}, (void), ());\n\
                 PLUG_EXPORT(uint64_t, from_{name}, (void)) {{ return 10; }}\n\
                 PLUG_EXPORT(uint64_t, over_{name}, (void)) {{ return from_{of}(); }}\n"
            );
            c_plugin(&scratch, &format!("{name}-importing"), &source)
        };
        host.load(plain("a")).expect("loads");
        host.load(plain("b")).expect("loads");
        let (a, b) = (importing("a", "b"), importing("b", "a"));
        let replace = |name: &'static str, file: &Path| {
            host.loader.replace(
                &host.trust,
                name,
                Source::path(file),
                &Params::new(),
                seconds(20),
            )
        };
        let gate = Gate::at("load.rewrite");
        thread::scope(|scope| {
            let first = scope.spawn(|| replace("a", &a).map(|_| ()));
            gate.wait();
            let second = replace("b", &b).map(|_| ());
            gate.release(Verdict::Pass);
            let first = first.join().unwrap();
            assert!(first.is_ok(), "{first:?}");
            assert_eq!(second.expect_err("a circle").kind(), ErrorKind::Cycle);
        });
        host.unload("a");
        host.unload("b");
    });
}

/// A static initializer in C++ that does not catch.
#[test]
fn a_static_of_cpp_that_calls_too_early_ends_no_host() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let source = r#"
#include "plugin_api.h"
PLUG_IMPORT("numbers", "^1", uint64_t, twice, (uint64_t n), (n));
namespace {
uint64_t table = twice(1);
int32_t init(const plug_host_context *) { return table == 2 ? PLUG_OK : PLUG_FAILED; }
void stop() {}
}
PLUG_PLUGIN("user", "1.0.0", "x", "MIT", init, stop);
"#;
        let file = cpp_plugin(&scratch, "early-uncaught", source);
        assert_eq!(refused(host.load(file)).0, ErrorKind::Unbound);
    });
}

/// A plugin in C through which exceptions pass in order.
fn unwinding(scratch: &Scratch, name: &str, source: &str) -> PathBuf {
    let include = plug_tests::standalone::include();
    let flags = ["-fexceptions", "-I", include.to_str().expect("text")];
    library(scratch, &format!("lib{name}.so"), source, &flags)
}

/// A C++ function that throws through a user in C.
#[test]
fn an_exception_through_a_user_in_c_leaves_its_provider() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let source = r#"
#include "plugin_api.h"
#include <stdexcept>
namespace {
int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop() {}
}
PLUG_PLUGIN("numbers", "1.2.0", "x", "MIT", init, stop);
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { if (n == 13) { throw std::runtime_error("13"); } return 2 * n; }
"#;
        let numbers = host
            .load(cpp_plugin(&scratch, "numbers", source))
            .expect("loads");
        let middle = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"middle\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"*\", uint64_t, twice, (uint64_t n), (n));\n\
             PLUG_EXPORT(uint64_t, pass, (uint64_t n)) {{ return twice(n); }}\n"
        );
        host.load(unwinding(&scratch, "middle", &middle))
            .expect("loads");
        let source = r#"
#include "plugin_api.h"
PLUG_IMPORT("middle", "*", uint64_t, pass, (uint64_t n), (n));
namespace {
int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop() {}
}
PLUG_PLUGIN("top", "1.2.0", "x", "MIT", init, stop);
PLUG_EXPORT(uint64_t, ask, (uint64_t n)) {
    return plug::guard(plug_context(), uint64_t(0), [&] { return pass(n); });
}
"#;
        let top = host
            .load(cpp_plugin(&scratch, "top", source))
            .expect("loads");
        assert_eq!(call(&top, "ask", 2), Ok(4));
        let raised = call(&top, "ask", 13).expect_err("thrown");
        assert_eq!(raised, CallError::Raised("13".into()));
        assert_eq!(host.loader.calls(&numbers), 2);
        assert_eq!(call(&top, "ask", 2), Ok(4));
        for name in ["top", "middle", "numbers"] {
            host.unload(name);
        }
        assert!(host.loader.plugins().is_empty());
    });
}

/// A provider that a preload asks for by name, but that came as another one's provider.
#[test]
fn a_provider_that_is_preloaded_for_itself_stays() {
    isolated!({
        let scratch = Scratch::new("imports");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"1.2.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{ return 2 * n; }}\n"
        );
        c_plugin(&scratch, "numbers", &source);
        user(&scratch, "^1");
        let text = format!(
            "search = [{:?}]\npreload = [\"user\", \"numbers\"]\n",
            scratch.path()
        );
        let folder = scratch.write("plug.d/search.toml", &text);
        let folder = folder.parent().expect("in a folder").to_path_buf();
        let mut config = Config::default();
        config.directives = Directives::read([folder]).expect("reads");
        let host = Host::with(config);
        for (name, it) in host.loader.preload(&host.trust) {
            assert!(!it.expect("loads").is_automatic(), "{name}");
        }
        host.unload("user");
        let done = host.loader.unload_unused(seconds(5)).expect("outside");
        assert!(done.is_empty(), "asked for by the directives");
    });
}

/// A load with providers that is under way in the parent alone.
#[test]
fn a_load_with_providers_that_a_fork_ends_keeps_nobody() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let (numbers, file) = (provider(&scratch, "1.2.0"), user(&scratch, "^1"));
        host.load(&numbers).expect("loads");
        let gate = Gate::at("load.constructors");
        thread::scope(|scope| {
            let coming = scope.spawn(|| {
                let source = Source::path(&file).with_providers();
                host.loader.load(&host.trust, source, &Params::new())
            });
            gate.wait();
            let fine = in_child(|| {
                set_hook(|_| Verdict::Pass);
                let left = host.loader.unload("numbers", seconds(5));
                assert!(left.is_ok(), "{left:?}");
            });
            gate.release(Verdict::Pass);
            coming.join().unwrap().expect("loads");
            assert!(fine);
        });
    });
}

/// A user in C whose init relies on what its provider gives it.
#[test]
fn a_rehearsal_that_dies_without_a_provider_proves_nothing() {
    isolated!({
        let scratch = Scratch::new("imports");
        let mut config = Config::default();
        config.probe = Some(Probe::by(env!("CARGO_BIN_EXE_plug-probe")));
        let host = Host::with(config);
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"1.2.0\", \"x\", \"MIT\", init, stop);\n\
             static int it = 7;\n\
             PLUG_EXPORT(void *, handle, (void)) {{ return &it; }}\n"
        );
        host.load(c_plugin(&scratch, "numbers", &source))
            .expect("loads");
        let source = r#"
#define INIT (void)ctx; return *(volatile int *)handle() == 7 ? PLUG_OK : PLUG_FAILED;
#include "plugin_api.h"
PLUG_IMPORT("numbers", "*", void *, handle, (void), ());
static int32_t init(const plug_host_context *ctx) { INIT }
static void stop(void) {}
PLUG_PLUGIN("user", "1.0.0", "for a test", "MIT", init, stop);
"#;
        let loaded = host.load(c_plugin(&scratch, "user", source));
        loaded.expect("works with its provider");
    });
}

/// What a destructor of a thread's left untaken is told to another plugin's caller.
#[test]
fn an_error_in_a_destructor_is_told_to_nobody_else() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let numbers = host.load(provider(&scratch, "1.2.0")).expect("loads");
        let source = r#"
#include "plugin_api.h"
#include <pthread.h>
static pthread_key_t key;
PLUG_IMPORT("numbers", "*", uint64_t, twice, (uint64_t n), (n));
static void gone(void *value) { (void)value; (void)twice(13); }
static int32_t init(const plug_host_context *ctx) { (void)ctx; return pthread_key_create(&key, gone) == 0 ? PLUG_OK : PLUG_FAILED; }
static void stop(void) {}
PLUG_PLUGIN("user", "1.0.0", "for a test", "MIT", init, stop);
PLUG_EXPORT(uint64_t, odd, (uint64_t n)) { pthread_setspecific(key, &key); return n; }
"#;
        let user = host
            .load(c_plugin(&scratch, "user", source))
            .expect("loads");
        let worker = host.loader.worker("w").expect("worker");
        assert_eq!(call(&user, "odd", 1), Ok(1));
        thread::scope(|scope| {
            let unload = scope.spawn(|| host.loader.unload("user", seconds(20)));
            while !unload.is_finished() {
                worker.quiescent();
                thread::sleep(Duration::from_millis(1));
            }
            let left = unload.join().unwrap();
            assert!(matches!(left, Ok(Unloaded::Gone(_))), "{left:?}");
        });
        assert_eq!(call(&numbers, "twice", 2), Ok(4));
    });
}

/// A thread of the host's that ends inside an imported function.
#[test]
fn a_worker_that_ends_inside_leaves_its_provider() {
    isolated!({ ends_inside(true) });
}

#[test]
fn a_thread_that_ends_inside_leaves_its_provider() {
    isolated!({ ends_inside(false) });
}

fn ends_inside(with_worker: bool) {
    {
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let source = format!(
            "{PREFACE}\n#include <pthread.h>\nPLUG_PLUGIN(\"numbers\", \"1.2.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{ if (n == 13) {{ pthread_exit(NULL); }} return 2 * n; }}\n"
        );
        let numbers = host
            .load(c_plugin(&scratch, "numbers", &source))
            .expect("loads");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + 1; }}\n"
        );
        let user = host
            .load(unwinding(&scratch, "user", &source))
            .expect("loads");
        plug_tests::relay::bare_thread(|| {
            let f = user
                .function::<unsafe extern "C-unwind" fn(u64) -> u64>("odd")
                .expect("exported");
            let worker = with_worker.then(|| host.loader.worker("unwound").expect("worker"));
            let _ = match &worker {
                Some(worker) => unsafe { f.call_on(worker, (13,)) },
                None => unsafe { f.call((13,)) },
            };
            unreachable!();
        });
        drop(user);
        host.unload("user");
        let left = host.loader.unload("numbers", seconds(2));
        drop(numbers);
        assert!(left.is_ok());
    }
}

/// A load of the host's own that a load with providers shared, and that fails.
#[test]
fn a_failed_load_unloads_nothing_of_others() {
    isolated!({
        let scratch = Scratch::new("imports");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"1.2.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{ return 2 * n; }}\n"
        );
        c_plugin(&scratch, "numbers", &source);
        let source = format!(
            "#define INIT (void)ctx; return PLUG_FAILED;\n{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + 1; }}\n"
        );
        c_plugin(&scratch, "user", &source);
        let host = directed(&scratch);
        let gate = Gate::at("load.map");
        thread::scope(|scope| {
            let own = scope.spawn(|| {
                host.loader.load(
                    &host.trust,
                    Source::plugin("numbers").named("numbers"),
                    &Params::new(),
                )
            });
            gate.wait();
            let user = scope.spawn(|| {
                let source = Source::plugin("user").with_providers();
                host.loader.load(&host.trust, source, &Params::new())
            });
            still_waits(&user);
            gate.release(Verdict::Pass);
            let own = own.join().unwrap().expect("the host wants it");
            assert!(user.join().unwrap().is_err());
            assert!(!own.is_automatic());
            assert_eq!(own.state(), State::Live);
        });
    });
}

/// The same where the load with providers came first.
#[test]
fn a_provider_that_is_asked_for_meanwhile_stays() {
    isolated!({
        let scratch = Scratch::new("imports");
        let numbers = provider(&scratch, "1.2.0");
        std::fs::rename(numbers, scratch.path().join("libnumbers.so")).unwrap();
        let source = format!(
            "#define INIT (void)ctx; return PLUG_FAILED;\n{PREFACE}\n\
             PLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + 1; }}\n"
        );
        c_plugin(&scratch, "user", &source);
        let host = directed(&scratch);
        let gate = Gate::at("load.map");
        thread::scope(|scope| {
            let user = scope.spawn(|| {
                let source = Source::plugin("user").with_providers();
                host.loader.load(&host.trust, source, &Params::new())
            });
            gate.wait();
            let own = scope.spawn(|| {
                let source = Source::plugin("numbers").named("numbers");
                host.loader.load(&host.trust, source, &Params::new())
            });
            still_waits(&own);
            gate.release(Verdict::Pass);
            assert!(user.join().unwrap().is_err());
            // Whether it shared that load or came to it a moment later.
            let numbers = match own.join().unwrap() {
                Ok(numbers) => numbers,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::AlreadyLoaded, "{error}");
                    host.loader.plugin("numbers").expect("there")
                }
            };
            assert_eq!(numbers.state(), State::Live);
            assert!(!numbers.is_automatic());
        });
        assert!(host.loader.unload_unused(seconds(5)).unwrap().is_empty());
        host.unload("numbers");
    });
}

/// A plugin that was loaded for others, and is then asked for by itself, is not thrown out as unused.
#[test]
fn a_provider_that_is_asked_for_later_stays() {
    isolated!({
        let scratch = Scratch::new("imports");
        let numbers = provider(&scratch, "1.2.0");
        let file = scratch.path().join("libnumbers.so");
        std::fs::rename(numbers, &file).unwrap();
        user(&scratch, "^1");
        let host = directed(&scratch);
        let source = Source::plugin("user").with_providers();
        let user = host.loader.load(&host.trust, source, &Params::new());
        user.expect("loads");
        let numbers = host.loader.plugin("numbers").expect("there");
        assert!(numbers.is_automatic());
        assert_eq!(refused(host.load(&file)).0, ErrorKind::AlreadyLoaded);
        assert!(!numbers.is_automatic());
        host.unload("user");
        assert!(host.loader.unload_unused(seconds(5)).unwrap().is_empty());
        host.unload("numbers");
    });
}

/// A load from another thread, shared by the init of what it waits for.
#[test]
fn an_init_that_loads_a_user_under_way_ends() {
    isolated!({
        let scratch = Scratch::new("imports");
        let mut config = Config::default();
        config.load_patience = Duration::from_secs(2);
        let host: &'static Host = Box::leak(Box::new(Host::with(config)));
        host.loader.offer(&loading::SERVICE);
        let _first = loading::HOST.set(host);
        let file = user(&scratch, "^1");
        let _first = loading::FILE.set(file.clone().into());
        let source = r#"
#include "plugin_api.h"
typedef struct { int32_t (*load)(void); } loads;
static int32_t init(const plug_host_context *ctx) {
    const loads *service = (const loads *)plug_service(ctx, "test.load", 1, 0);
    return service != NULL && service->load() == -2 ? PLUG_OK : PLUG_FAILED;
}
static void stop(void) {}
PLUG_PLUGIN("numbers", "1.2.0", "x", "MIT", init, stop);
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) { return 2 * n; }
"#;
        let gate = Gate::at("load.init");
        let numbers = c_plugin(&scratch, "numbers", source);
        let began = std::time::Instant::now();
        thread::scope(|scope| {
            let coming = scope.spawn(|| host.load(&numbers));
            gate.wait();
            let waiting = scope.spawn(|| host.load(&file));
            still_waits(&waiting);
            gate.release(Verdict::Pass);
            coming.join().unwrap().expect("loads");
            // It found out in time, or had waited for too long.
            if let Err(error) = waiting.join().unwrap() {
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::Deadline | ErrorKind::Cycle),
                    "{error}"
                );
            }
        });
        assert!(loading::TOLD.get().is_some());
        assert!(
            began.elapsed() < Duration::from_secs(40),
            "it waited for itself"
        );
    });
}

/// Who uses a provider is a zombie that never goes.
#[test]
fn a_pinned_user_keeps_nobody() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let file = user(&scratch, "^1");
        // As one that is linked with -z nodelete.
        let source = scratch.write(
            "nd.c",
            &format!(
                "{PREFACE}\nPLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return twice(n) + 1; }}\n"
            ),
        );
        let mut gcc = std::process::Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-Wl,-z,nodelete", "-I"])
            .arg(plug_tests::standalone::include());
        gcc.arg(&source).arg("-o").arg(&file);
        plug_tests::standalone::run(&mut gcc);
        host.load(&file).expect("loads");
        let left = host.loader.unload("user", seconds(2));
        assert!(matches!(left, Ok(Unloaded::Pinned(_))), "{left:?}");
        let left = host.loader.unload("numbers", seconds(2));
        assert!(matches!(left, Ok(Unloaded::Gone(_))), "{left:?}");
    });
}

/// The same of one whose load fails.
#[test]
fn a_failed_load_that_is_pinned_keeps_nobody() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let source = format!(
            "#define INIT (void)ctx; return PLUG_FAILED;\n{PREFACE}\n\
             PLUG_PLUGIN(\"user\", \"1.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n"
        );
        let include = plug_tests::standalone::include();
        let flags = ["-Wl,-z,nodelete", "-I", include.to_str().expect("text")];
        let file = library(&scratch, "libuser.so", &source, &flags);
        let error = host.load(file).expect_err("init fails");
        assert!(
            error.lingering().is_some_and(|left| left.is_pinned),
            "{error}"
        );
        host.unload("numbers");
    });
}

/// Whose users are shown where versions are there side by side, and which of them is to leave first.
#[test]
fn versions_that_were_replaced_show_and_are_shown_as_such() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        let old = host.load(provider(&scratch, "1.2.0")).expect("loads");
        let one = host.load(user(&scratch, "^1")).expect("loads");
        let replace = |name: &str, file: PathBuf| {
            let (source, params) = (Source::path(file), Params::new());
            let soon = Deadline::after(Duration::from_millis(100));
            host.loader
                .replace(&host.trust, name, source, &params, soon)
        };
        let pin = old.pin().expect("Live");
        let replaced = replace("numbers", provider(&scratch, "1.3.0")).expect("replaces");
        assert!(replaced.former.is_err(), "pinned by the test");
        assert!(old.used_by().is_empty());
        assert_eq!(replaced.plugin.used_by(), ["user".into()]);
        drop(pin);
        let pin = one.pin().expect("Live");
        let source =
            format!("{PREFACE}\nPLUG_PLUGIN(\"user\", \"2.0.0\", \"x\", \"MIT\", init, stop);\n");
        let replaced = replace("user", c_plugin(&scratch, "plain", &source)).expect("replaces");
        assert!(replaced.former.is_err(), "pinned by the test");
        let error = host.loader.unload("numbers", seconds(5)).expect_err("used");
        assert_eq!(
            error.to_string(),
            "numbers: going: it is used by user (replaced, and on its way out); unload that first"
        );
        drop(pin);
        while !host
            .loader
            .plugin("numbers")
            .expect("there")
            .used_by()
            .is_empty()
        {
            thread::sleep(Duration::from_millis(1));
        }
        host.unload("numbers");
    });
}

/// What a plugin imports fails, and it does not take that: then its own call has failed.
#[test]
fn a_failure_through_an_import_counts_on_trial() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        host.load(c_plugin(&scratch, "first", C_USER))
            .expect("loads");
        let second = Source::path(c_plugin(&scratch, "second", C_USER));
        let params = Params::new();
        let trial = host
            .loader
            .replace_on_trial(&host.trust, "user", second, &params, seconds(30))
            .expect("replaces");
        let user = &trial.replaced().plugin;
        // Taken, and so no failure.
        assert_eq!(call(user, "taken", 13), Ok(13));
        assert_eq!(trial.fault(), None);
        assert!(call(user, "odd", 13).is_err());
        let fault = trial.fault().expect("noted");
        assert_eq!(fault.to_string(), "odd failed: 13 is unlucky");
        drop(trial);
        host.unload("user");
        host.unload("numbers");
    });
}

/// A way back needs what the old version used, which stays until the trial is over.
#[test]
fn a_trial_keeps_what_the_old_version_used() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        host.load(user(&scratch, "^1")).expect("loads");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"user\", \"2.0.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {{ return n; }}\n"
        );
        let file = c_plugin(&scratch, "without", &source);
        let on_trial = || {
            let (source, params) = (Source::path(&file), Params::new());
            let trial =
                host.loader
                    .replace_on_trial(&host.trust, "user", source, &params, seconds(30));
            trial.expect("replaces")
        };
        let trial = on_trial();
        let error = host.loader.unload("numbers", seconds(5)).expect_err("used");
        assert_eq!(error.kind(), ErrorKind::InUse);
        let back = trial
            .roll_back(&host.trust, seconds(30))
            .expect("rolls back");
        assert_eq!(call(&back.plugin, "odd", 1), Ok(3));
        drop(trial);
        let trial = on_trial();
        assert!(trial.is_in_force());
        host.unload("user");
        // It is not waited for in vain.
        let began = std::time::Instant::now();
        assert_eq!(trial.wait(Duration::from_secs(100)), None);
        assert!(began.elapsed() < Duration::from_secs(50));
        assert!(!trial.is_in_force());
        drop(trial);
        host.unload("numbers");
    });
}

/// A replace with a version that needs one more plugin.
#[test]
fn a_replace_brings_providers() {
    isolated!({
        let scratch = Scratch::new("imports");
        let source = format!(
            "{PREFACE}\nPLUG_PLUGIN(\"numbers\", \"1.2.0\", \"x\", \"MIT\", init, stop);\n\
             PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{ return 2 * n; }}\n"
        );
        c_plugin(&scratch, "numbers", &source);
        let host = directed(&scratch);
        let source =
            format!("{PREFACE}\nPLUG_PLUGIN(\"user\", \"0.9.0\", \"x\", \"MIT\", init, stop);\n");
        host.load(c_plugin(&scratch, "old", &source))
            .expect("loads");
        let newer = Source::path(user(&scratch, "^1")).with_providers();
        let it = host
            .loader
            .replace(&host.trust, "user", newer, &Params::new(), seconds(5));
        let former = it.expect("replaces").former;
        assert!(matches!(former, Ok(Unloaded::Gone(_))), "{former:?}");
        let user = host.loader.plugin("user").expect("there");
        assert_eq!(call(&user, "odd", 1), Ok(3));
    });
}

/// A thread of a user's own that calls on while the process ends.
#[test]
fn errors_on_plain_threads_are_not_kept() {
    isolated!({
        let scratch = Scratch::new("imports");
        let host = Host::new();
        host.load(provider(&scratch, "1.2.0")).expect("loads");
        let source = r#"
#include "plugin_api.h"
#include <pthread.h>
PLUG_IMPORT("numbers", "*", uint64_t, twice, (uint64_t n), (n));
static void *run(void *it) { (void)twice(2); (void)twice(13); return it; }
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("user", "1.0.0", "for a test", "MIT", init, stop);
PLUG_EXPORT(uint64_t, odd, (uint64_t n)) {
    for (uint64_t i = 0; i < n; i++) { pthread_t t; if (pthread_create(&t, NULL, run, NULL) != 0) { return 0; } pthread_join(t, NULL); }
    return n;
}
"#;
        let user = host
            .load(c_plugin(&scratch, "user", source))
            .expect("loads");
        let heap = || unsafe { libc::mallinfo2() }.uordblks;
        assert_eq!(call(&user, "odd", 200), Ok(200));
        let before = heap();
        assert_eq!(call(&user, "odd", 2000), Ok(2000));
        let grown = heap().saturating_sub(before);
        assert!(grown < 20_000, "grown by {grown}");
    });
}
