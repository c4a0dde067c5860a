//! The file that has ld.so open a plugin and its private dependencies at once.
//!
//! Thread context; makes bytes only. Opened one by one, each would have its symbols bound among
//! those before it: a dependency could not reach back, and a static that plugin and dependency
//! share would become two. Needed together by one root, they are mapped first and bound afterwards,
//! in the order in which plain `dlopen` of the plugin would look; and since the root comes first,
//! its own search path leads to the copies, by aliases as long as the names that they replace.

#![forbid(unsafe_code)]

use super::tag;

const EHDR: u64 = 64;
const PHDR: u64 = 56;
const DYN: u64 = 16;
const SYM: u64 = 24;
/// As large as the pages of every machine.
const ALIGN: u64 = 0x1_0000;
const RW: u32 = 6;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// A shared object that needs `needed`, in this order, and looks for them in `folder` first. It
/// has no code, no symbols and no name.
pub(crate) fn root(folder: &str, needed: &[&str]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut intern = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let mut entries: Vec<(i64, u64)> = needed
        .iter()
        .map(|name| (tag::NEEDED, intern(name)))
        .collect();
    entries.push((tag::RPATH, intern(folder)));
    let n_headers = 3;
    // Four entries for the tables, one for their end.
    let n_entries = entries.len() as u64 + 6;
    let dynamic = EHDR + n_headers * PHDR;
    let symbols = dynamic + n_entries * DYN;
    let hash = symbols + SYM;
    let text = hash + 16;
    let end = text + strings.len() as u64;
    entries.extend([
        (tag::HASH, hash),
        (tag::STRTAB, text),
        (tag::SYMTAB, symbols),
        (tag::STRSZ, strings.len() as u64),
        (tag::SYMENT, SYM),
        (0, 0),
    ]);

    let mut out = Vec::new();
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |out: &mut Vec<u8>, value: u16| out.extend_from_slice(&value.to_le_bytes());
    let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());
    let long = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_le_bytes());
    half(&mut out, 3);
    half(&mut out, MACHINE);
    word(&mut out, 1);
    long(&mut out, 0);
    long(&mut out, EHDR);
    long(&mut out, 0);
    word(&mut out, 0);
    // Sizes of this header, of a program header and of a section header, each with its count.
    for value in [64, 56, 3, 64, 0, 0] {
        half(&mut out, value);
    }
    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    for (kind, start, size, align) in [
        (PT_LOAD, 0, end, ALIGN),
        (PT_DYNAMIC, dynamic, n_entries * DYN, 8),
        (PT_GNU_STACK, 0, 0, 16),
    ] {
        word(&mut out, kind);
        word(&mut out, RW);
        for value in [start, start, start, size, size, align] {
            long(&mut out, value);
        }
    }
    for (tag, value) in entries {
        long(&mut out, tag.cast_unsigned());
        long(&mut out, value);
    }
    out.resize(usize::try_from(hash).unwrap_or(0), 0);
    // One empty bucket, and the chain of the one symbol that is none.
    for value in [1, 1, 0, 0] {
        word(&mut out, value);
    }
    out.extend_from_slice(&strings);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Facts;

    #[test]
    fn root_is_an_intact_file_that_needs_what_it_is_to_need() {
        let bytes = root("/stage", &["one.so", "/two/two.so"]);
        let facts = Facts::read(&bytes).expect("intact");
        assert_eq!(facts.needed, ["one.so", "/two/two.so"]);
        assert_eq!(facts.rpath.as_deref(), Some("/stage"));
        assert!(!facts.exec_stack && facts.soname.is_none());
        assert!(facts.symbols(&bytes).is_empty());
    }
}
