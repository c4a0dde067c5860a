//! The image floor against the system's own tools: `nm`, `readelf`, `gcc` and ld.so.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, CString, c_int, c_void};
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use plug_loader::image::{
    Backing, Binding, Facts, FileKey, Image, ImageError, Info, Inspection, Opened, REMOVED_TAG,
    RewritePolicy, Rule, SymbolKind, next_nonce, plan,
};

/// A folder that is removed with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("image-test-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn compile(&self, name: &str, language: &str, source: &str, flags: &[&str]) -> PathBuf {
        let out = self.0.join(name);
        let extension = if language == "c++" { "cc" } else { "c" };
        let input = self.0.join(format!("{name}.{extension}"));
        fs::write(&input, source).unwrap();
        let compiler = if language == "c++" { "g++" } else { "gcc" };
        let output = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-g0"])
            .args(["-Wl,--build-id=sha1", "-o"])
            .arg(&out)
            .arg(&input)
            .args(flags)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        out
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const C: &str = r#"
#include <stdlib.h>
int built, torn;
static int hidden = 7;
int data_word = 42;
const char table[300] = "x";
_Thread_local int per_thread = 3;
int *escape = &hidden;
__attribute__((constructor)) static void build(void) { built += 1; }
__attribute__((destructor)) static void tear(void) { torn = 1; }
void _init_like(void) { built += 10; }
__attribute__((weak)) int weak_one(int x) { return x + 1; }
int add(int a, int b) { return a + b + hidden + per_thread; }
static int chosen(int x) { return x * 2; }
static int (*pick(void))(int) { return chosen; }
int twice(int) __attribute__((ifunc("pick")));
char *grab(void) { return malloc(atoi("12")); }
"#;

const CPP: &str = r#"
#include <string>
#include <map>
struct Registry { inline static std::map<std::string, int> all; };
template <class T> int &counter() { static int n; return n; }
extern "C" int count(const char *name) { counter<int>()++; return Registry::all[name] += 1; }
"#;

const META: &str = r#"
__attribute__((used, aligned(1), section(".plug.meta")))
const char plug_meta_v1[] = "name=my-codec\0version=1.2.3\0description=does a=b things\0license=MIT\0api=1\0panic=unwind\0interface=plug.filter/1.3\0service=clock/2.0\0";
__attribute__((used, aligned(1), section(".plug.meta")))
const char plug_meta_v1_export_encode[] = "export=encode:int(const char *, int)";
int encode(const char *p, int n) { return p[n]; }
"#;

/// name, version text removed → (value, size, nm's letter); what several versions share, several.
type Symbols = Vec<(String, u64, u64)>;

fn nm(path: &Path) -> Option<Symbols> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only", "-S", "--without-symbol-versions"])
        .arg(path)
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut symbols = Symbols::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |word: &str| u64::from_str_radix(word, 16).unwrap();
        match words.as_slice() {
            [value, size, letter, name] if letter.len() == 1 => {
                symbols.push(((*name).into(), hex(value), hex(size)));
            }
            [value, letter, name] if letter.len() == 1 => {
                symbols.push(((*name).into(), hex(value), 0));
            }
            _ => panic!("nm said {line:?}"),
        }
    }
    symbols.sort();
    Some(symbols)
}

fn own_symbols(bytes: &[u8], facts: &Facts) -> Symbols {
    let mut symbols: Symbols = facts
        .symbols(bytes)
        .iter()
        .filter(|symbol| symbol.kind != SymbolKind::Other)
        .map(|symbol| {
            let name = String::from_utf8_lossy(facts.symbol_name(bytes, symbol)).into_owned();
            (name, symbol.value, symbol.size)
        })
        .collect();
    symbols.sort();
    symbols
}

