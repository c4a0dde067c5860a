//! Typed reads of an ELF file: headers, segments, and everything behind an address.
//!
//! Thread context. The only file that names `object`, and only its raw structs: addresses are
//! translated here through `PT_LOAD` as ld.so does, never through section headers, which may be
//! missing or lie. Every read is bounds-checked; a file never makes it panic.

#![forbid(unsafe_code)]

use std::slice::Iter;

use object::LittleEndian as LE;
use object::elf as raw;
use object::pod::{self, Pod};

use super::damage::Damage;
use super::segment::{PAGE, Segment, offset_of, slice, within};

/// `DT_FLAGS` bit: the file looks for symbols in itself first.
pub(super) const DF_SYMBOLIC: u64 = raw::DF_SYMBOLIC.0;
/// `DT_FLAGS` bit: the file has relocations into read-only segments.
pub(super) const DF_TEXTREL: u64 = raw::DF_TEXTREL.0;
/// `DT_FLAGS` bit: the file's TLS must lie in the static block.
pub(super) const DF_STATIC_TLS: u64 = raw::DF_STATIC_TLS.0;
/// `DT_FLAGS_1` bit: ld.so never unmaps the file.
pub(super) const DF_1_NODELETE: u64 = raw::DF_1_NODELETE.0;
/// `vd_flags` bit of the entry that names the file itself.
pub(super) const VER_FLG_BASE: u16 = raw::VER_FLG_BASE.0;
pub(super) const SYM_SIZE: u64 = 24;
pub(super) const RELA_SIZE: u64 = 24;
pub(super) const DYN_SIZE: u64 = 16;

#[cfg(target_arch = "x86_64")]
const MACHINE: raw::Machine = raw::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: raw::Machine = raw::EM_AARCH64;

/// `r_info` of a relative relocation without a symbol.
#[cfg(target_arch = "x86_64")]
const RELATIVE: u64 = raw::R_X86_64_RELATIVE.0 as u64;
#[cfg(target_arch = "aarch64")]
const RELATIVE: u64 = raw::R_AARCH64_RELATIVE.0 as u64;

/// What a relocation does, as far as the loader distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelaKind {
    /// Nothing.
    None,
    /// Stores bias + addend.
    Relative,
    /// Stores what the function at bias + addend returns.
    Irelative,
    /// Stores the address of a symbol, plus the addend.
    Address,
    /// Anything else.
    Other,
}

/// One program header that is not `PT_LOAD`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// File offset of the header itself.
    pub(super) at: u64,
    pub(super) vaddr: u64,
    pub(super) memsz: u64,
    pub(super) offset: u64,
    pub(super) filesz: u64,
    pub(super) flags: u32,
    pub(super) align: u64,
}

/// One entry of `PT_DYNAMIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DynamicEntry {
    /// File offset of the entry.
    pub(super) offset: u64,
    pub(super) tag: i64,
    pub(super) value: u64,
}

/// One dynamic symbol, decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawSymbol {
    pub(super) name: u32,
    pub(super) kind: u8,
    pub(super) binding: u8,
    pub(super) visibility: u8,
    pub(super) section: u16,
    pub(super) value: u64,
    pub(super) size: u64,
}

impl RawSymbol {
    pub(super) fn is_defined(&self) -> bool {
        self.section != raw::SHN_UNDEF.0
    }

    pub(super) fn is_absolute(&self) -> bool {
        self.section == raw::SHN_ABS.0
    }
}

/// One relocation with addend, decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRela {
    pub(super) target: u64,
    pub(super) kind: RelaKind,
    /// The machine's own number of the type.
    pub(super) number: u32,
    pub(super) symbol: u32,
    pub(super) addend: u64,
}

/// A file whose header and program headers are sound.
#[derive(Debug)]
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
    /// The non-empty `PT_LOAD` segments, ascending and page-disjoint.
    pub(super) segments: Vec<Segment>,
    pub(super) dynamic: Header,
    pub(super) tls: Option<Header>,
    pub(super) relro: Option<Header>,
    pub(super) eh_frame: Option<Header>,
    pub(super) stack: Option<Header>,
    pub(super) notes: Vec<Header>,
    /// Every program header with its type, in the file's order.
    pub(super) headers: Vec<(u32, Header)>,
}

