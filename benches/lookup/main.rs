//! Plug's lookups and loads beside those of its peers, in one run and in turns.
//!
//! `cargo bench -p benches --bench lookup`; with `PLUG_BENCH_QUICK=1` one short round over small
//! sizes, which shows that everything runs and whose ratios mean nothing. Every figure is a median
//! over the rounds; a ratio is the median of the ratios within a round. The last lines are
//! `ratio NAME VALUE LIMIT`, met where VALUE <= LIMIT, or `skipped NAME reason`.

mod library;
mod loads;
mod many;
mod measure;
mod memory;
mod names;
mod peers;
mod plug;
mod random;
mod single;
mod verdict;

use std::fs;
use std::thread;

use measure::Plan;
use plug::Plug;
use verdict::Verdicts;

fn main() {
    let plan = Plan::from_environment();
    machine();
    if plan.quick {
        println!("quick: small sizes and one round; the ratios mean nothing");
    }
    // Each plugin keeps the descriptor of its private copy.
    raise_descriptor_limit();
    let plug = Plug::start();
    let mut verdicts = Verdicts::new();
    loads::run(plan, &plug, &mut verdicts);
    single::run(plan, &plug, &mut verdicts);
    names::run(plan, &plug, &mut verdicts);
    many::run(plan, &plug, &mut verdicts);
    verdicts.set("crash_report_us", Err("not built yet".to_owned()));
    verdicts.print();
}

/// What it runs on, and who else does.
fn machine() {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |rest| rest.trim_start_matches(['\t', ':', ' ']));
    let cores = thread::available_parallelism().map_or(0, |n| n.get());
    println!(
        "machine: {model}, {cores} cores, Linux {}, load average {}",
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim()
    );
}

fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: there is room for a result.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a limit within what is allowed.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}