fn readelf(path: &Path) -> String {
    let output = Command::new("readelf")
        .arg("-dW")
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The `[bracketed]` texts of the lines with this tag.
fn bracketed(readelf: &str, tag: &str) -> Vec<String> {
    let tag = format!("({tag})");
    let lines = readelf.lines().filter(|line| line.contains(&tag));
    lines
        .filter_map(|line| Some(line.split_once('[')?.1.rsplit_once(']')?.0.to_owned()))
        .collect()
}

fn check_against_tools(path: &Path, without_sections: &Path) {
    let bytes = fs::read(path).unwrap();
    let facts = Facts::read(&bytes).unwrap_or_else(|damage| panic!("{path:?}: {damage}"));
    assert_eq!(own_symbols(&bytes, &facts), nm(path).unwrap(), "{path:?}");
    let said = readelf(path);
    assert_eq!(facts.needed, bracketed(&said, "NEEDED"), "{path:?}");
    assert_eq!(
        facts.soname.iter().cloned().collect::<Vec<_>>(),
        bracketed(&said, "SONAME")
    );
    assert_eq!(
        facts.runpath.iter().cloned().collect::<Vec<_>>(),
        bracketed(&said, "RUNPATH")
    );
    assert_eq!(facts.nodelete(), said.contains("NODELETE"), "{path:?}");
    assert_eq!(facts.init.is_some(), said.contains("(INIT)"));
    assert_eq!(facts.init_array.is_some(), said.contains("(INIT_ARRAY)"));

    let mut cut = bytes.clone();
    for field in [0x28..0x30, 0x3a + 2..0x40] {
        cut[field].fill(0);
    }
    fs::write(without_sections, &cut).unwrap();
    let again = Facts::read(&cut).unwrap();
    assert_eq!(own_symbols(&cut, &again), own_symbols(&bytes, &facts));
    assert_eq!(
        (again.needed, again.build_id),
        (facts.needed, facts.build_id)
    );
}

/// Source, compiler and flags of one library per feature.
fn variants(scratch: &Scratch) -> Vec<PathBuf> {
    let map = scratch.write(
        "map",
        b"V1 { global: add; twice; }; V2 { global: weak_one; } V1;\n",
    );
    let script = format!("-Wl,--version-script={}", map.display());
    let relr = "-Wl,-z,pack-relative-relocs";
    let c: &[(&str, &[&str])] = &[
        ("plain.so", &[]),
        ("soname.so", &["-Wl,-soname,libsomething.so.1"]),
        ("gnu.so", &["-Wl,--hash-style=gnu"]),
        ("sysv.so", &["-Wl,--hash-style=sysv"]),
        ("both.so", &["-Wl,--hash-style=both"]),
        ("relr.so", &[relr]),
        ("nodelete.so", &["-Wl,-z,nodelete"]),
        ("versions.so", &[&script, "-Wl,-soname,libversions.so.2"]),
        (
            "runpath.so",
            &["-Wl,-rpath,/opt/x:$ORIGIN", "-Wl,--enable-new-dtags"],
        ),
        ("lazy.so", &["-Wl,-z,lazy", "-Wl,-init,_init_like"]),
        ("gold.so", &["-fuse-ld=gold"]),
    ];
    let mut paths: Vec<PathBuf> = c
        .iter()
        .map(|(name, flags)| scratch.compile(name, "c", C, flags))
        .collect();
    paths.push(scratch.compile("unique.so", "c++", CPP, &[]));
    paths.push(scratch.compile("meta.so", "c", META, &[]));
    paths
}

#[test]
fn facts_of_compiled_libraries_equal_what_nm_and_readelf_say() {
    let scratch = Scratch::new();
    for path in variants(&scratch) {
        check_against_tools(&path, &scratch.0.join("cut.so"));
    }
}

#[test]
fn facts_name_what_each_feature_is() {
    let scratch = Scratch::new();
    let facts = |name: &str| Facts::read(&fs::read(scratch.0.join(name)).unwrap()).unwrap();
    variants(&scratch);
    let plain = facts("plain.so");
    assert_eq!(plain.build_id.as_ref().map(Vec::len), Some(20));
    assert!(plain.tls.is_some() && plain.relro.is_some() && plain.eh_frame_hdr.is_some());
    assert!(!plain.exec_stack && !plain.textrel && plain.soname.is_none());
    // crtbeginS.o defines __dso_handle in every shared object.
    assert_eq!(plain.dso_handles.len(), 1, "{:x?}", plain.dso_handles);
    assert_eq!(facts("relr.so").dso_handles.len(), 1);
    assert!(facts("nodelete.so").nodelete());
    let unique = facts("unique.so");
    assert!(unique.n_unique > 0);
    assert_eq!(
        unique.n_unique,
        unique
            .symbols(&fs::read(scratch.0.join("unique.so")).unwrap())
            .iter()
            .filter(|s| s.binding == Binding::Unique)
            .count()
    );
    let kinds = plain.symbols(&fs::read(scratch.0.join("plain.so")).unwrap());
    let kinds: Vec<SymbolKind> = kinds.iter().map(|s| s.kind).collect();
    for kind in [
        SymbolKind::Func,
        SymbolKind::Object,
        SymbolKind::Ifunc,
        SymbolKind::Tls,
    ] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
}

#[test]
fn foreign_machines_and_other_files_are_refused_by_name() {
    let scratch = Scratch::new();
    let intact = fs::read(scratch.compile("x.so", "c", C, &[])).unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = intact.clone();
        bytes[at] = value;
        Facts::read(&bytes).unwrap_err().to_string()
    };
    assert_eq!(
        with(18, 183),
        "ELF header at 0x12: expected x86-64, found aarch64"
    );
    assert_eq!(
        with(4, 1),
        "ELF header at 0x4: expected 64-bit, found 32-bit"
    );
    assert_eq!(
        with(5, 2),
        "ELF header at 0x5: expected little-endian, found big-endian"
    );
    assert!(with(16, 2).contains("an executable (ET_EXEC)"));
    assert!(Facts::read(b"").is_err() && Facts::read(b"!<arch>\n").is_err());
    let error = Opened::open("/dev/null").unwrap_err();
    assert!(matches!(error, ImageError::NotRegular { .. }), "{error}");
    assert!(matches!(
        Opened::open("/no/such"),
        Err(ImageError::Read { .. })
    ));
    let limited = Opened::open_limited(&scratch.0.join("x.so"), 100).unwrap_err();
    assert!(
        matches!(limited, ImageError::TooLarge { limit: 100, .. }),
        "{limited}"
    );
}

