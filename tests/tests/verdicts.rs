//! What an unload says when the plugin does not leave.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use plug_loader::{Deadline, ErrorKind, Stage, State, SymbolReader, Unloaded};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, include, native};

const PLAIN: &str = "#include \"plugin_api.h\"\n\
    static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
    static void stop(void) {}\n\
    PLUG_PLUGIN(\"NAME\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n";

#[test]
fn unload_of_a_file_marked_nodelete_is_pinned_and_says_so() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("nodelete");
        let source = scratch.write("n.c", &PLAIN.replace("NAME", "stays"));
        let object = scratch.path().join("stays.so");
        let done = std::process::Command::new("gcc")
            .args(["-shared", "-fPIC", "-Wl,-z,nodelete", "-I"])
            .arg(include())
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status();
        assert!(done.is_ok_and(|status| status.success()));
        let plugin = host.load(&object).expect("loads");
        match host.loader.unload("stays", seconds(5)).expect("closes") {
            Unloaded::Pinned(left) => {
                assert!(left.to_string().contains("DF_1_NODELETE"), "{left}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(plugin.state(), State::Zombie);
        let found = SymbolReader::new()
            .resolve(plugin.range().0)
            .expect("still mapped");
        assert_eq!(found.state(), State::Zombie);
        assert_eq!(host.loader.zombies().len(), 1);
        // Its name is free: the next load is another one.
        let again = host.load(&object).expect("loads beside it");
        assert_ne!(again.generation(), plugin.generation());
        assert_ne!(again.range().0, plugin.range().0);
    });
}

#[test]
fn unload_with_a_thread_local_of_a_living_thread_is_a_zombie_until_it_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("zombie");
        let source = PLAIN.replace("NAME", "lingers")
            + "#include <string>\n\
               PLUG_EXPORT(uint64_t, touch, (void)) {\n\
                   thread_local std::string text(100, 'x');\n\
                   return text.size();\n\
               }\n";
        let path = cpp_plugin(&scratch, "lingers", &source);
        let plugin = host.load(&path).expect("loads");
        let touch = plugin
            .function::<unsafe extern "C" fn() -> u64>("touch")
            .expect("exported");
        let (touched, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: the signature is the plugin's.
            touched.send(unsafe { touch.call(()) }).expect("told");
            let _ = ended.recv();
        });
        assert_eq!(told.recv().expect("called"), Ok(100));
        let verdict = host.loader.unload("lingers", seconds(5)).expect("closes");
        assert!(matches!(verdict, Unloaded::Zombie(_)), "{verdict:?}");
        assert_eq!(plugin.state(), State::Zombie);
        let again = host
            .loader
            .unload("lingers", seconds(1))
            .expect_err("closed already");
        assert_eq!(again.kind(), ErrorKind::Busy);
        assert!(again.lingering().is_some());
        drop(end);
        thread.join().expect("the thread survives its destructor");
        // ld.so collects it at somebody's next dlclose.
        let other = c_plugin(&scratch, "other", &PLAIN.replace("NAME", "other"));
        host.load(&other).expect("loads");
        host.unload("other");
        let deadline = seconds(10);
        while !host.loader.zombies().is_empty() {
            host.loader.reclaim();
            assert!(!deadline.has_passed(), "still {:?}", host.loader.zombies());
        }
        assert_eq!(plugin.state(), State::Empty);
        assert!(SymbolReader::new().resolve(plugin.range().0).is_none());
        let source = scratch.write("last.c", &PLAIN.replace("NAME", "last"));
        host.load(native(
            &scratch,
            "gcc",
            "-std=c11",
            "last",
            &source,
            &include(),
        ))
        .expect("loads");
    });
}

#[test]
fn failed_load_that_stays_mapped_is_a_zombie_that_readers_see() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("refuses");
        let text = PLAIN
            .replace("NAME", "refuses")
            .replace("return PLUG_OK;", "return PLUG_FAILED;");
        let source = scratch.write("r.c", &text);
        let object = scratch.path().join("refuses.so");
        let done = std::process::Command::new("gcc")
            .args(["-shared", "-fPIC", "-Wl,-z,nodelete", "-I"])
            .arg(include())
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status();
        assert!(done.is_ok_and(|status| status.success()));
        for n in 1..=3 {
            let error = host.load(&object).expect_err("its init refuses");
            assert_eq!(error.kind(), ErrorKind::InitFailed);
            let left = error.lingering().expect("marked nodelete").clone();
            assert!(left.to_string().contains("DF_1_NODELETE"), "{left}");
            assert_eq!(
                host.loader.zombies().len(),
                n,
                "its name is free, it is not forgotten"
            );
            assert!(host.loader.zombies().contains(&left));
            let zombie = host
                .loader
                .plugins()
                .into_iter()
                .find(|plugin| plugin.generation() == left.generation)
                .expect("listed");
            assert_eq!(zombie.state(), State::Zombie);
            let found = SymbolReader::new()
                .resolve(zombie.range().0)
                .expect("still mapped");
            assert_eq!(found.generation, left.generation);
        }
    });
}

