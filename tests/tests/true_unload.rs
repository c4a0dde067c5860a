//! Plugins with thread-locals, keys and threads leave while the threads that used them live on: what
//! is not told by the verdicts of `unload_matrix.rs` and the numbers of `unload_cycles.rs`.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use plug_loader::Unloaded;
use plug_tests::actors::{Actor, address};
use plug_tests::host::{Host, seconds};
use plug_tests::isolated;
use plug_tests::process::keys_in_use;
use plug_tests::standalone::{Scratch, c_plugin, rust_plugin};

const RUST: &str = r#"
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

plug_api::plugin! {
    name: "rusty", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}

static DROPPED: AtomicU32 = AtomicU32::new(0);

struct Local(Vec<u8>);

impl Drop for Local {
    fn drop(&mut self) {
        DROPPED.fetch_add(self.0.len() as u32, Ordering::SeqCst);
        SECOND.with(|second| second.borrow_mut().0.push(1));
    }
}

struct Second(Vec<u8>);

impl Drop for Second {
    fn drop(&mut self) {
        DROPPED.fetch_add(100 * self.0.len() as u32, Ordering::SeqCst);
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local(Vec::new()));
    static SECOND: RefCell<Second> = RefCell::new(Second(Vec::new()));
}

plug_api::export! {
    pub fn act(what: u32) -> u32 {
        match what {
            2 => LOCAL.with(|local| { local.borrow_mut().0.push(1); 1 }),
            _ => 0,
        }
    }
}

plug_api::export! {
    pub fn dropped(none: u32) -> u32 { none + DROPPED.load(Ordering::SeqCst) }
}
"#;

fn gone(host: &Host, name: &str) -> bool {
    matches!(host.loader.unload(name, seconds(5)), Ok(Unloaded::Gone(_)))
}

fn is_in_maps(name: &str) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    maps.contains(&format!("memfd:{name}"))
}

#[test]
fn thread_locals_are_destroyed_once_each_on_their_own_threads() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("rusty");
        let path = rust_plugin(&scratch, "rusty", RUST);
        let plugin = host.load(&path).expect("loads");
        let act = address(&plugin, "act");
        let actors: Vec<Actor> = (0..3).map(|_| Actor::foreign()).collect();
        for actor in &actors {
            assert_eq!(actor.act(act, 2), 1);
            assert_eq!(actor.act(act, 2), 1);
        }
        actors.into_iter().for_each(Actor::end);
        let dropped = plugin
            .function::<unsafe extern "C" fn(u32) -> u32>("dropped")
            .expect("exported");
        // SAFETY: the signature is the plugin's.
        let dropped = unsafe { dropped.call((0,)) };
        // Two bytes each, and the thread-local that the first one's drop made.
        assert_eq!(dropped, Ok(3 * (2 + 100)));
        assert!(gone(&host, "rusty"));
    });
}

/// A C plugin that starts a thread which runs until the flag of `begin` says otherwise; `WHERE` is
/// where else it starts one.
const LEAVER: &str = "#include \"plugin_api.h\"\n\
    #include <pthread.h>\n\
    #include <sched.h>\n\
    #include <stdatomic.h>\n\
    #include <stdlib.h>\n\
    static _Atomic int *flag;\n\
    static void *runs_on(void *none) { (void)none; while (!atomic_load(flag)) sched_yield(); return 0; }\n\
    static int start(void) { flag = (_Atomic int *)strtoull(getenv(\"PLUG_FLAG\"), 0, 10); pthread_t t; if (pthread_create(&t, 0, runs_on, 0)) return 0; return pthread_detach(t) == 0; }\n\
    static int32_t init(const plug_host_context *ctx) { (void)ctx; INIT }\n\
    static void stop(void) {}\n\
    __attribute__((destructor)) static void last(void) { LAST }\n\
    PLUG_PLUGIN(\"NAME\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
    int unused(void); int unused(void) { return start(); }\n";

/// What the threads of [`LEAVER`] look at.
static FLAG: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

fn leaver(scratch: &Scratch, name: &str, init: &str, last: &str) -> PathBuf {
    // SAFETY: the process has one thread that looks at the environment, this one.
    unsafe { std::env::set_var("PLUG_FLAG", (FLAG.as_ptr().addr()).to_string()) };
    let source = LEAVER
        .replace("NAME", name)
        .replace("INIT", init)
        .replace("LAST", last);
    c_plugin(scratch, name, &source)
}

fn let_go(host: &Host, name: &str) {
    let left = host.loader.zombies();
    assert_eq!(left.len(), 1, "{left:?}");
    let text = left[0].to_string();
    assert!(text.contains("still runs"), "{text}");
    thread::sleep(Duration::from_millis(100));
    assert!(is_in_maps(name));
    FLAG.store(1, std::sync::atomic::Ordering::SeqCst);
    let deadline = seconds(5);
    while !host.loader.zombies().is_empty() {
        assert!(!deadline.has_passed(), "{:?}", host.loader.zombies());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!is_in_maps(name));
}

#[test]
fn load_that_fails_with_a_thread_running_keeps_the_plugin_until_that_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("failer");
        let path = leaver(&scratch, "failer", "start(); return -1;", "");
        let error = host.load(&path).expect_err("init fails");
        assert!(error.lingering().is_some(), "{error}");
        let_go(&host, "failer");
    });
}