#[test]
fn info_reads_the_authors_metadata() {
    let scratch = Scratch::new();
    let seen = Inspection::of_file(scratch.compile("meta.so", "c", META, &[])).unwrap();
    let info = &seen.info;
    assert_eq!(seen.name, "my-codec");
    assert_eq!(
        (info.version(), info.license()),
        (Some("1.2.3"), Some("MIT"))
    );
    assert_eq!(info.description(), Some("does a=b things"));
    assert_eq!((info.api(), info.panic()), (Some("1"), Some("unwind")));
    let offer = info.interfaces().next().unwrap();
    assert_eq!(
        (offer.name, offer.major, offer.minor),
        ("plug.filter", 1, 3)
    );
    assert_eq!(info.services().next().unwrap().name, "clock");
    let export = info.exports().next().unwrap();
    assert_eq!(
        (export.name, export.signature),
        ("encode", "int(const char *, int)")
    );
    assert!(!info.is_foreign());

    let foreign = Inspection::of_file(scratch.compile("libfoo.so.1", "c", C, &[])).unwrap();
    assert!(foreign.info.is_foreign());
    assert_eq!(foreign.name, "foo");
    assert!(
        foreign
            .symbols
            .iter()
            .any(|s| s.name == "add" && s.kind == SymbolKind::Func)
    );
}

