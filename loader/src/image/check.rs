//! Everything that can be said of a file before any of its code runs, in one answer.
//!
//! Thread context; runs nothing and leaves nothing behind.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::path::Path;

use super::admission::{objection, traits};
use super::bundle::Bundle;
use super::contract;
use super::error::ImageError;
use super::facts::Facts;
use super::info::{Info, foreign_name};
use super::libraries::Libraries;
use super::origin::exposure;
use super::plugin_import;
use super::stage::Opened;
use super::validate::{Code, Finding, Severity, damages};
use crate::digest::Digest;
use crate::gate::mismatches;
use crate::policy::Policy;

/// What a load would make of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It is a plugin, and would be loaded.
    Ok,
    /// It is an ordinary library, and would be loaded.
    Foreign,
    /// It is damaged.
    Corrupt,
    /// It is intact, and would not be loaded here.
    Refused,
}

impl Verdict {
    /// The verdict as text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Foreign => "foreign",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
        }
    }

    /// Whether a load would succeed up to the first instruction of the file.
    #[must_use]
    pub fn is_admitted(self) -> bool {
        matches!(self, Self::Ok | Self::Foreign)
    }
}

/// The answer about one file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Check {
    /// What a load would make of it.
    pub verdict: Verdict,
    /// The name it would be loaded under; empty for one that would not be.
    pub name: String,
    /// The version it declares; may be empty.
    pub version: String,
    /// SHA-256 of its bytes; none where they could not be read.
    pub digest: Option<Digest>,
    /// Why it could not be unloaded; empty for one that can.
    pub pinned_because: Vec<String>,
    /// What was found, gravest first.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Checks the file at `path` as a host with this policy would, and as its author should; `force`
    /// overlooks what a forced load does.
    ///
    /// Costs a copy of the file, and a look at the libraries that it needs.
    ///
    /// # Errors
    /// When the file cannot be opened, read or copied: then nothing can be said of it.
    pub fn of_file(
        path: impl AsRef<Path>,
        policy: &Policy,
        force: bool,
    ) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let opened = Opened::open(path)?;
        let staged = opened.stage(&foreign_name(path))?;
        let bytes = staged.bytes();
        let mut check = Self {
            verdict: Verdict::Foreign,
            name: String::new(),
            version: String::new(),
            digest: Some(Digest::of(bytes)),
            pinned_because: Vec::new(),
            findings: damages(bytes),
        };
        if check.findings.is_empty()
            && let Ok(facts) = Facts::read(bytes)
        {
            check.name = foreign_name(path);
            check.judge(&facts, bytes, &opened, policy, force);
        }
        check
            .findings
            .sort_by_key(|finding| Reverse(finding.severity));
        check.verdict = match check.findings.first().map(|worst| worst.severity) {
            Some(Severity::Corrupt) => Verdict::Corrupt,
            Some(Severity::Refused) => Verdict::Refused,
            _ => check.verdict,
        };
        if !check.verdict.is_admitted() {
            check
                .pinned_because
                .insert(0, "it is not loaded".to_owned());
        }
        Ok(check)
    }

    /// What there is to say about what an intact file brings: all of it comes and goes with it.
    fn judge_brought(&mut self, facts: &Facts, bytes: &[u8], opened: &Opened, policy: &Policy) {
        let bundle = match Bundle::find(opened, facts, bytes) {
            Ok(bundle) => bundle,
            Err(why) => {
                let (code, severity) = (Code::Dependency, Severity::Refused);
                let expected = "libraries that can be loaded with it";
                let finding = Finding::new(code, severity, "DT_NEEDED", expected, why.to_string());
                self.findings.push(finding);
                return;
            }
        };
        for member in bundle.members() {
            self.findings.extend(member.findings(policy));
            if member.facts.nodelete() {
                let who = member.path.display();
                let why = format!("its dependency {who} is marked DF_1_NODELETE");
                self.pinned_because.push(why);
            }
        }
    }

    /// What there is to say about an intact file.
    fn judge(
        &mut self,
        facts: &Facts,
        bytes: &[u8],
        opened: &Opened,
        policy: &Policy,
        force: bool,
    ) {
        let location = opened.location();
        let rules = policy.rules(location.as_deref().unwrap_or(opened.path()));
        let libraries = Libraries::of(facts, opened.folder());
        let judged = traits(facts, bytes, rules, Some(&libraries));
        let exposed = location.and_then(|path| exposure(&path, rules));
        let judged = judged.into_iter().chain(exposed);
        self.findings.extend(judged.map(|(_, finding)| finding));
        self.findings.extend(objection(facts));
        if facts.nodelete() {
            let why = "the file is marked DF_1_NODELETE";
            self.pinned_because.push(why.to_owned());
        }
        self.judge_brought(facts, bytes, opened, policy);
        let info = match Info::read(facts, bytes) {
            Ok(info) => info,
            Err(malformed) => {
                self.findings.push((&malformed).into());
                return;
            }
        };
        if let Some(reason) = info.permanent() {
            self.pinned_because
                .push(format!("its author says: {reason}"));
        }
        for mismatch in mismatches(&info) {
            let overlooked = force && mismatch.forceable;
            let severity = if overlooked {
                Severity::Taint
            } else {
                Severity::Refused
            };
            let structure = format!("metadata: {}", mismatch.field);
            let found = format!("{}; {}", mismatch.found, mismatch.remedy);
            let finding = Finding::new(Code::Abi, severity, structure, mismatch.expected, found);
            self.findings.push(finding);
        }
        let descriptor = match contract::descriptor(facts, &info, bytes) {
            Ok(descriptor) => descriptor,
            Err(why) => {
                let (code, severity) = (Code::Abi, Severity::Refused);
                let expected = "a plugin for this host";
                let finding = Finding::new(code, severity, "contract", expected, why);
                self.findings.push(finding);
                return;
            }
        };
        if info.is_foreign() {
            return;
        }
        if let Err(why) = plugin_import::slots(facts, &info, bytes) {
            let (code, severity) = (Code::Abi, Severity::Refused);
            let expected = "a slot for each import";
            let finding = Finding::new(code, severity, "metadata", expected, why);
            self.findings.push(finding);
            return;
        }
        self.verdict = Verdict::Ok;
        self.name = info.name().unwrap_or_default().to_owned();
        self.version = info.version().unwrap_or_default().to_owned();
        let shortcomings = contract::shortcomings(facts, &info, bytes, descriptor);
        let noted = shortcomings
            .into_iter()
            .map(|(structure, expected, found)| {
                let (code, severity) = (Code::Conformance, Severity::Note);
                Finding::new(code, severity, structure, expected, found)
            });
        self.findings.extend(noted);
    }
}
