//! What plugins give to libc and to the kernel, which then call them: handlers of signals, timers,
//! functions for the process's end, handlers around forks; and libraries and mappings. All of it is
//! gone when the plugin is, or it is said why not.

use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::mem;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Footprint, Plugin, Unloaded};
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, native, rust_plugin};
use plug_tests::{child, isolated, process};

/// How often what is hostile is tried; `PLUG_ROUNDS` says otherwise.
fn rounds(usual: u32) -> u32 {
    let asked = std::env::var("PLUG_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The text of a C plugin.
fn text(name: &str, code: &str) -> String {
    format!(
        "#define _GNU_SOURCE\n\
         #include \"plugin_api.h\"\n\
         #include <sched.h>\n\
         #include <signal.h>\n\
         #include <stdlib.h>\n\
         #include <string.h>\n\
         #include <unistd.h>\n\
         static int32_t init(const plug_host_context *ctx);\n\
         static void stop(void);\n\
         PLUG_PLUGIN(\"{name}\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);\n\
         {code}\n"
    )
}

/// What most plugins do when they come and go.
const NOTHING: &str = "static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
    static void stop(void) {}\n";

fn c(scratch: &Scratch, name: &str, code: &str) -> PathBuf {
    c_plugin(scratch, name, &text(name, code))
}

/// Calls a function of the plugin's that takes and gives a number.
fn call(plugin: &Plugin, name: &str, argument: u64) -> u64 {
    let function = plugin
        .function::<unsafe extern "C" fn(u64) -> u64>(name)
        .expect("exported");
    // SAFETY: the signature is the plugin's.
    unsafe { function.call((argument,)) }.expect("Live")
}

fn is_in_maps(name: &str) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    maps.contains(&format!("memfd:{name}"))
}

#[track_caller]
fn gone(host: &Host, name: &str) {
    match host.loader.unload(name, seconds(10)) {
        Ok(Unloaded::Gone(_)) => assert!(!is_in_maps(name), "{name} is still in the maps"),
        other => panic!("{name}: {other:?}"),
    }
}

/// How often the host's own handler was called, and with which signal last.
static HOST: AtomicU32 = AtomicU32::new(0);
static HOST_SIGNAL: AtomicU32 = AtomicU32::new(0);

extern "C" fn host_handler(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: installed with SA_SIGINFO.
    let told = unsafe { (*info).si_signo };
    assert_eq!(told, signal);
    HOST.fetch_add(1, Ordering::SeqCst);
    HOST_SIGNAL.store(signal.unsigned_abs(), Ordering::SeqCst);
}

fn action_of(signal: c_int) -> libc::sigaction {
    // SAFETY: numbers, a set of bits and a null pointer are all valid as zero.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only reads.
    assert_eq!(
        unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) },
        0
    );
    action
}

fn install(signal: c_int, handler: usize, flags: c_int) -> libc::sigaction {
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: a handler of this program's.
    assert_eq!(
        unsafe { libc::sigaction(signal, &raw const action, &raw mut old) },
        0
    );
    old
}

fn hosts(signal: c_int) {
    install(
        signal,
        host_handler as *const () as usize,
        libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK,
    );
}

fn raise(signal: c_int) {
    // SAFETY: all signals raised here have handlers.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// How a handler is installed, and what it must look like to the plugin afterwards.
const WAYS: [(&str, &str); 6] = [
    (
        "sigaction",
        "struct sigaction a = {0}; a.sa_handler = handler; sigaddset(&a.sa_mask, SIGUSR2); a.sa_flags = SA_NODEFER; return sigaction(SIGUSR1, &a, &old);",
    ),
    (
        "sigaction with three arguments",
        "struct sigaction a = {0}; a.sa_sigaction = longer; a.sa_flags = SA_SIGINFO | SA_RESTART; return sigaction(SIGUSR1, &a, &old);",
    ),
    ("signal", "return signal(SIGUSR1, handler) == SIG_ERR;"),
    (
        "__sysv_signal",
        "return __sysv_signal(SIGUSR1, handler) == SIG_ERR;",
    ),
    ("sigset", "return set_or_hold(SIGUSR1, handler) == SIG_ERR;"),
    (
        "one shot",
        "struct sigaction a = {0}; a.sa_handler = handler; a.sa_flags = (int)SA_RESETHAND; return sigaction(SIGUSR1, &a, 0);",
    ),
];

#[test]
fn handlers_are_taken_back_however_they_were_installed() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("handlers");
        for (n, (way, code)) in WAYS.iter().enumerate() {
            let name = format!("way{n}");
            let code = format!(
                "{NOTHING}\
                 extern __sighandler_t __sysv_signal(int, __sighandler_t);\n\
                 extern __sighandler_t set_or_hold(int, __sighandler_t) __asm__(\"sigset\");\n\
                 static volatile uint64_t count;\n\
                 __attribute__((unused)) static struct sigaction old;\n\
                 __attribute__((unused)) static void handler(int s) {{ count += s == SIGUSR1; }}\n\
                 __attribute__((unused)) static void longer(int s, siginfo_t *i, void *c) {{ count += s == SIGUSR1 && i->si_signo == s && c; }}\n\
                 PLUG_EXPORT(uint64_t, take, (uint64_t x)) {{ (void)x; {code} }}\n\
                 PLUG_EXPORT(uint64_t, seen, (uint64_t x)) {{ (void)x; return count; }}\n\
                 PLUG_EXPORT(uint64_t, shown, (uint64_t x)) {{\n\
                     struct sigaction a; (void)x;\n\
                     if (sigaction(SIGUSR1, 0, &a)) return 0;\n\
                     if (a.sa_flags & SA_SIGINFO) return a.sa_sigaction == longer;\n\
                     return a.sa_handler == handler;\n\
                 }}\n\
                 PLUG_EXPORT(uint64_t, flags, (uint64_t x)) {{ struct sigaction a; (void)x; sigaction(SIGUSR1, 0, &a); return (uint64_t)(uint32_t)a.sa_flags | (uint64_t)sigismember(&a.sa_mask, SIGUSR2) << 40; }}\n"
            );
            let path = c(&scratch, &name, &code);
            for _ in 0..3 {
                hosts(libc::SIGUSR1);
                let before = action_of(libc::SIGUSR1);
                let plugin = host.load(&path).expect("loads");
                assert_eq!(call(&plugin, "take", 0), 0, "{way}");
                assert_eq!(plugin.footprint().signals, 1, "{way}");
                assert_eq!(call(&plugin, "shown", 0), 1, "{way}");
                // The kernel's restorer is a flag of its own.
                let flags = call(&plugin, "flags", 0) & !0x0400_0000;
                let expected: u64 = match n {
                    0 => libc::SA_NODEFER as u64 | 1 << 40,
                    1 => (libc::SA_SIGINFO | libc::SA_RESTART) as u64,
                    2 => libc::SA_RESTART as u64,
                    3 => 0x8000_0000 | 0x4000_0000,
                    5 => 0x8000_0000,
                    _ => 0,
                };
                assert_eq!(flags, expected, "{way}: {flags:#x}");
                let hosts_count = HOST.load(Ordering::SeqCst);
                raise(libc::SIGUSR1);
                assert_eq!(call(&plugin, "seen", 0), 1, "{way}");
                let is_one_shot = matches!(n, 3 | 5);
                assert_eq!(
                    action_of(libc::SIGUSR1).sa_sigaction == libc::SIG_DFL,
                    is_one_shot,
                    "{way}"
                );
                gone(&host, &name);
                assert_eq!(HOST.load(Ordering::SeqCst), hosts_count, "{way}");
                if is_one_shot {
                    // The kernel has taken it out: nothing is put back.
                    assert_eq!(action_of(libc::SIGUSR1).sa_sigaction, libc::SIG_DFL);
                    continue;
                }
                let after = action_of(libc::SIGUSR1);
                assert_eq!(after.sa_sigaction, before.sa_sigaction, "{way}");
                assert_eq!(after.sa_flags, before.sa_flags, "{way}");
                raise(libc::SIGUSR1);
                assert_eq!(HOST.load(Ordering::SeqCst), hosts_count + 1, "{way}");
            }
        }
    });
}