#[test]
fn info_refuses_malformed_metadata_by_symbol_and_offset() {
    let scratch = Scratch::new();
    for (text, expected) in [
        ("name=x\\0nothing\\0", "key=value"),
        ("name=../x\\0", "a name of 1 to 64 of A-Z a-z 0-9 _ -"),
        ("name=\\0", "a name of 1 to 64 of A-Z a-z 0-9 _ -"),
        ("name=x\\0description=\\xff\\xfe\\0", "UTF-8"),
        ("name=x\\0description=a\\x1b[2J\\0", "no control characters"),
        ("name=x\\0name=y\\0", "one name"),
        ("version=1\\0", "a name= somewhere"),
        ("name=x\\0interface=filter\\0", "NAME/MAJOR.MINOR"),
        ("name=x\\0export=f\\0", "NAME:SIGNATURE"),
        ("name=x\\0=y\\0", "key=value"),
    ] {
        let source = format!("const char plug_meta_v1[] = \"{text}\";");
        let bytes = fs::read(scratch.compile("bad.so", "c", &source, &[])).unwrap();
        let error = Info::read(&Facts::read(&bytes).unwrap(), &bytes).unwrap_err();
        assert_eq!(error.expected, expected, "{text}: {error}");
        assert_eq!(error.symbol, "plug_meta_v1");
        assert!(error.offset > 0);
    }
    let huge = "const char plug_meta_v1[70000] = \"name=x\";";
    let bytes = fs::read(scratch.compile("huge.so", "c", huge, &[])).unwrap();
    let error = Info::read(&Facts::read(&bytes).unwrap(), &bytes).unwrap_err();
    assert_eq!(error.expected, "at most 65536 bytes in all");
}

/// Runs nothing of the plugin: only maps, relocates and looks around.
fn dlopen(path: &CStr, flags: c_int) -> *mut c_void {
    unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL | flags) }
}

fn word(handle: *mut c_void, name: &CStr) -> c_int {
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert!(!address.is_null(), "{name:?}");
    unsafe { address.cast::<c_int>().read() }
}

#[test]
fn edited_copy_runs_no_constructor_and_hides_its_soname() {
    let scratch = Scratch::new();
    let flags = ["-Wl,-soname,libimage-hidden.so.1", "-Wl,-init,_init_like"];
    let path = scratch.compile("ctor.so", "c", C, &flags);
    let opened = Opened::open(&path).unwrap();
    for backing in [Backing::Memory, Backing::File] {
        let mut staged = opened.stage_in("ctor", backing).unwrap();
        assert_eq!(staged.bytes(), fs::read(&path).unwrap());
        let facts = Facts::read(staged.bytes()).unwrap();
        let edits = plan(&facts, staged.bytes(), &RewritePolicy::new(next_nonce()));
        staged.edit(&edits).unwrap();
        staged.seal().unwrap();
        assert!(staged.edit(&edits).is_err(), "sealed");
        let key = staged.key().unwrap();
        let link = staged.link("ctor", facts.build_id.as_deref()).unwrap();
        assert_eq!((link.key().unwrap(), link.backing()), (key, backing));

        let said = readelf(link.as_path());
        for gone in [
            "(INIT)",
            "(INIT_ARRAY)",
            "(INIT_ARRAYSZ)",
            "(FINI)",
            "(FINI_ARRAY)",
        ] {
            assert!(!said.contains(gone), "{said}");
        }
        assert!(!said.contains("libimage-hidden"), "{said}");
        assert!(said.contains(&format!("{:x}", REMOVED_TAG + 25)), "{said}");

        assert!(dlopen(link.path(), libc::RTLD_NOLOAD).is_null());
        let handle = dlopen(link.path(), 0);
        assert!(!handle.is_null(), "{:?}", unsafe {
            CStr::from_ptr(libc::dlerror())
        });
        assert_eq!(word(handle, c"built"), 0);
        assert_eq!(word(handle, c"data_word"), 42);
        assert!(dlopen(c"libimage-hidden.so.1", libc::RTLD_NOLOAD).is_null());
        assert!(is_mapped(key));
        assert_eq!(unsafe { libc::dlclose(handle) }, 0);
        assert!(!is_mapped(key));
    }
    // The same file unedited does both, so the checks above can fail.
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let handle = dlopen(&path, 0);
    assert_eq!(word(handle, c"built"), 11);
    let found = dlopen(c"libimage-hidden.so.1", libc::RTLD_NOLOAD);
    assert_eq!(found, handle);
    unsafe { libc::dlclose(found) };
    unsafe { libc::dlclose(handle) };
}

