//! Streams a text through plugins on several threads while the plugins come and go, signal
//! handlers and a profiler read their symbols, and everything is counted and compared.
//!
//! Exits with 1 when anything was lost, differed, or stayed behind.

mod churn;
mod compare;
mod digest;
mod fleet;
mod input;
mod ledger;
mod profiler;
mod progress;
mod report;
mod sampler;
mod stream;
mod tally;
mod throughput;
mod tools;
mod worker;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use plug_loader::{Config, Loader, Policy, Trust, Unloaded};
use tracing::Level;

use crate::churn::Moves;
use crate::fleet::Fleet;
use crate::input::Input;
use crate::profiler::Profile;
use crate::progress::Progress;
use crate::report::Report;
use crate::tally::Tally;
use crate::worker::Floor;

/// Streams a text through plugins while they are loaded and unloaded, and checks everything.
#[derive(Debug, Parser)]
struct Options {
    /// The text; - is standard input, without one a text of this repository is taken.
    file: Option<String>,
    /// Threads that stream; by default as many as there are cores, at least 2.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Feed each filter what the one before wrote, instead of the text.
    #[arg(long)]
    chain: bool,
    /// Seconds of loads and unloads, and again of quiet.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// A plugin with a filter; several in their order. By default base64, wordcount, checksum.
    #[arg(long = "plugin", value_name = "PATH")]
    plugins: Vec<PathBuf>,
    /// Show what the loader does.
    #[arg(long, short)]
    verbose: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected 0.1 to 86400".to_owned()),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_max_level(if options.verbose {
            Level::DEBUG
        } else {
            Level::WARN
        })
        .with_writer(io::stderr)
        .init();
    match run(&options) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pipeline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Vec<String>, String> {
    let input =
        Input::read(options.file.as_deref()).map_err(|error| format!("read the input: {error}"))?;
    let workers = options.workers.map_or_else(cores, usize::from);
    let time = Duration::from_secs_f64(options.seconds);
    // SAFETY: the plugins are those of this repository, or ones the caller of this program names
    // and vouches for.
    let trust = unsafe { Trust::new(Policy::default()) };
    let loader = Loader::new(Config::default()).map_err(|error| error.to_string())?;
    let fleet = &Fleet::new(loader, trust, &plugins(options)?)?;
    let lanes: &[Vec<usize>] = &match options.chain {
        true => vec![(0..fleet.len()).collect()],
        false => (0..fleet.len()).map(|at| vec![at]).collect(),
    };
    sampler::install(fleet.names().map(str::to_owned).collect())
        .map_err(|error| format!("install the signal handler: {error}"))?;
    let progress = Progress::new();

    for at in 0..fleet.len() {
        progress.phase(&format!("loading {}", fleet.name(at)));
        fleet.load(at)?;
    }

    progress.phase("measuring plugins and linked filters in turns");
    let round = (time / 80).clamp(Duration::from_millis(10), Duration::from_millis(60));
    let mut bench = Tally::default();
    let throughput = throughput::measure(fleet, &input, lanes, workers, round, &mut bench);

    let floor = |may_cut| Floor {
        input: &input,
        fleet,
        lanes,
        may_cut,
        stop: AtomicBool::new(false),
        blocks: AtomicU64::new(0),
    };
    let mut profile = Profile::default();
    let mut moves = Moves::default();
    progress.phase("streaming while plugins come and go");
    let churn = phase(
        &floor(true),
        workers,
        time,
        Some(&mut moves),
        &mut profile,
        &progress,
    );
    progress.phase("streaming in quiet");
    let quiet = phase(&floor(false), workers, time, None, &mut profile, &progress);
    profile.settle(&fleet.ledger);

    progress.phase("comparing results");
    let mut all = Tally::default();
    for tally in [&bench, &churn, &quiet] {
        all.add_results(tally);
    }
    let comparison = compare::compare(&all, fleet, &input, workers);
    progress.phase("unloading");
    let mapped_before = mapped(fleet)?;
    let verdicts = (0..fleet.len()).rev().map(|at| {
        let verdict = match fleet.unload(at) {
            Ok(Unloaded::Gone(_)) => Ok(()),
            Ok(Unloaded::Zombie(left) | Unloaded::Pinned(left)) => Err(left.to_string()),
            Err(error) => Err(error),
        };
        (fleet.name(at).to_owned(), verdict)
    });
    let verdicts = verdicts.collect();
    progress.end();
    let report = Report {
        input: &input,
        fleet,
        lanes,
        workers,
        throughput,
        bench,
        churn,
        quiet,
        moves,
        comparison,
        profile,
        samples: sampler::samples(),
        verdicts,
        mapped: (mapped_before, mapped(fleet)?),
    };
    let failures = report.failures();
    let mut text = report.render();
    for failure in &failures {
        text += &format!("\nFAILED: {failure}");
    }
    if failures.is_empty() {
        text += "\nall well: nothing lost, nothing differs, everything unloaded";
    }
    writeln!(io::stdout(), "{text}").map_err(|error| format!("print the table: {error}"))?;
    Ok(failures)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

/// The files asked for, or the useful plugins in an order that makes sense as a chain, too.
fn plugins(options: &Options) -> Result<Vec<PathBuf>, String> {
    if !options.plugins.is_empty() {
        return Ok(options.plugins.clone());
    }
    ["base64", "wordcount", "checksum"]
        .into_iter()
        .map(|name| {
            plug_example_plugins::path(name)
                .ok_or_else(|| format!("plugin {name}: not built; build the whole workspace"))
        })
        .collect()
}

/// Lets workers, the profiler and perhaps the churn thread run for `time`.
fn phase(
    floor: &Floor<'_>,
    workers: usize,
    time: Duration,
    moves: Option<&mut Moves>,
    profile: &mut Profile,
    progress: &Progress,
) -> Tally {
    let rounds = &AtomicU64::new(0);
    let began = Instant::now();
    let churns = moves.is_some();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|n| scope.spawn(move || worker::work(floor, &format!("worker-{n}"))))
            .collect();
        scope.spawn(|| profile.record(&floor.fleet.ledger, &floor.stop));
        if let Some(moves) = moves {
            scope.spawn(|| churn::churn(floor, moves, rounds));
        }
        while began.elapsed() < time {
            thread::sleep(Duration::from_millis(100).min(time));
            // Relaxed: shown only.
            let (blocks, rounds) = (
                floor.blocks.load(Ordering::Relaxed),
                rounds.load(Ordering::Relaxed),
            );
            progress.tell(&match churns {
                true => format!("{blocks} blocks, {rounds} unloads and loads"),
                false => format!("{blocks} blocks in quiet"),
            });
        }
        floor.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in threads {
            match thread.join().expect("workers do not panic") {
                Ok(tally) => all.add(tally),
                Err(fault) => all.faults.push(fault),
            }
        }
        all
    })
}

/// Mappings of files that plugins of these names were staged in, as the kernel shows them.
fn mapped(fleet: &Fleet) -> Result<usize, String> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|error| format!("maps: {error}"))?;
    let staged = |line: &&str| {
        fleet
            .names()
            .any(|name| line.ends_with(&format!("/memfd:{name} (deleted)")))
    };
    Ok(maps.lines().filter(staged).count())
}
