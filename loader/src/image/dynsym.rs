//! The dynamic symbol table: all of it that ld.so may look at, and what of it is defined.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use super::damage::Damage;
use super::dynamic::{Dynamic, Strings};
use super::elf::{self, Elf, RawSymbol, SYM_SIZE};
use super::hash::{self, Counted};
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

/// Longer names are refused, so that a hostile file cannot make the index many times its size.
const MAX_NAME: u32 = 64 * 1024;

/// The dynamic symbol table: all of it that ld.so may look at.
pub(super) struct SymbolTable<'a> {
    bytes: &'a [u8],
    /// File offset of the table.
    start: u64,
    /// Symbols known from the hash tables or from relocations.
    pub(super) n_symbols: u64,
    /// Whether names can be looked up; without, nothing counts as defined.
    is_hashed: bool,
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

    /// The defined symbols; offsets of all names, undefined ones included, go to `names`.
    pub(super) fn symbols(
        &self,
        elf: &Elf<'_>,
        strings: &Strings<'_>,
        tls: Option<Extent>,
        versions: SymbolVersions<'_>,
        names: &mut Vec<u32>,
    ) -> Result<Vec<ElfSymbol>, Damage> {
        let mut symbols = Vec::new();
        for index in 1..self.n_symbols {
            let entry_offset = self.start.saturating_add(index.saturating_mul(SYM_SIZE));
            let Some(raw) = elf::symbol(self.bytes, index) else {
                break;
            };
            let name_len = match strings.len_at(raw.name) {
                Some(len) if len <= MAX_NAME => len,
                Some(len) => {
                    let expected = "a name of at most 65536 bytes";
                    return Err(Damage::new("DT_SYMTAB", entry_offset, expected, len));
                }
                None => {
                    let found = format!("{:#x}", raw.name);
                    let expected = "a name inside DT_STRTAB";
                    return Err(Damage::new("DT_SYMTAB", entry_offset, expected, found));
                }
            };
            names.push(raw.name);
            if !self.is_hashed || !raw.is_defined() {
                continue;
            }
            let kind = kind(&raw);
            check_value(elf, &raw, kind, tls, entry_offset)?;
            symbols.push(ElfSymbol {
                name_offset: raw.name,
                name_len,
                value: raw.value,
                size: raw.size,
                kind,
                binding: binding(raw.binding),
                visibility: visibility(raw.visibility),
                entry_offset,
                section: raw.section,
                version: versions.of(index),
            });
        }
        Ok(symbols)
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

fn check_value(
    elf: &Elf<'_>,
    raw: &RawSymbol,
    kind: SymbolKind,
    tls: Option<Extent>,
    at: u64,
) -> Result<(), Damage> {
    let (start, size) = match (kind, tls) {
        (SymbolKind::Abs | SymbolKind::Other, _) => return Ok(()),
        (SymbolKind::Tls, Some(block)) => (0, block.size),
        (SymbolKind::Tls, None) => (0, 0),
        _ => {
            let (low, high) = elf.span();
            (low, high.saturating_sub(low))
        }
    };
    if !segment::within(raw.value, raw.size, start, size) {
        let found = format!("{:#x}+{:#x}", raw.value, raw.size);
        return Err(Damage::new(
            "DT_SYMTAB",
            at,
            "a symbol inside the image",
            found,
        ));
    }
    Ok(())
}
