//! The edits of the staged copy that keep ld.so from running, finding or pinning the plugin.
//!
//! Thread context. An edit has the length of what it replaces and nothing is moved, so addresses
//! stay those of the original file. The original bytes are what is verified; the plan says for
//! each edit what it does.

#![forbid(unsafe_code)]

use std::str;

use super::dynsym::Binding;
use super::elf::{DF_1_NODELETE, DynamicEntry};
use super::facts::Facts;
use super::segment;
use super::tag;

/// The edits that bring an edited copy back to `bytes`, those of the original.
pub(crate) fn undo(edits: &[Edit], bytes: &[u8]) -> Vec<Edit> {
    edits
        .iter()
        .filter_map(|edit| {
            let len = u64::try_from(edit.bytes.len()).ok()?;
            let bytes = segment::slice(bytes, edit.offset, len)?.to_vec();
            Some(Edit {
                bytes,
                ..edit.clone()
            })
        })
        .collect()
}

/// Which edits are wanted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RewritePolicy {
    /// Takes constructors and destructors from ld.so: the loader runs them. On by default.
    pub initializers: Owner,
    /// What becomes of GNU unique symbols. Neutralised by default.
    pub unique: Rule,
    /// What becomes of `DF_1_NODELETE`. Honoured by default: it is the author's word that
    /// unmapping is unsafe.
    pub nodelete: Rule,
    /// What the copy's `DT_SONAME` is made of; never used for another copy in this process.
    pub nonce: u64,
}

impl RewritePolicy {
    /// The default policy with this nonce.
    pub fn new(nonce: u64) -> Self {
        let (unique, nodelete) = (Rule::Neutralise, Rule::Honour);
        Self {
            initializers: Owner::Loader,
            unique,
            nodelete,
            nonce,
        }
    }
}

/// Who runs constructors and destructors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The loader, after it has published the plugin.
    Loader,
    /// ld.so, inside `dlopen` and `dlclose`.
    Linker,
}

/// What becomes of something that would pin the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It stays, and the plugin with it.
    Honour,
    /// It is edited away.
    Neutralise,
}

/// One change of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edit {
    /// File offset of the first byte.
    pub offset: u64,
    /// The new bytes, as many as they replace.
    pub bytes: Vec<u8>,
    /// What it does, for people.
    pub what: String,
}

/// Base of the tags that stand for removed ones: this plus the removed tag's own number.
///
/// It lies in `DT_LOOS..=DT_HIOS` (0x6000000d to 0x6ffff000). glibc's `elf_get_dynamic_info` keeps
/// tags below `DT_NUM`, `DT_LOPROC` (0x70000000) and the few above it,
/// 0x6ffffff0 to 0x6fffffff (versions), the last three below 0x80000000 in their low 31 bits (filters),
/// 0x6ffffdf4 to 0x6ffffdff (values) and 0x6ffffef5 to 0x6ffffeff (addresses); it skips all others.
/// Android's own tags are 0x6000000f to 0x60000012 and 0x6fffe000 and up.
pub const REMOVED_TAG: i64 = 0x6c50_4c00;

