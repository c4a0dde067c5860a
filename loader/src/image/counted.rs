//! Where a plugin keeps the addresses of imported functions that somebody names.
//!
//! For what only some loads ask for, so that others do not compare names. Thread context; reads
//! bytes only.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::damage::Damage;
use super::dynamic::{Dynamic, Strings};
use super::elf::{Elf, RELA_SIZE, RelaKind, relocations, symbol};
use super::segment::Segment;
use super::tag;

/// Link-time addresses of the words that hold the address of a function imported under one of
/// `names`, each with the place of its name there. `bytes` are a file's whose facts were read.
///
/// Costs time linear in relocations.
///
/// # Errors
/// None for such a file.
pub(crate) fn words(bytes: &[u8], names: &[&str]) -> Result<Vec<(u64, usize)>, Damage> {
    let elf = Elf::parse(bytes)?;
    let dynamic = Dynamic::read(&elf)?;
    let strings = Strings::read(&elf, &dynamic)?;
    let symbols = elf
        .bytes_from(dynamic.value(tag::SYMTAB))
        .unwrap_or_default();
    let named = names.iter().enumerate();
    let places: HashMap<&[u8], usize> = named.map(|(at, name)| (name.as_bytes(), at)).collect();
    let mut words = Vec::new();
    for (address, size) in [(tag::RELA, tag::RELASZ), (tag::JMPREL, tag::PLTRELSZ)] {
        for rela in relocations(dynamic.table(&elf, address, size, RELA_SIZE)?) {
            if rela.kind != RelaKind::Address || rela.addend != 0 || rela.symbol == 0 {
                continue;
            }
            let Some(from) = symbol(symbols, rela.symbol.into()).filter(|raw| !raw.is_defined())
            else {
                continue;
            };
            let rest = strings.bytes.get(from.name as usize..).unwrap_or_default();
            let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            // As for the imports that every load looks for.
            let is_writable = elf
                .segment_of(rela.target, 8)
                .is_some_and(Segment::is_writable);
            if let Some(place) = places.get(name).filter(|_| is_writable) {
                words.push((rela.target, *place));
            }
        }
    }
    Ok(words)
}
