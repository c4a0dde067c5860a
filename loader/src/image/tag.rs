//! Dynamic tags by their numbers, as far as the loader reads or writes them.
//!
//! Thread context; constants only, as in the ELF specification and glibc's `elf.h`.

#![forbid(unsafe_code)]

pub(super) const NEEDED: i64 = 1;
pub(super) const PLTRELSZ: i64 = 2;
pub(super) const HASH: i64 = 4;
pub(super) const STRTAB: i64 = 5;
pub(super) const SYMTAB: i64 = 6;
pub(super) const RELA: i64 = 7;
pub(super) const RELASZ: i64 = 8;
pub(super) const RELAENT: i64 = 9;
pub(super) const STRSZ: i64 = 10;
pub(super) const SYMENT: i64 = 11;
pub(super) const INIT: i64 = 12;
pub(super) const FINI: i64 = 13;
pub(super) const SONAME: i64 = 14;
pub(super) const RPATH: i64 = 15;
pub(super) const SYMBOLIC: i64 = 16;
pub(super) const REL: i64 = 17;
pub(super) const PLTREL: i64 = 20;
pub(super) const TEXTREL: i64 = 22;
pub(super) const JMPREL: i64 = 23;
pub(super) const INIT_ARRAY: i64 = 25;
pub(super) const FINI_ARRAY: i64 = 26;
pub(super) const INIT_ARRAYSZ: i64 = 27;
pub(super) const FINI_ARRAYSZ: i64 = 28;
pub(super) const RUNPATH: i64 = 29;
pub(super) const FLAGS: i64 = 30;
pub(super) const RELRSZ: i64 = 35;
pub(super) const RELR: i64 = 36;
pub(super) const RELRENT: i64 = 37;
pub(super) const GNU_HASH: i64 = 0x6fff_fef5;
pub(super) const VERSYM: i64 = 0x6fff_fff0;
pub(super) const RELACOUNT: i64 = 0x6fff_fff9;
pub(super) const FLAGS_1: i64 = 0x6fff_fffb;
pub(super) const VERDEF: i64 = 0x6fff_fffc;
pub(super) const VERDEFNUM: i64 = 0x6fff_fffd;
pub(super) const VERNEED: i64 = 0x6fff_fffe;
pub(super) const VERNEEDNUM: i64 = 0x6fff_ffff;
pub(super) const CONFIG: i64 = 0x6fff_fefa;
pub(super) const DEPAUDIT: i64 = 0x6fff_fefb;
pub(super) const AUDIT: i64 = 0x6fff_fefc;
pub(super) const AUXILIARY: i64 = 0x7fff_fffd;
pub(super) const FILTER: i64 = 0x7fff_ffff;

/// Whether the value of a tag is a place in the string table.
pub(super) fn is_text(tag: i64) -> bool {
    [
        NEEDED, SONAME, RPATH, RUNPATH, CONFIG, DEPAUDIT, AUDIT, AUXILIARY, FILTER,
    ]
    .contains(&tag)
}

/// Whether a tag has ld.so bring in other files, or ask somebody about this one, in ways that edits
/// do not reckon with.
pub(super) fn is_strange(tag: i64) -> bool {
    [CONFIG, DEPAUDIT, AUDIT, AUXILIARY, FILTER].contains(&tag)
}

/// ld.so keeps every tag below this, `DT_NUM`.
pub(super) const LOW_TAGS: i64 = 38;

/// The name of a tag, as `readelf` shows it.
pub(super) fn name(tag: i64) -> &'static str {
    match tag {
        NEEDED => "DT_NEEDED",
        PLTRELSZ => "DT_PLTRELSZ",
        HASH => "DT_HASH",
        STRTAB => "DT_STRTAB",
        SYMTAB => "DT_SYMTAB",
        RELA => "DT_RELA",
        RELASZ => "DT_RELASZ",
        RELAENT => "DT_RELAENT",
        STRSZ => "DT_STRSZ",
        SYMENT => "DT_SYMENT",
        INIT => "DT_INIT",
        FINI => "DT_FINI",
        SONAME => "DT_SONAME",
        RPATH => "DT_RPATH",
        SYMBOLIC => "DT_SYMBOLIC",
        REL => "DT_REL",
        PLTREL => "DT_PLTREL",
        TEXTREL => "DT_TEXTREL",
        JMPREL => "DT_JMPREL",
        INIT_ARRAY => "DT_INIT_ARRAY",
        FINI_ARRAY => "DT_FINI_ARRAY",
        INIT_ARRAYSZ => "DT_INIT_ARRAYSZ",
        FINI_ARRAYSZ => "DT_FINI_ARRAYSZ",
        RUNPATH => "DT_RUNPATH",
        FLAGS => "DT_FLAGS",
        RELRSZ => "DT_RELRSZ",
        RELR => "DT_RELR",
        RELRENT => "DT_RELRENT",
        GNU_HASH => "DT_GNU_HASH",
        VERSYM => "DT_VERSYM",
        RELACOUNT => "DT_RELACOUNT",
        FLAGS_1 => "DT_FLAGS_1",
        VERDEF => "DT_VERDEF",
        VERDEFNUM => "DT_VERDEFNUM",
        VERNEED => "DT_VERNEED",
        VERNEEDNUM => "DT_VERNEEDNUM",
        CONFIG => "DT_CONFIG",
        DEPAUDIT => "DT_DEPAUDIT",
        AUDIT => "DT_AUDIT",
        AUXILIARY => "DT_AUXILIARY",
        FILTER => "DT_FILTER",
        _ => "a dynamic tag",
    }
}