impl<'a> Elf<'a> {
    /// Reads and checks the file header, the program headers and where the section headers lie.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Damage> {
        let header = check_header(bytes)?;
        check_section_headers(bytes, header)?;

        let table = header.e_phoff.get(LE);
        let count = u64::from(header.e_phnum.get(LE));
        let mut segments: Vec<Segment> = Vec::new();
        let (mut dynamic, mut tls, mut relro) = (None, None, None);
        let (mut eh_frame, mut stack) = (None, None);
        let mut notes = Vec::new();
        let mut headers = Vec::new();
        for index in 0..count {
            let at = table.saturating_add(index.saturating_mul(56));
            let entry: &raw::ProgramHeader64<LE> = pod_at(bytes, at).ok_or_else(|| {
                Damage::new(
                    "program header table",
                    at,
                    "inside the file",
                    past_end(bytes),
                )
            })?;
            let header = Header {
                at,
                vaddr: entry.p_vaddr.get(LE),
                memsz: entry.p_memsz.get(LE),
                offset: entry.p_offset.get(LE),
                filesz: entry.p_filesz.get(LE),
                flags: entry.p_flags.get(LE).0,
                align: entry.p_align.get(LE),
            };
            headers.push((entry.p_type.get(LE).0, header));
            let end = header.offset.checked_add(header.filesz);
            if header.filesz > 0 && end.is_none_or(|end| end > len(bytes)) {
                let found = format!(
                    "{:#x}+{:#x}, {}",
                    header.offset,
                    header.filesz,
                    past_end(bytes)
                );
                return Err(Damage::new(
                    "program header",
                    at,
                    "bytes inside the file",
                    found,
                ));
            }
            let once = match entry.p_type.get(LE) {
                raw::PT_LOAD => {
                    check_load(&header, segments.last())?;
                    if header.memsz > 0 {
                        segments.push(Segment {
                            vaddr: header.vaddr,
                            memsz: header.memsz,
                            offset: header.offset,
                            filesz: header.filesz,
                            flags: header.flags,
                        });
                    }
                    continue;
                }
                raw::PT_NOTE => {
                    notes.push(header);
                    continue;
                }
                raw::PT_DYNAMIC => &mut dynamic,
                raw::PT_TLS => &mut tls,
                raw::PT_GNU_RELRO => &mut relro,
                raw::PT_GNU_EH_FRAME => &mut eh_frame,
                raw::PT_GNU_STACK => &mut stack,
                _ => continue,
            };
            if once.replace(header).is_some() {
                let kind = entry.p_type.get(LE).0;
                let found = format!("a second one of type {kind:#x}");
                return Err(Damage::new("program header", at, "one of its type", found));
            }
        }
        if segments.is_empty() {
            return Err(Damage::new(
                "program header table",
                table,
                "a PT_LOAD segment",
                "none",
            ));
        }
        let dynamic = dynamic
            .ok_or_else(|| Damage::new("program header table", table, "PT_DYNAMIC", "none"))?;
        Ok(Self {
            bytes,
            segments,
            dynamic,
            tls,
            relro,
            eh_frame,
            stack,
            notes,
            headers,
        })
    }

    /// First page and end of the last page of the image, link-time.
    pub(super) fn span(&self) -> (u64, u64) {
        let low = self
            .segments
            .first()
            .map_or(0, |first| first.vaddr & !(PAGE - 1));
        let high = self
            .segments
            .last()
            .and_then(|last| last.vaddr.checked_add(last.memsz))
            .map_or(low, page_up);
        (low, high)
    }

    /// File offset of `len` bytes at `vaddr`, which must lie in one segment's file bytes.
    pub(super) fn offset_of(&self, vaddr: u64, len: u64) -> Option<u64> {
        offset_of(&self.segments, vaddr, len)
    }

    /// The file bytes of `len` bytes at `vaddr`.
    pub(super) fn bytes_at(&self, vaddr: u64, len: u64) -> Option<&'a [u8]> {
        slice(self.bytes, self.offset_of(vaddr, len)?, len)
    }

    /// From `vaddr` to the end of its segment's file bytes.
    pub(super) fn bytes_from(&self, vaddr: u64) -> Option<&'a [u8]> {
        let segment = self
            .segments
            .iter()
            .find(|s| within(vaddr, 1, s.vaddr, s.filesz))?;
        self.bytes_at(
            vaddr,
            segment
                .filesz
                .checked_sub(vaddr.checked_sub(segment.vaddr)?)?,
        )
    }

    /// Whether `len` bytes at `vaddr` lie in the memory of one segment.
    pub(super) fn maps(&self, vaddr: u64, len: u64) -> bool {
        self.segment_of(vaddr, len).is_some()
    }

    /// The segment in whose memory `len` bytes at `vaddr` lie.
    pub(super) fn segment_of(&self, vaddr: u64, len: u64) -> Option<&Segment> {
        // Ascending and disjoint, so only the last that starts at or below can hold it.
        let after = self.segments.partition_point(|s| s.vaddr <= vaddr);
        self.segments
            .get(after.checked_sub(1)?)
            .filter(|s| s.holds(vaddr, len))
    }

    /// The file bytes a program header names by offset.
    pub(super) fn bytes_of(&self, header: &Header) -> &'a [u8] {
        slice(self.bytes, header.offset, header.filesz).unwrap_or_default()
    }

    /// The entries of `PT_DYNAMIC` before `DT_NULL`.
    pub(super) fn dynamic_entries(&self) -> Result<Vec<DynamicEntry>, Damage> {
        let Header {
            at,
            vaddr,
            filesz,
            offset,
            flags,
            ..
        } = self.dynamic;
        let place = self.offset_of(vaddr, filesz).filter(|_| filesz >= DYN_SIZE);
        let Some(start) = place else {
            let found = format!("{vaddr:#x}+{filesz:#x}");
            return Err(Damage::new(
                "PT_DYNAMIC",
                at,
                "inside a segment's file bytes",
                found,
            ));
        };
        if start != offset {
            let found = format!("{offset:#x} for an address at {start:#x}");
            return Err(Damage::new(
                "PT_DYNAMIC",
                at,
                "offset and address that agree",
                found,
            ));
        }
        let written = flags & raw::PF_W.0 != 0;
        if written
            && !self
                .segment_of(vaddr, filesz)
                .is_some_and(Segment::is_writable)
        {
            return Err(Damage::new(
                "PT_DYNAMIC",
                at,
                "inside a writable segment",
                "read-only",
            ));
        }
        let mut entries = Vec::new();
        for index in 0..filesz / DYN_SIZE {
            let offset = start.saturating_add(index.saturating_mul(DYN_SIZE));
            let Some(entry) = pod_at::<raw::Dyn64<LE>>(self.bytes, offset) else {
                break;
            };
            let tag = entry.d_tag.get(LE).0;
            if tag == raw::DT_NULL.0 {
                return Ok(entries);
            }
            entries.push(DynamicEntry {
                offset,
                tag,
                value: entry.d_val.get(LE),
            });
        }
        Err(Damage::new("PT_DYNAMIC", start, "an end (DT_NULL)", "none"))
    }

    /// The machine-independent name of a relocation type of the running machine.
    fn rela_kind(kind: raw::RelocationType) -> RelaKind {
        match (MACHINE, kind) {
            (raw::EM_X86_64, raw::R_X86_64_NONE) | (raw::EM_AARCH64, raw::R_AARCH64_NONE) => {
                RelaKind::None
            }
            (raw::EM_X86_64, raw::R_X86_64_RELATIVE)
            | (raw::EM_AARCH64, raw::R_AARCH64_RELATIVE) => RelaKind::Relative,
            (raw::EM_X86_64, raw::R_X86_64_IRELATIVE)
            | (raw::EM_AARCH64, raw::R_AARCH64_IRELATIVE) => RelaKind::Irelative,
            (
                raw::EM_X86_64,
                raw::R_X86_64_64 | raw::R_X86_64_GLOB_DAT | raw::R_X86_64_JUMP_SLOT,
            )
            | (
                raw::EM_AARCH64,
                raw::R_AARCH64_ABS64 | raw::R_AARCH64_GLOB_DAT | raw::R_AARCH64_JUMP_SLOT,
            ) => RelaKind::Address,
            _ => RelaKind::Other,
        }
    }
}

