//! Relocations, as far as they bound what ld.so writes and tell where a plugin points at itself.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use super::damage::Damage;
use super::dynamic::Dynamic;
use super::elf::{Elf, RELA_SIZE, RelaKind, relocations};
use super::segment::{Extent, Segment, u64_at};
use super::tag;

/// What the relocations of a file say about it.
#[derive(Debug, Default)]
pub(super) struct Relocations {
    /// Highest symbol that a relocation names.
    pub(super) highest_symbol: u32,
    /// Link-time addresses of words that will hold their own address: `__dso_handle`.
    pub(super) dso_handles: Vec<u64>,
}

impl Relocations {
    pub(super) fn read(elf: &Elf<'_>, dynamic: &Dynamic) -> Result<Self, Damage> {
        const RELA: u64 = 7;
        if let Some(entry) = dynamic.get(tag::REL) {
            return Err(Damage::new(
                "DT_REL",
                entry.offset,
                "relocations with addend",
                "DT_REL",
            ));
        }
        dynamic.check_entry_size(tag::RELA, tag::RELAENT, RELA_SIZE)?;
        dynamic.check_entry_size(tag::JMPREL, tag::PLTREL, RELA)?;
        dynamic.check_entry_size(tag::RELR, tag::RELRENT, 8)?;

        let mut all = Self::default();
        let n_relative = dynamic.value(tag::RELACOUNT);
        all.scan(elf, dynamic, tag::RELA, tag::RELASZ, n_relative)?;
        all.scan(elf, dynamic, tag::JMPREL, tag::PLTRELSZ, 0)?;
        all.scan_relr(elf, dynamic)?;
        all.dso_handles.sort_unstable();
        all.dso_handles.dedup();
        Ok(all)
    }

    fn scan(
        &mut self,
        elf: &Elf<'_>,
        dynamic: &Dynamic,
        address: i64,
        size: i64,
        n_relative: u64,
    ) -> Result<(), Damage> {
        let structure = tag::name(address);
        let table = dynamic.table(elf, address, size, RELA_SIZE)?;
        let start = elf.offset_of(dynamic.value(address), 1).unwrap_or(0);
        let mut rest = relocations(table);
        let mut n_seen = 0u64;
        // Where the last target lay, and with it mostly the next one: places of 4 bytes.
        let mut near = Extent { vaddr: 0, size: 0 };
        loop {
            n_seen = n_seen.saturating_add(rest.skip_relative(|target, addend| {
                target.wrapping_sub(near.vaddr) < near.size && addend != target
            }));
            let Some(rela) = rest.next() else {
                break;
            };
            let index = n_seen;
            let at = start.saturating_add(index.saturating_mul(RELA_SIZE));
            n_seen = index.saturating_add(1);
            if index < n_relative && rela.kind != RelaKind::Relative {
                let expected = "relative ones first (DT_RELACOUNT)";
                let found = format!("another at {index} of {n_relative}");
                return Err(Damage::new(structure, at, expected, found));
            }
            self.highest_symbol = self.highest_symbol.max(rela.symbol);
            match rela.kind {
                RelaKind::None => continue,
                RelaKind::Relative if rela.addend == rela.target => {
                    self.dso_handles.push(rela.target);
                }
                RelaKind::Irelative => {
                    let resolver = elf.segment_of(rela.addend, 1);
                    if !resolver.is_some_and(Segment::is_executable) {
                        let found = format!("{:#x}", rela.addend);
                        return Err(Damage::new(structure, at, "a resolver in code", found));
                    }
                }
                RelaKind::Relative | RelaKind::Address | RelaKind::Other => {}
            }
            if rela.target.wrapping_sub(near.vaddr) < near.size {
                continue;
            }
            // The narrowest relocation writes 4 bytes; what is wider and cut is a later check's.
            let Some(segment) = elf.segment_of(rela.target, 4) else {
                let found = format!("{:#x}", rela.target);
                return Err(Damage::new(
                    structure,
                    at,
                    "a target inside a segment",
                    found,
                ));
            };
            near = Extent {
                vaddr: segment.vaddr,
                size: segment.memsz.saturating_sub(3),
            };
        }
        if n_relative > n_seen {
            let at = dynamic
                .get(tag::RELACOUNT)
                .map_or(start, |entry| entry.offset);
            let found = format!("{n_relative} of {n_seen}");
            return Err(Damage::new(
                "DT_RELACOUNT",
                at,
                "no more than there are",
                found,
            ));
        }
        Ok(())
    }

    /// Packed relative relocations: an even word is a target, an odd one a bitmap of the 63 words
    /// after the last target.
    fn scan_relr(&mut self, elf: &Elf<'_>, dynamic: &Dynamic) -> Result<(), Damage> {
        let table = dynamic.table(elf, tag::RELR, tag::RELRSZ, 8)?;
        let start = elf.offset_of(dynamic.value(tag::RELR), 1).unwrap_or(0);
        let mut next = None;
        for index in 0..u64::try_from(table.len() / 8).unwrap_or(0) {
            let at = start.saturating_add(index.saturating_mul(8));
            let entry = u64_at(table, index.saturating_mul(8)).unwrap_or(0);
            if entry & 1 == 0 {
                self.relative_at(elf, at, entry)?;
                next = Some(entry.saturating_add(8));
                continue;
            }
            let Some(base) = next else {
                return Err(Damage::new(
                    "DT_RELR",
                    at,
                    "an address first",
                    format!("{entry:#x}"),
                ));
            };
            for bit in 0..63u64 {
                if entry >> bit.saturating_add(1) & 1 != 0 {
                    self.relative_at(elf, at, base.saturating_add(bit.saturating_mul(8)))?;
                }
            }
            next = Some(base.saturating_add(63 * 8));
        }
        Ok(())
    }

    fn relative_at(&mut self, elf: &Elf<'_>, at: u64, target: u64) -> Result<(), Damage> {
        if !elf.maps(target, 8) {
            let found = format!("{target:#x}");
            return Err(Damage::new(
                "DT_RELR",
                at,
                "a target inside a segment",
                found,
            ));
        }
        let stored = elf.bytes_at(target, 8).and_then(|word| u64_at(word, 0));
        if stored == Some(target) {
            self.dso_handles.push(target);
        }
        Ok(())
    }
}
