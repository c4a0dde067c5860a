//! The dynamic section as a table: one value a tag, every table it names inside the file.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use std::str;

use super::damage::Damage;
use super::elf::{DynamicEntry, Elf};
use super::tag;

/// The entries of `PT_DYNAMIC`, each tag that may come once checked to do so.
#[derive(Debug)]
pub(super) struct Dynamic {
    pub(super) entries: Vec<DynamicEntry>,
    /// File offset of the section, named when a tag is missing.
    start: u64,
}

impl Dynamic {
    pub(super) fn read(elf: &Elf<'_>) -> Result<Self, Damage> {
        let entries = elf.dynamic_entries()?;
        let mut seen: Vec<&DynamicEntry> = entries
            .iter()
            .filter(|entry| comes_once(entry.tag))
            .collect();
        seen.sort_by_key(|entry| (entry.tag, entry.offset));
        for pair in seen.windows(2) {
            if let [first, second] = pair
                && first.tag == second.tag
            {
                let found = format!("{} again", tag::name(second.tag));
                return Err(Damage::new(
                    "PT_DYNAMIC",
                    second.offset,
                    "each tag once",
                    found,
                ));
            }
        }
        Ok(Self {
            entries,
            start: elf.dynamic.offset,
        })
    }

    /// The entry with this tag.
    pub(super) fn get(&self, tag: i64) -> Option<&DynamicEntry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    /// The value of this tag, 0 when it is missing.
    pub(super) fn value(&self, tag: i64) -> u64 {
        self.get(tag).map_or(0, |entry| entry.value)
    }

    /// The entry with this tag, which no file can do without.
    pub(super) fn require(&self, tag: i64) -> Result<&DynamicEntry, Damage> {
        self.get(tag)
            .ok_or_else(|| Damage::new("PT_DYNAMIC", self.start, tag::name(tag), "none"))
    }

    /// Refuses a size tag with another value than `size`, where its table exists.
    pub(super) fn check_entry_size(&self, table: i64, entry: i64, size: u64) -> Result<(), Damage> {
        if self.get(table).is_none() {
            return Ok(());
        }
        let given = self.require(entry)?;
        if given.value != size {
            let expected = format!("{} {size}", tag::name(entry));
            return Err(Damage::new(
                "PT_DYNAMIC",
                given.offset,
                expected,
                given.value,
            ));
        }
        Ok(())
    }

    /// The bytes of the table with this address tag and this size tag; empty when both are missing.
    pub(super) fn table<'a>(
        &self,
        elf: &Elf<'a>,
        address: i64,
        size: i64,
        entry_size: u64,
    ) -> Result<&'a [u8], Damage> {
        let Some(at) = self.get(address) else {
            return match self.get(size) {
                Some(size) if size.value != 0 => Err(Damage::new(
                    "PT_DYNAMIC",
                    size.offset,
                    tag::name(address),
                    "only its size",
                )),
                _ => Ok(&[]),
            };
        };
        let len = self.require(size)?;
        if len.value % entry_size != 0 {
            let expected = format!("{} in entries of {entry_size}", tag::name(size));
            return Err(Damage::new("PT_DYNAMIC", len.offset, expected, len.value));
        }
        if len.value == 0 {
            return Ok(&[]);
        }
        elf.bytes_at(at.value, len.value).ok_or_else(|| {
            let expected = format!("{} inside a segment's file bytes", tag::name(address));
            let found = format!("{:#x}+{:#x}", at.value, len.value);
            Damage::new("PT_DYNAMIC", at.offset, expected, found)
        })
    }
}

/// The string table of the dynamic section: its bytes end in NUL.
#[derive(Debug)]
pub(super) struct Strings<'a> {
    pub(super) bytes: &'a [u8],
    /// File offset of the table.
    pub(super) offset: u64,
    /// Offsets of the NULs, ascending: a name's length in a search, so that a hostile file with
    /// many names that share one long tail costs no more than an honest one.
    nuls: Vec<u32>,
}

impl<'a> Strings<'a> {
    pub(super) fn read(elf: &Elf<'a>, dynamic: &Dynamic) -> Result<Self, Damage> {
        let at = *dynamic.require(tag::STRTAB)?;
        dynamic.require(tag::STRSZ)?;
        let bytes = dynamic.table(elf, tag::STRTAB, tag::STRSZ, 1)?;
        let offset = elf.offset_of(at.value, 1).unwrap_or(at.offset);
        if bytes.last() != Some(&0) || u32::try_from(bytes.len()).is_err() {
            let found = match bytes.last() {
                Some(last) => format!("{last:#04x} after {} bytes", bytes.len()),
                None => "no bytes".into(),
            };
            return Err(Damage::new(
                "DT_STRTAB",
                offset,
                "a string table that ends in NUL",
                found,
            ));
        }
        let nuls = (0u32..)
            .zip(bytes)
            .filter(|(_, byte)| **byte == 0)
            .map(|(at, _)| at)
            .collect();
        Ok(Self {
            bytes,
            offset,
            nuls,
        })
    }

    /// Length of the string at `offset` of the table, without its NUL.
    pub(super) fn len_at(&self, offset: u32) -> Option<u32> {
        let next = self.nuls.partition_point(|nul| *nul < offset);
        self.nuls.get(next)?.checked_sub(offset)
    }

    /// The string at `offset` of the table, without its NUL.
    pub(super) fn get(&self, offset: u32) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        let len = usize::try_from(self.len_at(offset)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }

    /// The text a dynamic entry names: UTF-8 without control characters.
    pub(super) fn text(&self, entry: &DynamicEntry) -> Result<String, Damage> {
        let found = u32::try_from(entry.value)
            .ok()
            .and_then(|offset| self.get(offset));
        let Some(bytes) = found else {
            let (expected, found) = ("a string inside DT_STRTAB", format!("{:#x}", entry.value));
            return Err(Damage::new(
                tag::name(entry.tag),
                entry.offset,
                expected,
                found,
            ));
        };
        match str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
            _ => {
                let found = format!("{:?}", String::from_utf8_lossy(bytes));
                Err(Damage::new(
                    tag::name(entry.tag),
                    entry.offset,
                    "printable UTF-8",
                    found,
                ))
            }
        }
    }
}

/// ld.so keeps the last of several entries with one tag; other readers keep the first.
fn comes_once(tag: i64) -> bool {
    (0..tag::LOW_TAGS).contains(&tag) && tag != tag::NEEDED
        || [
            tag::GNU_HASH,
            tag::VERSYM,
            tag::VERDEF,
            tag::VERDEFNUM,
            tag::VERNEED,
            tag::VERNEEDNUM,
            tag::RELACOUNT,
            tag::FLAGS_1,
        ]
        .contains(&tag)
}