/// Plans the edits of a copy of the file whose facts and bytes are given, ascending by offset.
///
/// Deterministic: the same file, policy and nonce give the same edits.
pub fn plan(facts: &Facts, bytes: &[u8], policy: &RewritePolicy) -> Vec<Edit> {
    let mut edits = Vec::new();
    if policy.initializers == Owner::Loader {
        for (removed, why) in [
            (tag::INIT, "the loader runs it"),
            (tag::INIT_ARRAY, "the loader runs it"),
            (tag::INIT_ARRAYSZ, "the loader runs it"),
            (tag::FINI, "the loader runs it"),
            (tag::FINI_ARRAY, "the loader runs it"),
            (tag::FINI_ARRAYSZ, "the loader runs it"),
        ] {
            edits.extend(facts.entry(removed).map(|entry| remove(entry, why)));
        }
    }
    if let Some(entry) = facts.entry(tag::SONAME) {
        edits.push(rename_soname(facts, entry, policy.nonce));
    }
    if policy.nodelete == Rule::Neutralise
        && facts.nodelete()
        && let Some(entry) = facts.entry(tag::FLAGS_1)
    {
        edits.push(Edit {
            offset: entry.offset.saturating_add(8),
            bytes: (entry.value & !DF_1_NODELETE).to_le_bytes().to_vec(),
            what: "DT_FLAGS_1: NODELETE cleared, so that the plugin can be unmapped".into(),
        });
    }
    if policy.unique == Rule::Neutralise && facts.n_unique > 0 {
        let symbols = facts.symbols(bytes);
        for symbol in symbols.iter().filter(|s| s.binding == Binding::Unique) {
            // st_info follows the 4 bytes of st_name; its high half is the binding.
            let offset = symbol.entry_offset.saturating_add(4);
            let Some(&[info]) = segment::slice(bytes, offset, 1) else {
                continue;
            };
            let name = String::from_utf8_lossy(facts.symbol_name(bytes, symbol));
            edits.push(Edit {
                offset,
                bytes: vec![STB_GLOBAL << 4 | info & 0xf],
                what: format!("symbol {name}: GNU unique becomes global, so that it pins nothing"),
            });
        }
    }
    edits.sort_by_key(|edit| edit.offset);
    edits
}

const STB_GLOBAL: u8 = 1;

fn remove(entry: &DynamicEntry, why: &str) -> Edit {
    Edit {
        offset: entry.offset,
        bytes: REMOVED_TAG.saturating_add(entry.tag).to_le_bytes().to_vec(),
        what: format!("{} hidden from ld.so: {why}", tag::name(entry.tag)),
    }
}

/// ld.so matches any later `DT_NEEDED` or `dlopen` against the SONAME of every loaded file, so an
/// unrelated library would bind to a plugin whose constructors have not run, and pin it.
fn rename_soname(facts: &Facts, entry: &DynamicEntry, nonce: u64) -> Edit {
    let soname = facts.soname.as_deref().unwrap_or_default();
    match facts.own_soname.zip(nonce_name(nonce, soname.len())) {
        Some((start, name)) => Edit {
            offset: facts.strings.0.saturating_add(u64::from(start)),
            what: format!("DT_SONAME: {soname} becomes {name}, which nothing asks for"),
            bytes: name.into_bytes(),
        },
        None => remove(entry, "nothing may find the plugin by its SONAME"),
    }
}

/// A name of `len` bytes made of `nonce`: no original has one like it, and no other copy this one.
fn nonce_name(nonce: u64, len: usize) -> Option<String> {
    const DIGITS: usize = 7;
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let padding = len.checked_sub(DIGITS + 1)?;
    let mut digits = [b'0'; DIGITS];
    let mut rest = nonce;
    for digit in digits.iter_mut().rev() {
        *digit = *ALPHABET.get(usize::try_from(rest % 36).ok()?)?;
        rest /= 36;
    }
    // A nonce with more digits than fit would be the name of another one.
    let digits = str::from_utf8(&digits).ok().filter(|_| rest == 0)?;
    Some(format!("~{digits}{}", "~".repeat(padding)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_name_keeps_the_length_and_never_repeats() {
        assert_eq!(nonce_name(0, 8).as_deref(), Some("~0000000"));
        assert_eq!(nonce_name(36, 11).as_deref(), Some("~0000010~~~"));
        assert_eq!(nonce_name(1, 7), None);
        assert_eq!(nonce_name(36u64.pow(7) - 1, 8).as_deref(), Some("~zzzzzzz"));
        assert_eq!(nonce_name(36u64.pow(7), 8), None);
        assert_eq!(nonce_name(u64::MAX, 64), None);
    }

    #[test]
    fn removed_tags_are_none_that_glibc_keeps() {
        for removed in 0..tag::LOW_TAGS {
            let tag = REMOVED_TAG + removed;
            assert!((0x6000_0013..0x6fff_0000).contains(&tag), "{tag:#x}");
        }
    }
}