/// A plugin that counts SIGUSR1 with one of two handlers.
const COUNTER: &str = "static int32_t init(const plug_host_context *ctx);\n\
    static void stop(void) {}\n\
    static volatile uint64_t count, other;\n\
    static void first(int s) { (void)s; count++; }\n\
    static void second(int s) { (void)s; other++; }\n\
    static uint64_t set(void (*h)(int), struct sigaction *old) { struct sigaction a; memset(&a, 0, sizeof a); a.sa_handler = h; a.sa_flags = SA_RESTART; return (uint64_t)sigaction(SIGUSR1, &a, old); }\n\
    PLUG_EXPORT(uint64_t, take, (uint64_t which)) { struct sigaction old; return set(which ? second : first, &old); }\n\
    PLUG_EXPORT(uint64_t, swap, (uint64_t none)) {\n\
        struct sigaction old, again; (void)none;\n\
        if (set(second, &old) || old.sa_handler != first || old.sa_flags & SA_SIGINFO) return 1;\n\
        if (sigaction(SIGUSR1, &old, &again) || again.sa_handler != second) return 2;\n\
        return 0;\n\
    }\n\
    PLUG_EXPORT(uint64_t, firsts, (uint64_t none)) { (void)none; return count; }\n\
    PLUG_EXPORT(uint64_t, seconds, (uint64_t none)) { (void)none; return other; }\n\
    static int32_t init(const plug_host_context *ctx) { (void)ctx; INIT return PLUG_OK; }\n";

fn counter(scratch: &Scratch, name: &str, init: &str) -> PathBuf {
    c(scratch, name, &COUNTER.replace("INIT", init))
}

#[test]
fn plugin_that_replaces_its_own_handler_sees_its_own_and_leaves_the_hosts() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("swapper");
        hosts(libc::SIGUSR1);
        let path = counter(&scratch, "swapper", "");
        for _ in 0..2_000 {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "take", 0), 0);
            assert_eq!(call(&plugin, "swap", 0), 0);
            assert_eq!(call(&plugin, "take", 1), 0);
            assert_eq!(plugin.footprint().signals, 1);
            raise(libc::SIGUSR1);
            assert_eq!(call(&plugin, "firsts", 0), 0);
            assert_eq!(call(&plugin, "seconds", 0), 1);
            gone(&host, "swapper");
            assert_eq!(
                action_of(libc::SIGUSR1).sa_sigaction,
                host_handler as *const () as usize
            );
        }
    });
}

#[test]
fn plugins_that_replace_each_others_handlers_may_leave_in_any_order() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("order");
        let paths = [counter(&scratch, "one", ""), counter(&scratch, "two", "")];
        for first_goes_first in [true, false] {
            hosts(libc::SIGUSR1);
            let one = host.load(&paths[0]).expect("loads");
            assert_eq!(call(&one, "take", 0), 0);
            let two = host.load(&paths[1]).expect("loads");
            assert_eq!(call(&two, "take", 0), 0);
            raise(libc::SIGUSR1);
            assert_eq!((call(&one, "firsts", 0), call(&two, "firsts", 0)), (0, 1));
            let (goes, stays) = match first_goes_first {
                true => ("one", &two),
                false => ("two", &one),
            };
            gone(&host, goes);
            let before = call(stays, "firsts", 0);
            raise(libc::SIGUSR1);
            assert_eq!(call(stays, "firsts", 0), before + 1);
            let hosts_count = HOST.load(Ordering::SeqCst);
            gone(&host, if first_goes_first { "two" } else { "one" });
            assert_eq!(
                action_of(libc::SIGUSR1).sa_sigaction,
                host_handler as *const () as usize
            );
            raise(libc::SIGUSR1);
            assert_eq!(HOST.load(Ordering::SeqCst), hosts_count + 1);
        }
    });
}

/// What the host found in force when it installed [`chaining`].
static CHAINED: AtomicUsize = AtomicUsize::new(0);
static CHAINS: AtomicU32 = AtomicU32::new(0);

extern "C" fn chaining(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    CHAINS.fetch_add(1, Ordering::SeqCst);
    type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    // SAFETY: what was in force before, which wanted three arguments.
    let before: Handler = unsafe { mem::transmute(CHAINED.load(Ordering::SeqCst)) };
    // SAFETY: as above.
    unsafe { before(signal, info, context) };
}

#[test]
fn handler_that_the_host_kept_as_what_was_before_is_safe_for_ever() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("kept");
        let path = counter(&scratch, "kept", "");
        // With and without a handler before the plugin's.
        for is_default in [false, true] {
            let mut kept = Vec::new();
            for round in 0..40 {
                if is_default {
                    install(libc::SIGUSR1, libc::SIG_DFL, 0);
                } else {
                    hosts(libc::SIGUSR1);
                }
                let plugin = host.load(&path).expect("loads");
                assert_eq!(call(&plugin, "take", 0), 0);
                let old = install(
                    libc::SIGUSR1,
                    chaining as *const () as usize,
                    libc::SA_SIGINFO,
                );
                assert_ne!(old.sa_flags & libc::SA_SIGINFO, 0);
                CHAINED.store(old.sa_sigaction, Ordering::SeqCst);
                raise(libc::SIGUSR1);
                assert_eq!(call(&plugin, "firsts", 0), 1);
                gone(&host, "kept");
                // The host's stays, and what it goes on to does what was done before.
                let now = action_of(libc::SIGUSR1).sa_sigaction;
                assert_eq!(now, chaining as *const () as usize);
                kept.push(old.sa_sigaction);
                let (chains, hosts) = (&CHAINS, &HOST);
                let before = (chains.load(Ordering::SeqCst), hosts.load(Ordering::SeqCst));
                for (n, old) in (1..).zip(&kept) {
                    CHAINED.store(*old, Ordering::SeqCst);
                    raise(libc::SIGUSR1);
                    let after = (chains.load(Ordering::SeqCst), hosts.load(Ordering::SeqCst));
                    let expected = before.1 + if is_default { 0 } else { n };
                    assert_eq!(after, (before.0 + n, expected), "round {round}");
                }
            }
        }
    });
}

