//! Whether a file keeps the contract between plugins and hosts, as far as its bytes tell.
//!
//! Thread context; runs nothing.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use plug_api::abi::{DESCRIPTOR_SYMBOL, Descriptor, METADATA_PREFIX, RESTORE_SYMBOL, SAVE_SYMBOL};

use super::dynamic::Dynamic;
use super::dynsym::SymbolKind;
use super::elf::{self, Elf, RELA_SIZE};
use super::facts::Facts;
use super::info::Info;
use super::segment::{slice, u64_at};
use super::tables::Tables;
use super::tag;

/// Link-time address and size of the descriptor; none for an ordinary library. Whether its metadata
/// fits this host is the gate's question.
///
/// # Errors
/// Why the plugin does not fit this host: expected, found and the remedy.
pub(crate) fn descriptor(
    facts: &Facts,
    info: &Info,
    bytes: &[u8],
) -> Result<Option<(u64, u64)>, String> {
    let symbol = facts
        .declared
        .iter()
        .find(|s| facts.symbol_name(bytes, s) == DESCRIPTOR_SYMBOL.as_bytes());
    if info.is_foreign() {
        if symbol.is_some() {
            return Err(format!(
                "metadata: expected symbols beginning with {METADATA_PREFIX}, found none beside {DESCRIPTOR_SYMBOL}; \
                 declare the plugin by plug-api's macro"
            ));
        }
        return Ok(None);
    }
    let Some(symbol) = symbol else {
        return Err(format!(
            "descriptor: expected the exported symbol {DESCRIPTOR_SYMBOL}, found none; declare the \
             plugin by plug-api's macro and do not hide the symbol"
        ));
    };
    let needed = size_of::<Descriptor>() as u64;
    if symbol.size < needed || facts.offset_at(symbol.value, needed).is_none() {
        return Err(format!(
            "descriptor: expected {needed} bytes of data at {:#x}, found {}",
            symbol.value, symbol.size
        ));
    }
    Ok(Some((symbol.value, symbol.size)))
}

/// What a plugin should have for those who operate it, and this one has not: where, expected and
/// found.
pub(super) fn shortcomings(
    facts: &Facts,
    info: &Info,
    bytes: &[u8],
    descriptor: Option<(u64, u64)>,
) -> Vec<(&'static str, &'static str, String)> {
    let mut found = Vec::new();
    for key in ["version", "description", "license"] {
        if info.get(key).is_none_or(|value| value.trim().is_empty()) {
            found.push((
                "metadata",
                "a version, a description and a license",
                format!("no {key}"),
            ));
        }
    }
    let documented: BTreeSet<&str> = info.exports().map(|export| export.name).collect();
    let symbols = facts.symbols(bytes);
    let functions = symbols
        .iter()
        .filter(|symbol| matches!(symbol.kind, SymbolKind::Func | SymbolKind::Ifunc));
    let exported: BTreeSet<&[u8]> = functions
        .map(|symbol| facts.symbol_name(bytes, symbol))
        .collect();
    for name in &documented {
        if !exported.contains(name.as_bytes()) {
            found.push((
                "metadata",
                "a function for each export=",
                format!("no {name}"),
            ));
        }
    }
    let untold: Vec<&str> = documented
        .iter()
        .copied()
        .filter(|name| info.signature(name).is_none())
        .collect();
    if !untold.is_empty() {
        let names = untold.join(", ");
        found.push((
            "metadata",
            "a signature that hosts can compare for each export=",
            names,
        ));
    }
    // Names of C++ are for the compiler, not for people who call it.
    let undocumented = exported.iter().filter_map(|name| str::from_utf8(name).ok());
    let undocumented = undocumented.filter(|name| !name.starts_with("_Z"));
    // Nor is what the macros export for hosts alone.
    let setters: Vec<String> = info.params().filter_map(|param| param.setter).collect();
    let is_hosts = |name: &&str| {
        [SAVE_SYMBOL, RESTORE_SYMBOL].contains(name) || setters.iter().any(|setter| setter == name)
    };
    let undocumented: Vec<&str> = undocumented
        .filter(|name| !documented.contains(name) && !is_hosts(name))
        .collect();
    if !undocumented.is_empty() {
        let names = undocumented.join(", ");
        found.push(("metadata", "an export= for each exported function", names));
    }
    if let Some((vaddr, _)) = descriptor
        && !is_filled(facts, bytes, vaddr.saturating_add(EXIT))
    {
        found.push((DESCRIPTOR_SYMBOL, "an exit", "none".to_owned()));
    }
    let constructors = constructors(facts, bytes);
    if !constructors.is_empty() {
        let expected = "no work in constructors: init reports errors and they cannot";
        found.push(("DT_INIT_ARRAY", expected, constructors.join(", ")));
    }
    found
}

