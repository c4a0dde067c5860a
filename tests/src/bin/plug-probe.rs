//! A program that is a probe and nothing else: what a test's host has plugins rehearsed by.

use std::process::ExitCode;

use plug_loader::{Policy, Trust, probe};

fn main() -> ExitCode {
    // SAFETY: tests load the plugins of this repository, and those they compile.
    let trust = unsafe { Trust::new(Policy::default()) };
    probe::serve(&trust).unwrap_or(ExitCode::FAILURE)
}