/// Whether a file that begins with `head` is a 64-bit ELF file of the running machine.
pub(super) fn is_of_this_machine(head: &[u8; 20]) -> bool {
    head.starts_with(&raw::ELFMAG)
        && head.get(4) == Some(&raw::ELFCLASS64.0)
        && head.get(18..20) == Some(MACHINE.0.to_le_bytes().as_slice())
}

/// The symbol at `index` of a table that starts with `table`.
pub(super) fn symbol(table: &[u8], index: u64) -> Option<RawSymbol> {
    let entry: &raw::Sym64<LE> = pod_at(table, index.checked_mul(SYM_SIZE)?)?;
    Some(RawSymbol {
        name: entry.st_name.get(LE),
        kind: entry.st_type().0,
        binding: entry.st_bind().0,
        visibility: entry.st_visibility().0,
        section: entry.st_shndx.get(LE).0,
        value: entry.st_value.get(LE),
        size: entry.st_size.get(LE),
    })
}

/// The relocations of a table.
pub(super) fn relocations(table: &[u8]) -> Relas<'_> {
    let entries: &[raw::Rela64<LE>] = pod::slice_from_all_bytes(table).unwrap_or_default();
    Relas {
        rest: entries.iter(),
    }
}

/// What is left of a table of relocations.
#[derive(Debug)]
pub(super) struct Relas<'a> {
    rest: Iter<'a, raw::Rela64<LE>>,
}

