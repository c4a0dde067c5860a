//! The binary contract as compilers see it: headers, layouts, metadata, and plugins built by a
//! stranger.

use std::collections::BTreeSet;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use plug_api::abi::{Descriptor, HostContext, ImportCall, ImportSlot, InterfaceEntry, Str};
use plug_api::task::{RawTask, TaskVtable, TaskWaker, WakerVtable};
use plug_api::threads::ThreadsV1;
use plug_filter::{FilterV1, Params, Sink};
use plug_tests::standalone::{self, Scratch, native, run};

const RUST: &str = r#"
use plug_api::Context;

plug_api::plugin! {
    name: "hello",
    version: "1.0.0",
    description: "greets",
    license: "MIT",
    init: init,
    exit: exit,
}

plug_api::export! {
    pub fn add(a: u64, b: u64) -> u64 { a + b }
}

fn init(ctx: &Context) -> plug_api::Result {
    ctx.info("hello");
    Ok(())
}

fn exit() {}
"#;

const C: &str = r#"
#include "plugin_api.h"

static int32_t init(const plug_host_context *ctx) {
    plug_log_info(ctx, "hello");
    return PLUG_OK;
}

static void stop(void) {}

PLUG_PLUGIN("hello", "1.0.0", "greets", "MIT", init, stop);

PLUG_EXPORT(uint64_t, add, (uint64_t a, uint64_t b)) { return a + b; }
"#;

/// A plugin in C or C++ that imports functions, and a program around it that no host has bound.
const USER: &str = r#"
#include "plugin_api.h"
#include <stdio.h>

PLUG_STRUCT(example_pair, (int32_t, a), (double, b));
PLUG_IMPORT("numbers", "^1.2", uint64_t, twice, (uint64_t n), (n));
PLUG_IMPORT("numbers", ">=1.2, <3", const char *, name_of, (const void *what, size_t len), (what, len));
PLUG_IMPORT("numbers", "*", example_pair, pair_of, (int32_t a, double b), (a, b));
PLUG_IMPORT("others", "*", int32_t, plain, (void), ());
PLUG_IMPORT_VOID("others", "*", note, (uint64_t n), (n));
PLUG_IMPORT_VOID("others", "*", unused, (void), ());

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return twice(2) == 4 ? PLUG_OK : PLUG_FAILED;
}

static void stop(void) {}

PLUG_PLUGIN("hello", "1.0.0", "uses others", "MIT", init, stop);

PLUG_EXPORT(uint64_t, quadruple, (uint64_t n)) {
    char why[64];
    uint64_t result = twice(twice(n));
    note(result);
    if (plug_import_error(twice, why, sizeof why) || name_of(why, sizeof why) == PLUG_NULL_) {
        return 0;
    }
    return result + (uint64_t)plain() + (uint64_t)pair_of(1, 2.0).a;
}

int main(void) {
    char why[64];
    note(2);
    printf("%d %d\n", (int)twice(2), name_of(why, sizeof why) == PLUG_NULL_);
    return plug_import_error(twice, why, sizeof why);
}
"#;

/// The compilers of this machine with the standards they are asked for.
fn compilers() -> Vec<(&'static str, &'static str, &'static str)> {
    let all = [
        ("gcc", "-std=c11", "c"),
        ("g++", "-std=c++17", "c++"),
        ("clang", "-std=c11", "c"),
        ("clang++", "-std=c++17", "c++"),
    ];
    let present = all
        .into_iter()
        .filter(|(compiler, ..)| standalone::present(compiler));
    let present: Vec<_> = present.collect();
    assert!(present.len() >= 2, "gcc and g++ are needed");
    present
}

/// The strings of a plugin's metadata as readelf prints them.
fn metadata(library: &Path) -> BTreeSet<String> {
    let dump = run(Command::new("readelf")
        .args(["-p", ".plug.meta"])
        .arg(library));
    let strings = dump.lines().filter_map(|line| line.split_once("]  "));
    strings
        .map(|(_, text)| text.trim_end().to_string())
        .collect()
}

fn keys(metadata: &BTreeSet<String>) -> BTreeSet<&str> {
    metadata
        .iter()
        .map(|string| string.split_once('=').unwrap().0)
        .collect()
}

/// Names and values of the dynamic symbols that are defined.
fn symbols(library: &Path) -> BTreeSet<String> {
    let names = run(Command::new("nm")
        .args(["-D", "--defined-only", "-j"])
        .arg(library));
    names.lines().map(str::to_string).collect()
}