#[test]
fn a_verdict_tells_what_was_seen() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("base64");
        let report = host.unload("base64");
        let seen = &report.observed;
        assert!(!seen.is_listed, "{seen:?}");
        assert_eq!(seen.range, plugin.range());
        assert!(seen.removals.1 > seen.removals.0, "{seen:?}");
        assert!(!seen.name.is_empty());
        assert!(
            report
                .stages
                .iter()
                .any(|(stage, _)| *stage == Stage::Close)
        );
    });
}

unsafe extern "C" {
    fn __cxa_thread_atexit_impl(
        function: unsafe extern "C" fn(*mut c_void),
        object: *mut c_void,
        dso: *const c_void,
    ) -> c_int;
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

/// What glibc counts by itself: nobody calls dlclose when it has come to its end, but the loader.
#[test]
fn a_zombie_that_ld_so_keeps_is_collected_when_its_reason_ends() {
    isolated!({
        let host = Host::new();
        let plugin = host.useful("base64");
        let (start, _) = plugin.range();
        let (registered, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: the function takes anything; the address is the plugin's, which counts.
            let status = unsafe {
                __cxa_thread_atexit_impl(nothing, std::ptr::null_mut(), start as *const c_void)
            };
            registered.send(status).expect("told");
            let _ended = ended.recv();
        });
        assert_eq!(told.recv(), Ok(0));
        let verdict = host.loader.unload("base64", seconds(5)).expect("closes");
        let Unloaded::Zombie(left) = verdict else {
            panic!("{verdict:?}");
        };
        let seen = left.observed.as_ref().expect("it was closed");
        assert!(seen.is_listed && seen.range == plugin.range(), "{seen:?}");
        assert!(!left.is_pinned && left.debtors.is_empty());
        let refused = host
            .loader
            .wait_for_zombie("base64", Deadline::after(Duration::from_millis(100)))
            .expect_err("the thread is there");
        assert_eq!(refused.kind(), ErrorKind::Deadline);
        assert_eq!(refused.lingering().map(|left| left.generation), Some(1));
        drop(end);
        thread.join().expect("ends");
        host.loader
            .wait_for_zombie("base64", seconds(20))
            .expect("collected");
        assert_eq!(plugin.state(), State::Empty);
        assert!(host.loader.zombies().is_empty());
        let nobody = host.loader.wait_for_zombie("base64", seconds(1));
        assert_eq!(nobody.expect_err("gone").kind(), ErrorKind::NotFound);
    });
}

/// A library of the host's that opens what it finds, and lets it go.
const KEEPER: &str = "
    #include <dlfcn.h>
    static void *kept;
    int keep(const char *name) {
        kept = dlopen(name, RTLD_NOLOAD | RTLD_NOW);
        return kept != 0;
    }
    int let_go(void) { return dlclose(kept); }
";

#[test]
fn a_zombie_that_a_shared_library_keeps_is_collected_when_that_lets_go() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("keeper");
        let source = scratch.write("keeper.c", &format!("#define _GNU_SOURCE\n{KEEPER}"));
        let keeper = native(&scratch, "gcc", "-std=c11", "keeper", &source, &include());
        let path = CString::new(keeper.into_os_string().into_encoded_bytes()).expect("text");
        // SAFETY: a library without constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
        // SAFETY: an open handle and a terminated name.
        let find = |name: &CStr| unsafe { libc::dlsym(handle, name.as_ptr()) };
        // SAFETY: the signature is the library's.
        let keep: unsafe extern "C" fn(*const c_char) -> c_int =
            unsafe { std::mem::transmute(find(c"keep")) };
        // SAFETY: the signature is the library's.
        let let_go: unsafe extern "C" fn() -> c_int =
            unsafe { std::mem::transmute(find(c"let_go")) };

        let plugin = host.useful("base64");
        let mut seen: libc::Dl_info = no_info();
        // SAFETY: any address may be asked for.
        #[expect(
            clippy::disallowed_methods,
            reason = "the name that ld.so has is the point"
        )]
        let status = unsafe { libc::dladdr(plugin.range().0 as *const _, &raw mut seen) };
        assert_ne!(status, 0);
        // SAFETY: the name that ld.so has for the plugin, which is loaded.
        assert_eq!(unsafe { keep(seen.dli_fname) }, 1);
        let verdict = host.loader.unload("base64", seconds(5)).expect("closes");
        assert!(matches!(verdict, Unloaded::Zombie(_)), "{verdict:?}");
        // Looked at in the meantime, it stays.
        host.loader.reclaim();
        host.loader.reclaim();
        assert_eq!(plugin.state(), State::Zombie);
        // SAFETY: the library has a handle, and gives it back once.
        assert_eq!(unsafe { let_go() }, 0);
        host.loader
            .wait_for_zombie("base64", seconds(20))
            .expect("collected");
        assert_eq!(plugin.state(), State::Empty);
    });
}

fn no_info() -> libc::Dl_info {
    libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    }
}
