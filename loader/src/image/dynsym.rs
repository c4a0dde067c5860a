//! The dynamic symbol table: all of it that ld.so may look at, and what of it is defined.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use std::ops::Range;

use plug_api::abi::{DESCRIPTOR_SYMBOL, IMPORT_PREFIX, METADATA_PREFIX};

use super::damage::Damage;
use super::dynamic::{Dynamic, Lengths, Strings};
use super::elf::{self, Elf, RawSymbol, SYM_SIZE};
use super::hash::{self, Counted};
use super::imports::Import;
use super::relocations::Relocations;
use super::segment::{self, Extent};
use super::tag;
use super::versions::SymbolVersions;

/// One defined dynamic symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElfSymbol {
    /// Where the name starts in the string table.
    pub name_offset: u32,
    /// Length of the name in bytes.
    pub name_len: u32,
    /// Link-time address; an offset into the thread's block for TLS, any number for absolute ones.
    pub value: u64,
    /// Size in bytes; 0 when the file does not say.
    pub size: u64,
    /// What it names.
    pub kind: SymbolKind,
    /// How it binds.
    pub binding: Binding,
    /// Who may see it.
    pub visibility: Visibility,
    /// File offset of its entry in the symbol table.
    pub entry_offset: u64,
    /// Number of its section. Only symbols are told apart by it: no section header is read.
    pub section: u16,
    /// Its entry in `DT_VERSYM`; 0 where there is none.
    pub(super) version: u16,
}

/// What a symbol names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SymbolKind {
    /// Code.
    Func,
    /// Data.
    Object,
    /// A function that returns the function to use.
    Ifunc,
    /// Thread-local data.
    Tls,
    /// A number, not an address.
    Abs,
    /// Something the file does not tell.
    Notype,
    /// Sections, files and what other systems invented.
    Other,
}

/// How a symbol binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Binding {
    /// Not seen by other files.
    Local,
    /// Seen by all.
    Global,
    /// Seen by all, and gives way.
    Weak,
    /// One for the whole process, GNU's extension.
    Unique,
    /// What other systems invented.
    Other,
}

/// Who may see a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Visibility {
    /// As its binding says.
    Default,
    /// Only its own file, by name or pointer.
    Internal,
    /// Only its own file.
    Hidden,
    /// All, but its own file keeps its own.
    Protected,
}

/// Longer names are refused, so that a hostile file cannot make a list of its symbols many times its
/// size.
const MAX_NAME: u32 = 64 * 1024;

/// What plug-api's macros define has shorter names, and less of them: each is measured.
const MAX_DECLARED_NAME: u32 = 256;
const MAX_DECLARED: usize = 4096;

/// The dynamic symbol table: all of it that ld.so may look at.
pub(super) struct SymbolTable<'a> {
    bytes: &'a [u8],
    /// File offset of the table.
    pub(super) start: u64,
    /// Symbols known from the hash tables or from relocations.
    pub(super) n_symbols: u64,
    /// Whether names can be looked up; without, nothing counts as defined.
    pub(super) is_hashed: bool,
}

/// What a walk over all symbols tells.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// How many defined symbols are GNU unique.
    pub(super) n_unique: usize,
    /// The data that plug-api's macros define, by their names.
    pub(super) declared: Vec<ElfSymbol>,
    /// Undefined functions whose calls leave something behind, with their symbols' numbers.
    pub(super) imports: Vec<(u32, Import)>,
    /// Whether a symbol's name begins among the bytes asked about.
    pub(super) names_any: bool,
}

impl<'a> SymbolTable<'a> {
    pub(super) fn read(
        elf: &Elf<'a>,
        dynamic: &Dynamic,
        strings: &Strings<'_>,
        relocations: &Relocations,
    ) -> Result<Self, Damage> {
        const WHERE: &str = "DT_SYMTAB";
        let entry = *dynamic.require(tag::SYMTAB)?;
        dynamic.check_entry_size(tag::SYMTAB, tag::SYMENT, SYM_SIZE)?;
        let counted = hash::count(elf, dynamic)?;
        let related = u64::from(relocations.highest_symbol).saturating_add(1);
        let n_symbols = match counted {
            Counted::Unhashed => related,
            Counted::AtLeast(n) => n.max(related),
            Counted::Exactly(n) if related > n => {
                let found = format!("symbol {} of {n}", relocations.highest_symbol);
                let expected = "relocations of symbols that exist";
                return Err(Damage::new(WHERE, entry.offset, expected, found));
            }
            Counted::Exactly(n) => n,
        };
        let size = n_symbols.saturating_mul(SYM_SIZE);
        let place = elf
            .offset_of(entry.value, size)
            .zip(elf.bytes_at(entry.value, size));
        let Some((start, bytes)) = place else {
            let found = format!("{n_symbols} at {:#x}", entry.value);
            let expected = "all symbols inside a segment's file bytes";
            return Err(Damage::new(WHERE, entry.offset, expected, found));
        };
        if start < strings.offset && start.saturating_add(size) > strings.offset {
            let found = format!("{n_symbols} that run into DT_STRTAB");
            return Err(Damage::new(
                WHERE,
                start,
                "symbols before the string table",
                found,
            ));
        }
        Ok(Self {
            bytes,
            start,
            n_symbols,
            is_hashed: counted != Counted::Unhashed,
        })
    }

