//! The dynamic section: tags that go together, addresses that ld.so follows, strings that it
//! compares.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::tag;

const PLTGOT: i64 = 3;
/// First and last tag that belong to the system or the processor.
const LOOS: i64 = 0x6000_000d;
const HIPROC: i64 = 0x7fff_ffff;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    const WHERE: &str = "PT_DYNAMIC";
    let dynamic = &view.dynamic;
    for entry in &dynamic.entries {
        if !(0..tag::LOW_TAGS).contains(&entry.tag) && !(LOOS..=HIPROC).contains(&entry.tag) {
            let found = format!("{:#x}", entry.tag);
            return Err(Damage::new(WHERE, entry.offset, "a known tag", found));
        }
        if entry.tag == tag::NEEDED && view.string(name(entry.value)).is_empty() {
            return Err(Damage::new(
                tag::name(entry.tag),
                entry.offset,
                "a library's name",
                "none",
            ));
        }
    }
    if view.strings.bytes.first() != Some(&0) {
        let found = format!("{:02x?}", view.strings.bytes.first());
        return Err(Damage::new(
            "DT_STRTAB",
            view.strings.offset,
            "an empty string first",
            found,
        ));
    }
    // What one of them promises, ld.so reads from the other without a look.
    for (one, other) in [
        (tag::VERNEED, tag::VERSYM),
        (tag::VERDEF, tag::VERSYM),
        (tag::VERNEED, tag::VERNEEDNUM),
        (tag::VERNEEDNUM, tag::VERNEED),
        (tag::VERDEF, tag::VERDEFNUM),
        (tag::VERDEFNUM, tag::VERDEF),
        (tag::STRSZ, tag::STRTAB),
        (tag::SYMENT, tag::SYMTAB),
        (tag::RELASZ, tag::RELA),
        (tag::RELRSZ, tag::RELR),
        (tag::PLTRELSZ, tag::JMPREL),
        (tag::PLTREL, tag::JMPREL),
        (tag::INIT_ARRAYSZ, tag::INIT_ARRAY),
        (tag::FINI_ARRAYSZ, tag::FINI_ARRAY),
    ] {
        if let Some(entry) = dynamic.get(one)
            && dynamic.get(other).is_none()
        {
            let found = format!("{} alone", tag::name(one));
            return Err(Damage::new(WHERE, entry.offset, tag::name(other), found));
        }
    }
    let has_names = dynamic.get(tag::VERNEED).is_some() || dynamic.get(tag::VERDEF).is_some();
    if let Some(entry) = dynamic.get(tag::VERSYM)
        && !has_names
    {
        let found = "DT_VERSYM alone";
        return Err(Damage::new(
            WHERE,
            entry.offset,
            "DT_VERNEED or DT_VERDEF",
            found,
        ));
    }
    if let Some(entry) = dynamic.get(PLTGOT)
        && !view.elf.maps(entry.value, 8)
    {
        let found = format!("{:#x}", entry.value);
        let expected = "a table inside a segment";
        return Err(Damage::new("DT_PLTGOT", entry.offset, expected, found));
    }
    // ld.so takes it for the tail of DT_RELA when both end at one place, and relocates twice what
    // lies in both otherwise.
    if let Some(plt) = dynamic.get(tag::JMPREL) {
        let rela = (dynamic.value(tag::RELA), dynamic.value(tag::RELASZ));
        let plt_size = dynamic.value(tag::PLTRELSZ);
        let ends = |start: u64, size: u64| start.saturating_add(size);
        let overlaps = plt.value < ends(rela.0, rela.1) && rela.0 < ends(plt.value, plt_size);
        if overlaps && ends(rela.0, rela.1) != ends(plt.value, plt_size) {
            let found = format!("{:#x}+{plt_size:#x}", plt.value);
            let expected = "a table of its own or the end of DT_RELA";
            return Err(Damage::new("DT_JMPREL", plt.offset, expected, found));
        }
    }
    Ok(())
}

/// Offset of a string that a dynamic entry names.
pub(super) fn name(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
