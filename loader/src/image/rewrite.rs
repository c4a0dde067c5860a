//! The edits of the staged copy that keep ld.so from running, finding or pinning the plugin.
//!
//! Thread context. An edit has the length of what it replaces and nothing is moved, so addresses
//! stay those of the original file. The original bytes are what is verified; the plan says for
//! each edit what it does.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::ops::Range;
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
    /// Names of private dependencies, each with the one that its copy has instead.
    pub(crate) aliases: Vec<(String, String)>,
    /// GNU unique symbols that stay what they are, since they stand for something shared.
    pub(crate) shared: HashSet<Box<[u8]>>,
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
            aliases: Vec::new(),
            shared: HashSet::new(),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The structure that is changed, by the name that `readelf` users know.
    pub structure: &'static str,
    /// What becomes of it, for people.
    pub what: String,
    /// What for.
    pub why: &'static str,
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            structure,
            what,
            why,
            ..
        } = self;
        write!(f, "{structure} at {offset:#x}: {what}; {why}")
    }
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
/// Deterministic: the same file, policy and nonce give the same edits. None of a file with
/// something strange in it ([`Facts::strange`]).
pub fn plan(facts: &Facts, bytes: &[u8], policy: &RewritePolicy) -> Vec<Edit> {
    let mut edits = Vec::new();
    if facts.strange.is_some() {
        return edits;
    }
    if policy.initializers == Owner::Loader {
        for removed in [
            tag::INIT,
            tag::INIT_ARRAY,
            tag::INIT_ARRAYSZ,
            tag::FINI,
            tag::FINI_ARRAY,
            tag::FINI_ARRAYSZ,
        ] {
            let entry = facts.entry(removed);
            edits.extend(entry.map(|entry| remove(entry, "the loader runs it")));
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
            structure: "DT_FLAGS_1",
            what: "NODELETE cleared".into(),
            why: "so that it can be unmapped, as the host wants",
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
            let name = facts.symbol_name(bytes, symbol);
            if policy.shared.contains(name) {
                continue;
            }
            edits.push(Edit {
                offset,
                bytes: vec![STB_GLOBAL << 4 | info & 0xf],
                structure: "DT_SYMTAB",
                what: format!(
                    "symbol {}: GNU unique becomes global",
                    String::from_utf8_lossy(name)
                ),
                why: "so that it pins nothing",
            });
        }
    }
    for (name, alias) in &policy.aliases {
        // Found before it was asked for.
        for start in places(facts, bytes, name).unwrap_or_default() {
            edits.push(Edit {
                offset: facts.strings.0.saturating_add(u64::from(start)),
                bytes: alias.clone().into_bytes(),
                structure: "DT_NEEDED",
                what: format!("{name} becomes {alias}"),
                why: "so that ld.so takes the plugin's own copy of it",
            });
        }
    }
    edits.sort_by_key(|edit| edit.offset);
    edits
}

/// Names of the GNU unique symbols that a file defines.
pub(crate) fn unique_names(facts: &Facts, bytes: &[u8]) -> impl Iterator<Item = Box<[u8]>> {
    let symbols = if facts.n_unique == 0 {
        Vec::new()
    } else {
        facts.symbols(bytes)
    };
    let unique = symbols.into_iter().filter(|s| s.binding == Binding::Unique);
    unique.map(|symbol| facts.symbol_name(bytes, &symbol).into())
}

