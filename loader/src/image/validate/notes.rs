//! The notes that ld.so reads while it maps a file: where they say, and well formed.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::elf::Header;
use crate::image::segment::{slice, u32_at};

const PT_NOTE: u32 = 4;
const PT_GNU_PROPERTY: u32 = 0x6474_e553;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    for (kind, header) in &view.elf.headers {
        let structure = match *kind {
            PT_NOTE => "PT_NOTE",
            PT_GNU_PROPERTY => "PT_GNU_PROPERTY",
            _ => continue,
        };
        check_notes(view, structure, header)?;
    }
    Ok(())
}

fn check_notes(view: &View<'_>, structure: &'static str, header: &Header) -> Result<(), Damage> {
    if header.memsz == 0 && header.filesz == 0 {
        return Ok(());
    }
    let place = view.elf.offset_of(header.vaddr, header.memsz);
    if place != Some(header.offset) || header.filesz != header.memsz {
        let found = format!("{:#x}+{:#x}", header.vaddr, header.memsz);
        let expected = "notes in a segment's file bytes";
        return Err(Damage::new(structure, header.at, expected, found));
    }
    let notes = slice(view.bytes, header.offset, header.filesz).unwrap_or_default();
    let align = if header.align == 8 { 8 } else { 4 };
    let up = |size: u64| size.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let mut at = 0u64;
    while at < header.filesz {
        let word = |field: u64| u32_at(notes, at.saturating_add(field));
        let sizes = word(0)
            .zip(word(4))
            .map(|(n, d)| (u64::from(n), u64::from(d)));
        let end = sizes.map(|(name, descriptor)| {
            let data = up(at.saturating_add(12).saturating_add(name));
            data.saturating_add(descriptor)
        });
        let Some(end) = end.filter(|end| *end <= header.filesz) else {
            let expected = "whole notes";
            let found = format!("{sizes:x?} of {:#x}", header.filesz);
            let at = header.offset.saturating_add(at);
            return Err(Damage::new(structure, at, expected, found));
        };
        at = up(end);
    }
    Ok(())
}
