//! `plugctl check`: what a host would make of files, without one.

use std::path::Path;

use plug_loader::image::Check;
use plug_loader::{Action, Matter, Policy};
use serde::Serialize;

use crate::args;
use crate::failure::{Failure, INCOMPATIBLE, Outcome};
use crate::render::Render;

/// What was found of one file: an object of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FileReport {
    pub(crate) file: String,
    /// ok, foreign, corrupt or refused.
    pub(crate) verdict: &'static str,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    pub(crate) unloadable: bool,
    /// Why not.
    pub(crate) because: Vec<String>,
    pub(crate) findings: Vec<FindingRow>,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FindingRow {
    pub(crate) code: &'static str,
    /// corrupt, refused, taint or note.
    pub(crate) severity: &'static str,
    pub(crate) structure: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// Checks all files; the code is the first one's that is not admitted.
pub(crate) fn run(args: &args::Check, render: &Render) -> Outcome {
    // What ld.so would refuse is better known before.
    let mut policy = Policy::default().with(Matter::MissingLibrary, Action::Refuse);
    for (matter, action) in &args.rule {
        policy = policy.with(*matter, *action);
    }
    let mut code = 0;
    for path in &args.files {
        let failed = match Check::of_file(path, &policy) {
            Ok(check) => {
                render.checked(&report(path, &check));
                if check.verdict.is_admitted() {
                    0
                } else {
                    INCOMPATIBLE
                }
            }
            Err(error) => {
                let failure = Failure::image(path, &error);
                render.failure(&failure);
                failure.code
            }
        };
        if code == 0 {
            code = failed;
        }
    }
    Ok(code)
}

fn report(path: &Path, check: &Check) -> FileReport {
    FileReport {
        file: path.display().to_string(),
        verdict: check.verdict.name(),
        name: check.name.clone(),
        version: check.version.clone(),
        sha256: check.digest.map(|d| d.to_string()).unwrap_or_default(),
        unloadable: check.pinned_because.is_empty(),
        because: check.pinned_because.clone(),
        findings: check
            .findings
            .iter()
            .map(|finding| FindingRow {
                code: finding.code.name(),
                severity: finding.severity.name(),
                structure: finding.structure.clone(),
                offset: finding.offset,
                expected: finding.expected.clone(),
                found: finding.found.clone(),
            })
            .collect(),
    }
}