/// Where the strings start in the string table by which a file needs the library `name`; none where
/// something else has a byte of them.
fn places(facts: &Facts, bytes: &[u8], name: &str) -> Option<BTreeSet<u32>> {
    let strings = segment::slice(bytes, facts.strings.0, facts.strings.1)?;
    let from = |start: u32| strings.get(usize::try_from(start).ok()?..);
    let is_name = |start: &u32| {
        let rest = from(*start).and_then(|text| text.strip_prefix(name.as_bytes()));
        rest.and_then(<[u8]>::first) == Some(&0)
    };
    let needed = facts
        .entries
        .iter()
        .filter(|entry| entry.tag == tag::NEEDED);
    let needed = needed.filter_map(|entry| u32::try_from(entry.value).ok());
    let files = facts.version_files.iter().copied();
    let wanted: BTreeSet<u32> = needed.chain(files).filter(is_name).collect();
    // A string from before runs into one of these only if no NUL stands between.
    let taken: Vec<Range<u32>> = wanted
        .iter()
        .map(|&start| {
            let before = strings.get(..usize::try_from(start).unwrap_or(0));
            let nul = before.and_then(|before| before.iter().rposition(|byte| *byte == 0));
            let first = nul.map_or(0, |nul| u32::try_from(nul).unwrap_or(0).saturating_add(1));
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            first..start.saturating_add(len)
        })
        .collect();
    let mut others = facts
        .names_in_strings(bytes)
        .filter(|start| !wanted.contains(start));
    let is_shared = others.any(|start| taken.iter().any(|range| range.contains(&start)));
    (!is_shared && !wanted.is_empty()).then_some(wanted)
}

/// Whether the name of a needed library can be replaced in a copy, and nothing but it.
pub(super) fn can_rename(facts: &Facts, bytes: &[u8], name: &str) -> bool {
    places(facts, bytes, name).is_some()
}

const STB_GLOBAL: u8 = 1;

fn remove(entry: &DynamicEntry, why: &'static str) -> Edit {
    Edit {
        offset: entry.offset,
        bytes: REMOVED_TAG.saturating_add(entry.tag).to_le_bytes().to_vec(),
        structure: tag::name(entry.tag),
        what: "hidden from ld.so".into(),
        why,
    }
}

/// ld.so matches any later `DT_NEEDED` or `dlopen` against the SONAME of every loaded file, so an
/// unrelated library would bind to a plugin whose constructors have not run, and pin it.
fn rename_soname(facts: &Facts, entry: &DynamicEntry, nonce: u64) -> Edit {
    let soname = facts.soname.as_deref().unwrap_or_default();
    match facts.own_soname.zip(alias(nonce, soname.len())) {
        Some((start, name)) => Edit {
            offset: facts.strings.0.saturating_add(u64::from(start)),
            structure: "DT_SONAME",
            what: format!("{soname} becomes {name}"),
            why: "which nothing asks for",
            bytes: name.into_bytes(),
        },
        None => remove(entry, "nothing may find it by its SONAME"),
    }
}

/// A name of `len` bytes made of `nonce`: no original has one like it, and no other copy this one.
pub(super) fn alias(nonce: u64, len: usize) -> Option<String> {
    const DIGITS: usize = 7;
    /// With fewer, a process would soon have none left.
    const FEWEST: usize = 4;
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let n_digits = len.checked_sub(1)?.min(DIGITS);
    if n_digits < FEWEST {
        return None;
    }
    let padding = len.checked_sub(n_digits + 1)?;
    let mut digits = vec![b'0'; n_digits];
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
    fn alias_keeps_the_length_and_never_repeats() {
        assert_eq!(alias(0, 8).as_deref(), Some("~0000000"));
        assert_eq!(alias(36, 11).as_deref(), Some("~0000010~~~"));
        assert_eq!(alias(36, 5).as_deref(), Some("~0010"));
        assert_eq!(alias(36u64.pow(4), 5), None);
        assert_eq!(alias(1, 4), None);
        assert_eq!(alias(36u64.pow(7) - 1, 8).as_deref(), Some("~zzzzzzz"));
        assert_eq!(alias(36u64.pow(7), 8), None);
        assert_eq!(alias(u64::MAX, 64), None);
    }

    #[test]
    fn removed_tags_are_none_that_glibc_keeps() {
        for removed in 0..tag::LOW_TAGS {
            let tag = REMOVED_TAG + removed;
            assert!((0x6000_0013..0x6fff_0000).contains(&tag), "{tag:#x}");
        }
    }
}
