//! What a plugin's file says about itself, read from its bytes alone.
//!
//! Thread context. Everything is found the way ld.so finds it, through `PT_DYNAMIC`, and checked
//! before it is believed: a file that passes does not lead ld.so outside of what exists. It is not
//! a judgement of the code in it.

#![forbid(unsafe_code)]

use super::damage::Damage;
use super::dynamic::{Dynamic, Strings};
use super::dynsym::{self, ElfSymbol, SymbolTable};
use super::elf::{
    self, DF_1_NODELETE, DF_STATIC_TLS, DF_SYMBOLIC, DF_TEXTREL, DynamicEntry, Elf, Header,
};
use super::imports::{self, ImportSlot};
use super::relocations::Relocations;
use super::segment::{self, Extent, PAGE, Segment};
use super::tag;
use super::versions::{self, Named, SymbolVersions, Versions};

/// The facts of one file. Made by [`Facts::read`] only; symbol names stay in the file's bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The `PT_LOAD` segments, ascending and page-disjoint.
    pub segments: Vec<Segment>,
    /// The image from its first to the end of its last page.
    pub span: Extent,
    /// The dynamic section.
    pub dynamic: Extent,
    /// The thread-local template, `PT_TLS`: its size is that of one thread's block.
    pub tls: Option<Extent>,
    /// What ld.so makes read-only after relocation.
    pub relro: Option<Extent>,
    /// The sorted table of unwind entries.
    pub eh_frame_hdr: Option<Extent>,
    /// Bytes of the GNU build-id note.
    pub build_id: Option<Vec<u8>>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<String>,
    /// `DT_RPATH`.
    pub rpath: Option<String>,
    /// `DT_RUNPATH`.
    pub runpath: Option<String>,
    /// `DT_FLAGS`.
    pub flags: u64,
    /// `DT_FLAGS_1`.
    pub flags_1: u64,
    /// Whether relocations write into read-only segments.
    pub textrel: bool,
    /// Whether the file wants an executable stack, or says nothing, which ld.so takes for a yes.
    pub exec_stack: bool,
    /// `DT_INIT`, a function.
    pub init: Option<u64>,
    /// `DT_INIT_ARRAY`, pointers to functions.
    pub init_array: Option<Extent>,
    /// `DT_FINI`, a function.
    pub fini: Option<u64>,
    /// `DT_FINI_ARRAY`, pointers to functions.
    pub fini_array: Option<Extent>,
    /// Link-time addresses of words that hold their own address: `__dso_handle`.
    pub dso_handles: Vec<u64>,
    /// Where it keeps the addresses of imported functions that leave something behind.
    pub imports: Vec<ImportSlot>,
    /// How many defined symbols are GNU unique, which pins a file for ever.
    pub n_unique: usize,
    /// An entry of the dynamic section that changes what ld.so makes of the file and that edits do
    /// not reckon with: the file is loaded as it is.
    pub strange: Option<&'static str>,

    /// The data that plug-api's macros define: metadata, the descriptor and slots of imports.
    pub(crate) declared: Vec<ElfSymbol>,
    /// Entries of `PT_DYNAMIC`, for the edits.
    pub(super) entries: Vec<DynamicEntry>,
    /// File offset and size of the string table.
    pub(super) strings: (u64, u64),
    /// Where the bytes of `DT_SONAME` start in the string table, if nothing but it and the base
    /// version names any of them.
    pub(super) own_soname: Option<u32>,
    /// Names of files that versions are needed of, in the string table.
    pub(super) version_files: Vec<u32>,
    /// All other names of versions there.
    version_names: Vec<u32>,
    /// Entries in `DT_SYMTAB`.
    pub(super) n_symbols: u64,
    /// File offset of `DT_SYMTAB`.
    pub(super) symbols_at: u64,
    /// Whether names can be looked up; without, nothing counts as defined.
    pub(super) is_hashed: bool,
    /// `DT_VERSYM`.
    symbol_versions: SymbolVersions,
    /// The versions of symbols, ascending by index.
    pub(super) versions: Vec<Named>,
    /// Bytes of the thread-local template that the file holds; what follows is zero.
    pub(super) tls_filesz: u64,
}

