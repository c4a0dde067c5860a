//! Symbol versions: the strings they name, the bounds of what ld.so reads, and what nm shows.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use super::damage::Damage;
use super::dynamic::{Dynamic, Strings};
use super::elf::{Elf, VER_FLG_BASE};
use super::segment::{u16_at, u32_at};
use super::tag;

/// Which strings the version tables name, and the highest version they define.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Offsets into the string table, `vn_file` and `vda_name` of the base definition excepted.
    pub(super) names: Vec<u32>,
    /// `vn_file`: names of the files that versions are needed of.
    pub(super) files: Vec<u32>,
    /// `vda_name` of the definition that names the file itself.
    pub(super) base_names: Vec<u32>,
    /// Highest version index; 0 when there is no version table.
    pub(super) highest: u16,
    /// The versions that symbols can have, ascending by index.
    pub(super) named: Vec<Named>,
}

/// One version that symbols can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// What `DT_VERSYM` calls it.
    pub(super) index: u16,
    /// Its name in the string table.
    pub(super) name: u32,
    /// Length of the name in bytes, once it was measured.
    pub(super) name_len: u32,
    /// Whether the file needs it of another one instead of defining it.
    pub(super) needed: bool,
}

/// Longer names are refused, so that a hostile file with many versions that share one long name
/// cannot make the copies of them many times its size.
const MAX_NAME: u32 = 1024;

/// Bytes of `Elf64_Verdef` and `Elf64_Verdaux`, `Elf64_Verneed` and `Elf64_Vernaux`.
const VERDEF: u64 = 20;
const VERDAUX: u64 = 8;
const VERNEED: u64 = 16;
const VERNAUX: u64 = 16;

impl Versions {
    pub(super) fn read(elf: &Elf<'_>, dynamic: &Dynamic) -> Result<Self, Damage> {
        let mut versions = Self::default();
        if let Some(entry) = dynamic.get(tag::VERNEED) {
            let mut table = Table::new("DT_VERNEED", elf, entry.value);
            let mut at = 0;
            loop {
                let file = table.u32(at, 4)?;
                versions.files.push(file);
                let mut aux = table.step(at, u64::from(table.u32(at, 8)?), VERNEED)?;
                for _ in 0..table.u16(at, 2)? {
                    let index = table.u16(aux, 6)? & INDEX;
                    let name = table.u32(aux, 8)?;
                    versions.highest = versions.highest.max(index);
                    versions.names.push(name);
                    versions.named.push(Named {
                        index,
                        name,
                        name_len: 0,
                        needed: true,
                    });
                    match table.u32(aux, 12)? {
                        0 => break,
                        next => aux = table.step(aux, u64::from(next), VERNAUX)?,
                    }
                }
                match table.u32(at, 12)? {
                    0 => break,
                    next => at = table.step(at, u64::from(next), VERNEED)?,
                }
            }
        }
        if let Some(entry) = dynamic.get(tag::VERDEF) {
            let mut table = Table::new("DT_VERDEF", elf, entry.value);
            let mut at = 0;
            loop {
                let is_base = table.u16(at, 2)? & VER_FLG_BASE != 0;
                let index = table.u16(at, 4)? & INDEX;
                versions.highest = versions.highest.max(index);
                let mut aux = table.step(at, u64::from(table.u32(at, 12)?), VERDEF)?;
                for n in 0..table.u16(at, 6)? {
                    let name = table.u32(aux, 0)?;
                    // The first name is the version's own, the others are those it follows. The
                    // base version is the file itself, which no symbol's name shows.
                    if n == 0 && !(is_base && index == 1) {
                        versions.named.push(Named {
                            index,
                            name,
                            name_len: 0,
                            needed: false,
                        });
                    }
                    let names = if is_base {
                        &mut versions.base_names
                    } else {
                        &mut versions.names
                    };
                    names.push(name);
                    match table.u32(aux, 4)? {
                        0 => break,
                        next => aux = table.step(aux, u64::from(next), VERDAUX)?,
                    }
                }
                match table.u32(at, 16)? {
                    0 => break,
                    next => at = table.step(at, u64::from(next), VERDEF)?,
                }
            }
        }
        // A definition goes before a need of the same index, as in nm.
        versions
            .named
            .sort_by_key(|named| (named.index, named.needed));
        versions.named.dedup_by_key(|named| named.index);
        Ok(versions)
    }

