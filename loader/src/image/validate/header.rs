//! The ELF header, the program headers and segments, and where section headers should be.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::elf::Header;
use crate::image::segment::{PAGE, u16_at, u32_at, u64_at, within};
use crate::image::tag;

const PT_LOAD: u32 = 1;
const PT_PHDR: u32 = 6;

/// Most program headers: linkers make a dozen.
const MAX_HEADERS: u16 = 64;
/// Most bytes of address space: code reaches its data by 32-bit distances.
const MAX_SPAN: u64 = 1 << 31;
/// Most bytes of thread-locals, and the coarsest alignment: each thread gets its own.
const MAX_TLS: u64 = 1 << 30;
const MAX_ALIGN: u64 = 1 << 30;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    const WHERE: &str = "ELF header";
    if let Some(at) = program(view) {
        let (expected, found) = (
            "a shared object",
            "a program (ET_DYN, position-independent)",
        );
        return Err(Damage::unsupported("PT_DYNAMIC", at, expected, found));
    }
    let word = |at: u64| u16_at(view.bytes, at).unwrap_or(0);
    if word(52) != 64 {
        return Err(Damage::new(WHERE, 52, "a header of 64 bytes", word(52)));
    }
    let flags = u32_at(view.bytes, 48).unwrap_or(0);
    if flags != 0 {
        return Err(Damage::new(WHERE, 48, "no flags", format!("{flags:#x}")));
    }
    if !(2..=MAX_HEADERS).contains(&word(56)) {
        return Err(Damage::new(WHERE, 56, "2 to 64 program headers", word(56)));
    }
    Ok(())
}

/// Where the dynamic section says that the file is a program, if it does: by the flag of newer
/// linkers, or as older ones did by the debugger's place in a file with an interpreter.
fn program(view: &View<'_>) -> Option<u64> {
    const PT_INTERP: u32 = 3;
    const DEBUG: i64 = 21;
    const PIE: u64 = 0x0800_0000;
    let flagged = view.dynamic.get(tag::FLAGS_1);
    let flagged = flagged.filter(|entry| entry.value & PIE != 0);
    let has_interpreter = view.elf.headers.iter().any(|(kind, _)| *kind == PT_INTERP);
    let debugged = view.dynamic.get(DEBUG).filter(|_| has_interpreter);
    flagged.or(debugged).map(|entry| entry.offset)
}