#[test]
fn signal_whose_plugin_is_gone_has_the_default_action_again() {
    if child::role().as_deref() == Some("default") {
        let host = Host::new();
        let scratch = Scratch::new("default");
        let path = counter(&scratch, "default", "set(first, 0);");
        let plugin = host.load(&path).expect("loads");
        raise(libc::SIGUSR1);
        assert_eq!(call(&plugin, "firsts", 0), 1);
        gone(&host, "default");
        println!("left");
        raise(libc::SIGUSR1);
        println!("survived");
        return;
    }
    let test = "signal_whose_plugin_is_gone_has_the_default_action_again";
    let ended = child::run(test, "default", Duration::from_secs(60));
    assert!(ended.output.contains("left"), "{}", ended.output);
    assert_eq!(ended.signal(), Some(libc::SIGUSR1), "{}", ended.output);
}

/// Threads that are sent a signal all the time.
struct Targets {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<u64>>,
}

impl Targets {
    /// `n` threads, every other one a worker, that send `signal` to themselves and to the process.
    fn start(host: &Host, n: u32, signal: c_int) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |n: u32| {
            let stop = Arc::clone(&stop);
            let loader = host.loader.clone();
            thread::spawn(move || {
                let worker = n
                    .is_multiple_of(2)
                    .then(|| loader.worker("target").expect("worker"));
                let mut sent = 0;
                while !stop.load(Ordering::SeqCst) {
                    if let Some(worker) = &worker {
                        worker.quiescent();
                    }
                    raise(signal);
                    sent += 1;
                    if sent % 64 == 0 {
                        // SAFETY: a signal with a handler to the own process.
                        unsafe { libc::kill(libc::getpid(), signal) };
                        thread::yield_now();
                    }
                }
                sent
            })
        };
        let threads = (0..n).map(start).collect();
        Self { stop, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let threads = self.threads.into_iter();
        threads.map(|thread| thread.join().expect("no panic")).sum()
    }
}

#[test]
fn storm_of_signals_never_reaches_a_plugin_that_leaves() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("storm");
        hosts(libc::SIGUSR1);
        // Installed in a constructor, in init, and in a call; the handler sets a handler itself.
        let code = COUNTER
            .replace("INIT", "set(first, 0);")
            .replace("count++;", "count++; struct sigaction now; sigaction(SIGUSR1, 0, &now); if (now.sa_handler == first) set(second, 0);")
            .replace("other++;", "other++; set(first, 0);")
            // Long enough for an unload to come in between, were it not to wait.
            .replace("{ (void)s; count++;", "{ (void)s; sched_yield(); count++;")
            .replace("static void first", "static uint64_t set(void (*h)(int), struct sigaction *old); static void second(int); static void first")
            + "__attribute__((constructor)) static void early(void) { set(second, 0); }\n";
        let path = c(&scratch, "storm", &code);
        let targets = Targets::start(&host, 3, libc::SIGUSR1);
        let mut handled = 0;
        for _ in 0..rounds(1_000) {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "take", 0), 0);
            let began = Instant::now();
            while call(&plugin, "firsts", 0) == 0 && began.elapsed() < Duration::from_secs(5) {
                thread::yield_now();
            }
            handled += call(&plugin, "firsts", 0) + call(&plugin, "seconds", 0);
            gone(&host, "storm");
            assert_eq!(
                action_of(libc::SIGUSR1).sa_sigaction,
                host_handler as *const () as usize
            );
        }
        let sent = targets.end();
        let hosts = HOST.load(Ordering::SeqCst);
        println!("{sent} signals sent, {handled} seen by plugins, {hosts} by the host");
        assert!(handled > 0 && hosts > 0);
    });
}

#[test]
fn unload_waits_for_a_handler_that_runs() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("slow");
        hosts(libc::SIGUSR1);
        let code = format!(
            "{NOTHING}\
             #include <time.h>\n\
             static volatile uint64_t *go;\n\
             static void slow(int s) {{ (void)s; go[0] = 1; while (!go[1]) {{ struct timespec t = {{0, 1000000}}; nanosleep(&t, 0); }} go[2] = 1; }}\n\
             PLUG_EXPORT(uint64_t, take, (uint64_t x)) {{ go = (volatile uint64_t *)x; return signal(SIGUSR1, slow) == SIG_ERR; }}\n"
        );
        let path = c(&scratch, "slow", &code);
        for is_worker in [true, false] {
            let flags: &'static [AtomicU64; 3] = Box::leak(Box::default());
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "take", flags.as_ptr().addr() as u64), 0);
            let loader = host.loader.clone();
            let target = thread::spawn(move || {
                let _worker = is_worker.then(|| loader.worker("handles").expect("worker"));
                raise(libc::SIGUSR1);
            });
            while flags[0].load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let soon = plug_loader::Deadline::after(Duration::from_millis(100));
            let error = host.loader.unload("slow", soon).expect_err("it is inside");
            assert!(!error.blockers().is_empty(), "{error}");
            flags[1].store(1, Ordering::SeqCst);
            gone(&host, "slow");
            assert_eq!(flags[2].load(Ordering::SeqCst), 1, "it ran to its end");
            target.join().expect("no panic");
        }
    });
}

#[test]
fn load_that_fails_takes_its_handlers_back() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("failing");
        hosts(libc::SIGUSR1);
        let path = counter(
            &scratch,
            "failing",
            "set(first, 0); raise(SIGUSR1); if (count) return -1;",
        );
        let targets = Targets::start(&host, 2, libc::SIGUSR1);
        for _ in 0..rounds(100) {
            host.load(&path).expect_err("init fails");
            assert!(!is_in_maps("failing"));
            assert!(
                host.loader.zombies().is_empty(),
                "{:?}",
                host.loader.zombies()
            );
            assert_eq!(
                action_of(libc::SIGUSR1).sa_sigaction,
                host_handler as *const () as usize
            );
        }
        targets.end();
    });
}

/// Waits for a child and gives its exit status.
fn status_of(pid: libc::pid_t) -> c_int {
    let mut status = 0;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    libc::WEXITSTATUS(status)
}

