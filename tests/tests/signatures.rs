//! Signatures of exported functions: what both sides tell is compared, in three languages.

use std::ffi::{c_char, c_int};

use plug_api::repr_c;
use plug_loader::{ErrorKind, Plugin, Signature};
use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};

repr_c! {
    /// What the plugins have, too.
    #[derive(Clone, Copy)]
    struct Pair("pair") {
        narrow: u32,
        wide: u64,
    }
}

repr_c! {
    /// A list, which leads to its like.
    #[derive(Clone, Copy)]
    struct Node("node") {
        next: *const Node,
        value: Pair,
        name: [u8; 6],
        visit: Option<unsafe extern "C" fn(*mut u8, i32)>,
    }
}

/// Another struct of the same name.
mod other {
    plug_api::repr_c! {
        #[derive(Clone, Copy)]
        pub(super) struct Pair("pair") {
            narrow: u64,
            wide: u64,
        }
    }
}

type Sum = unsafe extern "C" fn(Pair) -> u64;
type First = unsafe extern "C" fn(*const Node) -> u64;
type Each = unsafe extern "C" fn(extern "C" fn(u64), usize);

const RUST: &str = r#"
plug_api::repr_c! {
    #[derive(Clone, Copy)]
    pub struct Pair("pair") { narrow: u32, wide: u64 }
}
plug_api::repr_c! {
    #[derive(Clone, Copy)]
    pub struct Node("node") {
        next: *const Node,
        value: Pair,
        name: [u8; 6],
        visit: Option<unsafe extern "C" fn(*mut u8, i32)>,
    }
}
plug_api::plugin! {
    name: "told", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}
plug_api::export! {
    pub fn sum(pair: Pair) -> u64 { u64::from(pair.narrow) + pair.wide }
    pub unsafe fn first(node: *const Node) -> u64 { unsafe { (*node).value.wide } }
    pub fn each(call: extern "C" fn(u64), n: usize) { for i in 0..n { call(i as u64); } }
    pub unsafe fn text(text: *const core::ffi::c_char) -> i32 { unsafe { *text as i32 } }
}
"#;

const C: &str = r#"
#include "plugin_api.h"
PLUG_STRUCT(pair, (uint32_t, narrow), (uint64_t, wide));
PLUG_STRUCT(node, (const struct node *, next), (pair, value), (uint8_t, name[6]),
            (PLUG_VISIT, visit));
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("told", "1.0.0", "for a test", "MIT", init, stop);
PLUG_EXPORT(uint64_t, sum, (pair of)) { return of.narrow + of.wide; }
PLUG_EXPORT(uint64_t, first, (const struct node *list)) { return list->value.wide; }
PLUG_EXPORT(void, each, (void (*call)(uint64_t n), size_t n)) {
    for (size_t i = 0; i < n; i++) { call(i); }
}
PLUG_EXPORT(int, text, (const char *text)) { return text[0]; }
typedef uint64_t handle;
PLUG_EXPORT(uint64_t, opaque, (handle of)) { return of + 1; }
"#;

plug_api::interface! {
    /// As the plugins have it, or an older minor of it.
    pub struct TableV1("test.table", 1, 0) {
        add: unsafe extern "C-unwind" fn(u64, u64) -> u64,
        bytes: unsafe extern "C-unwind" fn(*const u8, usize),
    }
}

plug_api::interface! {
    /// Of the same version and size, and another.
    pub struct Forged("test.table", 1, 0) {
        add: unsafe extern "C-unwind" fn(u64, u64) -> u64,
        bytes: unsafe extern "C-unwind" fn(*const u8, u32),
    }
}

const RUST_TABLE: &str = r#"
plug_api::interface! {
    pub struct TableV1("test.table", 1, 1) {
        add: unsafe extern "C-unwind" fn(u64, u64) -> u64,
        bytes: unsafe extern "C-unwind" fn(*const u8, usize),
        more: unsafe extern "C-unwind" fn(),
    }
}
unsafe extern "C-unwind" fn add(a: u64, b: u64) -> u64 { a + b }
unsafe extern "C-unwind" fn bytes(_: *const u8, _: usize) {}
unsafe extern "C-unwind" fn more() {}
static TABLE: TableV1 = TableV1 { add, bytes, more };
plug_api::plugin! {
    name: "tabled", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (), interfaces: [TableV1 => TABLE],
}
"#;

const C_TABLE: &str = r#"
#include "plugin_api.h"
PLUG_STRUCT(table_v1, (uint64_t, (*add)(uint64_t a, uint64_t b)),
            (void, (*bytes)(const char *from, size_t n)), (void, (*more)(void)));
