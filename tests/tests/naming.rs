//! Names of addresses and addresses of names in libraries made for it: stripped, nested, aliased,
//! versioned, crowded, without hash tables, and gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use plug_loader::checkpoint::{Verdict, set_hook};
use plug_loader::{Location, Plugin, Resolved, State, SymbolReader};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::Scratch;

/// Compiles `source` to `NAME.so`.
fn library(scratch: &Scratch, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let source = scratch.write(&format!("{name}.c"), source);
    let out = scratch.path().join(format!("{name}.so"));
    let output = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&out)
        .arg(&source)
        .args(flags)
        .output()
        .expect("gcc");
    assert!(output.status.success(), "{output:?}");
    out
}

/// Link-time address of a symbol, local ones included.
fn address(path: &Path, name: &str) -> usize {
    let output = Command::new("nm").arg(path).output().expect("nm");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.ends_with(&format!(" {name}")));
    let (value, _) = line.expect("such a symbol").split_once(' ').expect("nm");
    usize::from_str_radix(value, 16).expect("hexadecimal")
}

fn load(host: &Host, path: &Path) -> Plugin {
    let plugin = host.load(path).expect("a library loads");
    host.loader.settle_indexes();
    plugin
}

/// What the reader says of a link-time address of the plugin.
fn resolve(plugin: &Plugin, svma: usize) -> Resolved {
    let found = SymbolReader::new().resolve(plugin.range().0 + svma);
    found.expect("inside the plugin")
}

/// The name and the offset.
fn named(plugin: &Plugin, svma: usize) -> (String, u64) {
    let found = resolve(plugin, svma);
    (found.symbol.as_str().to_owned(), found.offset)
}

const LOCAL: &str = r"
__attribute__((noinline, aligned(64))) static int hidden_one(int n) {
    volatile int sum = 0;
    for (int i = 0; i < n; i++) sum += i * n;
    return sum;
}
int shown(int n) { return hidden_one(n) + hidden_one(n + 1); }
int last(int n) { return n; }
";

#[test]
fn local_function_is_named_by_the_symtab_or_else_by_its_start() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        let whole = library(&scratch, "whole", LOCAL, &[]);
        let stripped = scratch.path().join("stripped.so");
        let status = Command::new("strip")
            .arg("-o")
            .args([&stripped, &whole])
            .status();
        assert!(status.expect("strip").success());
        let at = address(&whole, "hidden_one");

        let plugin = load(&host, &whole);
        assert_eq!(named(&plugin, at), ("hidden_one".into(), 0));
        assert_eq!(named(&plugin, at + 5), ("hidden_one".into(), 5));
        // A local function has no address by its name.
        assert_eq!(plugin.address_of("hidden_one"), None);

        let plugin = load(&host, &stripped);
        assert_eq!(named(&plugin, at), (format!("fn@+{at:#x}"), 0));
        let inside = resolve(&plugin, at + 5);
        assert_eq!(inside.symbol.as_str(), format!("fn@+{at:#x}"));
        assert_eq!(
            (inside.offset, inside.symbol_start),
            (5, plugin.range().0 + at)
        );
        assert_eq!(
            named(&plugin, address(&whole, "shown") + 1),
            ("shown".into(), 1)
        );
        // Before all functions, and in the headers.
        assert_eq!(named(&plugin, 8), (String::new(), 8));
    });
}

#[test]
fn address_behind_a_named_function_has_no_name() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        let text = "__attribute__((aligned(256))) int first(int n) { return n; }\n\
                    __attribute__((aligned(256))) int second(int n) { return n; }\n\
                    __attribute__((aligned(256))) int third(int n) { return n; }\n";
        let path = library(&scratch, "padded", text, &[]);
        let at = address(&path, "first").min(address(&path, "second"));
        let plugin = load(&host, &path);
        let found = resolve(&plugin, at);
        assert_eq!(found.offset, 0);
        let end = at + usize::try_from(found.symbol_size).expect("small");
        assert_eq!(named(&plugin, end - 1).0, found.symbol.as_str());
        for behind in [end, end + 1, at + 255] {
            assert_eq!(named(&plugin, behind).0, "", "{behind:#x}");
        }
    });
}

#[test]
fn aliases_empty_nested_and_resolved_symbols_cover_what_they_say() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        let text = r#"
int data[64];
int plain(int n) { return n; }
int strong(int n) { return n * 3; }
__attribute__((weak, alias("strong"))) int weaker(int n);
static int chosen(int x) { return x * 2; }
static int (*pick(void))(int) { return chosen; }
int twice(int) __attribute__((ifunc("pick")));
__asm__(".text\n"
        ".globl outer\n.type outer, @function\nouter:\n.skip 32, 0x90\n"
        ".globl inner\n.type inner, @function\ninner:\n.skip 16, 0x90\n.size inner, 16\n"
        ".globl mark\n.type mark, @notype\nmark:\n.skip 16, 0x90\n"
        ".size outer, .-outer\nret\n");