const FORKER: &str = "#include <sys/wait.h>\n\
    static volatile int hits;\n\
    static void inherited(int s) { (void)s; hits++; }\n\
    static void childs(int s) { struct sigaction a; (void)s; hits += 100; sigaction(SIGUSR2, 0, &a); }\n\
    PLUG_EXPORT(uint64_t, take, (uint64_t x)) { (void)x; return signal(SIGUSR1, inherited) == SIG_ERR; }\n\
    static int act(uint64_t alone) {\n\
        struct sigaction a, old; memset(&a, 0, sizeof a); hits = 0;\n\
        if (alone && (sigaction(SIGUSR1, 0, &old) || old.sa_handler != inherited || old.sa_flags & SA_SIGINFO)) return 4;\n\
        if (alone && signal(SIGUSR1, inherited) != inherited) return 5;\n\
        a.sa_handler = childs;\n\
        raise(SIGUSR1);\n\
        for (int n = 0; n < 50; n++) { if (sigaction(SIGUSR2, &a, &old)) return 1; }\n\
        if (signal(SIGALRM, childs) == SIG_ERR) return 2;\n\
        raise(SIGUSR2);\n\
        return hits == 101 ? 42 : 3;\n\
    }\n\
    PLUG_EXPORT(uint64_t, forked, (uint64_t x)) { pid_t p = fork(); if (!p) _exit(act(x)); return (uint64_t)p; }\n\
    PLUG_EXPORT(uint64_t, vforked, (uint64_t x)) { pid_t p = vfork(); if (!p) _exit(act(x)); return (uint64_t)p; }\n\
    PLUG_EXPORT(uint64_t, bare, (uint64_t x)) { pid_t p = _Fork(); if (!p) _exit(act(x)); return (uint64_t)p; }\n";

#[test]
fn children_of_forks_set_handlers_without_a_lock_and_without_a_trace_in_the_parent() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("forker");
        hosts(libc::SIGUSR1);
        hosts(libc::SIGUSR2);
        hosts(libc::SIGALRM);
        let path = c(&scratch, "forker", &format!("{NOTHING}{FORKER}"));
        let churned = counter(&scratch, "churned", "set(first, 0);");
        // Another thread is always somewhere in the loader, its locks held.
        let stop = Arc::new(AtomicBool::new(false));
        let churn = {
            let (stop, loader) = (Arc::clone(&stop), host.loader.clone());
            // SAFETY: this repository's tests.
            let trust = unsafe { plug_loader::Trust::new(plug_loader::Policy::default()) };
            thread::spawn(move || {
                // The signal stays the other plugin's while this one's is put over it.
                let mut loads = 0;
                while !stop.load(Ordering::SeqCst) {
                    let source = plug_loader::Source::path(churned.clone());
                    loader
                        .load(&trust, source, &plug_loader::Params::new())
                        .expect("loads");
                    let verdict = loader.unload("churned", seconds(10));
                    assert!(matches!(verdict, Ok(Unloaded::Gone(_))), "{verdict:?}");
                    loads += 1;
                }
                loads
            })
        };
        let plugin = host.load(&path).expect("loads");
        let mut wrong = Vec::new();
        for round in 0..rounds(200) {
            for how in ["forked", "vforked", "bare"] {
                assert_eq!(call(&plugin, "take", 0), 0);
                let before = action_of(libc::SIGUSR2);
                let pid = call(&plugin, how, 0);
                let status = status_of(libc::pid_t::try_from(pid).expect("a pid"));
                // SIGUSR1 may be the other plugin's just then, which counts for itself.
                if ![42, 3].contains(&status) {
                    wrong.push(format!("{how} in round {round}: {status}"));
                }
                let after = action_of(libc::SIGUSR2);
                assert_eq!(after.sa_sigaction, before.sa_sigaction, "{how}");
                // Never more than what the parent itself has installed.
                assert!(plugin.footprint().signals <= 1, "{:?}", plugin.footprint());
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        stop.store(true, Ordering::SeqCst);
        let loads = churn.join().expect("no panic");
        assert!(loads > 0);
        // Now that nobody else is at it, each child's handlers are counted exactly.
        for how in ["forked", "vforked", "bare"] {
            assert_eq!(call(&plugin, "take", 0), 0);
            let pid = call(&plugin, how, 1);
            let status = status_of(libc::pid_t::try_from(pid).expect("a pid"));
            assert_eq!(status, 42, "{how}");
        }
        gone(&host, "forker");
        assert_eq!(
            action_of(libc::SIGUSR2).sa_sigaction,
            host_handler as *const () as usize
        );
    });
}

#[test]
fn child_of_a_fork_may_unload_what_its_parent_loaded() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("inherited");
        hosts(libc::SIGUSR1);
        let path = counter(&scratch, "inherited", "set(first, 0);");
        let plugin = host.load(&path).expect("loads");
        // SAFETY: the child uses the loader, which allows it, and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let verdict = host.loader.unload("inherited", seconds(10));
            let is_gone = matches!(verdict, Ok(Unloaded::Gone(_)));
            let handler = action_of(libc::SIGUSR1).sa_sigaction;
            let is_back = handler == host_handler as *const () as usize;
            // SAFETY: ends the child.
            unsafe { libc::_exit(if is_gone && is_back { 42 } else { 1 }) };
        }
        assert_eq!(status_of(pid), 42);
        raise(libc::SIGUSR1);
        assert_eq!(call(&plugin, "firsts", 0), 1);
        gone(&host, "inherited");
    });
}

fn timers_of_process() -> Option<usize> {
    let timers = fs::read_to_string("/proc/self/timers").ok()?;
    Some(
        timers
            .lines()
            .filter(|line| line.starts_with("ID:"))
            .count(),
    )
}

