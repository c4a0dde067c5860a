//! The two symbol hash tables: how many dynamic symbols there are, and that every search ends.
//!
//! Thread context; reads bytes only.

#![forbid(unsafe_code)]

use super::damage::Damage;
use super::dynamic::Dynamic;
use super::elf::Elf;
use super::segment::u32_at;
use super::tag;

/// How many dynamic symbols the hash tables know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// No hash table: nothing can be looked up by name.
    Unhashed,
    /// Only a lower bound: a GNU table without a hashed symbol tells nothing of the others.
    AtLeast(u64),
    /// This many.
    Exactly(u64),
}

/// Checks the hash tables that exist and counts the symbols they cover.
pub(super) fn count(elf: &Elf<'_>, dynamic: &Dynamic) -> Result<Counted, Damage> {
    let sysv = match dynamic.get(tag::HASH) {
        Some(entry) => Some(count_sysv(elf, entry.value)?),
        None => None,
    };
    let gnu = match dynamic.get(tag::GNU_HASH) {
        Some(entry) => Some(count_gnu(elf, entry.value)?),
        None => None,
    };
    Ok(match (gnu, sysv) {
        (Some((gnu, _)), Some(sysv)) => Counted::Exactly(gnu.max(sysv)),
        (None, Some(sysv)) => Counted::Exactly(sysv),
        (Some((gnu, true)), None) => Counted::Exactly(gnu),
        (Some((gnu, false)), None) => Counted::AtLeast(gnu),
        (None, None) => Counted::Unhashed,
    })
}

/// The count, and whether it is exact.
fn count_gnu(elf: &Elf<'_>, vaddr: u64) -> Result<(u64, bool), Damage> {
    const WHERE: &str = "DT_GNU_HASH";
    let at = elf.offset_of(vaddr, 1).unwrap_or(vaddr);
    let damage = |field: u64, expected: &'static str, found: String| {
        Damage::new(WHERE, at.saturating_add(field), expected, found)
    };
    let table = elf.bytes_from(vaddr).unwrap_or_default();
    let cut = || {
        damage(
            0,
            "a table inside a segment's file bytes",
            format!("{vaddr:#x}"),
        )
    };
    let word = |offset: u64| u32_at(table, offset);

    let n_buckets = u64::from(word(0).ok_or_else(cut)?);
    let first_hashed = u64::from(word(4).ok_or_else(cut)?);
    let n_bloom = word(8).ok_or_else(cut)?;
    let shift = word(12).ok_or_else(cut)?;
    if n_buckets == 0 {
        return Err(damage(0, "buckets", "none".into()));
    }
    if !n_bloom.is_power_of_two() {
        return Err(damage(
            8,
            "a bloom filter of 2^n words",
            n_bloom.to_string(),
        ));
    }
    if shift >= 32 {
        return Err(damage(12, "a bloom shift below 32", shift.to_string()));
    }
    let buckets = u64::from(n_bloom).saturating_mul(8).saturating_add(16);
    let chains = buckets.saturating_add(n_buckets.saturating_mul(4));
    if chains > u64::try_from(table.len()).unwrap_or(0) {
        return Err(damage(
            0,
            "buckets inside a segment's file bytes",
            n_buckets.to_string(),
        ));
    }
    let mut last = 0;
    for index in 0..n_buckets {
        let offset = buckets.saturating_add(index.saturating_mul(4));
        let bucket = u64::from(word(offset).ok_or_else(cut)?);
        if bucket != 0 && bucket < first_hashed {
            let expected = "a bucket of hashed symbols";
            return Err(damage(
                offset,
                expected,
                format!("{bucket} below {first_hashed}"),
            ));
        }
        last = last.max(bucket);
    }
    if last == 0 {
        return Ok((first_hashed, false));
    }
    // A chain that starts earlier meets this one's end at the latest, so one walk bounds them all.
    loop {
        let offset = chains.saturating_add(last.saturating_sub(first_hashed).saturating_mul(4));
        let Some(entry) = word(offset) else {
            let found = format!("none for symbol {last}");
            return Err(damage(
                offset,
                "a chain that ends in a segment's file bytes",
                found,
            ));
        };
        last = last.saturating_add(1);
        if entry & 1 != 0 {
            return Ok((last, true));
        }
    }
}

fn count_sysv(elf: &Elf<'_>, vaddr: u64) -> Result<u64, Damage> {
    const WHERE: &str = "DT_HASH";
    let at = elf.offset_of(vaddr, 1).unwrap_or(vaddr);
    let damage = |field: u64, expected: &'static str, found: String| {
        Damage::new(WHERE, at.saturating_add(field), expected, found)
    };
    let table = elf.bytes_from(vaddr).unwrap_or_default();
    let cut = || {
        damage(
            0,
            "a table inside a segment's file bytes",
            format!("{vaddr:#x}"),
        )
    };
    let word = |offset: u64| u32_at(table, offset);

    let n_buckets = u64::from(word(0).ok_or_else(cut)?);
    let n_chains = u64::from(word(4).ok_or_else(cut)?);
    if n_buckets == 0 {
        return Err(damage(0, "buckets", "none".into()));
    }
    let words = n_buckets.saturating_add(n_chains).saturating_add(2);
    if words.saturating_mul(4) > u64::try_from(table.len()).unwrap_or(0) {
        return Err(cut());
    }
    // Each symbol is in one chain, once; so a second visit is a cycle or two chains that run into
    // each other, and ld.so may never come out of the former.
    let mut visited = vec![false; usize::try_from(n_chains).map_err(|_| cut())?];
    for bucket in 0..n_buckets {
        let mut place = bucket.saturating_add(2);
        loop {
            let offset = place.saturating_mul(4);
            let symbol = word(offset).ok_or_else(cut)?;
            if symbol == 0 {
                break;
            }
            match usize::try_from(symbol)
                .ok()
                .and_then(|symbol| visited.get_mut(symbol))
            {
                Some(visited) if !*visited => *visited = true,
                Some(_) => {
                    let found = format!("symbol {symbol} a second time");
                    return Err(damage(offset, "each symbol in one chain, once", found));
                }
                None => {
                    let found = format!("{symbol} of {n_chains}");
                    return Err(damage(offset, "a symbol of the table", found));
                }
            }
            place = n_buckets
                .saturating_add(2)
                .saturating_add(u64::from(symbol));
        }
    }
    Ok(n_chains)
}