pub(super) fn check_segments(view: &View<'_>) -> Result<(), Damage> {
    const WHERE: &str = "PT_LOAD";
    let (low, high) = view.elf.span();
    let mut is_first = true;
    for (kind, header) in &view.elf.headers {
        let damage = |expected: &'static str, found: String| {
            Err(Damage::new(WHERE, header.at, expected, found))
        };
        match *kind {
            PT_PHDR => check_own_table(view, header)?,
            PT_LOAD => {
                let &Header {
                    vaddr,
                    memsz,
                    offset,
                    filesz,
                    flags,
                    align,
                    ..
                } = header;
                if is_first && (low, offset) != (0, 0) {
                    return damage("the file's start first", format!("{vaddr:#x}, {offset:#x}"));
                }
                is_first = false;
                if flags & !7 != 0 {
                    return damage("flags of 1, 2 and 4", format!("{flags:#x}"));
                }
                if filesz < memsz && flags & 2 == 0 {
                    return damage("zeroed bytes in a writable segment", format!("{flags:#x}"));
                }
                if align > MAX_ALIGN {
                    return damage("an alignment of at most 1 GiB", format!("{align:#x}"));
                }
                if memsz == 0 && vaddr > high {
                    return damage("an empty segment inside the image", format!("{vaddr:#x}"));
                }
                // ld.so maps the page around an odd start, even of a segment with no bytes.
                let page = offset & !(PAGE - 1);
                let is_mapped = filesz > 0 || vaddr & (PAGE - 1) != 0;
                if is_mapped && page >= u64::try_from(view.bytes.len()).unwrap_or(0) {
                    return damage("a first page inside the file", format!("{offset:#x}"));
                }
            }
            _ => {}
        }
    }
    if high.saturating_sub(low) >= MAX_SPAN {
        let found = format!("{:#x}", high.saturating_sub(low));
        return Err(Damage::new(WHERE, 32, "an image below 2 GiB", found));
    }
    if let Some(tls) = &view.elf.tls {
        let found = format!("{:#x} for {:#x}", tls.align, tls.memsz);
        // ld.so divides by the alignment.
        if tls.memsz > MAX_TLS || tls.align > MAX_ALIGN || tls.memsz > 0 && tls.align == 0 {
            let expected = "thread-locals below 1 GiB with an alignment";
            return Err(Damage::new("PT_TLS", tls.at, expected, found));
        }
        // It takes an address of 0 for no template, and copies from there all the same.
        if tls.filesz > 0 && (tls.vaddr == 0 || tls.flags & 4 == 0) {
            let found = format!("{:#x}, flags {:#x}", tls.vaddr, tls.flags);
            let expected = "a readable template behind the headers";
            return Err(Damage::new("PT_TLS", tls.at, expected, found));
        }
        if tls.filesz > 0 && view.elf.offset_of(tls.vaddr, tls.filesz) != Some(tls.offset) {
            let expected = "offset and address that agree";
            let found = format!("{:#x} for {:#x}", tls.offset, tls.vaddr);
            return Err(Damage::new("PT_TLS", tls.at, expected, found));
        }
    }
    let dynamic = &view.elf.dynamic;
    let holder = view.elf.segment_of(dynamic.vaddr, dynamic.filesz);
    let is_writable = holder.is_some_and(|segment| segment.is_writable());
    if (dynamic.flags & 2 != 0) != is_writable {
        let found = format!("flags {:#x}", dynamic.flags);
        let expected = "as writable as its segment";
        return Err(Damage::new("PT_DYNAMIC", dynamic.at, expected, found));
    }
    Ok(())
}

/// `PT_PHDR`: ld.so reads the program headers where it says they are.
fn check_own_table(view: &View<'_>, header: &Header) -> Result<(), Damage> {
    let table = u64_at(view.bytes, 32).unwrap_or(0);
    let count = u64::from(u16_at(view.bytes, 56).unwrap_or(0));
    let size = count.saturating_mul(56);
    let place = view.elf.offset_of(header.vaddr, size);
    if place != Some(table) || header.offset != table || header.memsz < size {
        let found = format!("{:#x} for {:#x}", header.offset, header.vaddr);
        let expected = "the program headers themselves";
        return Err(Damage::new("PT_PHDR", header.at, expected, found));
    }
    Ok(())
}

/// The section headers: nothing is read through them, but where they are zeroed, the end of the
/// file got lost, and loaded bytes before it may have as well.
pub(super) fn check_sections(view: &View<'_>) -> Result<(), Damage> {
    const WHERE: &str = "section header table";
    const STRTAB: u32 = 3;
    const NOBITS: u32 = 8;
    let table = u64_at(view.bytes, 40).unwrap_or(0);
    let count = u64::from(u16_at(view.bytes, 60).unwrap_or(0));
    let names = u64::from(u16_at(view.bytes, 62).unwrap_or(0));
    if table == 0 || count == 0 {
        return Ok(());
    }
    let at = |index: u64| table.saturating_add(index.saturating_mul(64));
    let kind = |index: u64| u32_at(view.bytes, at(index).saturating_add(4)).unwrap_or(0);
    if names != 0 && (names >= count || kind(names) != STRTAB) {
        let found = format!("section {names} of type {}", kind(names));
        return Err(Damage::new(WHERE, at(names), "names of sections", found));
    }
    let len = u64::try_from(view.bytes.len()).unwrap_or(0);
    for index in 1..count {
        let field = |field: u64| u64_at(view.bytes, at(index).saturating_add(field)).unwrap_or(0);
        let (offset, size) = (field(24), field(32));
        if kind(index) == 0 || kind(index) != NOBITS && !within(offset, size, 0, len) {
            let found = format!("type {} at {offset:#x}+{size:#x}", kind(index));
            let expected = "sections inside the file";
            return Err(Damage::new(WHERE, at(index), expected, found));
        }
    }
    Ok(())
}
