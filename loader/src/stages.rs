//! How long each stage of a load or unload took.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::error::Stage;
use crate::witness;

/// A stop-watch with named laps.
#[derive(Debug)]
pub(crate) struct Stages {
    began: Instant,
    laps: Vec<(Stage, Duration)>,
    /// The load that it is of, once that has a number; else 0.
    pub(crate) generation: u64,
}

impl Stages {
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
            laps: Vec::with_capacity(16),
            generation: 0,
        }
    }

    /// The stage that was running has ended.
    pub(crate) fn end(&mut self, stage: Stage) {
        let now = Instant::now();
        self.laps
            .push((stage, now.saturating_duration_since(self.began)));
        self.began = now;
        witness::ended(stage);
    }

    /// As `end` for two stages that ran elsewhere, of which the first took `first` and was told.
    pub(crate) fn split(&mut self, one: Stage, first: Duration, two: Stage) {
        let now = Instant::now();
        let both = now.saturating_duration_since(self.began);
        self.laps.push((one, first));
        self.laps.push((two, both.saturating_sub(first)));
        self.began = now;
        witness::ended(two);
    }

    /// Those that have ended.
    pub(crate) fn laps(&self) -> &[(Stage, Duration)] {
        &self.laps
    }

    pub(crate) fn into_inner(self) -> Vec<(Stage, Duration)> {
        self.laps
    }
}