fn is_mapped(key: FileKey) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let (major, minor) = (libc::major(key.dev), libc::minor(key.dev));
    let wanted = format!(" {major:02x}:{minor:02x} {} ", key.ino);
    maps.lines().any(|line| line.contains(&wanted))
}

#[test]
fn edited_copies_load_and_leave_unless_nodelete() {
    // A plugin that is the first to load libstdc++ would be bound back to by it.
    assert!(!dlopen(c"libstdc++.so.6", 0).is_null());
    let scratch = Scratch::new();
    for path in variants(&scratch) {
        let opened = Opened::open(&path).unwrap();
        let policy = RewritePolicy::new(next_nonce());
        let image = Image::prepare(&opened, &policy, None).unwrap();
        let nodelete = image.facts.nodelete();
        let link = image
            .staged
            .link(&image.name, image.facts.build_id.as_deref())
            .unwrap();
        let handle = dlopen(link.path(), 0);
        assert!(!handle.is_null(), "{path:?}: {:?}", unsafe {
            CStr::from_ptr(libc::dlerror())
        });
        assert!(is_mapped(link.key().unwrap()), "{path:?}");
        unsafe { libc::dlclose(handle) };
        assert_eq!(is_mapped(link.key().unwrap()), nodelete, "{path:?}");
    }
}

#[test]
fn plan_renames_the_soname_unless_its_bytes_are_shared() {
    let scratch = Scratch::new();
    let soname_edit = |name: &str, source: &str, flags: &[&str]| {
        let bytes = fs::read(scratch.compile(name, "c", source, flags)).unwrap();
        let facts = Facts::read(&bytes).unwrap();
        let mut policy = RewritePolicy::new(77);
        policy.unique = Rule::Honour;
        let edits = plan(&facts, &bytes, &policy);
        let again = plan(&facts, &bytes, &policy);
        assert_eq!(edits, again);
        let mut edited = bytes.clone();
        for edit in &edits {
            let at = usize::try_from(edit.offset).unwrap();
            edited[at..at + edit.bytes.len()].copy_from_slice(&edit.bytes);
        }
        let after = Facts::read(&edited).unwrap();
        assert_eq!(own_symbols(&edited, &after), own_symbols(&bytes, &facts));
        assert_eq!(after.needed, facts.needed);
        let what = edits
            .iter()
            .find(|edit| edit.structure == "DT_SONAME")
            .unwrap();
        (after.soname, what.to_string())
    };
    let int = "int f(void) { return 1; }";
    let (soname, what) = soname_edit("a.so", int, &["-Wl,-soname,libplain.so.1"]);
    assert_eq!(soname.as_deref(), Some("~0000025~~~~~"), "{what}");
    // Too short for a nonce.
    let (soname, what) = soname_edit("b.so", int, &["-Wl,-soname,a.so"]);
    assert_eq!(soname, None, "{what}");
    // The SONAME is the tail of a symbol's name, or the whole of it, or a NEEDED one ends in it.
    let tail = "int my_shared_name(void) { return 1; }";
    for soname in ["shared_name", "my_shared_name"] {
        let flag = format!("-Wl,-soname,{soname}");
        let (soname, what) = soname_edit("c.so", tail, &[&flag]);
        assert_eq!(soname, None, "{what}");
    }
    let undefined = "int my_import_name(void); int f(void) { return my_import_name(); }";
    let (soname, what) = soname_edit("d.so", undefined, &["-Wl,-soname,import_name"]);
    assert_eq!(soname, None, "{what}");
    // The base version names the SONAME itself and is renamed with it.
    let map = scratch.write("v.map", b"V1 { global: f; };\n");
    let script = format!("-Wl,--version-script={}", map.display());
    let flags = ["-Wl,-soname,libversioned.so.1", &script];
    let (soname, what) = soname_edit("e.so", int, &flags);
    assert!(soname.is_some_and(|name| name.starts_with('~')), "{what}");
    // A named version of the same name does not allow it.
    let map = scratch.write("w.map", b"libversioned.so.1 { global: f; };\n");
    let script = format!("-Wl,--version-script={}", map.display());
    let (soname, what) = soname_edit("f.so", int, &["-Wl,-soname,libversioned.so.1", &script]);
    assert_eq!(soname, None, "{what}");
}

