//! Nobody reaches a plugin through ld.so by the name its author gave the file, least of all while
//! its constructors run.

use std::ffi::{CStr, CString, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Params, Source, State};
use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::process;
use plug_tests::standalone::{self, Scratch};

/// Its constructor waits until the file that `PLUG_RELEASE` names is there.
const PLUGIN: &str = r#"
#include <stdlib.h>
#include <unistd.h>
static int value;
__attribute__((constructor)) static void wait_for_release(void) {
    while (access(getenv("PLUG_RELEASE"), F_OK) != 0) {
        usleep(1000);
    }
    value = 42;
}
int foo_value(void) { return value; }
"#;

const NAMESAKE: &str = "int foo_value(void) { return 7; }\n";

const USER: &str = "extern int foo_value(void);\nint bar_value(void) { return foo_value(); }\n";

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

fn needed_and_soname(path: &Path) -> String {
    standalone::run(Command::new("readelf").arg("-d").arg(path))
}

/// dlopen by the test; the handle, or ld.so's words.
fn open(path: &Path) -> Result<*mut c_void, String> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero");
    // SAFETY: libraries compiled by this test.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: dlopen failed just now on this thread, so there is a message.
        let message = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(message.to_string_lossy().into_owned());
    }
    Ok(handle)
}

fn call(handle: *mut c_void, name: &CStr) -> c_int {
    // SAFETY: a handle of this test's.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert!(!address.is_null(), "{name:?}");
    // SAFETY: the fixtures' functions have this type.
    let function: extern "C" fn() -> c_int = unsafe { std::mem::transmute(address) };
    function()
}

#[test]
fn dlopen_of_a_library_that_needs_the_soname_does_not_get_the_plugin() {
    isolated!({
        let scratch = Scratch::new("soname");
        let soname = "-Wl,-soname,libfoo.so.1";
        let plugin = library(&scratch, "plugin", "libfoo.so.1", PLUGIN, &[soname]);
        let namesake = library(&scratch, "system", "libfoo.so.1", NAMESAKE, &[soname]);
        let needs = plugin.to_str().expect("UTF-8");
        let lost = library(&scratch, "users", "liblost.so", USER, &[needs]);
        let rpath = format!(
            "-Wl,-rpath,{}",
            namesake.parent().expect("folder").display()
        );
        let found = library(&scratch, "users", "libfound.so", USER, &[needs, &rpath]);
        assert!(needed_and_soname(&lost).contains("[libfoo.so.1]"));
        let release = scratch.path().join("release");
        // SAFETY: no other thread looks at the environment yet.
        unsafe { std::env::set_var("PLUG_RELEASE", &release) };

        let host = Host::new();
        let users = |moment: &str| {
            let began = Instant::now();
            let message = open(&lost).expect_err(moment);
            assert!(
                message.contains("libfoo.so.1: cannot open"),
                "{moment}: {message}"
            );
            let other = open(&found).expect(moment);
            assert_eq!(
                call(other, c"bar_value"),
                7,
                "{moment}: the real libfoo.so.1"
            );
            // SAFETY: opened above.
            assert_eq!(unsafe { libc::dlclose(other) }, 0);
            // SAFETY: a lookup of a name that nobody has global.
            let global = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"foo_value".as_ptr()) };
            assert!(global.is_null(), "{moment}: visible to everybody");
            // By its bare name it is not to be had either.
            assert!(open(Path::new("libfoo.so.1")).is_err(), "{moment}");
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{moment}: blocked"
            );
        };
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                let source = Source::path(&plugin).named("foo");
                host.loader.load(&host.trust, source, &Params::new())
            });
            let coming = loop {
                match host.loader.plugin("foo") {
                    Some(coming) if coming.state() == State::Coming => break coming,
                    _ => thread::yield_now(),
                }
            };
            users("while Coming");
            assert_eq!(coming.state(), State::Coming, "the constructor still waits");
            fs::write(&release, "").expect("writable");
            load.join().expect("no panic").expect("loads");
        });
        let foo = host.loader.plugin("foo").expect("live");
        let value = foo
            .function::<unsafe extern "C" fn() -> c_int>("foo_value")
            .expect("exported");
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { value.call(()) }, Ok(42));
        users("while Live");
        let two = host
            .loader
            .load(
                &host.trust,
                Source::path(&namesake).named("foo-2"),
                &Params::new(),
            )
            .expect("a second plugin of the same SONAME");
        let second = two
            .function::<unsafe extern "C" fn() -> c_int>("foo_value")
            .expect("exported");
        // SAFETY: as above.
        assert_eq!(unsafe { second.call(()) }, Ok(7));
        host.unload("foo-2");
        host.unload("foo");
        let own = |name: &String| name.contains("foo") || name.contains("plug-");
        assert!(
            !process::objects().iter().any(own),
            "{:?}",
            process::objects()
        );
    });
}
