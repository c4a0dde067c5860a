//! The whole rule set for a file's bytes: what ld.so, the loader and an unwinder rely on.
//!
//! Thread context; reads bytes only. [`Facts::read`] has checked what it reads itself; here the
//! rest is checked, structure by structure, each of which tells at most its first finding.
//! Everything is found through `PT_DYNAMIC`. A file that passes does not make ld.so crash, hang or
//! end the process; it may still have damaged code, which no structure shows.

#![forbid(unsafe_code)]

mod arrays;
mod dynamic;
mod finding;
mod hashes;
mod header;
mod machine;
mod notes;
mod relocations;
mod symbols;
mod unwind;
mod versions;

pub use finding::{Code, Finding, Severity};

use super::damage::Damage;
use super::dynamic::{Dynamic, Strings};
use super::elf::Elf;
use super::facts::Facts;
use super::info::Malformed;

/// What the rules look at.
struct View<'a> {
    bytes: &'a [u8],
    facts: &'a Facts,
    elf: Elf<'a>,
    /// First page and end of the last page of the image.
    span: (u64, u64),
    dynamic: Dynamic,
    strings: Strings<'a>,
    /// All entries of `DT_SYMTAB`.
    symbols: &'a [u8],
}

impl<'a> View<'a> {
    fn new(facts: &'a Facts, bytes: &'a [u8]) -> Result<Self, Damage> {
        let elf = Elf::parse(bytes)?;
        let dynamic = Dynamic::read(&elf)?;
        let strings = Strings::read(&elf, &dynamic)?;
        let size = facts.n_symbols.saturating_mul(super::elf::SYM_SIZE);
        let symbols = super::segment::slice(bytes, facts.symbols_at, size).unwrap_or_default();
        Ok(Self {
            bytes,
            facts,
            span: elf.span(),
            elf,
            dynamic,
            strings,
            symbols,
        })
    }

    /// The string at `offset` of the string table, without its NUL; empty outside of it.
    fn string(&self, offset: u32) -> &'a [u8] {
        let from = usize::try_from(offset).ok();
        let from = from.and_then(|at| self.strings.bytes.get(at..));
        let from = from.unwrap_or_default();
        let end = from.iter().position(|byte| *byte == 0);
        from.get(..end.unwrap_or(0)).unwrap_or_default()
    }
}

/// One structure's rules.
type Rule = fn(&View<'_>) -> Result<(), Damage>;

/// In the order in which a file is read, so that the first finding is the root of the others.
const RULES: [(Code, Rule); 10] = [
    (Code::Header, header::check),
    (Code::Segments, header::check_segments),
    (Code::Dynamic, dynamic::check),
    (Code::Symbols, symbols::check),
    (Code::Hash, hashes::check),
    (Code::Versions, versions::check),
    (Code::Relocations, relocations::check),
    (Code::Notes, notes::check),
    (Code::Unwind, unwind::check),
    (Code::Sections, header::check_sections),
];

/// Checks the file whose facts and bytes are given, up to the first finding.
///
/// Costs time linear in symbols, relocations and unwind entries.
///
/// # Errors
/// The first statement found that the file does not keep.
pub fn validate(facts: &Facts, bytes: &[u8]) -> Result<(), Damage> {
    let view = View::new(facts, bytes)?;
    RULES.iter().try_for_each(|(_, rule)| rule(&view))
}

/// All that is wrong with the file that consists of `bytes`, at most one finding a structure; empty
/// for an intact one.
pub fn damages(bytes: &[u8]) -> Vec<Finding> {
    let read = Facts::read(bytes);
    let view = read.as_ref().map_err(Damage::clone);
    match view.and_then(|facts| View::new(facts, bytes)) {
        Err(damage) => vec![Finding::of_damage(None, &damage)],
        Ok(view) => RULES
            .iter()
            .filter_map(|(code, rule)| Some((code, rule(&view).err()?)))
            .map(|(code, damage)| Finding::of_damage(Some(*code), &damage))
            .collect(),
    }
}

impl From<&Malformed> for Finding {
    fn from(malformed: &Malformed) -> Self {
        Self {
            code: Code::Metadata,
            severity: Severity::Refused,
            structure: malformed.symbol.clone(),
            offset: Some(malformed.offset),
            expected: malformed.expected.to_owned(),
            found: malformed.found.clone(),
        }
    }
}
