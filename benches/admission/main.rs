//! What it costs to look at a plugin before ld.so does, and what comes of it.
//!
//! `cargo bench -p benches --bench admission`; with `PLUG_BENCH_QUICK=1` few rounds, few mutants and
//! a part of the system's libraries. The last lines are `ratio NAME VALUE LIMIT` and
//! `count NAME VALUE LIMIT`, met where VALUE <= LIMIT.
//!
//! The reference of the validator is a cold dlopen: the first one of a fresh process, with the file
//! in the page cache. Both read what the other has read before, in turns. That of a signature, with
//! the validator, is a load of the same plugin without one. A probe is this very program again.

mod cold;
#[path = "../../tests/src/ending.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own file")]
mod ending;
mod mutants;
#[path = "../../tests/src/mutation.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own file")]
mod mutation;
mod probe;
mod sample;
mod sweep;
mod verify;

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::slice;
use std::time::Instant;

use benches::measure::{Plan, Series, median, ratio, table};
use benches::verdict::short;
use plug_loader::image::{Facts, validate};
use plug_loader::{Config, Loader, Policy, Trust};

use sample::Sample;

fn main() -> ExitCode {
    // SAFETY: what is loaded is made by this benchmark, in its own folder.
    let trust = unsafe { Trust::new(Policy::default()) };
    if let Some(code) = plug_loader::probe::serve(&trust) {
        return code;
    }
    let arguments: Vec<String> = env::args().collect();
    if let [_, mode, path, ..] = &arguments[..]
        && mode == cold::CHILD
    {
        cold::child(path);
        return ExitCode::SUCCESS;
    }
    let plan = Plan::from_environment();
    let mut ratios = Vec::new();
    for (name, functions) in [("100k", sample::SMALL), ("5m", sample::LARGE)] {
        let sample = Sample::of(functions);
        let value = compare(plan, &sample);
        ratios.push((format!("validate_vs_cold_dlopen_{name}"), value, 1));
    }
    let crashes = mutants::crashes(plan);
    let refusals = sweep::false_refusals(plan);
    // A loader has threads, which the forks of the mutants had better not have.
    let admitted = admit(plan, &trust);
    ratios.push(("verify_and_validate_vs_load_1m5".to_owned(), admitted, 2));
    ratios.push(("probe_ms".to_owned(), rehearse(plan), 3));
    println!();
    for (name, value, limit) in ratios {
        match value {
            Ok(value) => println!("ratio {name} {} {limit}", short(value)),
            Err(reason) => println!("skipped {name} {reason}"),
        }
    }
    println!("count ld_so_crashes {crashes} 0");
    println!("count false_refusals {refusals} 0");
    ExitCode::SUCCESS
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

/// How long a signature and the checks take beside a load without a signature.
fn admit(plan: Plan, trust: &Trust) -> Result<f64, String> {
    let path = verify::plugin_of_1m5(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let loader = Loader::new(Config::default()).map_err(|error| error.to_string())?;
    let all = verify::series(plan, &loader, trust, &path, |bytes| {
        let facts = Facts::read(bytes).expect("intact");
        validate(&facts, bytes).expect("intact");
        black_box(facts);
    })?;
    let size = fs::metadata(&path).map_err(|error| error.to_string())?;
    table(&format!("a plugin of {} bytes", size.len()), "us", &all);
    ratio(&all, "verify and validate", "plain load")
}

/// How many milliseconds a probe of a small plugin takes.
fn rehearse(plan: Plan) -> Result<f64, String> {
    let path = probe::small_plugin(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let series = probe::series(plan, &path)?;
    table(
        "a rehearsal in a process of its own",
        "ms",
        slice::from_ref(&series),
    );
    Ok(series.median())
}
