//! What plugins catch, seen through dlopen and a host of this file's own: no loader is involved.

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use plug_api::abi::{self, Descriptor, HostContext, Str};
use plug_tests::standalone::{self, Scratch, run};

/// The host: its parameters, and what the plugin said.
#[derive(Default)]
struct Host {
    params: Vec<(&'static str, &'static str)>,
    logged: Mutex<Vec<(i32, String)>>,
    raised: Mutex<Vec<String>>,
}

impl Host {
    fn context(&self) -> HostContext {
        HostContext {
            abi_version: abi::ABI_VERSION,
            size: u32::try_from(size_of::<HostContext>()).unwrap(),
            host: ptr::from_ref(self).cast_mut().cast(),
            param,
            param_at,
            log,
            service,
            raise,
        }
    }

    fn raised(&self) -> Vec<String> {
        std::mem::take(&mut self.raised.lock().unwrap())
    }
}

/// # Safety
/// - `host` is that of [`Host::context`].
unsafe fn host<'a>(host: *mut c_void) -> &'a Host {
    // SAFETY: the caller's promise; the host outlives its context.
    unsafe { &*host.cast() }
}

unsafe extern "C" fn param(state: *mut c_void, key: Str, value: *mut Str) -> i32 {
    // SAFETY: called by the plugin with its context's `host`.
    let host = unsafe { host(state) };
    // SAFETY: the plugin passes text.
    let key = unsafe { key.as_str() };
    let Some((_, found)) = host.params.iter().find(|(name, _)| Some(*name) == key) else {
        return 0;
    };
    // SAFETY: the plugin passes a place for the value.
    unsafe { *value = Str::new(found) };
    1
}

unsafe extern "C" fn param_at(s: *mut c_void, index: usize, key: *mut Str, value: *mut Str) -> i32 {
    // SAFETY: called by the plugin with its context's `host`.
    let Some((k, v)) = unsafe { host(s) }.params.get(index) else {
        return 0;
    };
    // SAFETY: the plugin passes places for both.
    unsafe { *key = Str::new(k) };
    // SAFETY: as above.
    unsafe { *value = Str::new(v) };
    1
}

unsafe extern "C" fn log(state: *mut c_void, level: i32, message: Str) {
    // SAFETY: called by the plugin with its context's `host`.
    let host = unsafe { host(state) };
    // SAFETY: the plugin passes text.
    let message = unsafe { message.as_str() }.unwrap().to_string();
    host.logged.lock().unwrap().push((level, message));
}

unsafe extern "C" fn service(_: *mut c_void, _: Str, _: u32, _: u32) -> *const c_void {
    ptr::null()
}

unsafe extern "C" fn raise(state: *mut c_void, message: Str) {
    // SAFETY: called by the plugin with its context's `host`.
    let host = unsafe { host(state) };
    // SAFETY: the plugin passes text.
    let message = unsafe { message.as_str() }.unwrap().to_string();
    host.raised.lock().unwrap().push(message);
}

/// A library opened by dlopen and never closed.
struct Library(*mut c_void);

impl Library {
    fn open(path: &Path) -> Library {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the examples' constructors do no harm; those that do are not opened here.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "dlopen {path:?}");
        Library(handle)
    }

    fn hostile(name: &str) -> Library {
        Library::open(&plug_example_plugins::hostile(name).unwrap())
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?}");
        address
    }

    fn descriptor(&self) -> &'static Descriptor {
        // SAFETY: the symbol is a descriptor by its name, and the library stays.
        unsafe { &*self.symbol(abi::DESCRIPTOR_SYMBOL).cast() }
    }

    fn init(&self, context: &HostContext) -> i32 {
        // SAFETY: the context outlives the calls of the test.
        unsafe { self.descriptor().init.unwrap()(context) }
    }

    fn exit(&self) {
        // SAFETY: init has succeeded.
        unsafe { self.descriptor().exit.unwrap()() }
    }

    /// Calls the function `name`, which takes a number or nothing and returns one.
    fn call<R>(&self, name: &str, argument: u64) -> R {
        // SAFETY: the function is of this type; one that takes nothing ignores the register.
        let function: unsafe extern "C-unwind" fn(u64) -> R =
            unsafe { std::mem::transmute(self.symbol(name)) };
        // SAFETY: the examples' functions take any number.
        unsafe { function(argument) }
    }
}