#[test]
fn header_every_compiler_builds_without_warnings() {
    let scratch = Scratch::new("header");
    for (compiler, standard, language) in compilers() {
        let source = scratch.write(&format!("hello.{language}"), C);
        for extra in [[].as_slice(), &["-DPLUG_STATIC_NAME=hello"]] {
            let mut command = Command::new(compiler);
            command.args([
                standard,
                "-x",
                language,
                "-fvisibility=hidden",
                "-shared",
                "-fPIC",
            ]);
            command.args(standalone::STRICT).args(extra);
            command.arg("-I").arg(standalone::include()).arg(&source);
            command.arg("-o").arg(scratch.path().join("libhello.so"));
            run(&mut command);
            let symbols = symbols(&scratch.path().join("libhello.so"));
            let descriptor = if extra.is_empty() {
                "plug_descriptor_v1"
            } else {
                "hello_plug_descriptor_v1"
            };
            assert!(symbols.contains(descriptor), "{compiler}: {symbols:?}");
            assert_eq!(
                symbols.contains("plug_meta_v1"),
                extra.is_empty(),
                "{compiler}"
            );
        }
    }
}

#[test]
fn imports_every_compiler_builds_without_warnings() {
    let scratch = Scratch::new("imports");
    for (compiler, standard, language) in compilers() {
        let source = scratch.write(&format!("user.{language}"), USER);
        let output = scratch.path().join("user");
        let exceptions: &[&[&str]] = match language {
            "c++" => &[&[], &["-fno-exceptions"]],
            _ => &[&[]],
        };
        let statics: [&[&str]; 2] = [&[], &["-DPLUG_STATIC_NAME=hello"]];
        for (extra, linked) in exceptions.iter().flat_map(|e| statics.map(|s| (e, s))) {
            let build = |kind: &[&str]| {
                let mut command = Command::new(compiler);
                command.args([standard, "-x", language, "-fvisibility=hidden", "-O2"]);
                command.args(kind).args(standalone::STRICT);
                command.args(*extra).args(linked);
                command.arg("-I").arg(standalone::include()).arg(&source);
                command.arg("-o").arg(&output);
                run(&mut command);
            };
            build(&["-shared", "-fPIC"]);
            let symbols = symbols(&output);
            for name in ["twice", "name_of", "pair_of", "plain", "note", "unused"] {
                // The loader finds slots by their names; what is linked in has nothing to be found.
                for symbol in [
                    format!("plug_import_v1_{name}"),
                    format!("plug_meta_v1_import_{name}"),
                ] {
                    assert_eq!(
                        symbols.contains(&symbol),
                        linked.is_empty(),
                        "{compiler} {extra:?} {linked:?}: {symbol} of {symbols:?}"
                    );
                }
                assert!(!symbols.contains(name), "{name} is not this plugin's");
            }
            let metadata = metadata(&output);
            for string in [
                "import=numbers:twice:^1.2",
                "import-signature=twice:uint64_t(uint64_t n)",
                "import=numbers:name_of:>=1.2, <3",
                "import-signature=name_of:const char *(const void *what, size_t len)",
                "import-signature=plain:int32_t(void)",
                "import-signature=note:void(uint64_t n)",
            ] {
                assert!(metadata.contains(string), "{string} in {metadata:?}");
            }

            build(&[]);
            let said = run(&mut Command::new(&output));
            assert_eq!(said, "0 1\n", "{compiler} {extra:?} {linked:?}");
        }
    }
}

