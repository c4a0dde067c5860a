//! A rehearsal of a load, for `plugctl check --probe`.

use std::path::Path;

use plug_loader::image::Opened;
use plug_loader::probe::{self, Probe, Report, Verdict};
use plug_loader::{Params, Policy};
use serde::Serialize;

use crate::failure::Failure;
use plug_loader::control::messages::StageTime;

/// What a probe found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProbeRow {
    /// passed, refused, crashed or unknown.
    pub(crate) verdict: &'static str,
    /// The verdict in words.
    pub(crate) message: String,
    /// Whether it left the process; null if it did not come that far.
    pub(crate) unloaded: Option<bool>,
    /// Why it did not.
    pub(crate) because: String,
    /// What it left behind.
    pub(crate) left: Vec<String>,
    /// How long each stage took.
    pub(crate) stages: Vec<StageTime>,
    /// How long the whole probe took.
    pub(crate) micros: u64,
}

/// Has the file at `path` probed by a process of this program.
pub(crate) fn run(path: &Path, policy: &Policy, force: bool) -> Result<ProbeRow, Failure> {
    let opened = Opened::open(path).map_err(|error| Failure::image(path, &error))?;
    let report = probe::run(&Probe::default(), &opened, policy, &Params::new(), force);
    let report = report.map_err(|error| Failure::file_refused(path, &error))?;
    Ok(row(&report))
}

fn row(report: &Report) -> ProbeRow {
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let stages = report.times.iter().map(|(name, time)| StageTime {
        name: name.clone(),
        micros: micros(*time),
    });
    let unloaded = report.unloaded.as_ref();
    ProbeRow {
        verdict: match &report.verdict {
            Verdict::Passed => "passed",
            Verdict::Refused(_) => "refused",
            _ if report.is_fatal() => "crashed",
            _ => "unknown",
        },
        message: report.to_string(),
        unloaded: unloaded.map(Result::is_ok),
        because: unloaded
            .and_then(|unloaded| unloaded.as_ref().err().cloned())
            .unwrap_or_default(),
        left: report.left.clone(),
        stages: stages.collect(),
        micros: micros(report.took),
    }
}
