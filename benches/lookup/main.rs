//! Plug's lookups and loads beside those of its peers, in one run and in turns.
//!
//! `cargo bench -p benches --bench lookup`; with `PLUG_BENCH_QUICK=1` one short round over small
//! sizes, which shows that everything runs and whose ratios mean nothing. Every figure is a median
//! over the rounds; with `PLUG_BENCH_ONLY=locate` only contenders of such a name run, and arguments
//! `-- --group "addresses 10k"` measure one group in this very process, for a profiler. A ratio is
//! the median of the ratios within a round. The last lines are
//! `ratio NAME VALUE LIMIT`, met where VALUE <= LIMIT, or `skipped NAME reason`.

mod crash;
mod library;
mod loads;
mod many;
mod memory;
mod names;
mod peers;
mod plug;
mod single;
mod verdict;

use std::process::ExitCode;

use benches::measure::Plan;
use benches::scenario;

use plug::Plug;

fn main() -> ExitCode {
    scenario::run_all(&GROUPS, verdict::LIMITS, |plan, group| {
        // Each plugin keeps the descriptor of its private copy.
        raise_descriptor_limit();
        measure(plan, group);
    })
}

/// What is measured in a process of its own. Sizes are those of the full run.
const GROUPS: [&str; 16] = [
    "load 100",
    "load 500k",
    "addresses 100",
    "addresses 10k",
    "addresses 100k",
    "addresses 500k",
    "names 100",
    "names 1k",
    "names 10k",
    "names 100k",
    "names 500k",
    "plugins 10",
    "plugins 100",
    "plugins 1000",
    "plugins 5000",
    "crash",
];

fn measure(plan: Plan, group: &str) {
    let (what, word) = group.split_once(' ').unwrap_or((group, ""));
    let n = match word {
        "1k" => 1_000,
        "10k" => plan.size(10_000, 2_000),
        "100k" => plan.size(100_000, 5_000),
        "500k" => plan.size(500_000, 20_000),
        "1000" => plan.size(1000, 40),
        "5000" => plan.size(5000, 60),
        word => word.parse().unwrap_or(0),
    };
    let plug = Plug::start();
    match what {
        "load" => loads::run(plan, &plug, word, n),
        "addresses" => single::run(plan, &plug, word, n),
        "names" => names::run(plan, &plug, word, n),
        "plugins" => many::run(plan, &plug, n, word == "1000"),
        "crash" => crash::run(plan),
        crash::CHILD => crash::child(&plug),
        other => panic!("no group {other}"),
    }
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
