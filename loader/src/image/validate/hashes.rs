//! The hash tables over the dynamic symbols: every name is found where its hash says.

#![forbid(unsafe_code)]

use std::hint::black_box;

use super::View;
use crate::image::damage::Damage;
use crate::image::elf;
use crate::image::segment::u32_at;
use crate::image::tag;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    if let Some(entry) = view.dynamic.get(tag::GNU_HASH) {
        check_gnu(view, entry.value)?;
    }
    if let Some(entry) = view.dynamic.get(tag::HASH) {
        check_sysv(view, entry.value)?;
    }
    Ok(())
}

/// A table of 32-bit words.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn at(&self, index: u64) -> u32 {
        u32_at(self.0, index.saturating_mul(4)).unwrap_or(0)
    }
}

/// Symbols whose names are touched before they are hashed.
const AHEAD: u64 = 16;

/// Names that are hashed at most. A name that is not where its hash says is only not found: ld.so
/// follows the chains, whose ends and order are looked at for all symbols, as is where each name
/// lies. Of larger files runs of names are taken from all over the table.
const HASHED: u64 = 1 << 16;

/// Reads the first bytes of the next names from the symbol `from` on. They lie anywhere in a large
/// file, and memory brings many at once, but one at a time where each is hashed before the next is
/// asked for.
fn touch(view: &View<'_>, from: u64) {
    let symbols = (from..from.saturating_add(AHEAD)).filter_map(|n| elf::symbol(view.symbols, n));
    let names = symbols.filter_map(|symbol| usize::try_from(symbol.name).ok());
    let firsts = names.filter_map(|name| view.strings.bytes.get(name));
    black_box(firsts.fold(0, |all, byte| all ^ byte));
}

/// Bounds were checked when symbols were counted.
fn check_gnu(view: &View<'_>, vaddr: u64) -> Result<(), Damage> {
    const WHERE: &str = "DT_GNU_HASH";
    let table = Words(view.elf.bytes_from(vaddr).unwrap_or_default());
    let start = view.elf.offset_of(vaddr, 1).unwrap_or(vaddr);
    let damage = |word: u64, expected: &'static str, found: String| {
        let at = start.saturating_add(word.saturating_mul(4));
        Err(Damage::new(WHERE, at, expected, found))
    };
    let (n_buckets, first) = (table.at(0), u64::from(table.at(1)));
    let (n_bloom, shift) = (u64::from(table.at(2)), table.at(3));
    let buckets = n_bloom.saturating_mul(2).saturating_add(4);
    let chains = buckets.saturating_add(u64::from(n_buckets));
    let end = view.facts.n_symbols;
    let mut next = first;
    // Of so many runs one is hashed.
    let share = end.div_ceil(HASHED).max(1);
    for bucket in 0..u64::from(n_buckets) {
        let at = buckets.saturating_add(bucket);
        let head = u64::from(table.at(at));
        if head == 0 {
            continue;
        }
        if head != next {
            let expected = "buckets that follow each other";
            return damage(at, expected, format!("{head} after {next}"));
        }
        loop {
            if next >= end {
                return damage(at, "a chain that ends", format!("{next} of {end}"));
            }
            let done = next.saturating_sub(first);
            let link = chains.saturating_add(done);
            let stored = table.at(link);
            if !(done / AHEAD).is_multiple_of(share) {
                next = next.saturating_add(1);
                if stored & 1 != 0 {
                    break;
                }
                continue;
            }
            if done.is_multiple_of(AHEAD) {
                touch(view, next);
            }
            let name = elf::symbol(view.symbols, next).map_or(0, |symbol| symbol.name);
            let hash = gnu_hash(view.strings.bytes, name);
            if stored | 1 != hash | 1
                || u64::from(hash.checked_rem(n_buckets).unwrap_or(0)) != bucket
            {
                let found = format!("{stored:#x} for {hash:#x}");
                return damage(link, "the hash of the symbol's name", found);
            }
            let word = u64::from(hash >> 6) & n_bloom.saturating_sub(1);
            let filter = word.saturating_mul(2).saturating_add(4);
            let bits = [hash & 63, hash.checked_shr(shift).unwrap_or(0) & 63];
            let low = u64::from(table.at(filter));
            let filter_word = u64::from(table.at(filter.saturating_add(1))) << 32 | low;
            if bits.iter().any(|bit| filter_word >> bit & 1 == 0) {
                let found = format!("{filter_word:#x}");
                return damage(filter, "a bloom filter that knows each name", found);
            }
            next = next.saturating_add(1);
            if stored & 1 != 0 {
                break;
            }
        }
    }
    // With no symbol to be found, a linker may say anything.
    if next != end && next != first {
        return damage(
            1,
            "all symbols from the first in chains",
            format!("{next} of {end}"),
        );
    }
    Ok(())
}