    /// Measures the names, all of which must lie inside the string table.
    pub(super) fn check_names(&mut self, strings: &Strings<'_>) -> Result<(), Damage> {
        let names = self.names.iter().chain(&self.base_names);
        for name in names.chain(&self.files) {
            if strings.len_at(*name, 0).is_none() {
                let (expected, found) = ("version names inside the table", format!("{name:#x}"));
                return Err(Damage::new("DT_STRTAB", strings.offset, expected, found));
            }
        }
        for named in &mut self.named {
            named.name_len = strings.len_at(named.name, MAX_NAME).unwrap_or(0);
            if named.name_len > MAX_NAME {
                let expected = "a version's name of at most 1024 bytes";
                let at = strings.offset.saturating_add(u64::from(named.name));
                return Err(Damage::new("DT_STRTAB", at, expected, "a longer one"));
            }
        }
        Ok(())
    }

    /// Checks that each of `n_symbols` symbols has a version that exists; returns the table.
    pub(super) fn check_symbols(
        &self,
        elf: &Elf<'_>,
        dynamic: &Dynamic,
        n_symbols: u64,
    ) -> Result<SymbolVersions, Damage> {
        const WHERE: &str = "DT_VERSYM";
        let Some(entry) = dynamic.get(tag::VERSYM) else {
            return Ok(SymbolVersions { start: None });
        };
        let Some(table) = elf.bytes_at(entry.value, n_symbols.saturating_mul(2)) else {
            let found = format!("{:#x} for {n_symbols} symbols", entry.value);
            let expected = "a version for each symbol in a segment's file bytes";
            return Err(Damage::new(WHERE, entry.offset, expected, found));
        };
        if self.highest == 0 {
            // ld.so makes no table of versions, so it looks none up.
            return Ok(SymbolVersions { start: None });
        }
        let start = elf.offset_of(entry.value, 1).unwrap_or(entry.offset);
        for index in 0..n_symbols {
            let version = u16_at(table, index.saturating_mul(2)).unwrap_or(0) & INDEX;
            // 0 and 1 are the local and the base version, which need no definition.
            if version > self.highest.max(1) {
                let expected = format!("a version up to {}", self.highest);
                let at = start.saturating_add(index.saturating_mul(2));
                return Err(Damage::new(WHERE, at, expected, version));
            }
        }
        Ok(SymbolVersions { start: Some(start) })
    }
}

/// `DT_VERSYM`: a version index for each symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct SymbolVersions {
    /// File offset of the table; `None` where the file has no versions.
    start: Option<u64>,
}

impl SymbolVersions {
    /// The entry of a symbol; 0 where there is none. `bytes` are the file's.
    pub(super) fn of(self, bytes: &[u8], symbol: u64) -> u16 {
        let at = |start: u64| u16_at(bytes, start.checked_add(symbol.checked_mul(2)?)?);
        self.start.and_then(at).unwrap_or(0)
    }
}

/// The bits of a version index that count; the highest one hides the symbol.
pub(super) const INDEX: u16 = 0x7fff;

/// One version table, and how much walking it is worth.
struct Table<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    /// File offset of the table.
    start: u64,
    /// Steps left: records do not overlap, so an honest table has no more than fit.
    steps: u64,
}

impl<'a> Table<'a> {
    fn new(structure: &'static str, elf: &Elf<'a>, vaddr: u64) -> Self {
        let bytes = elf.bytes_from(vaddr).unwrap_or_default();
        let start = elf.offset_of(vaddr, 1).unwrap_or(vaddr);
        let steps = u64::try_from(bytes.len() / 8).unwrap_or(0);
        Self {
            structure,
            bytes,
            start,
            steps,
        }
    }

    fn u16(&self, record: u64, field: u64) -> Result<u16, Damage> {
        let at = record.saturating_add(field);
        u16_at(self.bytes, at).ok_or_else(|| self.cut(at))
    }

    fn u32(&self, record: u64, field: u64) -> Result<u32, Damage> {
        let at = record.saturating_add(field);
        u32_at(self.bytes, at).ok_or_else(|| self.cut(at))
    }

    /// The record `by` bytes after the one at `record`, at least `least` bytes on.
    fn step(&mut self, record: u64, by: u64, least: u64) -> Result<u64, Damage> {
        let at = self.start.saturating_add(record);
        if by < least {
            let found = format!("a step of {by}");
            return Err(Damage::new(
                self.structure,
                at,
                "records that do not overlap",
                found,
            ));
        }
        let Some(left) = self.steps.checked_sub(1) else {
            return Err(Damage::new(
                self.structure,
                at,
                "records that do not overlap",
                "more",
            ));
        };
        self.steps = left;
        Ok(record.saturating_add(by))
    }

    fn cut(&self, at: u64) -> Damage {
        let expected = "records inside a segment's file bytes";
        Damage::new(
            self.structure,
            self.start.saturating_add(at),
            expected,
            "their end",
        )
    }
}
