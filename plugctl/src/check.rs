//! `plugctl check`: what a host would make of files, without one.

use std::path::Path;

use plug_loader::image::Inspection;
use plug_loader::mismatches;
use serde::Serialize;

use crate::args;
use crate::failure::{Failure, INCOMPATIBLE, Outcome};
use crate::probe::{self, ProbeRow};
use crate::render::Render;

/// What was found out about one file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CheckRow {
    pub(crate) file: String,
    /// ok, foreign, corrupt or refused.
    pub(crate) verdict: &'static str,
    /// Whether it left the probe's process; null without one.
    pub(crate) unloadable: Option<bool>,
    /// Why it is corrupt or refused.
    pub(crate) findings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<ProbeRow>,
}

/// Checks all files; the code is the first failure's.
pub(crate) fn run(args: &args::Check, render: &Render) -> Outcome {
    let mut code = 0;
    let mut rows = Vec::new();
    for file in &args.files {
        match check(file, args) {
            Ok(row) => {
                if matches!(row.verdict, "corrupt" | "refused") && code == 0 {
                    code = INCOMPATIBLE;
                }
                rows.push(row);
            }
            Err(failure) => {
                render.failure(&failure);
                code = if code == 0 { failure.code } else { code };
            }
        }
    }
    render.checked(&rows);
    Ok(code)
}

fn check(path: &Path, args: &args::Check) -> Result<CheckRow, Failure> {
    let mut row = CheckRow {
        file: path.display().to_string(),
        verdict: "ok",
        unloadable: None,
        findings: Vec::new(),
        probe: None,
    };
    let seen = match Inspection::of_file(path) {
        Ok(seen) => seen,
        Err(error) => {
            let failure = Failure::image(path, &error);
            if failure.code != INCOMPATIBLE {
                return Err(failure);
            }
            row.verdict = "corrupt";
            row.findings.push(error.to_string());
            return Ok(row);
        }
    };
    if seen.info.is_foreign() {
        row.verdict = "foreign";
    }
    let mut mismatches = mismatches(&seen.info);
    mismatches.retain(|mismatch| !(args.force && mismatch.forceable));
    if !mismatches.is_empty() {
        row.verdict = "refused";
        row.findings = mismatches.iter().map(ToString::to_string).collect();
        return Ok(row);
    }
    if args.probe {
        let probe = probe::run(path, args.force)?;
        row.unloadable = probe.unloaded;
        if probe.verdict != "passed" {
            row.verdict = "refused";
            row.findings.push(format!("it {}", probe.message));
        }
        row.probe = Some(probe);
    }
    Ok(row)
}
