//! A call that comes too late faults where the plugin's name is still known: while it is mapped with
//! its code inaccessible, and while its addresses are kept.

use std::mem;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use plug_loader::{Config, CrashOptions, Plugin, Stage, Unloaded};
use plug_tests::child;
use plug_tests::host::{Host, seconds};
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin};
use plug_tests::{isolated, process};

const FIXTURE: &str = r#"
#include "plugin_api.h"
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("late", "2.1.0", "is called late", "MIT", init, stop);
PLUG_EXPORT(uint64_t, answer, (uint64_t n)) { return n + 1; }
"#;

const PLUSSY: &str = r#"
#include "plugin_api.h"
#include <map>
#include <string>
static int32_t init(const plug_host_context *) { return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("late", "2.1.0", "has destructors", "MIT", init, stop);
static std::map<int, std::string> words{{1, std::string(100, 'x')}};
PLUG_EXPORT(uint64_t, answer, (uint64_t n)) { return n + words.size(); }
"#;

type Answer = unsafe extern "C" fn(u64) -> u64;

const FILE: &str = "PLUG_LATE";

fn bare(plugin: &Plugin) -> Answer {
    let address = plugin.address_of("answer").expect("exported");
    // SAFETY: the fixture's own signature.
    unsafe { mem::transmute::<usize, Answer>(address) }
}

fn host(quarantine: Duration, reservation: Duration) -> Host {
    let mut config = Config::default();
    config.quarantine = quarantine;
    config.reservation = reservation;
    Host::with(config)
}

/// Rights of what is mapped of the plugin, and names of what is there after it.
fn mapped(range: (usize, usize)) -> Vec<(String, String)> {
    let maps = process::maps().into_iter();
    let inside = maps.filter(|m| m.start < range.1 && m.end > range.0);
    inside.map(|m| (m.rights, m.path)).collect()
}

fn crashes(test: &str, says: &[&str]) {
    let scratch = Scratch::new("quarantine");
    let file = c_plugin(&scratch, "late", FIXTURE);
    // SAFETY: libtest's other thread only waits for this one.
    unsafe { env::set_var(FILE, file) };
    let ended = child::run(test, test, Duration::from_secs(60));
    assert_eq!(ended.signal(), Some(libc::SIGSEGV), "{ended:?}");
    for text in says {
        assert!(
            ended.output.contains(text),
            "no {text:?} in\n{}",
            ended.output
        );
    }
}

fn file() -> PathBuf {
    env::var_os(FILE).expect("given").into()
}

#[test]
fn a_call_during_the_quarantine_is_reported_by_name() {
    const TEST: &str = "a_call_during_the_quarantine_is_reported_by_name";
    if child::role().is_none() {
        let says = [
            "SIGSEGV: access not permitted",
            "late 2.1.0 (build-id ",
            ", Going), in ",
            " answer+0x0",
            "plugins linked in: late(-)",
        ];
        return crashes(TEST, &says);
    }
    let host = host(Duration::from_secs(20), Duration::ZERO);
    host.loader
        .install_crash_handler(CrashOptions::default())
        .expect("installed");
    let plugin = host.load(file()).expect("loads");
    let (answer, range) = (bare(&plugin), plugin.range());
    thread::spawn(move || {
        let began = Instant::now();
        while mapped(range).iter().any(|(rights, _)| rights.contains('x')) {
            assert!(began.elapsed() < Duration::from_secs(15));
            thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: none: this is the call that comes too late.
        unsafe { answer(1) }
    });
    let verdict = host.loader.unload("late", seconds(5));
    unreachable!("{verdict:?}");
}

#[test]
fn a_call_to_kept_addresses_is_reported_by_name() {
    const TEST: &str = "a_call_to_kept_addresses_is_reported_by_name";
    if child::role().is_none() {
        let says = ["in late 2.1.0 (unloaded ", " answer+0x0 (unloaded)"];
        return crashes(TEST, &says);
    }
    let host = host(Duration::ZERO, Duration::from_secs(60));
    host.loader
        .install_crash_handler(CrashOptions::default())
        .expect("installed");
    let plugin = host.load(file()).expect("loads");
    let answer = bare(&plugin);
    host.unload("late");
    // Whoever maps something now gets other addresses.
    let _maps = fs::read_to_string("/proc/self/maps").expect("procfs");
    // SAFETY: none: this is the call that comes too late.
    unsafe { answer(1) };
}

fn leaves(path: &Path) {
    const HELD: Duration = Duration::from_millis(300);
    let host = host(HELD, Duration::from_millis(600));
    let mut ranges = Vec::new();
    for _ in 0..2 {
        let plugin = host.load(path).expect("loads");
        let (answer, range) = (bare(&plugin), plugin.range());
        // SAFETY: the fixture's own signature, while it is Live.
        assert_eq!(unsafe { answer(1) }, 2);
        let report = match host.loader.unload("late", seconds(5)) {
            Ok(Unloaded::Gone(report)) => report,
            other => panic!("{other:?}"),
        };
        let stage = report.stages.iter().find(|s| s.0 == Stage::Quarantine);
        assert!(stage.expect("held").1 >= HELD);
        let there = mapped(range);
        assert!(
            there.iter().all(|(rights, _)| rights == "---p") && !there.is_empty(),
            "{there:?}"
        );
        ranges.push(range);
        thread::sleep(Duration::from_millis(700));
    }
    // Given back by what comes next.
    let plugin = host.load(path).expect("loads");
    let range = plugin.range();
    host.unload("late");
    assert!(!mapped(range).is_empty());
    let apart = |other: &&(usize, usize)| other.1 <= range.0 || range.1 <= other.0;
    for range in ranges.iter().filter(apart) {
        let kept = mapped(*range)
            .into_iter()
            .filter(|(_, name)| name.contains("was here"));
        assert_eq!(kept.count(), 0, "{range:x?}");
    }
}

#[test]
fn plugins_leave_after_the_quarantine_and_their_addresses_are_given_back() {
    isolated!({
        let scratch = Scratch::new("quarantine");
        let c = c_plugin(&scratch, "late", FIXTURE);
        leaves(&c);
    });
}

#[test]
fn a_plugin_with_destructors_leaves_with_its_code_inaccessible() {
    isolated!({
        let scratch = Scratch::new("quarantine");
        let cpp = cpp_plugin(&scratch, "late", PLUSSY);
        leaves(&cpp);
    });
}

#[test]
fn without_a_quarantine_nothing_is_kept() {
    isolated!({
        let scratch = Scratch::new("quarantine");
        let c = c_plugin(&scratch, "late", FIXTURE);
        let host = Host::new();
        let plugin = host.load(&c).expect("loads");
        let range = plugin.range();
        let report = host.unload("late");
        assert!(report.stages.iter().all(|s| s.0 != Stage::Quarantine));
        assert_eq!(mapped(range), []);
    });
}