impl Relas<'_> {
    /// Leaves out relative ones without a symbol while `is_plain` says so of target and addend, and
    /// says how many. Almost all of a plugin's are of that kind, so they are not decoded further.
    #[inline]
    pub(super) fn skip_relative(&mut self, mut is_plain: impl FnMut(u64, u64) -> bool) -> u64 {
        let rest = self.rest.as_slice();
        let alike = rest.iter().take_while(|entry| {
            entry.r_info.get(LE) == RELATIVE
                && is_plain(
                    entry.r_offset.get(LE),
                    entry.r_addend.get(LE).cast_unsigned(),
                )
        });
        let n = alike.count();
        self.rest = rest.get(n..).unwrap_or_default().iter();
        n as u64
    }
}

impl Iterator for Relas<'_> {
    type Item = RawRela;

    #[inline]
    fn next(&mut self) -> Option<RawRela> {
        let entry = self.rest.next()?;
        Some(RawRela {
            target: entry.r_offset.get(LE),
            kind: Elf::rela_kind(entry.r_type(LE, false)),
            number: entry.r_type(LE, false).0,
            symbol: entry.r_sym(LE, false),
            addend: entry.r_addend.get(LE).cast_unsigned(),
        })
    }
}

fn page_up(address: u64) -> u64 {
    address
        .checked_add(PAGE - 1)
        .map_or(!(PAGE - 1), |end| end & !(PAGE - 1))
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn past_end(bytes: &[u8]) -> String {
    format!("the file ends at {:#x}", bytes.len())
}

fn pod_at<T: Pod>(bytes: &[u8], offset: u64) -> Option<&T> {
    let tail = bytes.get(usize::try_from(offset).ok()?..)?;
    pod::from_bytes(tail).ok().map(|(value, _)| value)
}

fn check_header(bytes: &[u8]) -> Result<&raw::FileHeader64<LE>, Damage> {
    const WHERE: &str = "ELF header";
    if bytes.get(..4) != Some(raw::ELFMAG.as_slice()) {
        let start = bytes.get(..bytes.len().min(4)).unwrap_or_default();
        return Err(Damage::unsupported(
            WHERE,
            0,
            "an ELF file (7f 45 4c 46)",
            hex(start),
        ));
    }
    // The class decides where the other fields are, so it is looked at before the header is read.
    if let Some(&class) = bytes.get(4)
        && class != raw::ELFCLASS64.0
    {
        let found = if class == raw::ELFCLASS32.0 {
            "32-bit".into()
        } else {
            class.to_string()
        };
        return Err(Damage::unsupported(WHERE, 4, "64-bit", found));
    }
    let header: &raw::FileHeader64<LE> =
        pod_at(bytes, 0).ok_or_else(|| Damage::new(WHERE, 0, "64 bytes", past_end(bytes)))?;
    let ident = &header.e_ident;
    if ident.data != raw::ELFDATA2LSB {
        let found = if ident.data == raw::ELFDATA2MSB {
            "big-endian".into()
        } else {
            ident.data.0.to_string()
        };
        return Err(Damage::unsupported(WHERE, 5, "little-endian", found));
    }
    if ident.version.0 != 1 {
        return Err(Damage::new(WHERE, 6, "version 1", ident.version.0));
    }
    if ![raw::ELFOSABI_NONE, raw::ELFOSABI_GNU].contains(&ident.os_abi) {
        return Err(Damage::unsupported(
            WHERE,
            7,
            "OS ABI 0 (System V) or 3 (GNU)",
            ident.os_abi.0,
        ));
    }
    if ident.abi_version != 0 && ident.os_abi == raw::ELFOSABI_NONE {
        return Err(Damage::new(WHERE, 8, "ABI version 0", ident.abi_version));
    }
    if ident.padding != [0; 7] {
        return Err(Damage::new(WHERE, 9, "zero padding", hex(&ident.padding)));
    }
    let machine = header.e_machine.get(LE);
    if machine != MACHINE {
        let (expected, found) = (machine_name(MACHINE), machine_name(machine));
        return Err(Damage::unsupported(WHERE, 18, expected, found));
    }
    let kind = header.e_type.get(LE);
    if kind != raw::ET_DYN {
        return Err(Damage::unsupported(
            WHERE,
            16,
            "a shared object (ET_DYN)",
            type_name(kind),
        ));
    }
    if header.e_version.get(LE) != 1 {
        return Err(Damage::new(
            WHERE,
            20,
            "version 1",
            header.e_version.get(LE),
        ));
    }
    if header.e_phentsize.get(LE) != 56 {
        return Err(Damage::new(
            WHERE,
            54,
            "program headers of 56",
            header.e_phentsize.get(LE),
        ));
    }
    let (table, count) = (header.e_phoff.get(LE), u64::from(header.e_phnum.get(LE)));
    if count == 0 {
        return Err(Damage::new(WHERE, 56, "program headers", "none"));
    }
    if table
        .checked_add(count.saturating_mul(56))
        .is_none_or(|end| end > len(bytes))
    {
        let found = format!("{count} at {table:#x}, {}", past_end(bytes));
        return Err(Damage::new(
            WHERE,
            32,
            "program headers inside the file",
            found,
        ));
    }
    Ok(header)
}

/// Nothing is read through the section headers; that they lie inside the file shows that its tail,
/// which no segment covers, has not been cut off.
fn check_section_headers(bytes: &[u8], header: &raw::FileHeader64<LE>) -> Result<(), Damage> {
    let (table, count) = (header.e_shoff.get(LE), u64::from(header.e_shnum.get(LE)));
    if table == 0 {
        return Ok(());
    }
    if count > 0 && header.e_shentsize.get(LE) != 64 {
        let found = header.e_shentsize.get(LE);
        return Err(Damage::new(
            "ELF header",
            58,
            "section headers of 64",
            found,
        ));
    }
    if table
        .checked_add(count.saturating_mul(64))
        .is_none_or(|end| end > len(bytes))
    {
        let found = format!("{count} at {table:#x}, {}", past_end(bytes));
        return Err(Damage::new(
            "ELF header",
            40,
            "section headers inside the file",
            found,
        ));
    }
    Ok(())
}

fn check_load(header: &Header, previous: Option<&Segment>) -> Result<(), Damage> {
    const WHERE: &str = "PT_LOAD";
    // User addresses have 47 bits; what lies above cannot be mapped, and sums stay far from 2^64.
    const TOP: u64 = 1 << 47;
    let &Header {
        at,
        vaddr,
        memsz,
        offset,
        filesz,
        align,
        flags,
    } = header;
    if filesz > memsz {
        let found = format!("{filesz:#x} in the file for {memsz:#x} in memory");
        return Err(Damage::new(
            WHERE,
            at,
            "no more bytes in the file than in memory",
            found,
        ));
    }
    if !align.is_power_of_two() || align < PAGE {
        let found = format!("{align:#x}");
        return Err(Damage::new(WHERE, at, "an alignment of 2^n pages", found));
    }
    if (vaddr ^ offset) & (align - 1) != 0 {
        let found = format!("{vaddr:#x} and {offset:#x} for {align:#x}");
        return Err(Damage::new(
            WHERE,
            at,
            "address and offset alike below the alignment",
            found,
        ));
    }
    if vaddr >= TOP || memsz >= TOP {
        return Err(Damage::new(
            WHERE,
            at,
            "user addresses",
            format!("{vaddr:#x}+{memsz:#x}"),
        ));
    }
    if flags & raw::PF_R.0 == 0 && memsz > 0 {
        return Err(Damage::new(
            WHERE,
            at,
            "a readable segment",
            format!("flags {flags:#x}"),
        ));
    }
    if let Some(previous) = previous
        && vaddr & !(PAGE - 1) < page_up(previous.vaddr.saturating_add(previous.memsz))
    {
        let found = format!(
            "{vaddr:#x} after {:#x}+{:#x}",
            previous.vaddr, previous.memsz
        );
        return Err(Damage::new(
            WHERE,
            at,
            "ascending segments with no shared page",
            found,
        ));
    }
    Ok(())
}

fn machine_name(machine: raw::Machine) -> String {
    match machine {
        raw::EM_X86_64 => "x86-64".into(),
        raw::EM_AARCH64 => "aarch64".into(),
        raw::EM_386 => "i386".into(),
        raw::EM_ARM => "arm".into(),
        raw::EM_RISCV => "riscv".into(),
        raw::EM_PPC64 => "ppc64".into(),
        raw::EM_S390 => "s390".into(),
        other => format!("machine {}", other.0),
    }
}

fn type_name(kind: raw::FileType) -> String {
    match kind {
        raw::ET_REL => "an object file (ET_REL)".into(),
        raw::ET_EXEC => "an executable (ET_EXEC)".into(),
        raw::ET_CORE => "a core dump (ET_CORE)".into(),
        other => format!("type {}", other.0),
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".into();
    }
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tag;

    #[test]
    fn tags_have_the_numbers_of_the_standard() {
        for (own, standard) in [
            (tag::NEEDED, raw::DT_NEEDED),
            (tag::PLTRELSZ, raw::DT_PLTRELSZ),
            (tag::HASH, raw::DT_HASH),
            (tag::STRTAB, raw::DT_STRTAB),
            (tag::SYMTAB, raw::DT_SYMTAB),
            (tag::RELA, raw::DT_RELA),
            (tag::RELASZ, raw::DT_RELASZ),
            (tag::RELAENT, raw::DT_RELAENT),
            (tag::STRSZ, raw::DT_STRSZ),
            (tag::SYMENT, raw::DT_SYMENT),
            (tag::INIT, raw::DT_INIT),
            (tag::FINI, raw::DT_FINI),
            (tag::SONAME, raw::DT_SONAME),
            (tag::RPATH, raw::DT_RPATH),
            (tag::REL, raw::DT_REL),
            (tag::PLTREL, raw::DT_PLTREL),
            (tag::TEXTREL, raw::DT_TEXTREL),
            (tag::JMPREL, raw::DT_JMPREL),
            (tag::INIT_ARRAY, raw::DT_INIT_ARRAY),
            (tag::FINI_ARRAY, raw::DT_FINI_ARRAY),
            (tag::INIT_ARRAYSZ, raw::DT_INIT_ARRAYSZ),
            (tag::FINI_ARRAYSZ, raw::DT_FINI_ARRAYSZ),
            (tag::RUNPATH, raw::DT_RUNPATH),
            (tag::FLAGS, raw::DT_FLAGS),
            (tag::RELRSZ, raw::DT_RELRSZ),
            (tag::RELR, raw::DT_RELR),
            (tag::RELRENT, raw::DT_RELRENT),
            (tag::GNU_HASH, raw::DT_GNU_HASH),
            (tag::VERSYM, raw::DT_VERSYM),
            (tag::RELACOUNT, raw::DT_RELACOUNT),
            (tag::FLAGS_1, raw::DT_FLAGS_1),
            (tag::VERDEF, raw::DT_VERDEF),
            (tag::VERDEFNUM, raw::DT_VERDEFNUM),
            (tag::VERNEED, raw::DT_VERNEED),
            (tag::VERNEEDNUM, raw::DT_VERNEEDNUM),
        ] {
            assert_eq!(own, standard.0, "{}", tag::name(own));
        }
    }
}