impl Facts {
    /// Reads the facts of the file that consists of `bytes`.
    ///
    /// Costs time linear in symbols and relocations; copies no symbol and no name.
    ///
    /// # Errors
    /// The first statement found that the file does not keep.
    pub fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let elf = Elf::parse(bytes)?;
        let (low, high) = elf.span();
        let tls = match elf.tls {
            Some(header) => Some(check_tls(&elf, header)?),
            None => None,
        };
        let dynamic = Dynamic::read(&elf)?;
        let strings = Strings::read(&elf, &dynamic)?;
        let relocations = Relocations::read(&elf, &dynamic)?;
        let mut versions = Versions::read(&elf, &dynamic)?;
        let table = SymbolTable::read(&elf, &dynamic, &strings, &relocations)?;
        let of_symbols = versions.check_symbols(&elf, &dynamic, table.n_symbols)?;
        versions.check_names(&strings)?;

        let soname_at = dynamic
            .get(tag::SONAME)
            .and_then(|entry| u32::try_from(entry.value).ok());
        let soname = soname_at.map_or(0..0, |start| strings.shared_by(start));
        let walked = table.walk(&elf, &strings, tls, &soname)?;
        let text = |tag: i64| {
            dynamic
                .get(tag)
                .map(|entry| strings.text(entry))
                .transpose()
        };
        let mut needed = Vec::new();
        let mut version_names = versions.names.clone();
        version_names.extend(&versions.base_names);
        let mut names = versions.names;
        names.extend(&versions.files);
        for entry in &dynamic.entries {
            if entry.tag == tag::NEEDED {
                needed.push(strings.text(entry)?);
            }
            if [tag::NEEDED, tag::RPATH, tag::RUNPATH].contains(&entry.tag) {
                names.extend(u32::try_from(entry.value));
            }
        }
        let is_named = walked.names_any
            || names.iter().any(|name| soname.contains(name))
            || versions
                .base_names
                .iter()
                .any(|name| Some(*name) != soname_at && soname.contains(name));
        let flags = dynamic.value(tag::FLAGS);
        Ok(Self {
            span: Extent {
                vaddr: low,
                size: high.saturating_sub(low),
            },
            dynamic: Extent {
                vaddr: elf.dynamic.vaddr,
                size: elf.dynamic.filesz,
            },
            tls,
            relro: relro(&elf)?,
            eh_frame_hdr: eh_frame_hdr(&elf)?,
            build_id: build_id(&elf),
            soname: text(tag::SONAME)?,
            needed,
            rpath: text(tag::RPATH)?,
            runpath: text(tag::RUNPATH)?,
            flags,
            flags_1: dynamic.value(tag::FLAGS_1),
            textrel: flags & DF_TEXTREL != 0 || dynamic.get(tag::TEXTREL).is_some(),
            exec_stack: elf.stack.is_none_or(|stack| stack.flags & 1 != 0),
            init: function(&elf, &dynamic, tag::INIT)?,
            init_array: functions(&elf, &dynamic, tag::INIT_ARRAY, tag::INIT_ARRAYSZ)?,
            fini: function(&elf, &dynamic, tag::FINI)?,
            fini_array: functions(&elf, &dynamic, tag::FINI_ARRAY, tag::FINI_ARRAYSZ)?,
            dso_handles: relocations.dso_handles,
            imports: imports::slots(&elf, &dynamic, &walked.imports),
            n_unique: walked.n_unique,
            strange: dynamic
                .entries
                .iter()
                .find(|entry| tag::is_strange(entry.tag))
                .map(|entry| tag::name(entry.tag)),
            declared: walked.declared,
            own_soname: soname_at.filter(|_| !is_named),
            version_files: versions.files,
            version_names,
            n_symbols: table.n_symbols,
            symbols_at: table.start,
            is_hashed: table.is_hashed,
            symbol_versions: of_symbols,
            strings: (
                strings.offset,
                u64::try_from(strings.bytes.len()).unwrap_or(0),
            ),
            versions: versions.named,
            tls_filesz: elf.tls.map_or(0, |header| header.filesz),
            entries: dynamic.entries,
            segments: elf.segments,
        })
    }

    /// All defined dynamic symbols, in the file's order; `bytes` are the file's.
    ///
    /// Costs a list of them; a load does without.
    pub fn symbols(&self, bytes: &[u8]) -> Vec<ElfSymbol> {
        if !self.is_hashed {
            return Vec::new();
        }
        let strings = segment::slice(bytes, self.strings.0, self.strings.1).unwrap_or_default();
        let table = (self.symbols_at, self.n_symbols);
        dynsym::defined(bytes, table, strings, self.symbol_versions)
    }

    /// Every place of the string table that a symbol, a version or the dynamic section names but
    /// for versions' files; `bytes` are the file's.
    pub(super) fn names_in_strings<'a>(
        &'a self,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = u32> + 'a {
        let start = usize::try_from(self.symbols_at).ok();
        let table = start.and_then(|start| bytes.get(start..));
        let table = table.unwrap_or_default();
        let symbols = (1..self.n_symbols).filter_map(|n| Some(elf::symbol(table, n)?.name));
        let entries = self.entries.iter().filter(|entry| tag::is_text(entry.tag));
        let entries = entries.filter_map(|entry| u32::try_from(entry.value).ok());
        symbols
            .chain(entries)
            .chain(self.version_names.iter().copied())
    }

    /// Whether it looks for symbols in itself first (`DF_SYMBOLIC`).
    pub(crate) fn is_symbolic(&self) -> bool {
        self.flags & DF_SYMBOLIC != 0 || self.entry(tag::SYMBOLIC).is_some()
    }

    /// Whether the author forbids unmapping (`DF_1_NODELETE`).
    pub fn nodelete(&self) -> bool {
        self.flags_1 & DF_1_NODELETE != 0
    }

    /// Whether the thread-locals must lie in the static block (`DF_STATIC_TLS`).
    pub fn static_tls(&self) -> bool {
        self.flags & DF_STATIC_TLS != 0
    }

    /// The name of `symbol`; `bytes` are the file's.
    pub fn symbol_name<'a>(&self, bytes: &'a [u8], symbol: &ElfSymbol) -> &'a [u8] {
        let start = self.strings.0.saturating_add(u64::from(symbol.name_offset));
        segment::slice(bytes, start, u64::from(symbol.name_len)).unwrap_or_default()
    }

    /// The version of `symbol` and whether it is the default one of its name (`@@` in nm); none for
    /// a symbol without a version. `bytes` are the file's.
    pub fn symbol_version<'a>(
        &self,
        bytes: &'a [u8],
        symbol: &ElfSymbol,
    ) -> Option<(&'a [u8], bool)> {
        let at = self.version_of(bytes, symbol)?;
        let named = self.versions.get(at)?;
        let is_default = !named.needed && symbol.version & !versions::INDEX == 0;
        Some((self.version_name(bytes, named), is_default))
    }

    /// The place in `versions` of the version that `DT_VERSYM` gives `symbol`.
    pub(super) fn version_of(&self, bytes: &[u8], symbol: &ElfSymbol) -> Option<usize> {
        let index = symbol.version & versions::INDEX;
        let at = self.versions.binary_search_by_key(&index, |n| n.index);
        let at = at.ok()?;
        let name = self.version_name(bytes, self.versions.get(at)?);
        // The symbol that stands for the version itself carries it as its name already.
        (!name.is_empty() && name != self.symbol_name(bytes, symbol)).then_some(at)
    }

    /// The name of a version; `bytes` are the file's.
    pub(super) fn version_name<'a>(&self, bytes: &'a [u8], named: &Named) -> &'a [u8] {
        let start = self.strings.0.saturating_add(u64::from(named.name));
        segment::slice(bytes, start, u64::from(named.name_len)).unwrap_or_default()
    }

    /// `len` bytes at the link-time address `vaddr`, if the file holds them all; `bytes` are the
    /// file's.
    pub fn bytes_at<'a>(&self, bytes: &'a [u8], vaddr: u64, len: u64) -> Option<&'a [u8]> {
        segment::slice(bytes, self.offset_at(vaddr, len)?, len)
    }

    /// The file offset of `len` bytes at the link-time address `vaddr`, if the file holds them all.
    pub fn offset_at(&self, vaddr: u64, len: u64) -> Option<u64> {
        segment::offset_of(&self.segments, vaddr, len)
    }

    /// The entry with this tag.
    pub(super) fn entry(&self, tag: i64) -> Option<&DynamicEntry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }
}

