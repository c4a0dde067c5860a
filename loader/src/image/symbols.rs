//! The symbols of a file, copied and sorted for readers.

#![forbid(unsafe_code)]

use std::num::NonZeroU16;

use plug_readside::snapshot::{Symbol, SymbolKind as Kind};

use super::dynsym::{Binding, ElfSymbol, SymbolKind, Visibility};
use super::facts::Facts;
use super::letter;
use crate::snapshot::OwnedIndex;

/// One symbol of a loaded plugin, as nm shows those of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SymbolRow {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Its version; empty where it has none.
    pub version: String,
    /// Whether its version is the one that its name alone means.
    pub is_default: bool,
    /// Run-time address; an offset into the thread's block for thread-locals, any number for
    /// absolute symbols.
    pub address: u64,
    /// Size in bytes; 0 when the file does not say.
    pub size: u64,
    /// The letter that nm prints.
    pub kind: char,
}

/// What nm shows of a plugin's symbols and readers do not need; names of the others are in the
/// index.
#[derive(Debug)]
pub(crate) struct Marks {
    /// One a symbol of the index, in its order.
    indexed: Box<[Mark]>,
    /// Symbols that are not in the index: thread-locals, absolute and unseen ones.
    others: Box<[Other]>,
    /// Names of `others`.
    names: Box<[u8]>,
    versions: Box<[Box<str>]>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Place in `versions`.
    version: Option<NonZeroU16>,
    is_default: bool,
    letter: u8,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    name: u32,
    name_len: u32,
    value: u64,
    size: u64,
    /// Whether the load bias makes `value` an address.
    is_address: bool,
    mark: Mark,
}

impl Marks {
    /// All symbols, by address; `index` is the one made with these marks.
    pub(crate) fn rows(&self, index: &OwnedIndex, bias: usize) -> Vec<SymbolRow> {
        let row = |name: &[u8], mark: &Mark, address: u64, size: u64| SymbolRow {
            name: String::from_utf8_lossy(name).into_owned(),
            version: mark
                .version
                .and_then(|at| self.versions.get(usize::from(at.get()) - 1))
                .map_or_else(String::new, |version| version.to_string()),
            is_default: mark.is_default,
            address,
            size,
            kind: char::from(mark.letter),
        };
        let bias = u64::try_from(bias).unwrap_or(0);
        let indexed = index.symbols().iter().zip(&self.indexed);
        let indexed = indexed.map(|(symbol, mark)| {
            let address = symbol.svma.wrapping_add(bias);
            row(index.name_of(symbol), mark, address, symbol.size)
        });
        let others = self.others.iter().map(|other| {
            let start = other.name as usize;
            let name = self.names.get(start..start + other.name_len as usize);
            let bias = if other.is_address { bias } else { 0 };
            let address = other.value.wrapping_add(bias);
            row(name.unwrap_or_default(), &other.mark, address, other.size)
        });
        let mut rows: Vec<SymbolRow> = indexed.chain(others).collect();
        rows.sort_by_key(|row| row.address);
        rows
    }
}

/// The index of what other files may use, functions and data, under `name` and `version`; and
/// what is shown of all symbols besides.
///
/// Costs a sort; copies each name once.
pub(crate) fn index(facts: &Facts, bytes: &[u8], name: &str, version: &str) -> (OwnedIndex, Marks) {
    let letters = letter::letters(facts);
    let mut versions = Vec::new();
    let marked = facts.symbols.iter().zip(letters).map(|(symbol, letter)| {
        let mark = mark(facts, bytes, symbol, letter, &mut versions);
        (symbol, kind(symbol), mark)
    });
    let (mut chosen, others): (Vec<_>, Vec<_>) = marked.partition(|(_, kind, _)| kind.is_some());
    // Of several at one address the preferred one comes last, where the search looks first.
    chosen.sort_by_key(|(symbol, kind, _)| {
        (
            symbol.value,
            kind.map_or(0, rank),
            symbol.binding != Binding::Weak,
            symbol.size,
        )
    });
    let mut strings = Vec::with_capacity(chosen.iter().map(|(s, ..)| s.name_len as usize).sum());
    let symbols = chosen
        .iter()
        .filter_map(|(symbol, kind, _)| {
            Some(Symbol {
                svma: symbol.value,
                size: symbol.size,
                name: append(&mut strings, facts.symbol_name(bytes, symbol)),
                name_len: symbol.name_len,
                kind: (*kind)?,
            })
        })
        .collect();
    let mut names = Vec::new();
    let others = others
        .iter()
        .filter(|(symbol, ..)| symbol.kind != SymbolKind::Other)
        .map(|(symbol, _, mark)| Other {
            name: append(&mut names, facts.symbol_name(bytes, symbol)),
            name_len: symbol.name_len,
            value: symbol.value,
            size: symbol.size,
            is_address: !matches!(symbol.kind, SymbolKind::Tls | SymbolKind::Abs),
            mark: *mark,
        })
        .collect();
    let marks = Marks {
        indexed: chosen.iter().map(|(.., mark)| *mark).collect(),
        others,
        names: names.into(),
        versions: versions.into_iter().map(|(_, name)| name).collect(),
    };
    let build_id = facts.build_id.as_deref().unwrap_or_default();
    let index = OwnedIndex::new(symbols, strings, name, version, build_id);
    (index, marks)
}

/// Where the name starts in `strings`.
fn append(strings: &mut Vec<u8>, name: &[u8]) -> u32 {
    let start = u32::try_from(strings.len()).unwrap_or(u32::MAX);
    strings.extend_from_slice(name);
    start
}

fn mark<'a>(
    facts: &Facts,
    bytes: &'a [u8],
    symbol: &ElfSymbol,
    letter: char,
    versions: &mut Vec<(&'a [u8], Box<str>)>,
) -> Mark {
    let (version, is_default) = facts.symbol_version(bytes, symbol).unzip();
    let version = version.and_then(|name| {
        // Libraries have a handful of versions, most symbols the one of the symbol before.
        let at = versions.iter().rposition(|(known, _)| *known == name);
        let at = at.unwrap_or_else(|| {
            versions.push((name, String::from_utf8_lossy(name).into()));
            versions.len() - 1
        });
        NonZeroU16::new(u16::try_from(at.checked_add(1)?).ok()?)
    });
    Mark {
        version,
        is_default: is_default.unwrap_or(false),
        letter: u8::try_from(letter).unwrap_or(b'?'),
    }
}

fn is_seen(symbol: &ElfSymbol) -> bool {
    symbol.binding != Binding::Local
        && matches!(
            symbol.visibility,
            Visibility::Default | Visibility::Protected
        )
}

/// The kind under which readers see a symbol; none for one that they do not.
fn kind(symbol: &ElfSymbol) -> Option<Kind> {
    match symbol.kind {
        _ if !is_seen(symbol) => None,
        SymbolKind::Func => Some(Kind::Func),
        SymbolKind::Object => Some(Kind::Object),
        SymbolKind::Ifunc => Some(Kind::Ifunc),
        SymbolKind::Notype => Some(Kind::Notype),
        // Neither has an address in the plugin's range.
        SymbolKind::Tls | SymbolKind::Abs | SymbolKind::Other => None,
    }
}

fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Notype => 0,
        Kind::Object => 1,
        Kind::Ifunc => 2,
        Kind::Func => 3,
    }
}
