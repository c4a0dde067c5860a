//! The end of the process: from main, from a worker, from inside a plugin, while a load sits in a
//! constructor or a thread of the loader's never goes on. Exits of Live plugins run once, in
//! reverse order of load, and before what they use is destroyed; nothing hangs.
//!
//! Has a main function of its own: each case is this program again, in a role.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::checkpoint::{Verdict, set_hook};
use plug_loader::{ErrorKind, Plugin, Source, State, Unloaded};
use plug_tests::child;
use plug_tests::host::{Host, seconds, useful};
use plug_tests::journal::{Journal, PRELUDE, VARIABLE};
use plug_tests::standalone::{Scratch, cpp_plugin};

/// Longer than any wait at the end of a process.
const DEADLINE: Duration = Duration::from_secs(5);

/// The folder of the compiled plugins, for children.
const FOLDER: &str = "PLUG_EXIT_FOLDER";

/// A static object, a destructor, an exit, and a function that ends the process.
fn plugin(name: &str) -> String {
    format!(
        r#"{PRELUDE}
#include <string>
namespace {{
struct Object {{
    std::string *text = new std::string("{name} object");
    ~Object() {{ note(text->c_str()); delete text; text = nullptr; }}
}};
Object object;
__attribute__((destructor)) void destroy() {{ note("{name} destructor"); }}
int32_t init(const plug_host_context *) {{ return PLUG_OK; }}
void stop() {{
    // The object must still be there.
    note((object.text->substr(0, {len}) + " exit").c_str());
}}
}}
PLUG_PLUGIN("{name}", "1.0.0", "ends", "MIT OR Apache-2.0", init, stop);
PLUG_EXPORT(uint64_t, leave, (int32_t code)) {{ std::exit(code); }}
PLUG_EXPORT(uint64_t, twice, (uint64_t n)) {{ return 2 * n; }}
"#,
        len = name.len()
    )
}

fn load(host: &Host, name: &str) -> Plugin {
    let folder = env::var(FOLDER).expect("set by the parent");
    host.load(Path::new(&folder).join(format!("lib{name}.so")))
        .expect("loads")
}

fn both(host: &Host) -> [Plugin; 2] {
    ["one", "two"].map(|name| load(host, name))
}

fn end(code: i32) -> ! {
    // SAFETY: ends the process the way C does, exit handlers included.
    unsafe { libc::exit(code) }
}

fn never() -> ! {
    loop {
        thread::park();
    }
}

/// Ends the process while it is loaded.
const LEAVER: &str = r#"
__attribute__((constructor)) static void leave(void) { std::exit(7); }
int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop() { note("leaver exit"); }
PLUG_PLUGIN("leaver", "1.0.0", "ends", "MIT OR Apache-2.0", init, stop);
"#;

/// Uses `used` in its exit and in a destructor, and is loaded before the version that is there then.
const USER: &str = r#"
PLUG_IMPORT("used", "*", uint64_t, times, (uint64_t n), (n));
int32_t init(const plug_host_context *) { return PLUG_OK; }
__attribute__((destructor)) void destroy() { note(times(2) == 40 ? "user destructor" : "user failed"); }
void stop() { note(times(3) == 60 ? "user exit" : "user failed"); }
PLUG_PLUGIN("user", "1.0.0", "ends", "MIT OR Apache-2.0", init, stop);
"#;

const USED: &str = r#"
int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop() { note("used exit"); }
PLUG_PLUGIN("used", "1.0.0", "ends", "MIT OR Apache-2.0", init, stop);
PLUG_EXPORT(uint64_t, times, (uint64_t n)) { return FACTOR * n; }
"#;

/// A plugin that uses another one, of which a newer version has come since.
fn uses(host: &Host) {
    let folder = env::var(FOLDER).expect("set by the parent");
    let old = load(host, "used2");
    load(host, "user");
    let newer = Source::path(Path::new(&folder).join("libused20.so"));
    let name = old.name();
    let replaced = host
        .loader
        .replace(&host.trust, name, newer, &Default::default(), seconds(5));
    assert!(matches!(
        replaced.expect("replaces").former,
        Ok(Unloaded::Gone(_))
    ));
    // That of the old version.
    let _left = Journal::at(env::var(VARIABLE).expect("set")).take();
}

type Leave = unsafe extern "C" fn(i32) -> u64;
type Twice = unsafe extern "C" fn(u64) -> u64;