"#;
        let path = library(&scratch, "shapes", text, &[]);
        let plugin = load(&host, &path);
        let at = |name: &str| address(&path, name);
        // Strong before weak, and both have the address by name.
        assert_eq!(named(&plugin, at("weaker") + 1), ("strong".into(), 1));
        assert_eq!(plugin.address_of("weaker"), plugin.address_of("strong"));
        // The one that starts last, then the outer one again.
        let outer = at("outer");
        assert_eq!(named(&plugin, outer + 31), ("outer".into(), 31));
        assert_eq!(named(&plugin, outer + 32), ("inner".into(), 0));
        assert_eq!(named(&plugin, outer + 47), ("inner".into(), 15));
        assert_eq!(named(&plugin, outer + 48), ("mark".into(), 0));
        assert_eq!(named(&plugin, outer + 49), ("outer".into(), 49));
        assert_eq!(named(&plugin, outer + 63), ("outer".into(), 63));
        assert_ne!(named(&plugin, outer + 64).0, "outer");
        // Data, to its last byte.
        assert_eq!(named(&plugin, at("data") + 255), ("data".into(), 255));
        assert_ne!(named(&plugin, at("data") + 256).0, "data");
        // An IFUNC covers its resolver, and is called through it.
        let base = plugin.range().0;
        assert_eq!(plugin.address_of("twice"), Some(base + at("twice")));
        assert_eq!(named(&plugin, at("pick")).1, 0);
        let twice = plugin
            .function::<unsafe extern "C" fn(i32) -> i32>("twice")
            .expect("exported");
        // SAFETY: the signature is the source's.
        assert_eq!(unsafe { twice.call((21,)) }, Ok(42));
    });
}

#[test]
fn crowded_addresses_are_all_told_apart() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        // A thousand functions of a byte each, then a large hole.
        let functions: String = (0..1000)
            .map(|n| format!(".globl c{n}\n.type c{n}, @function\nc{n}: ret\n.size c{n}, 1\n"))
            .collect();
        let text = format!(
            ".text\n.globl begin\nbegin:\n{functions}.skip 4194304, 0x90\n\
             .globl far\n.type far, @function\nfar: ret\n.size far, 1\n\
             .section .note.GNU-stack,\"\",@progbits\n"
        );
        let source = scratch.write("crowd.s", &text);
        let path = scratch.path().join("crowd.so");
        let status = Command::new("gcc")
            .arg("-shared")
            .arg("-o")
            .args([&path, &source])
            .status();
        assert!(status.expect("gcc").success());
        let plugin = load(&host, &path);
        let first = address(&path, "c0");
        for n in 0..1000 {
            assert_eq!(named(&plugin, first + n), (format!("c{n}"), 0));
        }
        let hole = resolve(&plugin, first + 1000);
        assert_eq!(hole.symbol.as_str(), "");
        assert_eq!(named(&plugin, address(&path, "far")), ("far".into(), 0));
    });
}

#[test]
fn long_name_is_cut_and_says_so() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        let (long, fits) = ("n".repeat(5000), "f".repeat(251));
        let text =
            format!("int {long}(int n) {{ return n; }}\nint {fits}(int n) {{ return -n; }}\n");
        let path = library(&scratch, "long", &text, &[]);
        let plugin = load(&host, &path);
        let found = resolve(&plugin, address(&path, &long));
        assert!(found.symbol.is_truncated());
        assert_eq!(found.symbol.as_bytes(), &long.as_bytes()[..251]);
        let found = resolve(&plugin, address(&path, &fits));
        assert!(!found.symbol.is_truncated());
        assert_eq!(found.symbol.as_str(), fits);
        // The loader has it whole, and finds it.
        let at = plugin.address_of(&long).expect("exported");
        let whole = host
            .loader
            .resolve_at(plugin.generation(), at)
            .expect("inside");
        assert_eq!(whole.symbol, long);
    });
}

#[test]
fn names_are_found_by_either_hash_table() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        for style in ["gnu", "sysv", "both"] {
            let flag = format!("-Wl,--hash-style={style}");
            let path = library(&scratch, style, LOCAL, &[&flag]);
            let plugin = load(&host, &path);
            let base = plugin.range().0;
            for name in ["shown", "last"] {
                let at = Some(base + address(&path, name));
                assert_eq!(plugin.address_of(name), at, "{style} {name}");
            }
            for name in ["", "hidden_one", "sho", "shown_", "malloc"] {
                assert_eq!(plugin.address_of(name), None, "{style} {name}");
            }
        }
    });
}

#[test]
fn of_several_versions_the_default_one_has_the_name() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        let text = r#"
int first(int x) { return x; }
int second(int x) { return x + 2; }
int old(int x) { return x + 3; }
__asm__(".symver first, add@V1\n.symver second, add@@V2\n.symver old, retired@V1");
"#;
        let map = scratch.write("map", "V1 { global: *; }; V2 { } V1;\n");
        let script = format!("-Wl,--version-script={}", map.display());
        for style in ["gnu", "sysv"] {
            let hash = format!("-Wl,--hash-style={style}");
            let name = format!("versions-{style}");
            let path = library(&scratch, &name, text, &[&script, &hash]);
            let plugin = load(&host, &path);
            let base = plugin.range().0;
            assert_eq!(
                plugin.address_of("add"),
                Some(base + address(&path, "second"))
            );
            // Though .symtab has the version as a part of the name.
            let (name, offset) = named(&plugin, address(&path, "second"));
            assert!(["add", "second"].contains(&&*name) && offset == 0, "{name}");
            // As for dlsym: only what was linked against it long ago may use it.
            assert_eq!(plugin.address_of("retired"), None);
        }
    });
}

