//! What the redirection of imports adds to a load, and accounting to an allocation.

use std::time::Instant;

use benches::measure::{Plan, Series, median, ratio, table};
use plug_loader::{Accounting, measuring};

use crate::files::Files;
use crate::host::{self, Host};
use crate::verdict;

pub fn run(plan: Plan) {
    let (host, files) = (Host::start(), Files::make());
    let names = ["load, imports redirected", "load, imports left alone"];
    let mut all = names.map(Series::new);
    let times = plan.size(100, 3);
    for round in 0..=plan.rounds() {
        let mut tries: [Vec<f64>; 2] = Default::default();
        for time in 0..times {
            for turn in 0..2 {
                let which = (turn + time + round) % 2;
                measuring::redirect_imports(which == 0);
                let began = Instant::now();
                let plugin = host.load(&files.rust);
                tries[which].push(began.elapsed().as_nanos() as f64 / 1e3);
                assert!(host.unload(&plugin));
            }
        }
        // The first round only warms up.
        if round > 0 {
            for (series, tries) in all.iter_mut().zip(&tries) {
                series.rounds.push(median(tries));
            }
        }
    }
    let title = format!("load of a plugin in Rust, {} bytes", files.bytes);
    table(&title, "us", &all);
    measuring::redirect_imports(true);
    allocations(plan, &host, &files);
    verdict::ratio(
        "load_with_footprint_vs_without",
        ratio(&all, names[0], names[1]),
    );
}

/// Prints what an allocation and its release take, by what is counted of them.
fn allocations(plan: Plan, host: &Host, files: &Files) {
    let kinds = [
        ("not accounted", Accounting::Off),
        ("counts", Accounting::Counts),
        ("sites", Accounting::Sites),
    ];
    let mut all = kinds.map(|(name, _)| Series::new(name));
    let n = plan.size(20_000, 200) as u64;
    for _ in 0..plan.rounds() {
        for (series, (_, accounting)) in all.iter_mut().zip(kinds) {
            let plugin = host.load_accounted(&files.pairs, accounting);
            let began = Instant::now();
            host::call(&plugin, "pairs", n);
            series
                .rounds
                .push(began.elapsed().as_nanos() as f64 / n as f64);
            assert!(host.unload(&plugin));
        }
    }
    table("malloc and free of a block", "ns", &all);
}
