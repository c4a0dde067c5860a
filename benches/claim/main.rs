//! What loading does to workers: the table and the plot of `docs/claim.md`, measured and written.
//!
//! `cargo bench -p benches --bench claim`; with `PLUG_BENCH_QUICK=1` one short round, whose figures
//! mean nothing and which are written beside the build instead of into `docs`.

mod page;
mod plot;
mod rows;
#[path = "../storm/mod.rs"]
mod storm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use benches::measure::Plan;
use benches::scenario;

use rows::Row;

/// How many workers there are; each number has a process of its own.
const WORKERS: [usize; 4] = [1, 2, 16, 128];

fn main() -> ExitCode {
    let plan = Plan::from_environment();
    if let Some(group) = scenario::asked() {
        let n = group.parse().expect("a number of workers");
        rows::measure(plan, n);
        return ExitCode::SUCCESS;
    }
    match write(plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn write(plan: Plan) -> io::Result<()> {
    // Asked first: the measurement itself is a load.
    let machine = scenario::machine();
    println!("machine: {machine}");
    let mut rows = Vec::new();
    for n in WORKERS {
        println!("\n== {n} workers");
        scenario::lines(&n.to_string(), |line| {
            rows.extend(Row::told(n, line));
            println!("{line}");
        })?;
    }
    let folder = folder(plan);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("claim.md"), page::page(&machine, &rows))?;
    let picture = folder.join("claim.svg");
    plot::draw(&picture, &rows).map_err(|error| io::Error::other(error.to_string()))?;
    println!("\nwritten: claim.md and claim.svg in {}", folder.display());
    Ok(())
}

fn folder(plan: Plan) -> PathBuf {
    match plan.quick {
        true => Path::new(env!("CARGO_TARGET_TMPDIR")).join("claim"),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs"),
    }
}
