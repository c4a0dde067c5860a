//! What a check found, in a form that programs can rely on.

#![forbid(unsafe_code)]

use std::fmt;

use crate::image::damage::Damage;
use crate::policy::Matter;

/// What a finding is about. The texts of [`Code::name`] do not change between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// The file cannot be read, or is no regular file.
    File,
    /// It is no ELF file, or not one for this machine.
    Machine,
    /// The ELF header.
    Header,
    /// The program headers and segments.
    Segments,
    /// The dynamic section and its strings.
    Dynamic,
    /// The dynamic symbols.
    Symbols,
    /// The hash tables over them.
    Hash,
    /// The version tables.
    Versions,
    /// The relocations, constructors and destructors.
    Relocations,
    /// The notes.
    Notes,
    /// The unwind tables.
    Unwind,
    /// The section headers, which only debuggers read.
    Sections,
    /// The author's metadata.
    Metadata,
    /// The version of the binary contract.
    Abi,
    /// A library that it brings cannot be loaded with it.
    Dependency,
    /// Something that hosts may have a say in.
    Matter(Matter),
    /// What a plugin for this host should have, and this one has not.
    Conformance,
}

impl Code {
    /// The code as text, in lower case and with dashes.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Machine => "machine",
            Self::Header => "elf-header",
            Self::Segments => "segments",
            Self::Dynamic => "dynamic",
            Self::Symbols => "symbols",
            Self::Hash => "hash",
            Self::Versions => "versions",
            Self::Relocations => "relocations",
            Self::Notes => "notes",
            Self::Unwind => "unwind",
            Self::Sections => "sections",
            Self::Metadata => "metadata",
            Self::Abi => "abi",
            Self::Dependency => "dependency",
            Self::Matter(matter) => matter.name(),
            Self::Conformance => "conformance",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Nothing: it is told, no more.
    Note,
    /// It is loaded, and marked for good.
    Taint,
    /// It is not loaded: intact, but not admitted here.
    Refused,
    /// It is never loaded: damaged.
    Corrupt,
}

impl Severity {
    /// The severity as text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Taint => "taint",
            Self::Refused => "refused",
            Self::Corrupt => "corrupt",
        }
    }
}

/// One thing found: what, where, expected and found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub code: Code,
    /// What follows from it.
    pub severity: Severity,
    /// The structure, symbol or path at fault.
    pub structure: String,
    /// File offset of the field at fault, where it has one.
    pub offset: Option<u64>,
    /// What is expected there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Finding {
    /// `code` is that of the rule; what was found before any rule is told by its structure.
    pub(super) fn of_damage(code: Option<Code>, damage: &Damage) -> Self {
        let code = code.unwrap_or_else(|| code_of(damage));
        let (code, severity) = if damage.is_unsupported {
            (Code::Machine, Severity::Refused)
        } else {
            (code, Severity::Corrupt)
        };
        Self {
            code,
            severity,
            structure: damage.structure.to_owned(),
            offset: Some(damage.offset),
            expected: damage.expected.clone().into_owned(),
            found: damage.found.clone(),
        }
    }

    /// Something that has no place in the file.
    pub fn new(
        code: Code,
        severity: Severity,
        structure: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity,
            structure: structure.into(),
            offset: None,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl From<&Damage> for Finding {
    fn from(damage: &Damage) -> Self {
        Self::of_damage(None, damage)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            structure,
            offset,
            expected,
            found,
            ..
        } = self;
        write!(f, "{code}: {structure}")?;
        if let Some(offset) = offset {
            write!(f, " at {offset:#x}")?;
        }
        write!(f, ": expected {expected}, found {found}")
    }
}

fn code_of(damage: &Damage) -> Code {
    match damage.structure {
        "ELF header" => Code::Header,
        "program header" | "program header table" | "PT_LOAD" | "PT_TLS" | "PT_GNU_RELRO" => {
            Code::Segments
        }
        "PT_GNU_EH_FRAME" => Code::Unwind,
        "DT_SYMTAB" => Code::Symbols,
        "DT_GNU_HASH" | "DT_HASH" => Code::Hash,
        "DT_VERSYM" | "DT_VERNEED" | "DT_VERDEF" => Code::Versions,
        "DT_RELA" | "DT_JMPREL" | "DT_RELR" | "DT_REL" | "DT_RELACOUNT" => Code::Relocations,
        _ => Code::Dynamic,
    }
}