fn check_tls(elf: &Elf<'_>, header: Header) -> Result<Extent, Damage> {
    const WHERE: &str = "PT_TLS";
    let Header {
        at,
        vaddr,
        memsz,
        filesz,
        align,
        ..
    } = header;
    if filesz > memsz || memsz > 1 << 40 {
        let found = format!("{filesz:#x} of {memsz:#x}");
        return Err(Damage::new(
            WHERE,
            at,
            "a template no larger than the block",
            found,
        ));
    }
    if align > 1 && !align.is_power_of_two() {
        return Err(Damage::new(
            WHERE,
            at,
            "an alignment of 2^n",
            format!("{align:#x}"),
        ));
    }
    if filesz > 0 && elf.offset_of(vaddr, filesz).is_none() {
        let found = format!("{vaddr:#x}+{filesz:#x}");
        return Err(Damage::new(
            WHERE,
            at,
            "a template in a segment's file bytes",
            found,
        ));
    }
    Ok(Extent { vaddr, size: memsz })
}

fn relro(elf: &Elf<'_>) -> Result<Option<Extent>, Damage> {
    let Some(Header {
        at, vaddr, memsz, ..
    }) = elf.relro
    else {
        return Ok(None);
    };
    // Linkers pad the range to a page, so it may pass its segment's end but not the last page.
    let segment = elf.segment_of(vaddr, 0).filter(|segment| {
        let start = segment.vaddr & !(PAGE - 1);
        let end = segment
            .vaddr
            .saturating_add(segment.memsz)
            .saturating_add(PAGE - 1);
        segment::within(
            vaddr,
            memsz,
            start,
            (end & !(PAGE - 1)).saturating_sub(start),
        )
    });
    if memsz > 0 && !segment.is_some_and(Segment::is_writable) {
        let found = format!("{vaddr:#x}+{memsz:#x}");
        return Err(Damage::new(
            "PT_GNU_RELRO",
            at,
            "inside a writable segment",
            found,
        ));
    }
    Ok(Some(Extent { vaddr, size: memsz }))
}