/// What a child does; 7 is the code that each case ends with.
fn act(role: &str) -> ExitCode {
    let host = Host::new();
    let [one, two] = both(&host);
    match role {
        "return from main" => {}
        "exit from main" => end(7),
        "exit from a worker" => {
            thread::spawn(move || {
                let _worker = host.loader.worker("last").expect("worker");
                end(7)
            });
            never();
        }
        "exit from inside a plugin" => {
            let leave = two.function::<Leave>("leave").expect("exported");
            let worker = host.loader.worker("last").expect("worker");
            // SAFETY: the fixture's signature.
            let left = unsafe { leave.call_on(&worker, (7,)) };
            unreachable!("{left:?}");
        }
        "exit from a constructor" => {
            load(&host, "leaver");
        }
        "exit under callers" => {
            for plugin in [&one, &two] {
                let twice = plugin.function::<Twice>("twice").expect("exported");
                for registered in [true, false] {
                    let loader = host.loader.clone();
                    thread::spawn(move || {
                        let worker = registered.then(|| loader.worker("caller").expect("worker"));
                        loop {
                            // SAFETY: the fixture's signature.
                            let _gone_at_the_end = match &worker {
                                Some(worker) => unsafe { twice.call_on(worker, (1,)) },
                                None => unsafe { twice.call((1,)) },
                            };
                        }
                    });
                }
            }
            thread::sleep(Duration::from_millis(20));
            end(7);
        }
        "exit during a constructor" => {
            let loader = host.loader.clone();
            thread::spawn(move || host.hostile("constructor-slow"));
            while loader
                .plugin("constructor-slow")
                .is_none_or(|p| p.state() != State::Coming)
            {
                thread::yield_now();
            }
            end(7);
        }
        "exit with a thread stopped in publish" => {
            static STOPPED: AtomicBool = AtomicBool::new(false);
            set_hook(|point| {
                if point == "publish.built" {
                    STOPPED.store(true, Ordering::SeqCst);
                    never();
                }
                Verdict::Pass
            });
            thread::spawn(move || host.useful("base64"));
            while !STOPPED.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            end(7);
        }
        "exit of a user" => {
            uses(&host);
            end(7);
        }
        "shutdown of a user" => {
            uses(&host);
            let left = host.loader.shutdown(seconds(5)).expect("outside");
            let names: Vec<_> = left.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["user", "used", "two", "one"]);
        }
        "exit in a forked child" => {
            // SAFETY: the child only exits.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                end(0);
            }
            let mut status = 0;
            // SAFETY: own child.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(status, 0, "the child of the fork");
            // What is C++'s ends in the child as well; what is the loader's does not.
            let wrote = Journal::at(env::var(VARIABLE).expect("set")).take();
            assert_eq!(wrote, ["two object", "one object"]);
        }
        "shutdown" => {
            let left = host.loader.shutdown(seconds(5)).expect("outside");
            let names: Vec<_> = left.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["two", "one"]);
            assert!(
                left.iter()
                    .all(|(_, how)| matches!(how, Ok(Unloaded::Gone(_)))),
                "{left:?}"
            );
            let refused = host.load(useful("base64")).expect_err("shut down");
            assert_eq!(refused.kind(), ErrorKind::ShutDown);
            let source = Source::path(useful("base64")).named("other");
            assert!(
                host.loader
                    .load(&host.trust, source, &Default::default())
                    .is_err()
            );
        }
        _ => unreachable!("{role}"),
    }
    ExitCode::from(7)
}

/// What one plugin's end writes.
fn ends(name: &str) -> [String; 3] {
    ["exit", "destructor", "object"].map(|what| format!("{name} {what}"))
}

fn main() -> ExitCode {
    if env::args().any(|argument| argument == "--list") {
        println!("exit: test");
        return ExitCode::SUCCESS;
    }
    if let Some(role) = child::role() {
        return act(&role);
    }
    let scratch = Scratch::new("exit");
    for name in ["one", "two"] {
        cpp_plugin(&scratch, name, &plugin(name));
    }
    cpp_plugin(&scratch, "leaver", &format!("{PRELUDE}{LEAVER}"));
    cpp_plugin(&scratch, "user", &format!("{PRELUDE}{USER}"));
    for factor in ["2", "20"] {
        let used = format!("{PRELUDE}#define FACTOR {factor}\n{USED}");
        cpp_plugin(&scratch, &format!("used{factor}"), &used);
    }
    let all = [ends("two"), ends("one")].concat();
    let users = ["user exit", "user destructor", "used exit"].map(str::to_owned);
    let with_users = [users.to_vec(), all.clone()].concat();
    let cases: [(&str, Vec<String>); 12] = [
        ("return from main", all.clone()),
        ("exit from main", all.clone()),
        ("exit from a worker", all.clone()),
        // Somebody is inside `two` for good: its exit must not run; its object ends with C++.
        (
            "exit from inside a plugin",
            [ends("one").into(), vec!["two object".into()]].concat(),
        ),
        ("exit from a constructor", all.clone()),
        ("exit under callers", all.clone()),
        ("exit during a constructor", all.clone()),
        // The registry is locked for good: no exit can run, but objects end with C++.
        (
            "exit with a thread stopped in publish",
            vec!["two object".into(), "one object".into()],
        ),
        ("exit in a forked child", all.clone()),
        ("exit of a user", with_users.clone()),
        ("shutdown of a user", with_users),
        ("shutdown", all),
    ];
    let mut failed = 0;
    for (role, expected) in cases {
        let journal = Journal::at(scratch.path().join("journal"));
        let mut command = Command::new(env::current_exe().expect("own binary"));
        command.env(FOLDER, scratch.path());
        command.env(VARIABLE, scratch.path().join("journal"));
        let began = Instant::now();
        let ended = child::finish(child::start(&mut command, role), DEADLINE);
        let took = began.elapsed();
        let wrote = journal.take();
        let ok = ended.status.and_then(|status| status.code()) == Some(7) && wrote == expected;
        println!(
            "{role} ... {} ({took:.1?})",
            if ok { "ok" } else { "FAILED" }
        );
        if !ok {
            failed += 1;
            println!(
                "{:?}\n{}\nwrote {wrote:?}\nnot   {expected:?}",
                ended.status, ended.output
            );
        }
    }
    // A folder that a forked child or a stopped thread left would be swept by the next loader.
    let _ = fs::remove_dir_all(scratch.path());
    ExitCode::from(u8::from(failed > 0))
}
