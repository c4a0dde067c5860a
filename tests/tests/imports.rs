//! Plugins that use plugins, in three languages: what is bound, who is kept, and what is refused.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use plug_loader::{
    CallError, Config, Deadline, Directives, Error, ErrorKind, Loader, Params, Plugin, Source,
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
    c_plugin(scratch, &format!("numbers-{}", version.replace('.', "-")), &source)
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
    assert_eq!(imports, ["nothing of numbers ^1.2", "twice of numbers ^1.2"]);
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