#[test]
fn addresses_of_a_plugin_that_left_are_told_by_its_generation() {
    isolated!({
        let host = Host::new();
        let reader = SymbolReader::new();
        let none = reader.sequence();
        let first = host.useful("base64");
        let loaded = reader.sequence();
        assert!(loaded > none);
        let at = first.address_of("base64_encode").expect("exported") + 4;
        let Some(Location { generation, .. }) = reader.locate(at) else {
            panic!("nobody's");
        };
        assert_eq!(generation, first.generation());
        let now = host.loader.resolve_at(generation, at).expect("inside");
        assert_eq!((now.symbol.as_str(), now.offset), ("base64_encode", 4));
        assert_eq!(now.since, None);
        assert_eq!(reader.sequence(), loaded, "asking changes nothing");
        host.unload("base64");
        let left = reader.sequence();
        assert!(left > loaded);

        // Others come to lie there; neither takes the other's addresses.
        let mut met = 0;
        for _ in 0..20 {
            let other = host.useful("wordcount");
            let (start, end) = other.range();
            let late = host.loader.resolve_at(generation, at).expect("kept");
            assert_eq!(
                (late.plugin.name(), late.plugin.version()),
                ("base64", first.version())
            );
            assert_eq!((late.symbol.as_str(), late.offset), ("base64_encode", 4));
            assert!(late.since.is_some());
            assert_eq!(late.plugin.state(), State::Empty);
            let here = host.loader.resolve_at(other.generation(), at);
            let covers = (start..end).contains(&at);
            met += usize::from(covers);
            assert_eq!(here.is_some(), covers);
            assert!(here.is_none_or(|here| here.plugin.name() == "wordcount"));
            assert_eq!(reader.resolve(at).is_some(), covers);
            host.unload("wordcount");
        }
        println!("the address was reused {met} times");
        let (start, end) = first.range();
        assert!(host.loader.resolve_at(generation, end).is_none());
        let first = host
            .loader
            .resolve_at(generation, start)
            .expect("its first byte");
        assert_eq!((first.symbol.as_str(), first.offset), ("", 0));
        assert!(host.loader.resolve_at(generation + 1000, at).is_none());
        assert!(host.loader.resolve_at(0, at).is_none());
        // 64 are kept.
        for _ in 0..64 {
            host.useful("wordcount");
            host.unload("wordcount");
        }
        assert!(host.loader.resolve_at(generation, at).is_none());
    });
}

#[test]
fn a_load_is_told_at_every_moment_of_its_unload() {
    isolated!({
        static DONE: AtomicBool = AtomicBool::new(false);
        let host = Host::new();
        let plugin = host.useful("base64");
        let generation = plugin.generation();
        let at = plugin.address_of("base64_encode").expect("exported");
        let loader = host.loader.clone();
        set_hook(move |point| {
            if point.starts_with("unload.") {
                // On a thread of its own: this one may hold anything.
                let loader = loader.clone();
                let asked = thread::spawn(move || loader.resolve_at(generation, at));
                let found = asked.join().expect("no panic").expect(point);
                assert_eq!(found.symbol, "base64_encode");
                DONE.store(point == "unload.release", Ordering::SeqCst);
            }
            Verdict::Pass
        });
        let unloaded = host.loader.unload_exactly(&plugin, seconds(10));
        assert!(unloaded.is_ok(), "{unloaded:?}");
        assert!(DONE.load(Ordering::SeqCst));
        assert!(host.loader.resolve_at(generation, at).is_some());
    });
}

#[test]
fn addresses_in_a_file_without_hash_tables_are_named() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("naming");
        let path = library(&scratch, "hashless", LOCAL, &["-Wl,--hash-style=gnu"]);
        let mut bytes = fs::read(&path).expect("library");
        // DT_GNU_HASH becomes a tag that nobody knows.
        let tag = 0x6fff_fef5_u64.to_le_bytes();
        let at = bytes.windows(8).position(|eight| eight == tag);
        let at = at.expect("the tag");
        bytes[at..at + 8].copy_from_slice(&0x6fff_fd00_u64.to_le_bytes());
        let bare = scratch.path().join("bare.so");
        fs::write(&bare, bytes).expect("copy");
        let plugin = load(&host, &bare);
        for name in ["hidden_one", "shown", "last"] {
            assert_eq!(named(&plugin, address(&path, name)), (name.into(), 0));
        }
        // dlsym finds nothing there, either: no table says how many symbols there are.
        assert_eq!(plugin.address_of("shown"), None);
    });
}