#[test]
fn plan_follows_the_policy_for_unique_and_nodelete() {
    let scratch = Scratch::new();
    let bytes = fs::read(scratch.compile("u.so", "c++", CPP, &["-Wl,-z,nodelete"])).unwrap();
    let facts = Facts::read(&bytes).unwrap();
    let apply = |policy: &RewritePolicy| {
        let mut edited = bytes.clone();
        for edit in plan(&facts, &bytes, policy) {
            let at = usize::try_from(edit.offset).unwrap();
            edited[at..at + edit.bytes.len()].copy_from_slice(&edit.bytes);
        }
        let facts = Facts::read(&edited).unwrap();
        (facts, edited)
    };
    let mut policy = RewritePolicy::new(1);
    let (after, edited) = apply(&policy);
    assert!(facts.n_unique > 0 && facts.nodelete());
    assert_eq!((after.n_unique, after.nodelete()), (0, true));
    assert_eq!(after.symbols(&edited).len(), facts.symbols(&bytes).len());
    policy.unique = Rule::Honour;
    policy.nodelete = Rule::Neutralise;
    let (after, _) = apply(&policy);
    assert_eq!((after.n_unique, after.nodelete()), (facts.n_unique, false));
}

#[test]
fn staging_a_thousand_times_repeats_no_name_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.compile("many.so", "c", "int f(void) { return 1; }", &[]);
    let opened = Opened::open(&path).unwrap();
    let mut seen = BTreeMap::new();
    let mut keys = Vec::new();
    let mut folder = PathBuf::new();
    for round in 0..1000u32 {
        let backing = if round % 10 == 0 {
            Backing::File
        } else {
            Backing::Memory
        };
        let staged = opened.stage_in("many", backing).unwrap();
        let link = staged.link("many", None).unwrap();
        assert!(seen.insert(link.path().to_owned(), round).is_none());
        assert_eq!(
            fs::read(link.as_path()).unwrap().len() as u64,
            opened.size()
        );
        folder = link.as_path().parent().unwrap().to_owned();
        keys.push((link.as_raw_fd_path(), link.key().unwrap()));
    }
    for (fd, key) in keys {
        use std::os::unix::fs::MetadataExt;
        let open = fs::metadata(fd).ok().map(|m| FileKey {
            dev: m.dev(),
            ino: m.ino(),
        });
        assert_ne!(open, Some(key), "descriptor left open");
        assert!(!is_mapped(key));
    }
    let left: Vec<_> = fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
        .unwrap_or_default();
    let left: Vec<_> = left
        .iter()
        .filter(|name: &&std::ffi::OsString| {
            seen.keys().any(|p| p.to_bytes().ends_with(name.as_bytes()))
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

trait FdPath {
    fn as_raw_fd_path(&self) -> PathBuf;
}

impl FdPath for plug_loader::image::StageLink {
    fn as_raw_fd_path(&self) -> PathBuf {
        use std::os::fd::AsFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.as_fd().as_raw_fd()))
    }
}

