//! Rehearsals: a plugin is loaded and unloaded by a process of its own before it comes into this
//! one.
//!
//! What crashes or hangs while it is loaded, on `exit` or at the end of a process does so there.
//! Code that crashes only when it is called does not show, nor what depends on this process's state.
//! The plugin's code runs with the user's rights: this is a rehearsal and no sandbox, and a plugin
//! that wants to can lie to it, or leave a process behind that it put in a group of its own. So
//! signatures are verified first.

#![forbid(unsafe_code)]

pub(crate) mod cache;
pub(crate) mod client;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod request;
mod server;

use std::os::fd::RawFd;

pub use plan::Probe;
pub use report::{Call, Report, Verdict};
pub use server::serve;

use crate::error::{Error, ErrorKind};
use crate::image::{Opened, foreign_name};
use crate::params::Params;
use crate::policy::Policy;

/// The variable that tells a process that it is a probe, and by whom it was started.
const VARIABLE: &str = "PLUG_PROBE";

/// The descriptors of a probe: the sealed file, the pipe to report to, and the sealed request.
const FILE: RawFd = 3;
const REPORT: RawFd = 4;
const REQUEST: RawFd = 5;

/// Has a file probed, as a load of it under this policy with these parameters would. Needs no loader
/// in this process, and asks neither caches nor the quarantine.
///
/// Costs the start of a process, copies of the bytes, a load and an unload: some milliseconds.
/// Thread context; waits until [`Probe::deadline`] at most. No signal is taken from the host's
/// handlers, but a host that waits for children it did not start makes the verdict
/// [`Verdict::Lost`].
///
/// # Errors
/// [`ErrorKind::Probe`] when no probe could be made.
pub fn run(
    plan: &Probe,
    opened: &Opened,
    policy: &Policy,
    params: &Params,
    force: bool,
) -> Result<Report, Error> {
    let staged = opened
        .stage(&foreign_name(opened.path()))
        .map_err(|error| {
            let message = format!("probe: {error}");
            Error::new(ErrorKind::Probe, message).because(error)
        })?;
    let request = request::Request {
        path: opened.path().display().to_string(),
        original: Some(opened.original()),
        force,
        calls: plan.calls,
        policy: policy.clone(),
        params: params.clone(),
        ..request::Request::default()
    };
    client::run(plan, staged.bytes(), &request)
}