#[test]
fn init_fails_or_panics_gives_status_and_message() {
    let host = Host::default();
    let context = host.context();
    assert_eq!(
        Library::hostile("init-fails").init(&context),
        abi::STATUS_FAILED
    );
    assert_eq!(host.raised(), ["no license for this host"]);
    assert_eq!(
        Library::hostile("init-panics").init(&context),
        abi::STATUS_CAUGHT
    );
    assert_eq!(host.raised(), ["panicked: init gives up"]);
}

#[test]
fn export_panics_gives_stand_in_and_message() {
    let host = Host::default();
    let context = host.context();
    let library = Library::hostile("export-panics");

    assert_eq!(
        library.call::<i32>("panics", 0),
        abi::STATUS_CAUGHT,
        "before init"
    );
    assert_eq!(library.init(&context), abi::STATUS_OK);
    assert_eq!(host.raised(), [""; 0]);

    assert_eq!(library.call::<i32>("panics", 0), abi::STATUS_CAUGHT);
    assert_eq!(host.raised(), ["panicked: the export gives up"]);
    assert_eq!(library.call::<u64>("panics_with", 7), 0);
    assert_eq!(host.raised(), ["panicked: cannot take 7"]);
    assert_eq!(library.call::<u64>("panics_with", 0), 42);
    assert_eq!(
        library.call::<i32>("panics_with_payload", 0),
        abi::STATUS_CAUGHT
    );
    assert_eq!(host.raised(), ["panicked: with a payload that is not text"]);
    assert_eq!(library.call::<u64>("works", 1), 2);
    assert_eq!(host.raised(), [""; 0]);

    library.exit();
    assert_eq!(
        library.call::<i32>("panics", 0),
        abi::STATUS_CAUGHT,
        "after exit"
    );
    assert_eq!(host.raised(), [""; 0]);
}

#[test]
fn export_throws_gives_stand_in_and_message() {
    let host = Host::default();
    let context = host.context();
    let library = Library::hostile("export-throws");
    assert_eq!(library.init(&context), abi::STATUS_OK);
    assert_eq!(library.call::<i32>("throws", 0), abi::STATUS_CAUGHT);
    assert_eq!(host.raised(), ["the export gives up"]);
    assert_eq!(library.call::<i32>("throws_int", 0), abi::STATUS_CAUGHT);
    assert_eq!(host.raised(), ["an exception that is not a std::exception"]);
    assert_eq!(library.call::<u64>("works", 1), 2);
    library.exit();
}

#[test]
fn init_of_another_abi_is_refused_by_the_plugin() {
    let host = Host::default();
    let mut contexts = [host.context(), host.context()];
    contexts[0].abi_version = 2;
    contexts[1].size -= 8;
    for context in &contexts {
        for path in [
            plug_example_plugins::path("checksum"),
            plug_example_plugins::path("base64"),
        ] {
            assert_eq!(
                Library::open(&path.unwrap()).init(context),
                abi::STATUS_FAILED
            );
        }
    }
    let wrong = Library::hostile("wrong-abi");
    assert_eq!(wrong.descriptor().abi_version, 99);
}