const TIMER: &str = "#include <time.h>\n\
    #include <errno.h>\n\
    static volatile uint64_t count;\n\
    static __thread uint64_t local;\n\
    static void over(union sigval v) { local++; count += v.sival_int == 7; usleep(100); local++; }\n\
    static timer_t made;\n\
    static uint64_t make(int how, void (*f)(union sigval), int signo) {\n\
        struct sigevent e; memset(&e, 0, sizeof e);\n\
        e.sigev_notify = how; e.sigev_signo = signo; e.sigev_value.sival_int = 7;\n\
        if (f) e.sigev_notify_function = f;\n\
        if (timer_create(CLOCK_MONOTONIC, &e, &made)) return 1;\n\
        struct itimerspec t = { { 0, 50000 }, { 0, 50000 } };\n\
        return (uint64_t)timer_settime(made, 0, &t, 0);\n\
    }\n\
    static void handler(int s) { (void)s; count++; }\n\
    PLUG_EXPORT(uint64_t, by_thread, (uint64_t x)) { (void)x; return make(SIGEV_THREAD, over, 0); }\n\
    PLUG_EXPORT(uint64_t, by_signal, (uint64_t x)) { (void)x; return signal(SIGUSR1, handler) == SIG_ERR || make(SIGEV_SIGNAL, 0, SIGUSR1); }\n\
    PLUG_EXPORT(uint64_t, none, (uint64_t x)) { (void)x; return (uint64_t)timer_create(CLOCK_MONOTONIC, 0, &made); }\n\
    PLUG_EXPORT(uint64_t, drop, (uint64_t x)) { (void)x; return (uint64_t)timer_delete(made); }\n\
    PLUG_EXPORT(uint64_t, churn, (uint64_t n)) {\n\
        timer_t made[8]; int is[8] = {0}; uint64_t seed = 1, failed = 0;\n\
        struct sigevent e; memset(&e, 0, sizeof e); e.sigev_notify = SIGEV_THREAD; e.sigev_notify_function = over;\n\
        while (n--) {\n\
            seed = seed * 6364136223846793005u + 1442695040888963407u; int k = (int)(seed >> 33) % 8;\n\
            failed += 0 != (is[k] ? timer_delete(made[k]) : timer_create(CLOCK_MONOTONIC, &e, &made[k])); is[k] = !is[k];\n\
        }\n\
        for (int k = 0; k < 8; k++) if (is[k]) failed += 0 != timer_delete(made[k]);\n\
        return failed;\n\
    }\n\
    PLUG_EXPORT(uint64_t, seen, (uint64_t x)) { (void)x; return count; }\n";

#[test]
fn timers_that_come_and_go_use_the_same_room() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("timer");
        let path = c(&scratch, "timer", &format!("{NOTHING}{TIMER}"));
        let plugin = host.load(&path).expect("loads");
        assert_eq!(call(&plugin, "churn", 50_000), 0);
        assert_eq!(plugin.footprint().timers, 0);
        gone(&host, "timer");
    });
}

#[test]
fn timers_end_with_their_plugin_though_they_fire_while_it_leaves() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("timer");
        hosts(libc::SIGUSR1);
        let path = c(&scratch, "timer", &format!("{NOTHING}{TIMER}"));
        let own = timers_of_process();
        let mut seen = 0;
        for round in 0..rounds(500) {
            let plugin = host.load(&path).expect("loads");
            let hows: &[&str] = match round % 4 {
                0 => &["by_thread"],
                1 => &["by_signal"],
                2 => &["none", "by_thread", "by_thread"],
                _ => &["by_thread", "drop", "by_thread"],
            };
            for how in hows {
                assert_eq!(call(&plugin, how, 0), 0, "{how}");
            }
            let timers = if round % 4 == 2 { 3 } else { 1 };
            assert_eq!(plugin.footprint().timers, timers);
            let began = Instant::now();
            while call(&plugin, "seen", 0) == 0 {
                assert!(began.elapsed() < Duration::from_secs(20), "no timer fires");
                thread::yield_now();
            }
            seen += call(&plugin, "seen", 0);
            gone(&host, "timer");
            assert_eq!(timers_of_process(), own, "timers left");
        }
        println!("{seen} times over");
    });
}

#[test]
fn timer_whose_function_runs_holds_its_plugin() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("holder");
        let source = text("holder", "")
            .replace("#define _GNU_SOURCE\n", "")
            .replace(
                "static int32_t init(const plug_host_context *ctx);\nstatic void stop(void);\n",
                "#include <time.h>\n\
             #include <string>\n\
             #include <atomic>\n\
             static int32_t init(const plug_host_context *) { return PLUG_OK; }\n\
             static void stop(void) {}\n\
             static std::atomic<uint64_t> *flags;\n\
             static void over(union sigval) {\n\
                 thread_local std::string text(100, 'x');\n\
                 flags[0] = text.size(); while (!flags[1]) {} flags[2] = 1;\n\
             }\n",
            )
            + "PLUG_EXPORT(uint64_t, start, (uint64_t x)) {\n\
                 flags = reinterpret_cast<std::atomic<uint64_t> *>(x);\n\
                 struct sigevent e; memset(&e, 0, sizeof e);\n\
                 e.sigev_notify = SIGEV_THREAD; e.sigev_notify_function = over;\n\
                 timer_t made; struct itimerspec t = {}; t.it_value.tv_nsec = 1000;\n\
                 return static_cast<uint64_t>(timer_create(CLOCK_MONOTONIC, &e, &made) || timer_settime(made, 0, &t, nullptr));\n\
             }\n";
        let path = cpp_plugin(&scratch, "holder", &source);
        for _ in 0..rounds(20) {
            let flags: &'static [AtomicU64; 3] = Box::leak(Box::default());
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "start", flags.as_ptr().addr() as u64), 0);
            while flags[0].load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            assert_eq!(plugin.footprint().threads, 1);
            assert_eq!(plugin.footprint().thread_locals, 1);
            let soon = plug_loader::Deadline::after(Duration::from_millis(20));
            host.loader
                .unload("holder", soon)
                .expect_err("it is inside");
            flags[1].store(1, Ordering::SeqCst);
            // The thread that ran it ends by itself, its thread-locals with it: that is waited for.
            gone(&host, "holder");
            assert_eq!(flags[2].load(Ordering::SeqCst), 1);
        }
    });
}

const EXITS: &str = "#include <stdio.h>\n\
    static void say(const char *what) { ssize_t n = write(1, what, strlen(what)); (void)n; }\n\
    static void on(int status, void *arg) { (void)status; say(arg); }\n\
    static void at(void) { say(\"[atexit ran]\"); }\n\
    static void quick(void) { say(\"[quick ran]\"); }\n\
    static void quicker(void) { say(\"[quicker ran]\"); }\n\
    __attribute__((destructor)) static void last(void) { say(\"[destructor ran]\"); }\n\
    PLUG_EXPORT(uint64_t, onexit, (uint64_t x)) { (void)x; return (uint64_t)on_exit(on, \"[on_exit ran]\"); }\n\
    PLUG_EXPORT(uint64_t, atexits, (uint64_t x)) { (void)x; return (uint64_t)atexit(at); }\n\
    PLUG_EXPORT(uint64_t, quicks, (uint64_t x)) { (void)x; return (uint64_t)(at_quick_exit(quick) || at_quick_exit(quicker)); }\n";

/// Runs this test's other half, which ends in its own way.
fn other_half(test: &str, role: &str) -> child::Ended {
    child::run(test, role, Duration::from_secs(60))
}

