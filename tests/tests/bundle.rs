//! Plugins that bring libraries of their own: found where the original's paths say, private to the
//! load, seen by readers, and gone with it.

use std::env;
use std::ffi::{CStr, CString, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use plug_loader::checkpoint::{POINTS, Verdict, set_hook};
use plug_loader::image::{FoundBy, Rule};
use plug_loader::{Accounting, ErrorKind, Params, Plugin, Source, SymbolReader, Unloaded};
use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::process;
use plug_tests::standalone::{self, Scratch};

type Number = unsafe extern "C" fn() -> c_int;

/// Compiles `source` to the library `name` in `folder`.
fn library(scratch: &Scratch, folder: &str, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let source = scratch.write(&format!("{folder}/{name}.c"), source);
    let output = source.with_file_name(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O2", "-D_GNU_SOURCE"])
        .args(standalone::STRICT);
    gcc.arg(&source).arg("-o").arg(&output).args(flags);
    standalone::run(&mut gcc);
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn number(plugin: &Plugin, name: &str) -> c_int {
    let function = plugin.function::<Number>(name).expect("exported");
    // SAFETY: the fixtures' functions have this type.
    unsafe { function.call(()) }.expect("live")
}

fn load(host: &Host, path: &Path, name: &str) -> Plugin {
    let source = Source::path(path).named(name);
    let loaded = host.loader.load(&host.trust, source, &Params::new());
    loaded.unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

/// A core library that counts, and whose constructors and destructors tell of themselves.
fn core(answer: u32) -> String {
    format!(
        "#include <stdlib.h>\n#include <string.h>\n\
         static int count; static int built;\n\
         int core_answer(void);\nint core_count(void);\nint core_built(void);\n\
         __attribute__((constructor)) static void build(void) {{ built = {answer}; }}\n\
         __attribute__((destructor)) static void end(void) {{\n\
             const char *told = getenv(\"PLUG_TOLD\");\n\
             if (told) strcat((char *)strtoul(told, 0, 16), \"core \");\n\
         }}\n\
         int core_answer(void) {{ return {answer}; }}\n\
         int core_count(void) {{ return ++count; }}\n\
         int core_built(void) {{ return built; }}\n"
    )
}

const PLUGIN: &str = "#include <stdlib.h>\n#include <string.h>\n\
    int core_answer(void);\nint core_count(void);\nint core_built(void);\n\
    int answer(void);\nint count(void);\nint built_before(void);\n\
    static int before;\n\
    __attribute__((constructor)) static void build(void) { before = core_built(); }\n\
    __attribute__((destructor)) static void end(void) {\n\
        const char *told = getenv(\"PLUG_TOLD\");\n\
        if (told) strcat((char *)strtoul(told, 0, 16), \"plugin \");\n\
    }\n\
    int answer(void) { return core_answer(); }\n\
    int count(void) { return core_count(); }\n\
    int built_before(void) { return before; }\n";

/// A plugin in `folder` with its own `libcore.so.1` beside it, found by `rpath`.
fn with_core(scratch: &Scratch, folder: &str, answer: u32, rpath: &str) -> PathBuf {
    let soname = "-Wl,-soname,libcore.so.1";
    let lib = format!("{folder}/lib");
    let core = library(scratch, &lib, "libcore.so.1", &core(answer), &[soname]);
    library(
        scratch,
        folder,
        "libwhole.so",
        PLUGIN,
        &[text(&core), rpath],
    )
}

#[test]
fn plugin_with_a_library_of_its_own_loads_is_seen_and_leaves_with_it() {
    isolated!({
        let scratch = Scratch::new("own");
        let host = Host::new();
        let warm_up = library(&scratch, "warm", "libwarm.so", "int warm;\n", &[]);
        load(&host, &warm_up, "warm");
        host.unload("warm");
        let before = process::footprint();
        for rpath in [
            "-Wl,-rpath,$ORIGIN/lib",
            "-Wl,--disable-new-dtags,-rpath,${ORIGIN}/lib",
        ] {
            let path = with_core(&scratch, "v1", 41, rpath);
            let plugin = load(&host, &path, "whole");
            assert_eq!(number(&plugin, "answer"), 41);
            let built = number(&plugin, "built_before");
            assert_eq!(built, 41, "what is needed is built first");
            assert_eq!(number(&plugin, "count"), 1);
            let dependencies = plugin.dependencies();
            let core = dependencies.iter().find(|d| d.name == "libcore.so.1");
            let core = core.expect("listed");
            assert!(core.is_private, "{core:?}");
            let is_rpath = rpath.contains("disable-new-dtags");
            let by = if is_rpath {
                FoundBy::Rpath
            } else {
                FoundBy::Runpath
            };
            assert_eq!(core.found_by, by);
            let libc = dependencies.iter().find(|d| d.name == "libc.so.6");
            assert!(
                libc.is_some_and(|libc| !libc.is_private),
                "{dependencies:?}"
            );
            let digest = plugin.digest().expect("loaded").to_string();
            let sum = standalone::run(Command::new("sha256sum").arg(&path));
            assert!(sum.starts_with(&digest), "that of the original: {sum}");
            assert!(is_part(&host, "whole") && is_part(&host, "whole/libcore.so.1"));
            // The library's own function, named as the plugin's, and owned by it.
            let (start, end) = part(&host, "whole/libcore.so.1");
            let found = (start..end)
                .step_by(16)
                .filter_map(|address| SymbolReader::new().resolve(address))
                .find(|found| found.symbol.as_bytes() == b"core_answer")
                .expect("resolves");
            assert_eq!(found.plugin.as_bytes(), b"whole/libcore.so.1");
            assert_eq!(found.generation, plugin.generation());
            host.unload("whole");
            assert!(SymbolReader::new().resolve(start).is_none());
            let then = host.loader.resolve_at(plugin.generation(), start);
            assert!(then.is_some(), "late samples are named, too");
        }
        process::assert_footprint(&before);
    });
}

fn is_part(host: &Host, name: &str) -> bool {
    let snapshot = host.loader.snapshot();
    snapshot
        .plugins()
        .any(|part| part.name() == name.as_bytes())
}

/// The range of the part that readers call `name`.
fn part(host: &Host, name: &str) -> (usize, usize) {
    let snapshot = host.loader.snapshot();
    let mut parts = snapshot.plugins();
    let part = parts.find(|part| part.name() == name.as_bytes());
    part.expect("shown").range()
}

#[test]
fn destructors_run_in_the_reverse_order_of_need_and_once() {
    isolated!({
        let scratch = Scratch::new("order");
        let told = Box::leak(Box::new([0_u8; 256]));
        // SAFETY: no other thread looks at the environment yet.
        unsafe { env::set_var("PLUG_TOLD", format!("{:x}", told.as_ptr().addr())) };
        let host = Host::new();
        load(&host, &with_core(&scratch, "v1", 1, RUNPATH), "whole");
        host.unload("whole");
        let text = CStr::from_bytes_until_nul(&*told).expect("terminated");
        assert_eq!(text.to_str(), Ok("plugin core "));
    });
}

const RUNPATH: &str = "-Wl,-rpath,$ORIGIN/lib";

#[test]
fn two_plugins_and_two_versions_see_their_own_library_of_one_soname() {
    isolated!({
        let scratch = Scratch::new("versions");
        let host = Host::new();
        let one = with_core(&scratch, "v1", 1, RUNPATH);
        let two = with_core(&scratch, "v2", 2, RUNPATH);
        let first = load(&host, &one, "whole");
        assert_eq!((number(&first, "answer"), number(&first, "count")), (1, 1));
        // Both live.
        let second = load(&host, &two, "other");
        assert_eq!(
            (number(&second, "answer"), number(&second, "count")),
            (2, 1)
        );
        // The same file once more is another load with statics of its own.
        let again = load(&host, &one, "again");
        assert_eq!((number(&again, "answer"), number(&again, "count")), (1, 1));
        assert_eq!(number(&first, "count"), 2);
        // The next version while the one before is leaving: a pin holds it.
        let pin = first.pin().expect("live");
        let departure = host.loader.begin_unload("whole").expect("begins");
        let next = load(&host, &two, "whole-next");
        assert_eq!((number(&next, "answer"), number(&next, "count")), (2, 1));
        drop(pin);
        let gone = departure
            .wait(plug_tests::host::seconds(10))
            .expect("leaves");
        assert!(gone.is_gone(), "{gone}");
        // The library replaced by rename under the loaded plugin: what is loaded stays what it is,
        // and the next load has the new code.
        let fresh = with_core(&scratch, "v3", 3, RUNPATH);
        let lib = fresh.with_file_name("lib/libcore.so.1");
        fs::rename(lib, one.with_file_name("lib/libcore.so.1")).expect("replaced");
        assert_eq!((number(&again, "answer"), number(&again, "count")), (1, 2));
        let replaced = load(&host, &one, "whole");
        assert_eq!(
            (number(&replaced, "answer"), number(&replaced, "count")),
            (3, 1)
        );
        for name in ["whole", "whole-next", "again", "other"] {
            host.unload(name);
        }
        let left = process::objects();
        let is_ours = |name: &String| name.contains("core") || name.contains("plug-");
        assert!(!left.iter().any(is_ours), "{left:?}");
    });
}

#[test]
fn library_that_somebody_else_loaded_is_shared_and_listed() {
    isolated!({
        let scratch = Scratch::new("shared");
        let host = Host::new();
        let path = with_core(&scratch, "v1", 1, RUNPATH);
        let core = path.with_file_name("lib/libcore.so.1");
        let name = CString::new(core.as_os_str().as_bytes()).expect("no zero");
        // SAFETY: the fixture's library.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: a handle of above.
        let count = unsafe { libc::dlsym(handle, c"core_count".as_ptr()) };
        // SAFETY: the fixture's function.
        let count: extern "C" fn() -> c_int = unsafe { std::mem::transmute(count) };
        assert_eq!(count(), 1);
        let plugin = load(&host, &path, "whole");
        let core = plugin
            .dependencies()
            .iter()
            .find(|d| d.name == "libcore.so.1");
        let core = core.expect("listed");
        assert!(
            !core.is_private && core.found_by == FoundBy::Loaded,
            "{core:?}"
        );
        assert_eq!(
            number(&plugin, "count"),
            2,
            "one library, as plain dlopen has it"
        );
        host.unload("whole");
        assert_eq!(count(), 3);
    });
}

#[test]
fn library_without_soname_and_with_versions_and_one_that_calls_back_work_as_plainly() {
    isolated!({
        let scratch = Scratch::new("odd");
        let host = Host::new();
        let map = scratch.write("map", "CORE_1 { global: core_*; local: *; };\n");
        let map = format!("-Wl,--version-script={}", text(&map));
        // Without a SONAME, and with a version that the plugin needs of it.
        library(&scratch, "odd/lib", "libodd.so", &core(5), &[&map]);
        // Needs the plugin back, for a function that the plugin has before it.
        let back = "int core_back(void);\nint plugin_value(void);\nint core_value(void);\n\
            int core_value(void) { return 7; }\n\
            int core_back(void) { return plugin_value() + core_value(); }\n";
        let soname = "-Wl,-soname,libback.so";
        library(&scratch, "odd/lib", "libback.so", back, &[soname]);
        let plugin = "int core_answer(void);\nint core_back(void);\nint plugin_value(void);\n\
            int core_value(void);\nint answer(void);\nint around(void);\n\
            int plugin_value(void) { return 30; }\n\
            int core_value(void) { return 4; }\n\
            int answer(void) { return core_answer(); }\nint around(void) { return core_back(); }\n";
        let folder = scratch.path().join("odd/lib");
        let search = format!("-L{}", text(&folder));
        let flags = [search.as_str(), "-lodd", "-lback", RUNPATH];
        let path = library(&scratch, "odd", "libplugin.so", plugin, &flags);
        let plugin = load(&host, &path, "odd");
        assert_eq!(number(&plugin, "answer"), 5);
        assert_eq!(
            number(&plugin, "around"),
            34,
            "the plugin's own comes first, as plainly"
        );
        assert_eq!(
            plugin
                .dependencies()
                .iter()
                .filter(|d| d.is_private)
                .count(),
            2
        );
        host.unload("odd");
    });
}

#[test]
fn static_of_a_template_that_plugin_and_library_share_is_one_and_pins_nothing() {
    isolated!({
        let scratch = Scratch::new("single");
        let host = Host::new();
        let header = "template <typename T> struct Registry { static int count; };\n\
            template <typename T> int Registry<T>::count = 0;\n\
            inline int &local() { static int value = 0; return value; }\n";
        let cpp = |folder: &str, name: &str, source: &str, flags: &[&str]| {
            let source = scratch.write(
                &format!("{folder}/{name}.cpp"),
                &(header.to_owned() + source),
            );
            let output = source.with_file_name(name);
            let mut compiler = Command::new("g++");
            compiler
                .args(["-shared", "-fPIC", "-O1", "-std=c++17"])
                .arg(&source);
            standalone::run(compiler.arg("-o").arg(&output).args(flags));
            output
        };
        for symbolic in [&[][..], &["-Wl,-Bsymbolic"]] {
            let dep =
                "extern \"C\" int add(void) { local() += 10; return Registry<int>::count += 2; }\n";
            let flags = [&["-Wl,-soname,libdep.so"], symbolic].concat();
            let dep = cpp("s/lib", "libdep.so", dep, &flags);
            let plugin = "extern \"C\" int add(void);\n\
                extern \"C\" int seen(void) { add(); return Registry<int>::count + local(); }\n";
            let path = cpp("s", "libplugin.so", plugin, &[text(&dep), RUNPATH]);
            let plugin = load(&host, &path, "single");
            assert_eq!(number(&plugin, "seen"), 12);
            assert_eq!(plugin.pinned_because().is_empty(), symbolic.is_empty());
            let verdict = host.loader.unload("single", plug_tests::host::seconds(10));
            let verdict = verdict.expect("closes");
            if symbolic.is_empty() {
                assert!(verdict.is_gone(), "{verdict}");
            } else {
                // Only as GNU unique ones they are one here, and that is why it stays.
                let text = verdict.to_string();
                assert!(
                    text.contains("GNU unique statics with another object"),
                    "{text}"
                );
            }
        }
    });
}

#[test]
fn nodelete_of_a_library_pins_it_with_its_name_and_goes_by_policy() {
    isolated!({
        let scratch = Scratch::new("nodelete");
        let host = Host::new();
        let flags = ["-Wl,-soname,libcore.so.1", "-Wl,-z,nodelete"];
        let core = library(&scratch, "n/lib", "libcore.so.1", &core(9), &flags);
        let path = library(
            &scratch,
            "n",
            "libwhole.so",
            PLUGIN,
            &[text(&core), RUNPATH],
        );
        let loosened = Source::path(&path)
            .named("loose")
            .nodelete(Rule::Neutralise);
        let loaded = host.loader.load(&host.trust, loosened, &Params::new());
        let plugin = loaded.expect("loads");
        assert!(plugin.pinned_because().is_empty());
        assert!(
            plugin
                .edits()
                .any(|(of, edit)| of == "loose/libcore.so.1" && edit.structure == "DT_FLAGS_1")
        );
        host.unload("loose");
        let plugin = load(&host, &path, "tight");
        let [why] = plugin.pinned_because() else {
            panic!("{:?}", plugin.pinned_because());
        };
        assert!(
            why.contains("libcore.so.1") && why.contains("DF_1_NODELETE"),
            "{why}"
        );
        let verdict = host.loader.unload("tight", plug_tests::host::seconds(10));
        let verdict = verdict.expect("closes");
        assert!(matches!(verdict, Unloaded::Pinned(_)), "{verdict}");
        assert!(verdict.to_string().contains("libcore.so.1"), "{verdict}");
        // The plugin itself is gone, and readers do not see it any more.
        assert!(!is_part(&host, "tight") && is_part(&host, "tight/libcore.so.1"));
    });
}

#[test]
fn library_that_owns_thread_locals_and_threads_is_settled_with_the_plugin() {
    isolated!({
        let scratch = Scratch::new("locals");
        let host = Host::new();
        let dep = "#include <string>\n#include <thread>\n\
            static int destroyed;\n\
            struct Local { std::string text = std::string(64, 'x'); ~Local() { destroyed++; } };\n\
            extern \"C\" int touch(void) { thread_local Local local; return local.text.size(); }\n\
            extern \"C\" int spawn(void) { std::thread([] { touch(); }).join(); return destroyed; }\n";
        let source = scratch.write("l/lib/dep.cpp", dep);
        let dep = source.with_file_name("libdep.so");
        let mut compiler = Command::new("g++");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-Wl,-soname,libdep.so"])
            .arg(&source);
        standalone::run(compiler.arg("-o").arg(&dep));
        let plugin = "int touch(void);\nint spawn(void);\nint use(void);\nint use_thread(void);\n\
            int use(void) { return touch(); }\nint use_thread(void) { return spawn(); }\n";
        let path = library(
            &scratch,
            "l",
            "libplugin.so",
            plugin,
            &[text(&dep), RUNPATH],
        );
        for _ in 0..3 {
            let plugin = load(&host, &path, "locals");
            let worker = host.loader.worker("living").expect("worker");
            let touch = plugin.function::<Number>("use").expect("exported");
            // SAFETY: the fixture's functions.
            assert_eq!(unsafe { touch.call_on(&worker, ()) }, Ok(64));
            assert_eq!(number(&plugin, "use_thread"), 1);
            thread::scope(|scope| {
                let unload = scope.spawn(|| host.unload("locals"));
                while !unload.is_finished() {
                    worker.quiescent();
                }
                unload.join().expect("gone");
            });
        }
    });
}

#[test]
fn file_with_an_entry_that_edits_do_not_reckon_with_is_loaded_as_it_is_and_says_so() {
    isolated!({
        let scratch = Scratch::new("strange");
        let host = Host::new();
        let source = "static int built;\nint times_built(void);\n\
            __attribute__((constructor)) static void build(void) { built++; }\n\
            int times_built(void) { return built; }\n";
        let flags = ["-Wl,--auxiliary=libnowhere.so", "-Wl,-soname,libstrange.so"];
        let path = library(&scratch, "f", "libstrange.so", source, &flags);
        let plugin = load(&host, &path, "strange");
        assert_eq!(number(&plugin, "times_built"), 1);
        assert_eq!(plugin.edits().count(), 0);
        let unedited: Vec<_> = plugin.unedited().collect();
        assert_eq!(unedited, [("strange", "DT_AUXILIARY")]);
        host.unload("strange");
        let plain = library(&scratch, "f", "libplain.so", source, &flags[1..]);
        let plugin = load(&host, &plain, "plain");
        assert_eq!(number(&plugin, "times_built"), 1);
        assert!(plugin.edits().count() > 0 && plugin.unedited().next().is_none());
        host.unload("plain");
    });
}

#[test]
fn failing_dependency_leaves_nothing_behind_at_any_step() {
    isolated!({
        let scratch = Scratch::new("failing");
        let host = Host::new();
        let path = with_core(&scratch, "v1", 1, RUNPATH);
        load(&host, &path, "whole");
        host.unload("whole");
        let before = process::footprint();
        static FAIL: Mutex<(&str, u32)> = Mutex::new(("", 0));
        set_hook(|point| {
            let mut fail = FAIL.lock().expect("no panic");
            if fail.0 != point || fail.1 == 0 {
                return Verdict::Pass;
            }
            fail.1 -= 1;
            if fail.1 == 0 {
                Verdict::Fail
            } else {
                Verdict::Pass
            }
        });
        // The n-th passage of a point is that of the n-th object, where each passes it.
        let mut failed = 0;
        let points = POINTS
            .iter()
            .filter(|p| p.starts_with("load.") && **p != "load.live");
        for point in points {
            for nth in 1..=2 {
                *FAIL.lock().expect("no panic") = (point, nth);
                let source = Source::path(&path).named("whole");
                match host.loader.load(&host.trust, source, &Params::new()) {
                    Ok(_) => {
                        assert!(nth > 1, "{point} was not passed");
                        host.unload("whole");
                    }
                    Err(error) => {
                        assert_eq!(
                            error.kind(),
                            ErrorKind::Injected,
                            "{point} {nth}: {error:#}"
                        );
                        assert!(error.lingering().is_none(), "{point} {nth}: {error:#}");
                        failed += 1;
                    }
                }
                process::assert_footprint(&before);
            }
        }
        assert!(failed > 18, "{failed}");
        *FAIL.lock().expect("no panic") = ("", 0);
        // Real faults: damaged, missing what it needs, with a name that cannot be replaced.
        let core = path.with_file_name("lib/libcore.so.1");
        let intact = fs::read(&core).expect("library");
        let refused = |kind: ErrorKind, what: &str| {
            let source = Source::path(&path).named("whole");
            let error = host.loader.load(&host.trust, source, &Params::new());
            let error = error.expect_err(what);
            assert_eq!(error.kind(), kind, "{error:#}");
            assert!(format!("{error:#}").contains("libcore"), "{error:#}");
            process::assert_footprint(&before);
        };
        fs::write(&core, &intact[..intact.len() / 2]).expect("cut");
        refused(ErrorKind::Damaged, "cut in half");
        let needs = "int nobody_has_this(void);\nint core_answer(void);\n\
            int core_count(void);\nint core_built(void);\n\
            int core_answer(void) { return nobody_has_this(); }\n\
            int core_count(void) { return 0; }\nint core_built(void) { return 0; }\n";
        library(
            &scratch,
            "v1/lib",
            "libcore.so.1",
            needs,
            &["-Wl,-soname,libcore.so.1"],
        );
        refused(ErrorKind::Map, "a symbol is missing");
        fs::remove_file(&core).expect("removed");
        refused(ErrorKind::Map, "the file is missing");
        fs::write(&core, &intact).expect("back");
        load(&host, &path, "whole");
        host.unload("whole");
        // Its name is part of another string, so that nothing but it could not be replaced.
        let short = library(
            &scratch,
            "v1/lib",
            "l.so",
            "int little;\n",
            &["-Wl,-soname,l.so"],
        );
        let user = "extern int little;\nint use(void);\nint use(void) { return little; }\n";
        let path = library(&scratch, "v1", "libuser.so", user, &[text(&short), RUNPATH]);
        let source = Source::path(&path).named("user");
        let error = host.loader.load(&host.trust, source, &Params::new());
        let error = error.expect_err("too short a name");
        assert!(error.to_string().contains("dependency l.so"), "{error}");
        process::assert_footprint(&before);
    });
}

/// Opens libraries, and calls a function of each.
const OPEN: &str = "#include <dlfcn.h>\n#include <stdlib.h>\n\
    static inline int through(const char *name, const char *function) {\n\
        void *opened = dlopen(name, RTLD_NOW);\n\
        if (!opened) return -1;\n\
        int (*called)(void) = 0;\n\
        *(void **)&called = dlsym(opened, function);\n\
        return called ? called() : -2;\n\
    }\n";

#[test]
fn library_of_its_own_that_a_plugin_opens_by_any_name_is_the_one_that_it_has() {
    const NAMES: [&str; 6] = ["need", "name", "link", "token", "path", "itself"];
    isolated!({
        let scratch = Scratch::new("reopen");
        let soname = "-Wl,-soname,libcore.so.1";
        let core = library(&scratch, "v1/lib", "libcore.so.1", &core(1), &[soname]);
        let link = core.with_file_name("libcore.so");
        std::os::unix::fs::symlink("libcore.so.1", &link).expect("made");
        let through =
            |name: &str, code: &str| format!("int {name}(void);\nint {name}(void) {{ {code}; }}\n");
        let by = |name: &str, file: &str| {
            through(name, &format!("return through({file}, \"core_count\")"))
        };
        let code = [
            OPEN,
            "int core_count(void);\n",
            &through("need", "return core_count()"),
            &by("name", "\"libcore.so.1\""),
            &by("link", "\"libcore.so\""),
            &by("token", "\"${ORIGIN}/lib/libcore.so.1\""),
            &by("path", &format!("{:?}", text(&link))),
            &through("itself", "return through(\"libreopen.so.7\", \"need\")"),
        ];
        let flags = [text(&core), RUNPATH, "-Wl,-soname,libreopen.so.7"];
        let path = library(&scratch, "v1", "libreopen.so", &code.concat(), &flags);
        let host = Host::new();
        let plugin = load(&host, &path, "reopen");
        let counted = NAMES.map(|name| number(&plugin, name));
        let cores = || {
            let objects = process::objects();
            objects.iter().filter(|name| name.contains("core")).count()
        };
        assert_eq!(cores(), 1, "{:?}", process::objects());
        assert_eq!(plugin.footprint().libraries, 5);
        host.unload("reopen");
        assert_eq!(cores(), 0, "{:?}", process::objects());
        // What plain dlopen makes of it.
        let name = CString::new(path.as_os_str().as_bytes()).expect("no zero");
        // SAFETY: the fixture's library.
        let opened = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        let plainly = NAMES.map(|name| {
            let name = CString::new(name).expect("no zero");
            // SAFETY: a handle of above, and a function of this type.
            let function = unsafe { libc::dlsym(opened, name.as_ptr()) };
            // SAFETY: as above.
            unsafe { std::mem::transmute::<*mut libc::c_void, Number>(function)() }
        });
        assert_eq!(counted, plainly);
        assert_eq!(counted, [1, 2, 3, 4, 5, 6]);
    });
}

#[test]
fn library_that_a_dependency_opens_is_found_where_the_dependency_looks() {
    isolated!({
        let scratch = Scratch::new("asking");
        let host = Host::new();
        let answer = |n: u32| format!("int answer(void);\nint answer(void) {{ return {n}; }}\n");
        library(&scratch, "v1/beside", "libextra.so", &answer(1), &[]);
        library(&scratch, "v1/lib/beside", "libextra.so", &answer(2), &[]);
        let dep = format!(
            "{OPEN}int dep(void);\nint dep(void) {{ return through(\"libextra.so\", \"answer\"); }}\n"
        );
        let soname = "-Wl,-soname,libdep.so";
        let plugin = "int dep(void);\nint answer(void);\nint answer(void) { return dep(); }\n";
        let with = |own: &[&str], plugins: &str| {
            let flags = [&[soname], own].concat();
            let dep = library(&scratch, "v1/lib", "libdep.so", &dep, &flags);
            library(
                &scratch,
                "v1",
                "libasking.so",
                plugin,
                &[text(&dep), plugins],
            )
        };
        let of_own = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/beside";
        let runpath = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/lib:$ORIGIN/beside";
        let rpath = "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib:$ORIGIN/beside";
        // A RUNPATH is for its own file alone; an RPATH for those that the file needs as well,
        // unless they have a RUNPATH.
        for (own, plugins, found) in [
            (&[of_own][..], runpath, 2),
            (&[], runpath, -1),
            (&[], rpath, 1),
            (&[of_own], rpath, 2),
        ] {
            let path = with(own, plugins);
            let plugin = load(&host, &path, "asking");
            let answer = number(&plugin, "answer");
            host.unload("asking");
            assert_eq!(answer, found, "{own:?} {plugins}");
            let left = process::objects();
            assert!(!left.iter().any(|name| name.contains("extra")), "{left:?}");
        }
    });
}

#[test]
fn objects_that_are_bound_to_different_allocators_keep_theirs_when_counted() {
    isolated!({
        let scratch = Scratch::new("arena");
        let host = Host::new();
        let map = scratch.write(
            "arena.map",
            "ARENA_1 { global: malloc; free; arena_*; local: *; };\n",
        );
        let map = format!("-Wl,--version-script={}", text(&map));
        // An allocator that has another's names in a version of its own.
        let arena = "#include <stddef.h>\n\
            static _Alignas(16) char room[65536]; static size_t used; static int freed;\n\
            int arena_has(const void *block);\nint arena_freed(void);\nvoid *malloc(size_t size);\nvoid free(void *block);\n\
            int arena_has(const void *block) { return (const char *)block >= room && (const char *)block < room + sizeof room; }\n\
            int arena_freed(void) { return freed; }\n\
            void *malloc(size_t size) { void *block = room + used; used += (size + 15) & ~(size_t)15; return block; }\n\
            void free(void *block) { freed += arena_has(block) ? 1 : 1000; }\n";
        let soname = "-Wl,-soname,libarena.so.1";
        let flags = [map.as_str(), soname, "-fno-builtin"];
        let arena = library(&scratch, "v1/lib", "libarena.so.1", arena, &flags);
        let take = |name: &str| {
            format!(
                "#include <stdlib.h>\nint arena_has(const void *block);\nint {name}(void);\n\
                 static void *volatile kept;\n\
                 int {name}(void) {{ kept = malloc(100); int has = arena_has(kept); free(kept); return has; }}\n"
            )
        };
        let flags = [
            "-Wl,-soname,libdep.so.1",
            text(&arena),
            "-Wl,-rpath,$ORIGIN",
        ];
        let dep = library(
            &scratch,
            "v1/lib",
            "libdep.so.1",
            &take("dep_takes"),
            &flags,
        );
        let plugin = format!(
            "{}int dep_takes(void);\nint arena_freed(void);\nint theirs(void);\nint freed(void);\n\
             int theirs(void) {{ return dep_takes(); }}\nint freed(void) {{ return arena_freed(); }}\n",
            take("takes")
        );
        let flags = ["-lc", text(&dep), text(&arena), RUNPATH];
        let path = library(&scratch, "v1", "libtaker.so", &plugin, &flags);
        for accounting in [Accounting::Off, Accounting::Counts, Accounting::Sites] {
            let source = Source::path(&path).named("taker").accounted(accounting);
            let plugin = host.loader.load(&host.trust, source, &Params::new());
            let plugin = plugin.expect("loads");
            assert_eq!(number(&plugin, "takes"), 0, "{accounting:?}: libc's");
            assert_eq!(number(&plugin, "theirs"), 1, "{accounting:?}: the arena's");
            assert_eq!(number(&plugin, "freed"), 1, "{accounting:?}: each its own");
            if let Some(balance) = plugin.balance() {
                assert_eq!((balance.heap_blocks, balance.freed_of_others), (0, 0));
            }
            host.unload("taker");
        }
    });
}

#[test]
fn leak_of_a_dependency_names_its_function() {
    isolated!({
        let scratch = Scratch::new("leaky");
        let host = Host::new();
        let soname = "-Wl,-soname,libleaky.so.1";
        let leak = "#include <stdlib.h>\nint leaks_inside(void);\nstatic void *volatile kept;\n\
            int leaks_inside(void) { kept = malloc(300); return kept != 0; }\n";
        let leaky = library(&scratch, "v1/lib", "libleaky.so.1", leak, &[soname]);
        let plugin = "int leaks_inside(void);\nint leak(void);\nint leak(void) { return leaks_inside() + 1; }\n";
        let path = library(
            &scratch,
            "v1",
            "libasking.so",
            plugin,
            &[text(&leaky), RUNPATH],
        );
        let source = Source::path(&path)
            .named("leaky")
            .accounted(Accounting::Sites);
        let plugin = host.loader.load(&host.trust, source, &Params::new());
        assert_eq!(number(&plugin.expect("loads"), "leak"), 2);
        let leaks = host.unload("leaky").leaks.expect("leaked");
        let sites = leaks
            .sites
            .iter()
            .map(|site| (&*site.symbol, site.blocks, site.bytes));
        assert_eq!(sites.collect::<Vec<_>>(), [("leaks_inside", 1, 300)]);
    });
}
