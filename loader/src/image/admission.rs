//! What a host's rules say about an intact file.
//!
//! Thread context; reads bytes, and where the rules ask for it the libraries that the file needs.

#![forbid(unsafe_code)]

use super::facts::Facts;
use super::libraries::Libraries;
use super::segment::Segment;
use super::validate::{Code, Finding, Severity};
use crate::policy::{Action, Matter, Rules};

const DF_1_INITFIRST: u64 = 0x20;
const DF_1_NOOPEN: u64 = 0x40;
const DF_1_INTERPOSE: u64 = 0x400;

/// `DT_CONFIG`, `DT_DEPAUDIT`, `DT_AUDIT`, `DT_AUXILIARY` and `DT_FILTER`.
const ORDER_TAGS: [(i64, &str); 5] = [
    (0x6fff_fefa, "DT_CONFIG"),
    (0x6fff_fefb, "DT_DEPAUDIT"),
    (0x6fff_fefc, "DT_AUDIT"),
    (0x7fff_fffd, "DT_AUXILIARY"),
    (0x7fff_ffff, "DT_FILTER"),
];

impl From<Action> for Severity {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Note,
            Action::Taint => Self::Taint,
            Action::Refuse => Self::Refused,
        }
    }
}

/// A trait of a file, and what the rules say about it.
pub(crate) type Judged = (Matter, Finding);

/// A finding about `matter`, as grave as the rules have it.
pub(super) fn judge(
    rules: &Rules,
    matter: Matter,
    structure: impl Into<String>,
    expected: &str,
    found: impl Into<String>,
) -> Judged {
    let severity = rules.of(matter).into();
    let finding = Finding::new(Code::Matter(matter), severity, structure, expected, found);
    (matter, finding)
}

/// Whether ld.so opens such a file at all.
pub(crate) fn objection(facts: &Facts) -> Option<Finding> {
    if facts.flags_1 & DF_1_NOOPEN == 0 {
        return None;
    }
    let found = "one that must not be opened (DF_1_NOOPEN)";
    let expected = "a shared object that dlopen takes";
    let (code, severity) = (Code::Machine, Severity::Refused);
    Some(Finding::new(code, severity, "DT_FLAGS_1", expected, found))
}

/// The traits of a file that rules know, those that only `libraries` tell included where it is
/// given.
pub(crate) fn traits(
    facts: &Facts,
    bytes: &[u8],
    rules: &Rules,
    libraries: Option<&Libraries>,
) -> Vec<Judged> {
    let mut found = Vec::new();
    let mut say = |matter, structure: &str, expected: &str, what: String| {
        found.push(judge(rules, matter, structure, expected, what));
    };
    if facts.exec_stack {
        let what = "an executable one, or nothing said".to_owned();
        say(
            Matter::ExecutableStack,
            "PT_GNU_STACK",
            "a stack that is only written",
            what,
        );
    }
    let both = |segment: &&Segment| segment.is_writable() && segment.is_executable();
    if let Some(segment) = facts.segments.iter().find(both) {
        let what = format!("both at {:#x}", segment.vaddr);
        say(
            Matter::WritableCode,
            "PT_LOAD",
            "writable or executable segments",
            what,
        );
    }
    if facts.textrel {
        let what = "DT_TEXTREL".to_owned();
        say(
            Matter::TextRelocations,
            "PT_DYNAMIC",
            "relocations in data alone",
            what,
        );
    }
    if facts.nodelete() {
        let what = "DF_1_NODELETE: its author forbids unmapping".to_owned();
        say(
            Matter::NoDelete,
            "DT_FLAGS_1",
            "a file that may be unmapped",
            what,
        );
    }
    if facts.n_unique > 0 {
        let what = format!("{} GNU unique ones", facts.n_unique);
        say(Matter::GnuUnique, "DT_SYMTAB", "symbols of its own", what);
    }
    if facts.static_tls() {
        let size = facts.tls.map_or(0, |tls| tls.size);
        let what = format!("{size} bytes in the static block (DF_STATIC_TLS)");
        say(
            Matter::StaticTls,
            "DT_FLAGS",
            "thread-locals that are made when used",
            what,
        );
    }
    for (flag, name) in [
        (DF_1_INITFIRST, "DF_1_INITFIRST"),
        (DF_1_INTERPOSE, "DF_1_INTERPOSE"),
    ] {
        if facts.flags_1 & flag != 0 {
            say(
                Matter::LinkOrder,
                "DT_FLAGS_1",
                "a place behind the others",
                name.to_owned(),
            );
        }
    }
    for (tag, name) in ORDER_TAGS {
        if facts.entry(tag).is_some() {
            say(
                Matter::LinkOrder,
                "PT_DYNAMIC",
                "no filters and auditors",
                name.to_owned(),
            );
        }
    }
    let Some(libraries) = libraries else {
        return found;
    };
    for missing in &libraries.missing {
        let what = missing.clone();
        say(
            Matter::MissingLibrary,
            "DT_NEEDED",
            "libraries that are there",
            what,
        );
    }
    // Of those that are not there nobody knows what they define.
    let undefined = libraries.undefined(facts, bytes);
    if !undefined.is_empty() && libraries.missing.is_empty() {
        let what = undefined.join(", ");
        say(
            Matter::UndefinedSymbol,
            "DT_SYMTAB",
            "symbols that its libraries define",
            what,
        );
    }
    found
}
