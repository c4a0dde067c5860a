//! What it costs to be inside, to know that nobody is, and to publish, beside the peers.
//!
//! `cargo bench -p benches --bench quiescence`; with `PLUG_BENCH_QUICK=1` one short round, which
//! shows that everything runs and whose ratios mean nothing. Everybody is measured in turns; figures
//! are medians over the rounds, and a ratio is the median of the ratios within a round. Readers and
//! callers are measured by their threads' own processor time, waits by the clock. Arguments
//! `-- --group readers` measure one group in this very process, and `PLUG_BENCH_ONLY=memb` only
//! contenders of such a name, for a profiler. liburcu is compared with where its headers are
//! (Debian: liburcu-dev). The last lines are `ratio NAME VALUE LIMIT`, met where VALUE <= LIMIT, or
//! `skipped NAME reason`.

mod graces;
mod objects;
mod peers;
mod readers;
#[path = "../storm/mod.rs"]
mod storm;
mod storms;
mod urcu;
mod verdict;

use std::process::ExitCode;

use benches::measure::Plan;
use benches::scenario;

fn main() -> ExitCode {
    scenario::run_all(&GROUPS, verdict::LIMITS, measure)
}

/// What is measured in a process of its own.
const GROUPS: [&str; 5] = ["readers", "graces 1", "graces 128", "publications", "loads"];

fn measure(plan: Plan, group: &str) {
    match group {
        "readers" => readers::run(plan),
        "graces 1" => graces::run(plan, 1),
        "graces 128" => graces::run(plan, 128),
        "publications" => storms::publications(plan),
        "loads" => storms::loads(plan),
        other => panic!("no group {other}"),
    }
}