    /// Checks every symbol, and tells whether the name of one begins at `asked` of the string
    /// table.
    ///
    /// The one walk over all symbols that a load takes: it copies nothing and follows no names but
    /// those of data.
    pub(super) fn walk(
        &self,
        elf: &Elf<'_>,
        strings: &Strings<'_>,
        tls: Option<Extent>,
        asked: &Range<u32>,
    ) -> Result<Walked, Damage> {
        let mut walked = Walked::default();
        let too_long = strings.longer_than(MAX_NAME);
        let n_strings = strings.bytes.len();
        for index in 1..self.n_symbols {
            let Some(raw) = elf::symbol(self.bytes, index) else {
                break;
            };
            let name = raw.name;
            if name as usize >= n_strings {
                let found = format!("{name:#x}");
                return Err(self.damage(index, "a name inside DT_STRTAB", found));
            }
            let before = too_long.partition_point(|(start, _)| *start <= name);
            if before
                .checked_sub(1)
                .and_then(|at| too_long.get(at))
                .is_some_and(|long| name < long.1)
            {
                let expected = "a name of at most 65536 bytes";
                return Err(self.damage(index, expected, "a longer one".into()));
            }
            walked.names_any |= asked.contains(&name);
            if !raw.is_defined() {
                let from = strings.bytes.get(name as usize..).unwrap_or_default();
                let import = Import::of(from).zip(u32::try_from(index).ok());
                walked
                    .imports
                    .extend(import.map(|(import, index)| (index, import)));
                continue;
            }
            if !self.is_hashed {
                continue;
            }
            let kind = kind(&raw);
            if !is_placed(elf, &raw, kind, tls) {
                let found = format!("{:#x}+{:#x}", raw.value, raw.size);
                return Err(self.damage(index, "a symbol inside the image", found));
            }
            walked.n_unique += usize::from(binding(raw.binding) == Binding::Unique);
            if kind == SymbolKind::Object {
                let from = strings.bytes.get(name as usize..).unwrap_or_default();
                if from.starts_with(METADATA_PREFIX.as_bytes())
                    || from.starts_with(DESCRIPTOR_SYMBOL.as_bytes())
                    || from.starts_with(IMPORT_PREFIX.as_bytes())
                {
                    let name_len = strings.len_at(name, MAX_DECLARED_NAME).unwrap_or(0);
                    if name_len > MAX_DECLARED_NAME || walked.declared.len() >= MAX_DECLARED {
                        let expected = "at most 4096 short names of metadata";
                        return Err(self.damage(index, expected, "more, or longer ones".into()));
                    }
                    walked
                        .declared
                        .push(decoded(&raw, self.at(index), name_len, 0));
                }
            }
        }
        Ok(walked)
    }

    /// File offset of an entry.
    fn at(&self, index: u64) -> u64 {
        self.start.saturating_add(index.saturating_mul(SYM_SIZE))
    }

    #[cold]
    fn damage(&self, index: u64, expected: &'static str, found: String) -> Damage {
        Damage::new("DT_SYMTAB", self.at(index), expected, found)
    }
}

/// The defined symbols of a table of `n` entries at `start` of the file `bytes`, which was checked.
pub(super) fn defined(
    bytes: &[u8],
    (start, n): (u64, u64),
    strings: &[u8],
    versions: SymbolVersions,
) -> Vec<ElfSymbol> {
    let lengths = Lengths::of(strings);
    let table = usize::try_from(start)
        .ok()
        .and_then(|start| bytes.get(start..));
    let table = table.unwrap_or_default();
    let symbol = |index: u64| {
        let raw = elf::symbol(table, index).filter(RawSymbol::is_defined)?;
        let at = start.saturating_add(index.saturating_mul(SYM_SIZE));
        Some(decoded(
            &raw,
            at,
            lengths.at(raw.name),
            versions.of(bytes, index),
        ))
    };
    (1..n).filter_map(symbol).collect()
}

fn decoded(raw: &RawSymbol, entry_offset: u64, name_len: u32, version: u16) -> ElfSymbol {
    ElfSymbol {
        name_offset: raw.name,
        name_len,
        value: raw.value,
        size: raw.size,
        kind: kind(raw),
        binding: binding(raw.binding),
        visibility: visibility(raw.visibility),
        entry_offset,
        section: raw.section,
        version,
    }
}

fn kind(raw: &RawSymbol) -> SymbolKind {
    match raw.kind {
        6 => SymbolKind::Tls,
        3 | 4 => SymbolKind::Other,
        _ if raw.is_absolute() => SymbolKind::Abs,
        0 => SymbolKind::Notype,
        1 | 5 => SymbolKind::Object,
        2 => SymbolKind::Func,
        10 => SymbolKind::Ifunc,
        _ => SymbolKind::Other,
    }
}

fn binding(raw: u8) -> Binding {
    match raw {
        0 => Binding::Local,
        1 => Binding::Global,
        2 => Binding::Weak,
        10 => Binding::Unique,
        _ => Binding::Other,
    }
}

fn visibility(raw: u8) -> Visibility {
    match raw & 3 {
        0 => Visibility::Default,
        1 => Visibility::Internal,
        2 => Visibility::Hidden,
        _ => Visibility::Protected,
    }
}

/// Whether what a symbol stands for lies where symbols of its kind lie.
fn is_placed(elf: &Elf<'_>, raw: &RawSymbol, kind: SymbolKind, tls: Option<Extent>) -> bool {
    let (start, size) = match (kind, tls) {
        (SymbolKind::Abs | SymbolKind::Other, _) => return true,
        (SymbolKind::Tls, Some(block)) => (0, block.size),
        (SymbolKind::Tls, None) => (0, 0),
        _ => {
            let (low, high) = elf.span();
            (low, high.saturating_sub(low))
        }
    };
    segment::within(raw.value, raw.size, start, size)
}
