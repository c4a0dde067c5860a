//! The letter that nm prints for a symbol, without the section headers that nm reads it from.
//!
//! Thread context. What a section holds is inferred from the segment it lies in and from all the
//! symbols that name it: those of one section get one letter, as they do from nm.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::dynsym::{Binding, ElfSymbol, SymbolKind};
use super::facts::Facts;
use super::segment::Segment;
use super::tag;

/// What is known of a section from one symbol; of several the strongest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// The symbol lies at the border of two kinds, or outside of all.
    Border,
    /// Read-only data.
    ReadOnly,
    /// Zeroes that the file does not hold.
    Zero,
    /// Written data.
    Data,
    /// Instructions.
    Code,
}

impl Evidence {
    fn letter(self) -> char {
        match self {
            Self::ReadOnly => 'r',
            Self::Zero => 'b',
            Self::Data | Self::Border => 'd',
            Self::Code => 't',
        }
    }
}

/// A section as its symbols show it.
#[derive(Clone, Copy, Debug)]
struct Section {
    evidence: Evidence,
    /// The lowest address of a symbol in it.
    vaddr: u64,
}

/// nm's letters for `symbols`, which are all that a file defines.
///
/// Costs a map of the sections that symbols name.
pub(super) fn letters(facts: &Facts, symbols: &[ElfSymbol]) -> Vec<char> {
    let mut sections: BTreeMap<u16, Section> = BTreeMap::new();
    let tables = Tables::of(facts);
    for symbol in symbols {
        let evidence = evidence(facts, &tables, symbol);
        let vaddr = symbol.value;
        let known = sections
            .entry(symbol.section)
            .or_insert(Section { evidence, vaddr });
        known.evidence = known.evidence.max(evidence);
        known.vaddr = known.vaddr.min(vaddr);
    }
    correct_borders(facts, &mut sections);
    symbols
        .iter()
        .map(|symbol| letter(symbol, &sections))
        .collect()
}

/// Corrects sections that seem to hold zeroes but are numbered before data that lies below them.
///
/// Sections are numbered by address, so such a number is not that of the zeroes: gold gives the
/// borders (`_edata`, `__bss_start`, `_end`) the number of the first section in the segment, which
/// holds data, or the zeroes of thread-locals.
fn correct_borders(facts: &Facts, sections: &mut BTreeMap<u16, Section>) {
    let mut lowest_data = u64::MAX;
    for section in sections.values_mut().rev() {
        match section.evidence {
            Evidence::Data => lowest_data = lowest_data.min(section.vaddr),
            Evidence::Zero if section.vaddr > lowest_data => {
                let starts_with_zeroes = facts.tls.is_some_and(|tls| {
                    let segment = segment_of(facts, section.vaddr);
                    facts.tls_filesz == 0 && segment.is_some_and(|s| s.vaddr == tls.vaddr)
                });
                if !starts_with_zeroes {
                    section.evidence = Evidence::Data;
                }
            }
            _ => {}
        }
    }
}

fn letter(symbol: &ElfSymbol, sections: &BTreeMap<u16, Section>) -> char {
    let is_object = symbol.kind == SymbolKind::Object;
    let letter = match (symbol.kind, symbol.binding) {
        (SymbolKind::Ifunc, _) => return 'i',
        (_, Binding::Weak) if is_object => return 'V',
        (_, Binding::Weak) => return 'W',
        (_, Binding::Unique) => return 'u',
        (SymbolKind::Abs, _) => 'a',
        _ => sections
            .get(&symbol.section)
            .map_or('?', |section| section.evidence.letter()),
    };
    match symbol.binding {
        Binding::Local => letter,
        _ => letter.to_ascii_uppercase(),
    }
}

/// The tables that ld.so reads, each a section of its own.
struct Tables {
    /// Their link-time addresses.
    places: Vec<u64>,
    /// Whether patchelf moved the symbol table but left its number.
    moved_symbols: bool,
}

impl Tables {
    fn of(facts: &Facts) -> Self {
        const TABLES: [i64; 9] = [
            tag::HASH,
            tag::GNU_HASH,
            tag::SYMTAB,
            tag::STRTAB,
            tag::VERSYM,
            tag::VERDEF,
            tag::VERNEED,
            tag::RELA,
            tag::JMPREL,
        ];
        let place = |tag: i64| facts.entry(tag).map(|entry| entry.value);
        let moved = |vaddr: u64| segment_of(facts, vaddr).is_some_and(Segment::is_writable);
        Self {
            places: TABLES.into_iter().filter_map(place).collect(),
            moved_symbols: place(tag::STRTAB)
                .zip(place(tag::SYMTAB))
                .is_some_and(|(strings, symbols)| moved(strings) && strings < symbols),
        }
    }

    /// Whether a symbol names, by its section's number, a table instead of the code it points at.
    ///
    /// Sections are numbered by address and the tables come before the code, so this never holds
    /// for what a linker wrote. patchelf, though, may renumber sections and leave the symbols'
    /// numbers as they were, and nm believes the numbers. Only section headers tell which
    /// section a number then means; that the symbol table kept its place in the numbering when it
    /// follows its strings to the end of the file is what patchelf was seen to do.
    fn hold(&self, symbol: &ElfSymbol) -> bool {
        let before = self.places.iter().filter(|place| **place < symbol.value);
        usize::from(symbol.section) <= before.count() + usize::from(self.moved_symbols)
    }
}

/// The last segment that begins at or below an address.
fn segment_of(facts: &Facts, vaddr: u64) -> Option<&Segment> {
    let after = facts.segments.partition_point(|s| s.vaddr <= vaddr);
    facts.segments.get(after.checked_sub(1)?)
}

fn evidence(facts: &Facts, tables: &Tables, symbol: &ElfSymbol) -> Evidence {
    if symbol.kind == SymbolKind::Tls {
        return if symbol.value < facts.tls_filesz {
            Evidence::Data
        } else {
            Evidence::Zero
        };
    }
    let Some(segment) = segment_of(facts, symbol.value) else {
        return Evidence::Border;
    };
    let into = symbol.value.saturating_sub(segment.vaddr);
    if segment.is_executable() {
        return if symbol.kind == SymbolKind::Object || tables.hold(symbol) {
            Evidence::ReadOnly
        } else {
            Evidence::Code
        };
    }
    if !segment.is_writable() {
        return Evidence::ReadOnly;
    }
    if into < segment.filesz {
        Evidence::Data
    } else if segment.memsz > segment.filesz && (into > segment.filesz || symbol.size > 0) {
        // The end of the memory, too: zeroes come last.
        Evidence::Zero
    } else {
        Evidence::Border
    }
}