#[test]
fn sealed_copy_survives_what_happens_to_the_original() {
    let scratch = Scratch::new();
    let path = scratch.compile("seal.so", "c", C, &[]);
    let original = fs::read(&path).unwrap();
    let image = Image::prepare(
        &Opened::open(&path).unwrap(),
        &RewritePolicy::new(next_nonce()),
        None,
    );
    let image = image.unwrap();
    assert_eq!(
        (image.name.as_str(), image.staged.backing()),
        ("seal", Backing::Memory)
    );
    assert!(!image.edits.is_empty());
    fs::write(&path, b"overwritten in place").unwrap();
    assert_eq!(image.staged.bytes().len(), original.len());
    let link = image
        .staged
        .link(&image.name, image.facts.build_id.as_deref())
        .unwrap();
    let proc = link.as_raw_fd_path();
    let write = fs::OpenOptions::new()
        .write(true)
        .open(&proc)
        .and_then(|mut f| f.write(b"x"));
    assert!(write.is_err(), "the seal holds against this process too");
    assert!(Facts::read(&fs::read(link.as_path()).unwrap()).is_ok());
}

#[test]
fn file_that_shrinks_or_changes_before_the_copy_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.compile("shrink.so", "c", C, &[]);
    let opened = Opened::open(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1000).unwrap();
    let error = opened.stage("shrink").unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
    file.set_len(opened.size() + 1).unwrap();
    let error = opened.stage("shrink").unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
}

#[test]
fn requested_name_that_is_none_is_refused() {
    let scratch = Scratch::new();
    let opened = Opened::open(scratch.compile("n.so", "c", C, &[])).unwrap();
    let policy = RewritePolicy::new(next_nonce());
    let error = Image::prepare(&opened, &policy, Some("../evil")).unwrap_err();
    assert!(matches!(error, ImageError::Name { .. }), "{error}");
    assert_eq!(
        Image::prepare(&opened, &policy, Some("other"))
            .unwrap()
            .name,
        "other"
    );
}