fn check_sysv(view: &View<'_>, vaddr: u64) -> Result<(), Damage> {
    const WHERE: &str = "DT_HASH";
    let table = Words(view.elf.bytes_from(vaddr).unwrap_or_default());
    let start = view.elf.offset_of(vaddr, 1).unwrap_or(vaddr);
    let n_buckets = table.at(0);
    for bucket in 0..u64::from(n_buckets) {
        let mut place = bucket.saturating_add(2);
        loop {
            // Chains end: counting symbols walked them.
            let symbol = u64::from(table.at(place));
            if symbol == 0 {
                break;
            }
            let name = elf::symbol(view.symbols, symbol).map_or(0, |symbol| symbol.name);
            let hash = elf_hash(view.string(name));
            if u64::from(hash.checked_rem(n_buckets).unwrap_or(0)) != bucket {
                let at = start.saturating_add(place.saturating_mul(4));
                let found = format!("symbol {symbol} in bucket {bucket}");
                let expected = "each symbol in the bucket of its name";
                return Err(Damage::new(WHERE, at, expected, found));
            }
            place = u64::from(n_buckets)
                .saturating_add(2)
                .saturating_add(symbol);
        }
    }
    Ok(())
}

/// The hash of the string at `offset`, which ends in NUL.
///
/// Eight bytes at a time where none of them is the end: a byte at a time each waits for the one
/// before, which is most of what a load of many symbols would take.
fn gnu_hash(strings: &[u8], offset: u32) -> u32 {
    const FACTOR: u32 = 33;
    let mut rest = usize::try_from(offset)
        .ok()
        .and_then(|at| strings.get(at..))
        .unwrap_or_default();
    let mut hash = 5381_u32;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let eight = u64::from_le_bytes(*eight);
        if has_zero(eight) {
            break;
        }
        hash = hash
            .wrapping_mul(FACTOR.wrapping_pow(8))
            .wrapping_add(hash_of_eight(eight));
        rest = after;
    }
    let last = rest.iter().take_while(|byte| **byte != 0);
    last.fold(hash, |hash, byte| {
        hash.wrapping_mul(FACTOR).wrapping_add(u32::from(*byte))
    })
}

/// Whether one of the eight bytes is zero: only then does a borrow reach the highest bit of a byte
/// that had it clear.
fn has_zero(eight: u64) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    eight.wrapping_sub(LOW) & !eight & (LOW << 7) != 0
}

/// What eight bytes, the first in the lowest place, add to the hash: the sum of each, times 33 for
/// each that follows. Neighbours are added up in parallel; no sum outgrows its lane.
fn hash_of_eight(eight: u64) -> u32 {
    const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
    const PAIRS: u64 = 0x0000_ffff_0000_ffff;
    let pairs = (eight & BYTES)
        .wrapping_mul(33)
        .wrapping_add(eight >> 8 & BYTES);
    let fours = (pairs & PAIRS)
        .wrapping_mul(33 * 33)
        .wrapping_add(pairs >> 16 & PAIRS);
    let [first, second] = [fours & 0xffff_ffff, fours >> 32];
    let sum = first.wrapping_mul(33 * 33 * 33 * 33).wrapping_add(second);
    // The hash is what is left of it in 32 bits.
    (sum & 0xffff_ffff) as u32
}

/// The hash of the ELF specification, for tables and for versions.
pub(super) fn elf_hash(name: &[u8]) -> u32 {
    let mut hash = 0u32;
    for byte in name {
        hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        hash ^= high >> 24;
        hash &= !high;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_specifications() {
        assert_eq!(gnu_hash(b"printf\0", 0), 0x156b_2bb8);
        assert_eq!(gnu_hash(b"\0exit\0", 1), 0x7c96_7e3f);
        for length in 0..40_u8 {
            // High bytes, too, and something else behind the end.
            let name = (0..length).map(|n| n.wrapping_mul(37) | 0x41);
            let bytes: Vec<u8> = name.clone().chain([0, 0xff, 0x80, 1]).collect();
            let plain = name.fold(5381_u32, |hash, byte| {
                hash.wrapping_mul(33).wrapping_add(u32::from(byte))
            });
            assert_eq!(gnu_hash(&bytes, 0), plain, "{length} bytes");
        }
        let all = [0xff; 24];
        let plain = all.iter().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
        });
        assert_eq!(gnu_hash(&all, 0), plain, "a string without an end");
        assert_eq!(elf_hash(b"printf"), 0x0779_05a6);
        assert_eq!(elf_hash(b"GLIBC_2.2.5"), 0x0969_1a75);
    }
}
