//! How an unload ended.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::error::Stage;
use crate::lingering::{Lingering, Observed};
use crate::quiesce::WorkerProof;

/// How an unload ended. What it says was observed, not assumed.
#[derive(Clone, Debug)]
#[must_use = "an unload may leave the plugin mapped"]
pub enum Unloaded {
    /// The plugin is out of the process.
    Gone(UnloadReport),
    /// It is closed, but something still holds its mapping, or its `exit` has not returned yet;
    /// collected by itself when that ends.
    Zombie(Lingering),
    /// It refuses all calls, and stays mapped for ever: the file asks for it, or somebody was found
    /// inside after its `exit`.
    Pinned(Lingering),
}

impl Unloaded {
    /// Whether the plugin is out of the process.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

impl fmt::Display for Unloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(report) => write!(f, "{} is unloaded", report.plugin),
            Self::Zombie(left) => write!(f, "{left}; it goes by itself when that ends"),
            Self::Pinned(left) => write!(f, "{left}; it stays for ever"),
        }
    }
}

/// What an unload saw.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin's name.
    pub plugin: Box<str>,
    /// The load it was.
    pub generation: u64,
    /// For every worker how it was proved outside.
    pub workers: Vec<WorkerProof>,
    /// How long each stage took.
    pub stages: Vec<(Stage, Duration)>,
    /// What was seen of its mapping.
    pub observed: Observed,
}
