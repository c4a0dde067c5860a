//! A torture in the manner of the kernel's rcutorture: nobody is ever inside what was freed.
//!
//! `plug-torture` runs every real configuration, each in a process of its own; `plug-torture NAME`
//! runs one in this process, `plug-torture --list` names them. Those after the first eleven are
//! broken on purpose, and must be found out. `PLUG_TORTURE_SECONDS` is the time for all that is
//! run, 60 by default, split evenly.
//!
//! Ends with 0 if nothing was found.

mod backlog;
mod barriers;
mod element;
mod fixture;
mod forks;
mod gates;
mod late;
mod pace;
mod pages;
mod plugins;
mod scenario;
mod sections;
mod tally;

use std::env;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use plug_tests::allocations::Watched;

use crate::scenario::{ALL, Barriers, Part, Scenario};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The time for all that is run.
fn time() -> Duration {
    let seconds = env::var("PLUG_TORTURE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

fn main() -> ExitCode {
    let names: Vec<String> = env::args().skip(1).collect();
    if names == ["--list"] {
        for scenario in &ALL {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let mut chosen = Vec::new();
    for name in &names {
        let Some(scenario) = ALL.iter().find(|scenario| scenario.name == name) else {
            eprintln!("no configuration {name:?}; --list shows them all");
            return ExitCode::from(2);
        };
        chosen.push(scenario);
    }
    if let [one] = chosen[..] {
        return verdict(run(one, time()));
    }
    if chosen.is_empty() {
        chosen = ALL.iter().filter(|s| s.broken.is_none()).collect();
    }
    let share = time() / u32::try_from(chosen.len()).unwrap_or(1);
    let results = chosen.iter().map(|scenario| apart(scenario, share));
    let failed = results.filter(|passed| !passed).count();
    println!(
        "plug-torture: {} of {} configurations passed",
        chosen.len() - failed,
        chosen.len()
    );
    verdict(failed == 0)
}

fn verdict(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one in this process; true if nothing was found.
fn run(scenario: &Scenario, time: Duration) -> bool {
    tally::begin(scenario, time);
    barriers::prepare(scenario);
    let switch = (scenario.barriers == Barriers::Switch).then(|| {
        thread::spawn(move || {
            thread::sleep(time / 2);
            barriers::give_up();
        })
    });
    let began = Instant::now();
    let required = match scenario.part {
        Part::Sections => sections::torture(scenario, time),
        Part::Gates => gates::torture(scenario, time),
        Part::Plugins => plugins::torture(scenario, time),
    };
    if let Some(switch) = switch {
        switch.join().expect("the last barrier");
    }
    let required = if scenario.broken.is_none() {
        required
    } else {
        &[]
    };
    tally::end(scenario, required, began.elapsed())
}

/// Runs one in a process of its own, since tables and modes belong to the process.
fn apart(scenario: &Scenario, time: Duration) -> bool {
    let seconds = time.as_secs().max(1);
    let child = env::current_exe().and_then(|program| {
        Command::new(program)
            .arg(scenario.name)
            .env("PLUG_TORTURE_SECONDS", seconds.to_string())
            .spawn()
    });
    let mut child = child.expect("the program runs itself");
    // Whatever hangs is found by its own watch first.
    let latest = Instant::now() + time * 2 + pace::PATIENCE * 3;
    loop {
        if let Some(status) = child.try_wait().expect("own child") {
            if !status.success() {
                println!("plug-torture: {}: {status}", scenario.name);
            }
            return status.success();
        }
        if Instant::now() > latest {
            child.kill().expect("own child");
            child.wait().expect("own child");
            println!("plug-torture: {}: hung", scenario.name);
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