static uint64_t add(uint64_t a, uint64_t b) { return a + b; }
static void bytes(const char *from, size_t n) { (void)from; (void)n; }
static void more(void) {}
static const table_v1 TABLE = {add, bytes, more};
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
PLUG_INTERFACES((INTERFACE, "test.table", 1, 1, TABLE, table_v1));
PLUG_PLUGIN_WITH_INTERFACES("tabled", "1.0.0", "for a test", "MIT", init, more);
"#;

#[test]
fn interfaces_are_compared_field_by_field() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("tabled"));
        for (path, language, name, byte) in [
            (
                rust_plugin(&scratch, "rust", RUST_TABLE),
                "rust",
                "test.table",
                "u8",
            ),
            (c_plugin(&scratch, "c", C_TABLE), "c", "table_v1", "i8"),
            (
                cpp_plugin(&scratch, "cpp", C_TABLE),
                "c++",
                "table_v1",
                "i8",
            ),
        ] {
            let plugin = host.load(&path).expect(language);
            let table = plugin.interface::<TableV1>().expect("the same fields");
            // SAFETY: the table was compared.
            let sum = unsafe { table.call_raw(|table, _| (table.add)(1, 2)) };
            assert_eq!(sum, Ok(3), "{language}");
            let error = plugin.interface::<Forged>().expect_err("another field");
            assert_eq!(error.kind(), ErrorKind::SignatureMismatch, "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "tabled: interface test.table: expected test.table {{add: fn(u64, u64) -> u64 @0, \
                     bytes: fn(*const u8, u32) @8}} of 16 bytes, found {name} \
                     {{add: fn(u64, u64) -> u64 @0, bytes: fn(*const {byte}, usize) @8, \
                     more: fn() @16}} of 24 bytes; rebuild the older of the two"
                ),
                "{language}"
            );
            let name = plugin.name().to_owned();
            host.unload(&name);
        }
    });
}

/// The three plugins, which export the same.
fn plugins(scratch: &Scratch) -> Vec<(std::path::PathBuf, &'static str)> {
    // A field that is a pointer to a function has its name in the middle.
    let c = C.replace(
        "(PLUG_VISIT, visit)",
        "(void, (*visit)(uint8_t *, int32_t))",
    );
    vec![
        (rust_plugin(scratch, "told-rust", RUST), "rust"),
        (c_plugin(scratch, "told-c", &c), "c"),
        (cpp_plugin(scratch, "told-cpp", &c), "c++"),
    ]
}

/// The message with which the plugin refuses to give `name` as an `F`.
fn refusal<F: Signature>(plugin: &Plugin, name: &str) -> String {
    let error = plugin.function::<F>(name).expect_err("another signature");
    assert_eq!(error.kind(), ErrorKind::SignatureMismatch, "{error}");
    error.to_string()
}

#[test]
fn three_languages_tell_the_same_signatures() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("told"));
        for (path, language) in plugins(&scratch) {
            let plugin = host.load(&path).expect(language);
            for (name, expected) in [
                (
                    "sum",
                    "fn(pair) -> u64 where pair {narrow: u32 @0, wide: u64 @8} of 16 bytes",
                ),
                (
                    "first",
                    "fn(*const node) -> u64 where node {next: *const node @0, \
                     value: pair {narrow: u32 @0, wide: u64 @8} of 16 bytes @8, \
                     name: [u8; 6] @24, visit: fn(*mut u8, i32) @32} of 40 bytes",
                ),
                ("each", "fn(fn(u64), usize)"),
            ] {
                assert_eq!(
                    plugin.signature(name).as_deref(),
                    Some(expected),
                    "{language}"
                );
            }
            let sum = plugin.function::<Sum>("sum").expect("the same signature");
            assert!(sum.is_compared());
            let pair = Pair { narrow: 1, wide: 2 };
            // SAFETY: the signature was compared.
            assert_eq!(unsafe { sum.call((pair,)) }, Ok(3), "{language}");
            let first = plugin
                .function::<First>("first")
                .expect("the same signature");
            let node = Node {
                next: std::ptr::null(),
                value: pair,
                name: [0; 6],
                visit: None,
            };
            // SAFETY: as above.
            assert_eq!(
                unsafe { first.call((&raw const node,)) },
                Ok(2),
                "{language}"
            );
            plugin.function::<Each>("each").expect("the same signature");
            let name = plugin.name().to_owned();
            host.unload(&name);
        }
    });
}

