//! The version tables: every record linked, counted, hashed, and found by the symbols.

#![forbid(unsafe_code)]

use super::View;
use super::hashes::elf_hash;
use super::symbols;
use crate::image::damage::Damage;
use crate::image::segment::{u16_at, u32_at};
use crate::image::tag;

/// The bits of a version index that count.
const INDEX: u16 = 0x7fff;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    let mut indexes = Vec::new();
    if let Some(entry) = view.dynamic.get(tag::VERNEED) {
        check_needed(view, entry.value, &mut indexes)?;
    }
    if let Some(entry) = view.dynamic.get(tag::VERDEF) {
        check_defined(view, entry.value, &mut indexes)?;
    }
    indexes.sort_unstable();
    let Some(table) = symbols::versions(view) else {
        return Ok(());
    };
    let at = view.dynamic.value(tag::VERSYM);
    if let Some(pair) = indexes.windows(2).find(|pair| pair.first() == pair.last()) {
        let expected = "one version an index";
        return Err(Damage::new("DT_VERNEED", at, expected, format!("{pair:?}")));
    }
    for index in 0..view.facts.n_symbols {
        let version = u16_at(table, index.saturating_mul(2)).unwrap_or(0) & INDEX;
        if version > 1 && indexes.binary_search(&version).is_err() {
            let start = view.elf.offset_of(at, 1).unwrap_or(at);
            let at = start.saturating_add(index.saturating_mul(2));
            let found = version.to_string();
            return Err(Damage::new("DT_VERSYM", at, "a version there is", found));
        }
    }
    Ok(())
}

/// One version table. Its links and bounds were checked when it was read.
struct Table<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    start: u64,
}

impl<'a> Table<'a> {
    fn new(view: &View<'a>, structure: &'static str, vaddr: u64) -> Self {
        Self {
            structure,
            bytes: view.elf.bytes_from(vaddr).unwrap_or_default(),
            start: view.elf.offset_of(vaddr, 1).unwrap_or(vaddr),
        }
    }

    fn u16(&self, record: u64, field: u64) -> u16 {
        u16_at(self.bytes, record.saturating_add(field)).unwrap_or(0)
    }

    fn u32(&self, record: u64, field: u64) -> u32 {
        u32_at(self.bytes, record.saturating_add(field)).unwrap_or(0)
    }

    fn damage(&self, record: u64, expected: &'static str, found: impl ToString) -> Damage {
        let at = self.start.saturating_add(record);
        Damage::new(self.structure, at, expected, found.to_string())
    }

    /// The record after the `n`th of `count`, by the distance `next`; none after the last.
    fn step(&self, record: u64, (n, count): (u64, u64), next: u32) -> Result<Option<u64>, Damage> {
        let is_last = n.saturating_add(1) == count;
        if is_last != (next == 0) {
            let found = format!("{next} after {} of {count}", n.saturating_add(1));
            return Err(self.damage(record, "as many records as are counted", found));
        }
        Ok((!is_last).then(|| record.saturating_add(u64::from(next))))
    }
}

fn check_needed(view: &View<'_>, vaddr: u64, indexes: &mut Vec<u16>) -> Result<(), Damage> {
    let table = Table::new(view, "DT_VERNEED", vaddr);
    let count = view.dynamic.value(tag::VERNEEDNUM);
    let needed = |file: &[u8]| {
        let mut entries = view.dynamic.entries.iter();
        entries.any(|entry| {
            entry.tag == tag::NEEDED && view.string(super::dynamic::name(entry.value)) == file
        })
    };
    let mut at = 0;
    for n in 0..count {
        if table.u16(at, 0) != 1 {
            return Err(table.damage(at, "version 1", table.u16(at, 0)));
        }
        let file = view.string(table.u32(at, 4));
        if !needed(file) {
            let found = format!("{:?}", String::from_utf8_lossy(file));
            return Err(table.damage(at, "a file of DT_NEEDED", found));
        }
        let n_names = u64::from(table.u16(at, 2));
        if n_names == 0 {
            return Err(table.damage(at, "versions of the file", "none"));
        }
        let mut aux = at.saturating_add(u64::from(table.u32(at, 8)));
        for m in 0..n_names {
            let hash = elf_hash(view.string(table.u32(aux, 8)));
            if table.u32(aux, 0) != hash {
                let found = format!("{:#x} for {hash:#x}", table.u32(aux, 0));
                return Err(table.damage(aux, "the hash of the version's name", found));
            }
            let index = table.u16(aux, 6) & INDEX;
            if index < 2 {
                return Err(table.damage(aux, "an index above 1", index));
            }
            indexes.push(index);
            match table.step(aux, (m, n_names), table.u32(aux, 12))? {
                Some(next) => aux = next,
                None => break,
            }
        }
        match table.step(at, (n, count), table.u32(at, 12))? {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(())
}

fn check_defined(view: &View<'_>, vaddr: u64, indexes: &mut Vec<u16>) -> Result<(), Damage> {
    const BASE: u16 = 1;
    let table = Table::new(view, "DT_VERDEF", vaddr);
    let count = view.dynamic.value(tag::VERDEFNUM);
    let mut at = 0;
    for n in 0..count {
        if table.u16(at, 0) != 1 {
            return Err(table.damage(at, "version 1", table.u16(at, 0)));
        }
        let index = table.u16(at, 4) & INDEX;
        let is_base = table.u16(at, 2) & BASE != 0;
        if index == 0 || is_base && index != 1 {
            return Err(table.damage(at, "an index of its own", index));
        }
        indexes.push(index);
        let n_names = u64::from(table.u16(at, 6));
        if n_names == 0 {
            return Err(table.damage(at, "a name", "none"));
        }
        let mut aux = at.saturating_add(u64::from(table.u32(at, 12)));
        let hash = elf_hash(view.string(table.u32(aux, 0)));
        if table.u32(at, 8) != hash {
            let found = format!("{:#x} for {hash:#x}", table.u32(at, 8));
            return Err(table.damage(at, "the hash of the version's name", found));
        }
        for m in 0..n_names {
            match table.step(aux, (m, n_names), table.u32(aux, 4))? {
                Some(next) => aux = next,
                None => break,
            }
        }
        match table.step(at, (n, count), table.u32(at, 16))? {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(())
}
