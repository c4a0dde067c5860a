//! A rehearsal of a load, for `plugctl check --probe`.

use std::path::Path;
use std::time::Duration;

use plug_loader::image::Opened;
use plug_loader::probe::{self, Call, Probe, Report, Verdict};
use plug_loader::{Params, Policy};
use serde::Serialize;

use crate::failure::Failure;
use plug_loader::control::messages::StageTime;

/// What a probe found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProbeRow {
    /// passed, refused, failed, crashed or unknown; alone where it used another plugin and failed
    /// without it.
    pub(crate) verdict: &'static str,
    /// The verdict in words.
    pub(crate) message: String,
    /// Whether it left the process; null if it did not come that far.
    pub(crate) unloaded: Option<bool>,
    /// Why it did not.
    pub(crate) because: String,
    /// The first service that it asked for and a probe does not offer; null if there is none.
    pub(crate) lacked: Option<String>,
    /// The functions that were called.
    pub(crate) calls: Vec<CallRow>,
    /// What it left behind.
    pub(crate) left: Vec<String>,
    /// How long each stage took.
    pub(crate) stages: Vec<StageTime>,
    /// How long the whole probe took.
    pub(crate) micros: u64,
}

/// A function that was called.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CallRow {
    pub(crate) function: String,
    /// False for one in which the probe ended.
    pub(crate) returned: bool,
    /// The panic or exception that was caught; null if there was none.
    pub(crate) caught: Option<String>,
}

/// No host waits here, and a busy machine is no fault of the plugin's. What computes for ever ends
/// sooner, by the limit of its processor time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Has the file at `path` probed by a process of this program.
pub(crate) fn run(
    path: &Path,
    policy: &Policy,
    force: bool,
    calls: bool,
) -> Result<ProbeRow, Failure> {
    let mut plan = Probe::default();
    plan.deadline = PATIENCE;
    plan.calls = calls;
    let opened = Opened::open(path).map_err(|error| Failure::image(path, &error))?;
    let report = probe::run(&plan, &opened, policy, &Params::new(), force);
    let report = report.map_err(|error| Failure::file_refused(path, &error))?;
    Ok(row(&report))
}

fn row(report: &Report) -> ProbeRow {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let stages = report.times.iter().map(|(name, time)| StageTime {
        name: name.clone(),
        micros: micros(*time),
    });
    let unloaded = report.unloaded.as_ref();
    ProbeRow {
        verdict: match &report.verdict {
            Verdict::Passed => "passed",
            Verdict::Refused(_) => "refused",
            _ if report.lacks_a_plugin() => "alone",
            Verdict::Failed(_) => "failed",
            _ if report.is_fatal() => "crashed",
            _ => "unknown",
        },
        message: report.to_string(),
        unloaded: unloaded.map(Result::is_ok),
        because: unloaded
            .and_then(|unloaded| unloaded.as_ref().err().cloned())
            .unwrap_or_default(),
        lacked: report.lacked.clone(),
        calls: report.calls.iter().map(call).collect(),
        left: report.left.clone(),
        stages: stages.collect(),
        micros: micros(report.took),
    }
}

fn call(call: &Call) -> CallRow {
    CallRow {
        function: call.function.clone(),
        returned: call.returned,
        caught: call.caught.clone(),
    }
}