#[test]
fn another_signature_is_refused_with_both_texts() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("told"));
        for (path, language) in plugins(&scratch) {
            let plugin = host.load(&path).expect(language);
            assert_eq!(
                refusal::<unsafe extern "C" fn(other::Pair) -> u64>(&plugin, "sum"),
                "told: function sum: expected fn(pair) -> u64 \
                 where pair {narrow: u64 @0, wide: u64 @8} of 16 bytes, found fn(pair) -> u64 \
                 where pair {narrow: u32 @0, wide: u64 @8} of 16 bytes; \
                 rebuild the older of the two",
                "{language}"
            );
            assert_eq!(
                refusal::<unsafe extern "C" fn(extern "C" fn(u64))>(&plugin, "each"),
                "told: function each: expected fn(fn(u64)), found fn(fn(u64), usize); \
                 rebuild the older of the two",
                "{language}"
            );
            // Written through where the plugin promised not to, less wide, and without a value.
            refusal::<unsafe extern "C" fn(*mut Node) -> u64>(&plugin, "first");
            refusal::<unsafe extern "C" fn(Pair) -> u32>(&plugin, "sum");
            refusal::<unsafe extern "C" fn(Pair)>(&plugin, "sum");
            let name = plugin.name().to_owned();
            host.unload(&name);
        }
    });
}

#[test]
fn what_is_the_same_on_this_machine_agrees() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("told"));
        for (path, language) in plugins(&scratch) {
            let plugin = host.load(&path).expect(language);
            let text = plugin.function::<unsafe extern "C" fn(*const u8) -> i32>("text");
            let text = text.expect("bytes are bytes");
            // SAFETY: the signature was compared, and the text ends in a zero.
            assert_eq!(
                unsafe { text.call((c"A".as_ptr().cast(),)) },
                Ok(65),
                "{language}"
            );
            let same = plugin.function::<unsafe extern "C" fn(*const c_char) -> c_int>("text");
            same.expect("the very same");
            let each = plugin.function::<unsafe extern "C" fn(extern "C" fn(u64), u64)>("each");
            assert_eq!(
                each.is_ok(),
                cfg!(target_pointer_width = "64"),
                "{language}"
            );
            let name = plugin.name().to_owned();
            host.unload(&name);
        }
    });
}

#[test]
fn functions_that_tell_nothing_are_not_compared_and_say_so() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("told"));
        let old = C
            .replace("(PLUG_VISIT, visit)", "(uint64_t, last)")
            .replace(
                "PLUG_EXPORT(uint64_t, sum,",
                "__attribute__((visibility(\"default\"))) uint64_t sum(pair); uint64_t sum(",
            )
            .replace("(pair of))", "pair of)");
        let plugin = host.load(c_plugin(&scratch, "old", &old)).expect("loads");
        // One was exported without the macro, the other has a type that nobody describes.
        for name in ["sum", "opaque"] {
            assert_eq!(plugin.signature(name), None, "{name}");
        }
        let opaque = plugin.function::<unsafe extern "C" fn(u64) -> u64>("opaque");
        let opaque = opaque.expect("not compared");
        assert!(!opaque.is_compared());
        // SAFETY: the signature is the plugin's.
        assert_eq!(unsafe { opaque.call((1,)) }, Ok(2));
        let sum = plugin.function::<Sum>("sum").expect("not compared");
        assert!(!sum.is_compared());
    });
}

#[test]
fn structs_that_cannot_be_told_are_not_compared() {
    isolated!({
        let (host, scratch) = (Host::new(), Scratch::new("told"));
        // Each holds the one before it twice; told in full, the last would take terabytes.
        let mut text = String::from("#include \"plugin_api.h\"\nPLUG_STRUCT(s0, (uint8_t, a));\n");
        for n in 1..40 {
            let inner = n - 1;
            text += &format!(
                "PLUG_META_(_layout_s{n}, \"layout=s{n}:s{inner} a;s{inner} b;\");\n\
                 typedef struct s{n} s{n};\n"
            );
        }
        text += r#"
            PLUG_META_(_layout_itself, "layout=itself:itself a;");
            PLUG_META_(_layout_long, "layout=wide:uint64_t a[9223372036854775807];");
            typedef struct itself itself;
            typedef struct wide wide;
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
            static void stop(void) {}
            PLUG_PLUGIN("told", "1.0.0", "for a test", "MIT", init, stop);
            PLUG_EXPORT(uint64_t, small, (const s1 *of)) { return of != NULL; }
            PLUG_EXPORT(uint64_t, large, (const s39 *of)) { return of != NULL; }
            PLUG_EXPORT(uint64_t, endless, (const itself *of)) { return of != NULL; }
            PLUG_EXPORT(uint64_t, vast, (const wide *of)) { return of != NULL; }
        "#;
        let plugin = host.load(c_plugin(&scratch, "told", &text)).expect("loads");
        assert_eq!(
            plugin.signature("small").as_deref(),
            Some(
                "fn(*const s1) -> u64 where s1 {a: s0 {a: u8 @0} of 1 bytes @0, \
                 b: s0 {a: u8 @0} of 1 bytes @1} of 2 bytes"
            )
        );
        for name in ["large", "endless", "vast"] {
            assert_eq!(plugin.signature(name), None, "{name}");
            let function = plugin.function::<unsafe extern "C" fn(*const u8) -> u64>(name);
            assert!(!function.expect("not compared").is_compared(), "{name}");
        }
    });
}