#[test]
fn layouts_in_c_equal_those_in_rust() {
    macro_rules! layouts {
        ($($rust:ident $c:literal { $($field:ident)* })*) => {{
            let mut expected = String::new();
            let mut printing = String::new();
            $(
                expected += &format!("{} {}\n", $c, size_of::<$rust>());
                printing += &format!("printf(\"{0} %zu\\n\", sizeof({0}));\n", $c);
                $(
                    let field = stringify!($field);
                    expected += &format!("{}.{field} {}\n", $c, offset_of!($rust, $field));
                    printing += &format!(
                        "printf(\"{0}.{1} %zu\\n\", offsetof({0}, {1}));\n", $c, field
                    );
                )*
            )*
            (expected, printing)
        }};
    }
    let contract = layouts! {
        Str "plug_str" { ptr len }
        HostContext "plug_host_context" {
            abi_version size host param param_at log service raise
        }
        InterfaceEntry "plug_interface_entry" { name major minor table table_size kind }
        Descriptor "plug_descriptor" { abi_version size init exit interfaces n_interfaces }
    };
    let later = layouts! {
        ThreadsV1 "plug_threads_v1" { spawn should_stop sleep stop_fd }
        TaskWaker "plug_waker" { data vtable }
        WakerVtable "plug_waker_vtable" { size reserved clone wake wake_by_ref drop }
        TaskVtable "plug_task_vtable" { size output_size poll drop }
        RawTask "plug_task" { state vtable }
        ImportSlot "plug_import_slot" { abi_version size }
        ImportCall "plug_import_call" { words }
    };
    let filter = layouts! {
        Sink "plug_sink" { state write }
        Params "plug_params" { }
        FilterV1 "plug_filter_v1" { create process finish destroy }
    };
    let root = standalone::repository();
    let frozen = root.join("tests/abi/v1");
    let filters = root.join("example-plugins/filter/include");
    let scratch = Scratch::new("layouts");
    let cases = [
        ("plugin_api.h", standalone::include(), &contract),
        ("plugin_api.h", frozen, &contract),
        ("plugin_api.h", standalone::include(), &later),
        ("plug_filter.h", filters, &filter),
    ];
    for (header, include, (expected, printing)) in cases {
        let source = scratch.write(
            "layout.c",
            &format!("#include {header:?}\n#include <stdio.h>\nint main(void) {{\n{printing}}}\n"),
        );
        for (compiler, standard, language) in compilers() {
            let program = scratch.path().join("layout");
            let mut command = Command::new(compiler);
            command
                .args([standard, "-x", language])
                .arg("-I")
                .arg(&include);
            command
                .arg("-I")
                .arg(standalone::include())
                .arg(&source)
                .arg("-o")
                .arg(&program);
            run(&mut command);
            assert_eq!(
                &run(&mut Command::new(&program)),
                expected,
                "{compiler} {include:?}"
            );
        }
    }
}

#[test]
fn frozen_header_builds_its_plugin() {
    let frozen = standalone::repository().join("tests/abi/v1");
    let scratch = Scratch::new("frozen");
    for (compiler, standard, language) in compilers() {
        if language != "c" {
            continue;
        }
        let library = native(
            &scratch,
            compiler,
            standard,
            "frozen",
            &frozen.join("frozen.c"),
            &frozen,
        );
        let metadata = metadata(&library);
        for string in [
            "name=frozen",
            "api=1",
            "interface=test.frozen/1.0",
            "lang=c",
        ] {
            assert!(metadata.contains(string), "{string} in {metadata:?}");
        }
        assert!(symbols(&library).contains("plug_descriptor_v1"));
    }
}

#[test]
fn standalone_plugins_of_three_languages_say_the_same() {
    let scratch = Scratch::new("standalone");
    let rust = standalone::rust_plugin(&scratch, "hello", RUST);
    let c = standalone::c_plugin(&scratch, "hello_c", C);
    let cpp = standalone::cpp_plugin(&scratch, "hello_cpp", C);

    for library in [&rust, &c, &cpp] {
        let symbols = symbols(library);
        for symbol in [
            "plug_descriptor_v1",
            "plug_meta_v1",
            "plug_meta_v1_export_add",
            "add",
        ] {
            assert!(
                symbols.contains(symbol),
                "{symbol} in {library:?}: {symbols:?}"
            );
        }
    }

    let [rust, c, cpp] = [&rust, &c, &cpp].map(|library| metadata(library));
    for metadata in [&rust, &c, &cpp] {
        for string in [
            "name=hello",
            "version=1.0.0",
            "description=greets",
            "license=MIT",
            "api=1",
        ] {
            assert!(metadata.contains(string), "{string} in {metadata:?}");
        }
    }
    assert!(rust.contains("export=add:fn(u64, u64) -> u64"), "{rust:?}");
    assert!(rust.contains("panic=unwind"), "{rust:?}");
    assert!(cpp.contains("panic=exceptions"), "{cpp:?}");
    assert!(
        c.contains("export=add:uint64_t(uint64_t a, uint64_t b)"),
        "{c:?}"
    );
    for (metadata, language) in [(&rust, "lang=rust"), (&c, "lang=c"), (&cpp, "lang=c++")] {
        assert!(metadata.contains(language), "{metadata:?}");
    }
    let target = |strings: &BTreeSet<String>| {
        strings
            .iter()
            .find(|string| string.starts_with("target="))
            .cloned()
    };
    assert_eq!(target(&rust), target(&c));
    assert_eq!(keys(&rust), keys(&cpp));
    let mut keys_of_c = keys(&c);
    keys_of_c.insert("panic"); // C has nothing to say about it.
    assert_eq!(keys(&rust), keys_of_c);
}