#[test]
fn function_of_on_exit_pins_its_plugin_and_runs_at_the_end() {
    if child::role().as_deref() == Some("on_exit") {
        let host = Host::new();
        let scratch = Scratch::new("exits");
        let path = c(&scratch, "exits", &format!("{NOTHING}{EXITS}"));
        let plugin = host.load(&path).expect("loads");
        assert_eq!(call(&plugin, "onexit", 0), 0);
        assert_eq!(plugin.footprint().exit_functions, 1);
        match host.loader.unload("exits", seconds(5)).expect("closes") {
            Unloaded::Pinned(left) => println!("<{left}>"),
            other => panic!("{other:?}"),
        }
        assert!(is_in_maps("exits"));
        // Beside it, others come and go.
        let again = host.load(&path).expect("loads beside it");
        assert_eq!(call(&again, "atexits", 0), 0);
        println!("now");
        match host.loader.unload("exits", seconds(5)).expect("closes") {
            Unloaded::Gone(_) => println!("gone"),
            other => panic!("{other:?}"),
        }
        drop(scratch);
        std::process::exit(0);
    }
    let test = "function_of_on_exit_pins_its_plugin_and_runs_at_the_end";
    let ended = other_half(test, "on_exit");
    assert!(ended.succeeded(), "{ended:?}");
    let output = &ended.output;
    assert!(output.contains("registered by on_exit"), "{output}");
    let times = |what: &str| output.matches(what).count();
    assert_eq!(times("[on_exit ran]"), 1, "{output}");
    // Of the plugin that went, and of no other.
    assert_eq!(times("[atexit ran]"), 1, "{output}");
    assert_eq!(times("[destructor ran]"), 1, "{output}");
    let at = |what: &str| output.find(what).expect("found");
    assert!(
        at("now") < at("[atexit ran]") && at("[atexit ran]") < at("gone"),
        "{output}"
    );
    assert!(at("gone") < at("[on_exit ran]"), "{output}");
}

#[test]
fn functions_of_at_quick_exit_run_in_order_for_plugins_that_are_there() {
    if let Some(role) = child::role() {
        let host = Host::new();
        let scratch = Scratch::new("quick");
        let path = c(&scratch, "quick", &format!("{NOTHING}{EXITS}"));
        for _ in 0..50 {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "quicks", 0), 0);
            assert_eq!(plugin.footprint().exit_functions, 2);
            gone(&host, "quick");
        }
        println!("all gone");
        if role == "there" {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "quicks", 0), 0);
        }
        drop(scratch);
        unsafe extern "C" {
            fn quick_exit(status: c_int) -> !;
        }
        // SAFETY: ends the process.
        unsafe { quick_exit(0) };
    }
    let test = "functions_of_at_quick_exit_run_in_order_for_plugins_that_are_there";
    for (role, expected) in [("gone", ""), ("there", "[quicker ran][quick ran]")] {
        let ended = other_half(test, role);
        assert!(ended.succeeded(), "{ended:?}");
        let (_, after) = ended.output.split_once("all gone").expect("said");
        let said: String = after
            .split_inclusive(']')
            .filter(|s| s.contains('['))
            .collect();
        assert_eq!(said.trim(), expected, "{}", ended.output);
    }
}

const AROUND: &str = "#include <pthread.h>\n\
    static volatile uint64_t counts[3];\n\
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;\n\
    static void before(void) { usleep(100); pthread_mutex_lock(&lock); counts[0]++; }\n\
    static void parent(void) { counts[1]++; pthread_mutex_unlock(&lock); usleep(100); }\n\
    static void childs(void) { counts[2]++; pthread_mutex_unlock(&lock); }\n\
    PLUG_EXPORT(uint64_t, around, (uint64_t x)) { (void)x; return (uint64_t)pthread_atfork(before, parent, childs); }\n\
    PLUG_EXPORT(uint64_t, forks, (uint64_t x)) { (void)x; pthread_mutex_lock(&lock); uint64_t n = counts[0] << 40 | counts[1] << 20 | counts[2]; pthread_mutex_unlock(&lock); return n; }\n";

#[test]
fn handlers_around_forks_end_with_their_plugin_though_forks_go_on() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("around");
        let path = c(&scratch, "around", &format!("{NOTHING}{AROUND}"));
        let plugin = host.load(&path).expect("loads");
        assert_eq!(call(&plugin, "around", 0), 0);
        assert_eq!(plugin.footprint().fork_handlers, 1);
        // SAFETY: the child only calls the plugin and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let all = call(&plugin, "forks", 0) == (1 << 40 | 1);
            // SAFETY: ends the child.
            unsafe { libc::_exit(if all { 42 } else { 1 }) };
        }
        assert_eq!(status_of(pid), 42);
        assert_eq!(call(&plugin, "forks", 0), 1 << 40 | 1 << 20);
        gone(&host, "around");
        let stop = Arc::new(AtomicBool::new(false));
        let forks = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut forks = 0;
                while !stop.load(Ordering::SeqCst) {
                    // SAFETY: the child ends at once.
                    let pid = unsafe { libc::fork() };
                    if pid == 0 {
                        // SAFETY: ends the child.
                        unsafe { libc::_exit(42) };
                    }
                    assert_eq!(status_of(pid), 42);
                    forks += 1;
                }
                forks
            })
        };
        for _ in 0..rounds(100) {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "around", 0), 0);
            let began = Instant::now();
            while call(&plugin, "forks", 0) == 0 && began.elapsed() < Duration::from_secs(5) {
                thread::yield_now();
            }
            gone(&host, "around");
        }
        stop.store(true, Ordering::SeqCst);
        println!("{} forks", forks.join().expect("no panic"));
    });
}

const OPENER: &str = "#include <dlfcn.h>\n\
    #include <stdio.h>\n\
    static void *handles[2];\n\
    static char said[300];\n\
    PLUG_EXPORT(uint64_t, bare, (uint64_t x)) { handles[x] = dlopen(\"libnearby.so\", RTLD_NOW); if (!handles[x]) { snprintf(said, sizeof said, \"%s\", dlerror()); return 0; } uint64_t (*f)(void) = 0; *(void **)&f = dlsym(handles[x], \"answer\"); return f ? f() : 1; }\n\
    PLUG_EXPORT(uint64_t, leave, (uint64_t x)) { uint64_t status = (uint64_t)dlclose(handles[x]); handles[x] = 0; return status; }\n\
    PLUG_EXPORT(uint64_t, program, (uint64_t x)) { (void)x; void *h = dlopen(0, RTLD_NOW); return h && !dlclose(h); }\n\
    PLUG_EXPORT(uint64_t, own, (uint64_t flags)) { Dl_info i; if (!dladdr(handles, &i)) return 0; void *h = dlopen(i.dli_fname, RTLD_NOW | (int)flags); if (h) return 1; const char *why = dlerror(); if (!why) return 3; snprintf(said, sizeof said, \"%s\", why); return 2; }\n\
    PLUG_EXPORT(uint64_t, text, (uint64_t x)) { (void)x; return (uint64_t)said; }\n";

