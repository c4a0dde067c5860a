//! Where a file's symbol tables lie in its bytes.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::facts::Facts;
use super::segment::{slice, u16_at, u32_at, u64_at};
use super::tag;

/// Places of one file's tables, each inside the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    /// `DT_SYMTAB`.
    pub(crate) symbols: Range<usize>,
    /// `DT_STRTAB`.
    pub(crate) strings: Range<usize>,
    /// `DT_GNU_HASH`.
    pub(crate) gnu_hash: Range<usize>,
    /// `DT_HASH`.
    pub(crate) sysv_hash: Range<usize>,
    /// `DT_VERSYM`.
    pub(crate) versions: Range<usize>,
    /// `.eh_frame_hdr`.
    pub(crate) frames: Range<usize>,
    /// Its link-time address.
    pub(crate) frames_svma: u64,
    /// The first executable segment's link-time addresses.
    pub(crate) text: Range<u64>,
    /// `.symtab`, which only section headers know.
    pub(crate) all_symbols: Range<usize>,
    /// Its strings.
    pub(crate) all_strings: Range<usize>,
}

impl Tables {
    /// The tables of the file that consists of `bytes`.
    pub(crate) fn of(facts: &Facts, bytes: &[u8]) -> Self {
        let place = |tag: i64, len: Option<u64>| {
            let len = len?;
            range(bytes, facts.offset_at(facts.entry(tag)?.value, len)?, len)
        };
        let word = |tag: i64, at: u64| {
            let field = facts.entry(tag)?.value.checked_add(at)?;
            Some(u64::from(u32_at(bytes, facts.offset_at(field, 4)?)?))
        };
        let n = facts.n_symbols;
        // Header, bloom filter, buckets, and a chain word for each hashed symbol.
        let gnu_len = || {
            let buckets = word(tag::GNU_HASH, 0)?.checked_mul(4)?;
            let chains = n.saturating_sub(word(tag::GNU_HASH, 4)?).checked_mul(4)?;
            let bloom = word(tag::GNU_HASH, 8)?.checked_mul(8)?;
            buckets
                .checked_add(chains)?
                .checked_add(bloom)?
                .checked_add(16)
        };
        // Header, buckets, and a chain word for each symbol.
        let sysv_len = || {
            let words = word(tag::HASH, 0)?.checked_add(word(tag::HASH, 4)?)?;
            words.checked_add(2)?.checked_mul(4)
        };
        let (all_symbols, all_strings) = symtab(bytes).unwrap_or_default();
        Self {
            symbols: place(tag::SYMTAB, n.checked_mul(24)).unwrap_or_default(),
            strings: range(bytes, facts.strings.0, facts.strings.1).unwrap_or_default(),
            gnu_hash: place(tag::GNU_HASH, gnu_len()).unwrap_or_default(),
            sysv_hash: place(tag::HASH, sysv_len()).unwrap_or_default(),
            versions: place(tag::VERSYM, n.checked_mul(2)).unwrap_or_default(),
            frames: facts
                .eh_frame_hdr
                .and_then(|at| range(bytes, facts.offset_at(at.vaddr, at.size)?, at.size))
                .unwrap_or_default(),
            frames_svma: facts.eh_frame_hdr.map_or(0, |at| at.vaddr),
            text: facts
                .segments
                .iter()
                .find(|segment| segment.is_executable())
                .map_or(0..0, |text| {
                    text.vaddr..text.vaddr.saturating_add(text.memsz)
                }),
            all_symbols,
            all_strings,
        }
    }
}

impl Tables {
    /// All tables: dynamic symbols and strings, all symbols and strings, GNU hash, System V hash,
    /// versions, unwind entries.
    pub(crate) fn all(&self) -> [Range<usize>; 8] {
        [
            &self.symbols,
            &self.strings,
            &self.all_symbols,
            &self.all_strings,
            &self.gnu_hash,
            &self.sysv_hash,
            &self.versions,
            &self.frames,
        ]
        .map(Range::clone)
    }
}

/// The range of `len` bytes at `offset`, if the file has them.
fn range(bytes: &[u8], offset: u64, len: u64) -> Option<Range<usize>> {
    slice(bytes, offset, len)?;
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// `.symtab` and its strings by the section headers: names for addresses and nothing else, so
/// whatever does not fit is left out and not refused.
fn symtab(bytes: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    const HEADER: u64 = 64;
    const SYMTAB: u32 = 2;
    const STRTAB: u32 = 3;
    let table = u64_at(bytes, 40).filter(|offset| *offset != 0)?;
    let size = u16_at(bytes, 58)?;
    let n = u64::from(u16_at(bytes, 60)?);
    if u64::from(size) != HEADER {
        return None;
    }
    let header = |n: u64| table.checked_add(n.checked_mul(HEADER)?);
    let of_type =
        |at: u64, wanted: u32| (u32_at(bytes, at.checked_add(4)?)? == wanted).then_some(at);
    let body = |at: u64| {
        let offset = u64_at(bytes, at.checked_add(24)?)?;
        range(bytes, offset, u64_at(bytes, at.checked_add(32)?)?)
    };
    let symbols = (0..n).find_map(|section| of_type(header(section)?, SYMTAB))?;
    let link = u64::from(u32_at(bytes, symbols.checked_add(40)?)?);
    let strings = of_type(header(link).filter(|_| link < n)?, STRTAB)?;
    Some((body(symbols)?, body(strings)?))
}
