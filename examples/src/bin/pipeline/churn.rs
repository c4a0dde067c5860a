//! The thread that unloads and loads plugins under load, all the time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Plugin, Proof, Stage, UnloadReport, Unloaded};

use crate::fleet::Fleet;
use crate::worker::Floor;

/// Between one load and the next unload, so that whole passes fit in between.
const PAUSE: Duration = Duration::from_millis(5);

/// Durations of one kind.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// What loads and unloads took, and how they ended.
#[derive(Debug, Default)]
pub struct Moves {
    pub loads: Times,
    pub load_stages: BTreeMap<Stage, Times>,
    pub unloads: Times,
    pub unload_stages: BTreeMap<Stage, Times>,
    /// Workers proved outside because they were not inside when the gates had closed.
    pub idle: u64,
    /// Workers proved outside because they left, and how long that took.
    pub drained: Times,
    pub faults: Vec<String>,
}

impl Moves {
    /// Notes a load that began at `began`.
    pub fn loaded(&mut self, began: Instant, plugin: &Plugin) {
        self.loads.add(began.elapsed());
        for &(stage, time) in plugin.load_times() {
            self.load_stages.entry(stage).or_default().add(time);
        }
    }

    /// Notes an unload that began at `began`; true when the plugin is gone.
    pub fn unloaded(&mut self, began: Instant, unloaded: &Unloaded) -> bool {
        self.unloads.add(began.elapsed());
        match unloaded {
            Unloaded::Gone(report) => {
                self.proofs(report);
                true
            }
            Unloaded::Zombie(left) | Unloaded::Pinned(left) => {
                self.faults.push(left.to_string());
                false
            }
        }
    }

    fn proofs(&mut self, report: &UnloadReport) {
        for &(stage, time) in &report.stages {
            self.unload_stages.entry(stage).or_default().add(time);
        }
        for worker in &report.workers {
            match worker.proof {
                Proof::Drained => self.drained.add(worker.after),
                _ => self.idle += 1,
            }
        }
    }
}

/// Unloads and loads each plugin in turn until the floor stops; `rounds` counts along.
pub fn churn(floor: &Floor<'_>, moves: &mut Moves, rounds: &AtomicU64) {
    for at in (0..floor.fleet.len()).cycle() {
        // Relaxed: nothing is read because of it but the flag.
        if floor.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(fault) = turn(floor.fleet, at, moves) {
            // The final verdict tells what is left.
            moves.faults.push(fault);
            return;
        }
        // Relaxed: shown in the progress line.
        rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

fn turn(fleet: &Fleet, at: usize, moves: &mut Moves) -> Result<(), String> {
    let began = Instant::now();
    let unloaded = fleet.unload(at)?;
    moves.unloaded(began, &unloaded);
    let began = Instant::now();
    let plugin = fleet.load(at)?;
    moves.loaded(began, &plugin);
    Ok(())
}