fn said(plugin: &Plugin) -> String {
    let text = call(plugin, "text", 0) as *const libc::c_char;
    // SAFETY: a terminated text of the plugin's, which is Live.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

#[test]
fn libraries_are_found_where_the_original_lies_and_closed_when_it_leaves() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("opener");
        let folder = scratch.path().join("beside");
        fs::create_dir_all(&folder).expect("folder");
        let library = scratch.write(
            "nearby.c",
            "extern int answer(void); int answer(void) { return 42; }\n",
        );
        let built = native(
            &scratch,
            "gcc",
            "-std=c11",
            "nearby",
            &library,
            scratch.path(),
        );
        fs::rename(&built, folder.join("libnearby.so")).expect("moved");
        // What ld.so passes over: no object at all.
        fs::create_dir_all(scratch.path().join("bad")).expect("folder");
        scratch.write("bad/libnearby.so", "not an object");
        let code = OPENER
            .replace("uint64_t (*f)(void)", "int (*f)(void)")
            .replace("f ? f() : 1", "f ? (uint64_t)f() : 1");
        let source = scratch.write("opener.c", &text("opener", &format!("{NOTHING}{code}")));
        let build = |name: &str, runpath: &str| {
            let object = scratch.path().join(format!("{name}.so"));
            let done = std::process::Command::new("gcc")
                .args(["-std=c11", "-shared", "-fPIC", "-O2", "-I"])
                .arg(plug_tests::standalone::include())
                .arg(&source)
                .arg(runpath)
                .arg("-o")
                .arg(&object)
                .status();
            assert!(done.is_ok_and(|status| status.success()));
            object
        };
        let is_open = || {
            process::objects()
                .iter()
                .any(|name| name.ends_with("libnearby.so"))
        };
        let paths = [
            build(
                "new",
                "-Wl,--enable-new-dtags,-rpath,$ORIGIN/bad:$ORIGIN/beside",
            ),
            build("old", "-Wl,--disable-new-dtags,-rpath,${ORIGIN}/beside"),
        ];
        for path in &paths {
            let plugin = host.load(path).expect("loads");
            assert_eq!(call(&plugin, "bare", 0), 42, "{}", said(&plugin));
            assert_eq!(call(&plugin, "bare", 1), 42, "{}", said(&plugin));
            assert_eq!(plugin.footprint().libraries, 2);
            assert_eq!(call(&plugin, "leave", 0), 0);
            assert_eq!(plugin.footprint().libraries, 1);
            assert_eq!(call(&plugin, "program", 0), 1);
            assert_eq!(plugin.footprint().libraries, 1);
            assert!(is_open());
            gone(&host, "opener");
            assert!(!is_open(), "what it left open is closed");
        }
        // Without a path of its own it finds none, as its original would not.
        let nowhere = build("nowhere", "-Wl,-z,now");
        let plugin = host.load(&nowhere).expect("loads");
        assert_eq!(call(&plugin, "bare", 0), 0);
        assert!(said(&plugin).contains("libnearby.so"), "{}", said(&plugin));
        // A handle for itself does not keep it, and it cannot make itself stay.
        assert_eq!(call(&plugin, "own", 0), 1);
        for flags in [libc::RTLD_NODELETE, libc::RTLD_NODELETE | libc::RTLD_NOLOAD] {
            assert_eq!(call(&plugin, "own", flags.unsigned_abs().into()), 2);
            assert!(said(&plugin).contains("RTLD_NODELETE"), "{}", said(&plugin));
        }
        assert_eq!(plugin.footprint().libraries, 1);
        gone(&host, "opener");
    });
}

const MAPPER: &str = "#include <dlfcn.h>\n\
    #include <fcntl.h>\n\
    #include <sys/mman.h>\n\
    static void *maps[3];\n\
    PLUG_EXPORT(uint64_t, map, (uint64_t n)) {\n\
        Dl_info i; if (!dladdr(maps, &i)) return 0;\n\
        int fd = open(i.dli_fname, O_RDONLY); if (fd < 0) return 0;\n\
        maps[n] = mmap(0, 8192, PROT_READ, MAP_PRIVATE, fd, 0); close(fd);\n\
        return maps[n] == MAP_FAILED ? 0 : (uint64_t)maps[n];\n\
    }\n\
    PLUG_EXPORT(uint64_t, unmap, (uint64_t n)) { return (uint64_t)munmap(maps[n], 8192); }\n\
    PLUG_EXPORT(uint64_t, others, (uint64_t n)) { (void)n; void *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); return m == MAP_FAILED ? 0 : (uint64_t)m; }\n";

#[test]
fn mappings_of_its_own_file_go_with_the_plugin_and_no_others_do() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("mapper");
        let path = c(&scratch, "mapper", &format!("{NOTHING}{MAPPER}"));
        let plugin = host.load(&path).expect("loads");
        let mapped: Vec<u64> = (0..3).map(|n| call(&plugin, "map", n)).collect();
        assert!(mapped.iter().all(|map| *map != 0));
        assert_eq!(plugin.footprint().mappings, 3);
        assert_eq!(call(&plugin, "unmap", 0), 0);
        assert_eq!(plugin.footprint().mappings, 2);
        let others = call(&plugin, "others", 0);
        assert_ne!(others, 0);
        // The host takes one of them for itself, behind the loader's back.
        let taken = mapped[1] as *mut c_void;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: replaces a mapping that nobody uses.
        let again = unsafe { libc::mmap(taken, 8192, rights, flags, -1, 0) };
        assert_eq!(again, taken);
        // SAFETY: mapped just now.
        unsafe { taken.cast::<u64>().write(7) };
        gone(&host, "mapper");
        // SAFETY: still mapped, or this crashes.
        assert_eq!(unsafe { taken.cast::<u64>().read() }, 7);
        // SAFETY: as above.
        assert_eq!(unsafe { (others as *const u64).read() }, 0);
    });
}

const PANICKER: &str = r#"
plug_api::plugin! {
    name: "panicker", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}
plug_api::export! {
    pub fn act(x: u64) -> u64 {
        u64::from(std::panic::catch_unwind(|| panic!("caught {x}")).is_err())
    }
}
unsafe extern "C" {
    fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
}
static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
extern "C" fn count(_: i32) { COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst); }
plug_api::export! {
    pub fn handle(x: u64) -> u64 { unsafe { signal(x as i32, count) as u64 } }
}
plug_api::export! {
    pub fn seen(x: u64) -> u64 { x + COUNT.load(std::sync::atomic::Ordering::SeqCst) }
}
"#;

#[test]
fn caught_panic_with_a_backtrace_leaves_nothing_of_the_file() {
    isolated!({
        // SAFETY: the process has one thread that looks at the environment, this one.
        unsafe { std::env::set_var("RUST_BACKTRACE", "1") };
        let host = Host::new();
        let scratch = Scratch::new("panicker");
        hosts(libc::SIGUSR1);
        let path = rust_plugin(&scratch, "panicker", PANICKER);
        for _ in 0..5 {
            let plugin = host.load(&path).expect("loads");
            assert_eq!(call(&plugin, "act", 0), 1);
            let mapped = plugin.footprint().mappings;
            assert!(mapped > 0, "std maps the file that it names frames of");
            assert_eq!(
                call(&plugin, "handle", u64::from(libc::SIGUSR1.unsigned_abs())),
                host_handler as *const () as u64
            );
            raise(libc::SIGUSR1);
            assert_eq!(call(&plugin, "seen", 0), 1);
            gone(&host, "panicker");
        }
    });
}