#[test]
fn context_gives_parameters_and_log_in_every_language() {
    const RUST: &str = r#"
use plug_api::{Context, Level};
plug_api::plugin! {
    name: "talks", version: "1.0.0", description: "talks", license: "MIT",
    init: init, exit: || (),
}
fn init(ctx: &Context) -> plug_api::Result {
    let all: Vec<_> = ctx.params().map(|(key, value)| format!("{key}={value}")).collect();
    ctx.log(Level::Warn, format_args!("{} {:?}", all.join(","), ctx.param("none")));
    ctx.info(ctx.param("b").ok_or("b is missing")?);
    let n: u32 = ctx.param("n").unwrap_or("1").parse()?;
    if n == 0 { Err("n is 0".into()) } else { Ok(()) }
}
"#;
    const C: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) {
    plug_str value;
    if (!plug_param(ctx, "b", &value) || !plug_text_eq(value, "two")) {
        plug_raise(ctx, "b is missing");
        return -5;
    }
    plug_log_info(ctx, "two");
    return PLUG_OK;
}
static void stop(void) {}
PLUG_PLUGIN("talks", "1.0.0", "talks", "MIT", init, stop);
"#;
    let scratch = Scratch::new("talks");
    let rust = Library::open(&standalone::rust_plugin(&scratch, "talks", RUST));
    let c = Library::open(&standalone::c_plugin(&scratch, "talks_c", C));
    let cpp = Library::open(&standalone::cpp_plugin(&scratch, "talks_cpp", C));

    let host = Host {
        params: vec![("a", "1"), ("b", "two")],
        ..Host::default()
    };
    let context = host.context();
    for (library, language) in [(&rust, "rust"), (&c, "c"), (&cpp, "c++")] {
        assert_eq!(library.init(&context), abi::STATUS_OK, "{language}");
        let mut logged = std::mem::take(&mut *host.logged.lock().unwrap());
        assert_eq!(logged.pop().unwrap(), (3, "two".to_string()), "{language}");
        if language == "rust" {
            assert_eq!(logged, [(2, "a=1,b=two None".to_string())]);
        }
        library.exit();
    }

    let empty = Host::default();
    let context = empty.context();
    assert_eq!(rust.init(&context), abi::STATUS_FAILED);
    assert_eq!(c.init(&context), -5);
    assert_eq!(cpp.init(&context), -5);
    assert_eq!(empty.raised(), ["b is missing"; 3]);

    let bad = Host {
        params: vec![("b", "two"), ("n", "many")],
        ..Host::default()
    };
    assert_eq!(rust.init(&bad.context()), abi::STATUS_FAILED);
    assert_eq!(bad.raised(), ["invalid digit found in string"]);
}

#[test]
fn guard_lets_pthread_exit_and_cancel_through() {
    const PROGRAM: &str = r#"
#include "plugin_api.h"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static int cleaned;
struct cleanup { ~cleanup() { cleaned++; } };
static void *leave(void *) {
    cleanup here;
    plug::guard(nullptr, [] { pthread_exit(nullptr); });
    return nullptr;
}
static void *sleepy(void *) {
    cleanup here;
    plug::guard(nullptr, [] { for (;;) pause(); });
    return nullptr;
}
int main() {
    pthread_t thread;
    pthread_create(&thread, nullptr, leave, nullptr);
    pthread_join(thread, nullptr);
    pthread_create(&thread, nullptr, sleepy, nullptr);
    pthread_cancel(thread);
    void *result;
    pthread_join(thread, &result);
    printf("%d %d\n", cleaned, result == PTHREAD_CANCELED);
}
"#;
    let scratch = Scratch::new("guard");
    let source = scratch.write("guard.cpp", PROGRAM);
    let program: PathBuf = scratch.path().join("guard");
    let mut compile = Command::new("g++");
    compile
        .args(["-std=c++17", "-O1", "-pthread", "-I"])
        .arg(standalone::include());
    run(compile.arg(&source).arg("-o").arg(&program));
    let printed = run(&mut Command::new(&program));
    assert_eq!(printed, "2 1\n");
}

#[test]
fn never_returns_returns_when_released() {
    let library = Library::hostile("never-returns");
    let released = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // The address, because the handle is not Send.
        let function = library.symbol("never_returns") as usize;
        let flag = &released;
        let call = scope.spawn(move || {
            // SAFETY: the symbol is a function of this type.
            let function: unsafe extern "C-unwind" fn(*const u32) -> u64 =
                unsafe { std::mem::transmute(function) };
            // SAFETY: the flag lives until the scope has ended.
            unsafe { function(flag.as_ptr()) }
        });
        // Release: pairs with the plugin's Acquire.
        released.store(1, Ordering::Release);
        call.join().unwrap();
    });
}