#[test]
fn destructor_that_starts_a_thread_keeps_the_plugin_until_that_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("flusher");
        let path = leaver(&scratch, "flusher", "return PLUG_OK;", "start();");
        host.load(&path).expect("loads");
        let verdict = host.loader.unload("flusher", seconds(1)).expect("closes");
        assert!(matches!(verdict, Unloaded::Zombie(_)), "{verdict:?}");
        let_go(&host, "flusher");
    });
}

#[test]
fn value_that_is_set_to_nothing_is_owed_nothing_and_keys_of_any_kind_are_given_back() {
    isolated!({
        let host = Host::forgetful();
        let scratch = Scratch::new("keyed");
        let source = "#include \"plugin_api.h\"\n\
            #include <pthread.h>\n\
            #include <stdlib.h>\n\
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
            static void stop(void) {}\n\
            static pthread_key_t with, without, freed;\n\
            static void destroy(void *value) { (void)value; }\n\
            PLUG_PLUGIN(\"keyed\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
            PLUG_EXPORT(uint32_t, act, (uint32_t what)) {\n\
                static int made;\n\
                if (!made && (pthread_key_create(&with, destroy) || pthread_key_create(&without, 0) || pthread_key_create(&freed, free))) return 0;\n\
                made = 1;\n\
                return !pthread_setspecific(with, &made) && !pthread_setspecific(with, 0) && what == 0;\n\
            }\n";
        let path = c_plugin(&scratch, "keyed", source);
        let actor = Actor::foreign();
        let mut keys = None;
        for _ in 0..20 {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(actor.act(address(&plugin, "act"), 0), 1);
            assert!(gone(&host, "keyed"), "the sleeping thread owes nothing");
            let now = keys_in_use();
            assert_eq!(*keys.get_or_insert(now), now);
        }
        actor.end();
    });
}

#[test]
fn thread_that_a_plugin_leaves_running_is_named_and_the_plugin_goes_when_it_ends() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("leaver");
        let source = "#include \"plugin_api.h\"\n\
            #include <pthread.h>\n\
            #include <stdatomic.h>\n\
            #include <sched.h>\n\
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
            static void stop(void) {}\n\
            PLUG_PLUGIN(\"leaver\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
            extern _Atomic int *ended_flag;\n\
            static _Atomic int *flag;\n\
            PLUG_EXPORT(void *, runs_on, (void *none)) { (void)none; while (!atomic_load(flag)) sched_yield(); return 0; }\n\
            PLUG_EXPORT(uint32_t, begin, (_Atomic int *stop)) { flag = stop; pthread_t t; if (pthread_create(&t, 0, runs_on, 0)) return 0; return pthread_detach(t) == 0; }\n"
            .replace("extern _Atomic int *ended_flag;\n", "");
        let path = c_plugin(&scratch, "leaver", &source);
        let plugin = host.load(&path).expect("loads");
        let begin = plugin
            .function::<unsafe extern "C" fn(*mut i32) -> u32>("begin")
            .expect("exported");
        static STOP: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
        // SAFETY: the signature is the plugin's; the flag is there for ever.
        assert_eq!(unsafe { begin.call((STOP.as_ptr(),)) }, Ok(1));
        let verdict = host.loader.unload("leaver", seconds(1)).expect("closes");
        let Unloaded::Zombie(left) = verdict else {
            panic!("{verdict:?}");
        };
        let text = left.to_string();
        assert!(text.contains("started at runs_on, still runs"), "{text}");
        STOP.store(1, std::sync::atomic::Ordering::SeqCst);
        let deadline = seconds(5);
        while !host.loader.zombies().is_empty() {
            assert!(!deadline.has_passed(), "{:?}", host.loader.zombies());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_in_maps("leaver"));
    });
}

/// What goes past the loader is glibc's, which keeps the plugin; nothing crashes.
#[test]
fn what_a_plugin_asks_of_glibc_by_name_is_seen_when_it_is_closed() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("byname");
        let source = "#define _GNU_SOURCE\n\
            #include \"plugin_api.h\"\n\
            #include <dlfcn.h>\n\
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
            static void stop(void) {}\n\
            PLUG_PLUGIN(\"byname\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
            extern void *__dso_handle;\n\
            static void destroy(void *object) { *(int *)object += 1; }\n\
            PLUG_EXPORT(uint32_t, act, (uint32_t what)) {\n\
                static int object;\n\
                int (*ask)(void (*)(void *), void *, void *);\n\
                *(void **)&ask = dlsym(RTLD_DEFAULT, \"__cxa_thread_atexit_impl\");\n\
                return what == 0 && ask && ask(destroy, &object, &__dso_handle) == 0;\n\
            }\n";
        let path = c_plugin(&scratch, "byname", source);
        let actor = Actor::foreign();
        let plugin = host.load(&path).expect("loads");
        assert_eq!(actor.act(address(&plugin, "act"), 0), 1);
        let verdict = host.loader.unload("byname", seconds(5)).expect("closes");
        let Unloaded::Zombie(left) = verdict else {
            panic!("{verdict:?}");
        };
        let text = left.to_string();
        assert!(text.contains("still mapped after dlclose"), "{text}");
        assert!(is_in_maps("byname"));
        // Runs the plugin's function, which is still there.
        actor.end();
    });
}
