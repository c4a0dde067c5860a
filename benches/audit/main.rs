//! What an unload's looks at stacks and at pointers cost, and how often they are wrong.
//!
//! `cargo bench -p benches --bench audit`; with `PLUG_BENCH_QUICK=1` one short round, whose figures
//! mean nothing. Times are what the auditing thread had of a processor, so that neighbours do not count.

mod threads;
mod torture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use benches::measure::{Plan, Series, processor_time, table};
use benches::scenario;
use benches::verdict::Limits;
use plug_loader::{Config, Deadline, Loader, Params, Plugin, Policy, Source, Trust};

/// Every verdict in the order in which it is printed, and its limit.
const LIMITS: Limits = Limits(&[
    ("audit_us_per_idle_thread_100", 25.0),
    ("audit_us_per_idle_thread_1000", 35.0),
    ("root_scan_us", 150.0),
    ("false_negatives", 0.0),
    ("false_positives", 0.0),
    ("eintr_seen", 0.0),
]);

const GROUPS: [&str; 6] = ["100", "1000", "roots", "negatives", "positives", "eintr"];

fn main() -> ExitCode {
    scenario::run_all(&GROUPS, LIMITS, measure)
}

fn measure(plan: Plan, group: &str) {
    let room = Room::new();
    match group {
        "100" | "1000" => idle(plan, &room, group.parse().expect("a number")),
        "roots" => roots(plan, &room),
        "negatives" => torture::run(plan, &room),
        "positives" => {
            let taken = threads::with_stale_stacks(&room, || room.audit().len());
            LIMITS.tell_count("false_positives", taken as u64);
        }
        _ => {
            let audits = plan.size(100, 3);
            let seen = threads::with_sleepers(|| {
                for _ in 0..audits {
                    assert_eq!(room.audit().len(), 0);
                }
            });
            LIMITS.tell_count("eintr_seen", seen);
        }
    }
}

/// A process with a plugin in it.
struct Room {
    loader: Loader,
    plugin: Plugin,
}

/// The plugin: functions that say that they have been entered.
const SOURCE: &str = "\
    unsigned long compute(_Atomic unsigned *entering, unsigned long turns) {\n\
        static volatile unsigned long sink; unsigned long sum = 0;\n\
        *entering = 0; for (; turns > 0; turns--) sum += turns ^ sink; return sum + 1; }\n\
    unsigned long through(_Atomic unsigned *entering, void (*call)(void)) {\n\
        static volatile unsigned long sink; *entering = 0; call(); return sink + 1; }\n\
    unsigned long deep(unsigned long n) {\n\
        volatile unsigned long room[4]; room[n & 3] = n;\n\
        return n == 0 ? 1 : deep(n - 1) + room[n & 3]; }\n";

impl Room {
    fn new() -> Self {
        // SAFETY: the library above.
        let trust = unsafe { Trust::new(Policy::default()) };
        let loader = Loader::new(Config::default()).expect("the first loader");
        let plugin = loader.load(&trust, Source::path(library()), &Params::new());
        let plugin = plugin.expect("loads");
        Self { loader, plugin }
    }

    fn audit(&self) -> Vec<plug_loader::Holder> {
        let long = Deadline::after(Duration::from_secs(60));
        self.loader.audit(&self.plugin, long)
    }

    /// A function by its bare address.
    fn address(&self, name: &str) -> usize {
        self.plugin.address_of(name).expect("exported")
    }
}

fn library() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit-1");
    fs::create_dir_all(&folder).expect("a folder");
    let (source, library) = (folder.join("room.c"), folder.join("room.so"));
    if !library.exists() {
        fs::write(&source, SOURCE).expect("written");
        // Not in place: another process may be loading it.
        let partial = folder.join(format!("room.{}", std::process::id()));
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-fPIC", "-shared", "-o"]);
        let status = gcc.arg(&partial).arg(&source).status().expect("gcc");
        assert!(status.success());
        fs::rename(&partial, &library).expect("renamed");
    }
    library
}

fn idle(plan: Plan, room: &Room, threads: usize) {
    let mut series = Series::new(format!("{threads} idle threads"));
    threads::with_idle(threads, || {
        for _ in 0..plan.rounds().max(2) {
            let began = processor_time();
            assert_eq!(room.audit().len(), 0);
            let took = (processor_time() - began).as_secs_f64() * 1e6;
            series.rounds.push(took / threads as f64);
        }
    });
    // The first one finds out what never changes.
    series.rounds.remove(0);
    table("audits", "microseconds a thread", &[series.clone()]);
    let name = format!("audit_us_per_idle_thread_{threads}");
    LIMITS.tell(&name, Ok(series.median()));
}

fn roots(plan: Plan, room: &Room) {
    let mut series = Series::new("all that an unload searches");
    for _ in 0..plan.rounds().max(2) {
        let began = processor_time();
        let roots = room.loader.roots(&room.plugin);
        let took = processor_time() - began;
        series.rounds.push(took.as_secs_f64() * 1e6);
        assert!(!roots.iter().any(plug_loader::Root::holds), "{roots:?}");
    }
    series.rounds.remove(0);
    table("pointers", "microseconds", &[series.clone()]);
    LIMITS.tell("root_scan_us", Ok(series.median()));
}