const STACKS: &str = "static char inside[65536];\n\
    static stack_t old;\n\
    PLUG_EXPORT(uint64_t, set, (uint64_t x)) { stack_t s; memset(&s, 0, sizeof s); s.ss_size = 65536; s.ss_sp = x ? (void *)x : inside; return (uint64_t)sigaltstack(&s, &old); }\n\
    PLUG_EXPORT(uint64_t, put, (uint64_t x)) { (void)x; return (uint64_t)sigaltstack(&old, 0); }\n";

fn alternate_stack() -> (usize, usize) {
    // SAFETY: numbers and a null pointer are valid as zero.
    let mut stack: libc::stack_t = unsafe { mem::zeroed() };
    // SAFETY: only reads.
    assert_eq!(unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) }, 0);
    (stack.ss_sp.addr(), stack.ss_size)
}

#[test]
fn alternate_stacks_are_given_back_by_the_threads_that_have_them() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("stacks");
        let path = c(&scratch, "stacks", &format!("{NOTHING}{STACKS}"));
        let before = alternate_stack();

        // On the thread that unloads.
        let plugin = host.load(&path).expect("loads");
        assert_eq!(call(&plugin, "set", 0), 0);
        assert_ne!(alternate_stack(), before);
        assert_eq!(plugin.footprint().alternate_stacks, 1);
        gone(&host, "stacks");
        assert_eq!(alternate_stack(), before);

        // One that the plugin gave back by itself is nobody's.
        let plugin = host.load(&path).expect("loads");
        assert_eq!(call(&plugin, "set", 0), 0);
        assert_eq!(call(&plugin, "put", 0), 0);
        assert_eq!(plugin.footprint().alternate_stacks, 0);
        gone(&host, "stacks");

        // One that the host has replaced is the host's.
        let plugin = host.load(&path).expect("loads");
        assert_eq!(call(&plugin, "set", 0), 0);
        let memory = Box::leak(vec![0_u8; 65536].into_boxed_slice());
        let own = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: memory.len(),
        };
        // SAFETY: memory that is never freed.
        assert_eq!(
            unsafe { libc::sigaltstack(&raw const own, ptr::null_mut()) },
            0
        );
        gone(&host, "stacks");
        assert_eq!(alternate_stack(), (memory.as_ptr().addr(), memory.len()));

        // On a worker, which passes quiescent points; on another thread, which does not.
        for is_worker in [true, false] {
            let plugin = host.load(&path).expect("loads");
            let stop = Arc::new(AtomicBool::new(false));
            let ready = Arc::new(AtomicBool::new(false));
            let thread = {
                let (plugin, loader) = (plugin.clone(), host.loader.clone());
                let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
                thread::spawn(move || {
                    let worker = is_worker.then(|| loader.worker("stacked").expect("worker"));
                    let before = alternate_stack();
                    assert_eq!(call(&plugin, "set", 0), 0);
                    drop(plugin);
                    ready.store(true, Ordering::SeqCst);
                    while !stop.load(Ordering::SeqCst) {
                        if let Some(worker) = &worker {
                            worker.quiescent();
                        }
                        thread::sleep(Duration::from_millis(1));
                    }
                    (before == alternate_stack(), before)
                })
            };
            while !ready.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            if is_worker {
                gone(&host, "stacks");
                stop.store(true, Ordering::SeqCst);
                assert!(thread.join().expect("no panic").0, "it has its own again");
                continue;
            }
            match host.loader.unload("stacks", seconds(1)).expect("closes") {
                Unloaded::Zombie(left) => {
                    let text = left.to_string();
                    assert!(text.contains("alternate signal stack"), "{text}");
                }
                other => panic!("{other:?}"),
            }
            stop.store(true, Ordering::SeqCst);
            thread.join().expect("no panic");
            let ended = Instant::now();
            while !host.loader.zombies().is_empty() {
                assert!(
                    ended.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    host.loader.zombies()
                );
                thread::sleep(Duration::from_millis(1));
            }
            assert!(!is_in_maps("stacks"));
        }
    });
}

const NOTICES: &str = "#include <aio.h>\n\
    #include <fcntl.h>\n\
    #include <mqueue.h>\n\
    #include <netdb.h>\n\
    static volatile uint64_t ended;\n\
    static void over(union sigval v) { (void)v; ended++; }\n\
    static struct aiocb work; static char byte = 'x';\n\
    static struct sigevent event(int how) { struct sigevent e; memset(&e, 0, sizeof e); e.sigev_notify = how; e.sigev_notify_function = over; return e; }\n\
    static uint64_t write_it(int how) { work.aio_fildes = open(\"/dev/null\", O_WRONLY); work.aio_buf = &byte; work.aio_nbytes = 1; work.aio_sigevent = event(how); return (uint64_t)aio_write(&work); }\n\
    PLUG_EXPORT(uint64_t, quiet, (uint64_t x)) { (void)x; if (write_it(SIGEV_NONE)) return 1; while (aio_error(&work)) {} return 0; }\n\
    PLUG_EXPORT(uint64_t, aio, (uint64_t x)) { (void)x; if (write_it(SIGEV_THREAD)) return 1; while (!ended) usleep(100); return 0; }\n\
    PLUG_EXPORT(uint64_t, queue, (uint64_t x)) { (void)x; struct sigevent e = event(SIGEV_THREAD); return mq_notify(-1, &e) != -1; }\n\
    PLUG_EXPORT(uint64_t, resolve, (uint64_t x)) { (void)x; struct sigevent e = event(SIGEV_THREAD); return getaddrinfo_a(77, 0, 0, &e) == 0; }\n";

#[test]
fn functions_that_no_gate_covers_are_counted() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("notices");
        let path = c(&scratch, "notices", &format!("{NOTHING}{NOTICES}"));
        let plugin = host.load(&path).expect("loads");
        assert_eq!(plugin.footprint(), Footprint::default());
        assert_eq!(call(&plugin, "quiet", 0), 0);
        assert_eq!(plugin.footprint().uncovered, 0);
        for (n, what) in (1..).zip(["aio", "queue", "resolve"]) {
            assert_eq!(call(&plugin, what, 0), 0, "{what}");
            assert_eq!(plugin.footprint().uncovered, n, "{what}");
        }
        // All of them have ended.
        thread::sleep(Duration::from_millis(50));
        gone(&host, "notices");
    });
}