/// Where `exit` lies in the descriptor.
const EXIT: u64 = std::mem::offset_of!(Descriptor, exit) as u64;

/// Whether the word at `vaddr` will hold an address.
fn is_filled(facts: &Facts, bytes: &[u8], vaddr: u64) -> bool {
    let stored = facts
        .bytes_at(bytes, vaddr, 8)
        .and_then(|word| u64_at(word, 0));
    stored.is_some_and(|word| word != 0)
        || relocations(bytes).iter().any(|rela| rela.target == vaddr)
}

fn relocations(bytes: &[u8]) -> Vec<elf::RawRela> {
    let Ok(file) = Elf::parse(bytes) else {
        return Vec::new();
    };
    let Ok(dynamic) = Dynamic::read(&file) else {
        return Vec::new();
    };
    let table = dynamic.table(&file, tag::RELA, tag::RELASZ, RELA_SIZE);
    elf::relocations(table.unwrap_or_default()).collect()
}

/// Constructors by name, those of the compilers' own start-up code left out.
fn constructors(facts: &Facts, bytes: &[u8]) -> Vec<String> {
    let Some(array) = facts.init_array else {
        return Vec::new();
    };
    let relocations = relocations(bytes);
    let slots = (0..array.size / 8).map(|n| array.vaddr.saturating_add(n.saturating_mul(8)));
    let functions: Vec<u64> = slots
        .map(|slot| {
            let relocated = relocations.iter().find(|rela| rela.target == slot);
            let stored = || {
                facts
                    .bytes_at(bytes, slot, 8)
                    .and_then(|word| u64_at(word, 0))
            };
            relocated
                .map(|rela| rela.addend)
                .or_else(stored)
                .unwrap_or(0)
        })
        .collect();
    let names = local_names(facts, bytes, &functions);
    if names.iter().all(Option::is_none) {
        // Without names: gcc's and Rust's own are one each.
        const OWN: usize = 2;
        let n = functions.len();
        return (n > OWN)
            .then(|| format!("{n} functions"))
            .into_iter()
            .collect();
    }
    let is_own = |name: &str| name == "frame_dummy" || name.contains("ARGV_INIT_ARRAY");
    functions
        .iter()
        .zip(names)
        .map(|(function, name)| name.unwrap_or_else(|| format!("{function:#x}")))
        .filter(|name| !is_own(name))
        .collect()
}

/// The names in `.symtab` of the functions at these addresses.
fn local_names(facts: &Facts, bytes: &[u8], functions: &[u64]) -> Vec<Option<String>> {
    let tables = Tables::of(facts, bytes);
    let symbols = bytes.get(tables.all_symbols).unwrap_or_default();
    let strings = bytes.get(tables.all_strings).unwrap_or_default();
    let mut names = vec![None; functions.len()];
    let n = u64::try_from(symbols.len()).unwrap_or(0) / elf::SYM_SIZE;
    for symbol in (1..n).filter_map(|index| elf::symbol(symbols, index)) {
        const FUNC: u8 = 2;
        let at = functions
            .iter()
            .position(|function| *function == symbol.value);
        let Some(place) = at
            .filter(|_| symbol.kind == FUNC)
            .and_then(|at| names.get_mut(at))
        else {
            continue;
        };
        let len = u64::try_from(strings.len()).unwrap_or(0);
        let from = slice(
            strings,
            symbol.name.into(),
            len.saturating_sub(symbol.name.into()),
        );
        let name = from.and_then(|from| from.split(|byte| *byte == 0).next());
        *place = name.map(|name| String::from_utf8_lossy(name).into_owned());
    }
    names
}
