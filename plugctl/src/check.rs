//! `plugctl check`: what a host would make of files, without one.

use std::path::Path;

use plug_loader::image::{Check, Severity, Verdict};
use plug_loader::{Action, Matter, Policy};
use serde::Serialize;

use crate::args;
use crate::failure::{Failure, INCOMPATIBLE, Outcome};
use crate::probe::{self, ProbeRow};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<ProbeRow>,
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
        let failed = match check(path, &policy, args) {
            Ok(report) => {
                render.checked(&report);
                match report.verdict {
                    "ok" | "foreign" => 0,
                    _ => INCOMPATIBLE,
                }
            }
            Err(failure) => {
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

fn check(path: &Path, policy: &Policy, args: &args::Check) -> Result<FileReport, Failure> {
    let check = Check::of_file(path, policy, args.force);
    let check = check.map_err(|error| Failure::image(path, &error))?;
    let mut report = report(path, &check);
    if !args.probe || !check.verdict.is_admitted() {
        return Ok(report);
    }
    let probe = probe::run(path, policy, args.force, args.calls)?;
    let finding = |severity: Severity| FindingRow {
        code: "probe",
        severity: severity.name(),
        structure: "a load in a process of its own".to_owned(),
        offset: None,
        expected: "that it passes".to_owned(),
        found: probe.message.clone(),
    };
    if probe.verdict == "alone" {
        // Only a host that has the other plugin can tell.
        report.findings.push(finding(Severity::Note));
    } else if probe.verdict != "passed" {
        report.verdict = Verdict::Refused.name();
        report.unloadable = false;
        report.because.push(format!("it {}", probe.message));
        report.findings.insert(0, finding(Severity::Refused));
    } else if probe.unloaded == Some(false) && report.unloadable {
        report.unloadable = false;
        report.because.push(probe.because.clone());
    }
    report.findings.extend(shortcomings(&probe));
    report.probe = Some(probe);
    Ok(report)
}

/// Microseconds beyond which constructors are at work: they are to fill in what compilers need.
const WORK: u64 = 10_000;

/// What a plugin should not do and this one was seen doing.
fn shortcomings(probe: &ProbeRow) -> Vec<FindingRow> {
    let note = |structure: String, expected: &str, found: String| FindingRow {
        code: "conformance",
        severity: Severity::Note.name(),
        structure,
        offset: None,
        expected: expected.to_owned(),
        found,
    };
    let mut found = Vec::new();
    let constructors = probe
        .stages
        .iter()
        .find(|stage| stage.name == "constructors");
    if let Some(stage) = constructors.filter(|stage| stage.micros > WORK) {
        let expected = "no work in constructors: init reports errors and they cannot";
        let took = format!("{} ms of it", stage.micros / 1000);
        found.push(note("its constructors".to_owned(), expected, took));
    }
    for call in &probe.calls {
        if let Some(text) = &call.caught {
            let expected = "that it returns";
            let text = format!("a panic or an exception, which was caught: {text}");
            found.push(note(
                format!("its function {}", call.function),
                expected,
                text,
            ));
        }
    }
    for left in &probe.left {
        let structure = "the process after it was unloaded".to_owned();
        found.push(note(structure, "nothing of the plugin's", left.clone()));
    }
    found
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
        probe: None,
    }
}