#[test]
fn mutated_files_neither_panic_nor_hang() {
    let scratch = Scratch::new();
    let seed = env::var("PLUG_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0x5eed_1234);
    println!("PLUG_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let mut n_refused = 0;
    let mut slowest = Duration::ZERO;
    let script = scratch.write(
        "map",
        b"V1 { global: add; twice; }; V2 { global: weak_one; } V1;\n",
    );
    let script = format!("-Wl,--version-script={}", script.display());
    let flags = [
        &script,
        "-Wl,--hash-style=both",
        "-Wl,-z,pack-relative-relocs",
        "-Wl,-soname,libm.so.1",
    ];
    let with_meta = format!("{C}{META}");
    let samples = [
        scratch.compile("m.so", "c", &with_meta, &flags),
        scratch.compile("m++.so", "c++", CPP, &[]),
    ];
    for path in samples {
        let intact = fs::read(path).unwrap();
        // Most of the structure lies in the first page or two and before the section headers.
        let facts = Facts::read(&intact).unwrap();
        let dynamic = facts.offset_at(facts.dynamic.vaddr, 1).unwrap() as usize;
        for round in 0..3000 {
            let mut bytes = intact.clone();
            for _ in 0..=random.usize(..3) {
                let at = match random.usize(..4) {
                    0 => random.usize(..0x1000),
                    1 => dynamic + random.usize(..facts.dynamic.size as usize),
                    _ => random.usize(..bytes.len()),
                };
                match random.usize(..3) {
                    0 => bytes[at] ^= 1 << random.usize(..8),
                    kind => {
                        let width = if kind == 1 { 4 } else { 8 };
                        let at = at & !(width - 1);
                        let field = u64::from_le_bytes(
                            bytes
                                .get(at..at + 8)
                                .map_or([0; 8], |b| b.try_into().unwrap()),
                        );
                        let len = intact.len() as u64;
                        let values = [
                            0,
                            1,
                            u64::MAX,
                            field ^ 1,
                            field.wrapping_add(8),
                            field << 1,
                            field.wrapping_sub(0x1000),
                            len,
                            random.u64(..),
                            1 << 63,
                        ];
                        let value = values[random.usize(..values.len())].to_le_bytes();
                        let end = bytes.len().min(at + width);
                        bytes[at..end].copy_from_slice(&value[..end - at]);
                    }
                }
            }
            if round % 5 == 0 {
                bytes.truncate(random.usize(..bytes.len()));
            }
            let start = Instant::now();
            match Facts::read(&bytes) {
                Ok(facts) => {
                    let _ = Info::read(&facts, &bytes);
                    let edits = plan(&facts, &bytes, &RewritePolicy::new(round));
                    for edit in edits {
                        let end = usize::try_from(edit.offset).unwrap() + edit.bytes.len();
                        assert!(end <= bytes.len(), "{}", edit.what);
                    }
                }
                Err(damage) => {
                    assert!(!damage.to_string().is_empty());
                    n_refused += 1;
                }
            }
            slowest = slowest.max(start.elapsed());
        }
    }
    println!("refused {n_refused} of 6000, slowest {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(n_refused > 1000, "{n_refused}");
}

#[test]
fn every_truncation_of_a_library_is_refused() {
    let scratch = Scratch::new();
    let bytes = fs::read(scratch.compile("cut.so", "c", C, &[])).unwrap();
    for len in (0..bytes.len()).step_by(61) {
        assert!(
            Facts::read(&bytes[..len]).is_err(),
            "{len} of {}",
            bytes.len()
        );
    }
}

fn shared_objects(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            shared_objects(&path, found);
        } else if kind.is_file()
            && !name.ends_with(".debug")
            && (name.ends_with(".so") || name.contains(".so."))
        {
            found.push(path);
        }
    }
}

#[test]
fn every_system_library_is_accepted_with_the_symbols_nm_lists() {
    let mut paths = Vec::new();
    for folder in ["/usr/lib", "/lib64", "/usr/local/lib", "/opt"] {
        shared_objects(Path::new(folder), &mut paths);
    }
    paths.sort();
    let step = if env::var("PLUG_SWEEP").is_ok_and(|sweep| sweep == "all") {
        1
    } else {
        10
    };
    let (mut n_files, mut n_symbols, mut n_bytes) = (0, 0, 0);
    let mut spent = Duration::ZERO;
    for path in paths.iter().step_by(step) {
        let Ok(bytes) = fs::read(path) else { continue };
        // ELF of 64 bits for x86-64; linker scripts and other machines are not ours to accept.
        if bytes.get(..5) != Some(b"\x7fELF\x02") || bytes.get(18..20) != Some(&[62, 0]) {
            continue;
        }
        let start = Instant::now();
        let facts = Facts::read(&bytes).unwrap_or_else(|damage| panic!("{path:?}: {damage}"));
        spent += start.elapsed();
        let Some(expected) = nm(path) else { continue };
        let own = own_symbols(&bytes, &facts);
        if own != expected {
            let missing: Vec<_> = expected
                .iter()
                .filter(|s| !own.contains(s))
                .take(3)
                .collect();
            let extra: Vec<_> = own
                .iter()
                .filter(|s| !expected.contains(s))
                .take(3)
                .collect();
            panic!("{path:?}: nm has {missing:x?}, own has {extra:x?}");
        }
        n_files += 1;
        n_symbols += own.len();
        n_bytes += bytes.len();
    }
    println!("{n_files} files, {n_symbols} symbols, {n_bytes} bytes, facts in {spent:?}");
    assert!(n_files > 0);
}
