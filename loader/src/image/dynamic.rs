//! The dynamic section as a table: one value a tag, every table it names inside the file.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::ops::Range;
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
}

/// Longer texts are refused: a hostile file could name one long string a million times.
const MAX_TEXT: u32 = 4096;

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
        Ok(Self { bytes, offset })
    }

    /// From `offset` of the table to its end; `None` outside of it.
    fn from(&self, offset: u32) -> Option<&'a [u8]> {
        let from = self.bytes.get(usize::try_from(offset).ok()?..)?;
        Some(from).filter(|from| !from.is_empty())
    }

    /// Length of the string at `offset` of the table, without its NUL, measured up to `most` bytes
    /// and one more.
    pub(super) fn len_at(&self, offset: u32, most: u32) -> Option<u32> {
        let from = self.from(offset)?;
        let most = usize::try_from(most).ok()?.saturating_add(1);
        let near = from.get(..most).unwrap_or(from);
        let len = CStr::from_bytes_until_nul(near).map_or(near.len(), CStr::count_bytes);
        u32::try_from(len).ok()
    }

    /// Where strings begin that are longer than `most` bytes: from each first number to before the
    /// second. Ascending; costs a look at one byte in `most`, and more where strings are long.
    pub(super) fn longer_than(&self, most: u32) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        let step = usize::try_from(most).unwrap_or(usize::MAX);
        // A string starts here, or goes on.
        let mut start = 0_usize;
        while let Some(near) = self
            .bytes
            .get(start..start.saturating_add(step).saturating_add(1))
        {
            if let Some(nul) = near.iter().rposition(|byte| *byte == 0) {
                start = start.saturating_add(nul).saturating_add(1);
                continue;
            }
            let rest = self.bytes.get(start..).unwrap_or_default();
            let len = CStr::from_bytes_until_nul(rest).map_or(rest.len(), CStr::count_bytes);
            let end = start.saturating_add(len);
            let range = (
                u32::try_from(start),
                u32::try_from(end.saturating_sub(step)),
            );
            if let (Ok(first), Ok(last)) = range {
                found.push((first, last));
            }
            start = end.saturating_add(1);
        }
        found
    }

    /// Where names begin that have a byte of the string at `start` in them: linkers merge strings
    /// with equal tails.
    pub(super) fn shared_by(&self, start: u32) -> Range<u32> {
        let before = usize::try_from(start)
            .ok()
            .and_then(|start| self.bytes.get(..start));
        // A string from before runs into this one only if no NUL stands between.
        let first = before.map_or(0, |before| {
            let nul = before.iter().rposition(|byte| *byte == 0);
            nul.map_or(0, |nul| nul.saturating_add(1))
        });
        let len = self.len_at(start, MAX_TEXT).unwrap_or(0);
        u32::try_from(first).unwrap_or(start)..start.saturating_add(len)
    }

    /// The text a dynamic entry names: UTF-8 without control characters.
    pub(super) fn text(&self, entry: &DynamicEntry) -> Result<String, Damage> {
        let damage = |expected: &'static str, found| {
            Damage::new(tag::name(entry.tag), entry.offset, expected, found)
        };
        let offset = u32::try_from(entry.value).ok();
        let place = offset.and_then(|offset| Some((offset, self.len_at(offset, MAX_TEXT)?)));
        let Some((offset, len)) = place else {
            return Err(damage(
                "a string inside DT_STRTAB",
                format!("{:#x}", entry.value),
            ));
        };
        if len > MAX_TEXT {
            return Err(damage(
                "a string of at most 4096 bytes",
                "a longer one".into(),
            ));
        }
        let bytes = self.from(offset).unwrap_or_default();
        let bytes = bytes
            .get(..usize::try_from(len).unwrap_or(0))
            .unwrap_or_default();
        match str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
            _ => {
                let found = format!("{:?}", String::from_utf8_lossy(bytes));
                Err(damage("printable UTF-8", found))
            }
        }
    }
}

/// Lengths of the strings of a table by their places: a search each, so that a file with many names
/// that share one long tail costs no more than an honest one.
pub(super) struct Lengths {
    /// Offsets of the NULs, ascending.
    nuls: Vec<u32>,
}

impl Lengths {
    /// Those of the table `strings`.
    pub(super) fn of(strings: &[u8]) -> Self {
        let nuls = (0u32..).zip(strings).filter(|(_, byte)| **byte == 0);
        Self {
            nuls: nuls.map(|(at, _)| at).collect(),
        }
    }

    /// Length of the string at `offset`, without its NUL; 0 outside of the table.
    pub(super) fn at(&self, offset: u32) -> u32 {
        let next = self.nuls.partition_point(|nul| *nul < offset);
        let nul = self.nuls.get(next).copied().unwrap_or(offset);
        nul.saturating_sub(offset)
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