fn eh_frame_hdr(elf: &Elf<'_>) -> Result<Option<Extent>, Damage> {
    let Some(Header {
        at, vaddr, filesz, ..
    }) = elf.eh_frame
    else {
        return Ok(None);
    };
    if filesz > 0 && elf.offset_of(vaddr, filesz).is_none() {
        let found = format!("{vaddr:#x}+{filesz:#x}");
        return Err(Damage::new(
            "PT_GNU_EH_FRAME",
            at,
            "in a segment's file bytes",
            found,
        ));
    }
    Ok(Some(Extent {
        vaddr,
        size: filesz,
    }))
}

/// The first GNU build-id note. A malformed note ends the search: ld.so does not need it either.
fn build_id(elf: &Elf<'_>) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    elf.notes.iter().find_map(|header| {
        let notes = elf.bytes_of(header);
        let align = if header.align == 8 { 8 } else { 4 };
        let mut at = 0u64;
        loop {
            let name_len = u64::from(segment::u32_at(notes, at)?);
            let value_len = u64::from(segment::u32_at(notes, at.checked_add(4)?)?);
            let kind = segment::u32_at(notes, at.checked_add(8)?)?;
            let name_at = at.checked_add(12)?;
            let value_at = name_at
                .checked_add(name_len)?
                .checked_next_multiple_of(align)?;
            let value = segment::slice(notes, value_at, value_len)?;
            if kind == NT_GNU_BUILD_ID
                && segment::slice(notes, name_at, name_len) == Some(b"GNU\0")
                && !value.is_empty()
            {
                return Some(value.to_vec());
            }
            at = value_at
                .checked_add(value_len)?
                .checked_next_multiple_of(align)?;
        }
    })
}

/// The function a dynamic entry names.
fn function(elf: &Elf<'_>, dynamic: &Dynamic, tag: i64) -> Result<Option<u64>, Damage> {
    let Some(entry) = dynamic.get(tag) else {
        return Ok(None);
    };
    if !elf
        .segment_of(entry.value, 1)
        .is_some_and(Segment::is_executable)
    {
        let (structure, found) = (tag::name(tag), format!("{:#x}", entry.value));
        return Err(Damage::new(
            structure,
            entry.offset,
            "a function in code",
            found,
        ));
    }
    Ok(Some(entry.value))
}

/// The array of pointers to functions that two dynamic entries name; `None` when it is empty.
fn functions(
    elf: &Elf<'_>,
    dynamic: &Dynamic,
    address: i64,
    size: i64,
) -> Result<Option<Extent>, Damage> {
    let Some(entry) = dynamic.get(address) else {
        return Ok(None);
    };
    let len = dynamic.require(size)?;
    let array = Extent {
        vaddr: entry.value,
        size: len.value,
    };
    if !array.size.is_multiple_of(8)
        || !array.vaddr.is_multiple_of(8)
        || !elf.maps(array.vaddr, array.size)
    {
        let found = format!("{:#x}+{:#x}", array.vaddr, array.size);
        let structure = tag::name(address);
        let expected = "an array of pointers inside a segment";
        return Err(Damage::new(structure, entry.offset, expected, found));
    }
    Ok(Some(array).filter(|array| array.size > 0))
}
