//! Whole lives of a plugin, beside plain `dlopen` and `dlclose` of a library in C of the same size.
//!
//! `cargo bench -p benches --bench unload`; with `PLUG_BENCH_QUICK=1` one short round, which shows
//! that everything runs and whose ratios mean nothing. Everybody is measured in turns by the clock;
//! figures are medians over the rounds, and a ratio is the median of the ratios within a round.
//! Arguments `-- --group cycle` measure one group in this very process, for a profiler. The last
//! lines are `ratio NAME VALUE LIMIT` and `count NAME VALUE LIMIT`, met where VALUE <= LIMIT.

mod cycle;
mod files;
mod footprint;
mod host;
mod verdict;
mod workers;

use std::process::ExitCode;

use benches::measure::Plan;
use benches::scenario;

fn main() -> ExitCode {
    scenario::run_all(&GROUPS, verdict::LIMITS, measure)
}

/// What is measured in a process of its own.
const GROUPS: [&str; 3] = ["footprint", "cycle", "workers"];

fn measure(plan: Plan, group: &str) {
    match group {
        "footprint" => footprint::run(plan),
        "cycle" => cycle::run(plan),
        "workers" => workers::run(plan),
        other => panic!("no group {other}"),
    }
}
