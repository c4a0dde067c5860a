//! What the host's policy makes of a file: refused, marked, or let in.

#![forbid(unsafe_code)]

use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::image::libraries::Libraries;
use crate::image::{Bundle, Code, Facts, Finding, Opened, Severity, admission, origin};
use crate::policy::{Action, Matter, Policy};
use crate::taint::Taints;

/// Refuses a file that the policy does not admit; tells what it is marked with otherwise.
pub(crate) fn judge(
    facts: &Facts,
    bytes: &[u8],
    opened: &Opened,
    location: Option<&Path>,
    policy: &Policy,
) -> Result<Taints, Error> {
    let objection = admission::objection(facts);
    if let Some(finding) = &objection {
        return Err(not_admitted(finding));
    }
    let rules = policy.rules(location.unwrap_or(Path::new("")));
    let asks = |matter| rules.of(matter) != Action::Allow;
    let needs_libraries = asks(Matter::MissingLibrary) || asks(Matter::UndefinedSymbol);
    let libraries = needs_libraries.then(|| Libraries::of(facts, opened.folder()));
    let mut judged = admission::traits(facts, bytes, rules, libraries.as_ref());
    if asks(Matter::Path) {
        judged.extend(location.and_then(|path| origin::exposure(path, rules)));
    }
    let findings: Vec<Finding> = judged.into_iter().map(|(_, finding)| finding).collect();
    weigh(&findings)
}

/// The same for what it brings.
pub(crate) fn judge_brought(bundle: &Bundle, policy: &Policy) -> Result<Taints, Error> {
    let mut taints = Taints::default();
    for member in bundle.members() {
        taints.join(weigh(&member.findings(policy))?);
    }
    Ok(taints)
}

/// What follows from what was found.
fn weigh(findings: &[Finding]) -> Result<Taints, Error> {
    let mut taints = Taints::default();
    for finding in findings {
        match (finding.severity, finding.code) {
            (Severity::Note, _) => {}
            (Severity::Taint, Code::Matter(matter)) => {
                tracing::warn!(target: "plug::load", %finding, "loaded and marked");
                taints.add(matter.taint());
            }
            _ => return Err(not_admitted(finding)),
        }
    }
    Ok(taints)
}

fn not_admitted(finding: &Finding) -> Error {
    let message = format!("{finding}; the host's policy does not admit it");
    Error::new(ErrorKind::NotAdmitted, message)
}
