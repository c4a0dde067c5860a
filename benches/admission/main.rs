//! What it costs to look at a plugin before ld.so does, and what comes of it.
//!
//! `cargo bench -p benches --bench admission`; with `PLUG_BENCH_QUICK=1` few rounds, few mutants and
//! a part of the system's libraries. The last lines are `ratio NAME VALUE LIMIT` and
//! `count NAME VALUE LIMIT`, met where VALUE <= LIMIT.
//!
//! The reference is a cold dlopen: the first one of a fresh process, with the file in the page
//! cache. Both read what the other has read before, in turns.

mod cold;
#[path = "../../tests/src/ending.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own file")]
mod ending;
mod mutants;
#[path = "../../tests/src/mutation.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own file")]
mod mutation;
mod sample;
mod sweep;

use std::env;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use benches::measure::{Plan, Series, median, ratio, table};
use benches::verdict::short;
use plug_loader::image::{Facts, validate};

use sample::Sample;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let [_, mode, path, ..] = &arguments[..]
        && mode == cold::CHILD
    {
        cold::child(path);
        return;
    }
    let plan = Plan::from_environment();
    let mut ratios = Vec::new();
    for (name, functions) in [("100k", sample::SMALL), ("5m", sample::LARGE)] {
        let sample = Sample::of(functions);
        ratios.push((
            format!("validate_vs_cold_dlopen_{name}"),
            compare(plan, &sample),
        ));
    }
    let crashes = mutants::crashes(plan);
    let refusals = sweep::false_refusals(plan);
    println!();
    for (name, value) in ratios {
        match value {
            Ok(value) => println!("ratio {name} {} 1", short(value)),
            Err(reason) => println!("skipped {name} {reason}"),
        }
    }
    println!("count ld_so_crashes {crashes} 0");
    println!("count false_refusals {refusals} 0");
}

/// How long the checks take beside a cold dlopen, medians of each round's tries.
fn compare(plan: Plan, sample: &Sample) -> Result<f64, String> {
    let bytes = fs::read(&sample.path).expect("a library");
    let mut all = ["facts and rules", "cold dlopen", "facts alone"].map(Series::new);
    for _ in 0..plan.rounds() {
        let mut tries: [Vec<f64>; 3] = Default::default();
        for _ in 0..plan.size(9, 2) {
            let began = Instant::now();
            let facts = Facts::read(&bytes).expect("intact");
            let read = began.elapsed();
            validate(&facts, &bytes).expect("intact");
            let checked = began.elapsed();
            black_box(facts);
            tries[0].push(checked.as_nanos() as f64 / 1e3);
            tries[1].push(cold::dlopen(&sample.path));
            tries[2].push(read.as_nanos() as f64 / 1e3);
        }
        for (series, tries) in all.iter_mut().zip(&tries) {
            series.rounds.push(median(tries));
        }
    }
    let title = format!("{} bytes, {} functions", bytes.len(), sample.functions);
    table(&title, "us", &all);
    ratio(&all, "facts and rules", "cold dlopen")
}
