//! The symbols of a loaded plugin, as nm shows those of a file.

#![forbid(unsafe_code)]

use plug_readside::index::{IndexView, SymbolKind as Kind};

use super::dynsym::SymbolKind;
use super::facts::Facts;
use super::letter;

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

/// All symbols of the file that consists of `bytes`, loaded at `bias`, by address.
///
/// Reads the file's tables anew: for whoever asks, not for a load.
pub(crate) fn rows(bytes: &[u8], bias: usize) -> Vec<SymbolRow> {
    // It was read before it was loaded.
    let Ok(facts) = Facts::read(bytes) else {
        return Vec::new();
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let symbols = facts.symbols(bytes);
    let letters = letter::letters(&facts, &symbols);
    let mut rows: Vec<SymbolRow> = symbols
        .iter()
        .zip(letters)
        .filter(|(symbol, _)| symbol.kind != SymbolKind::Other)
        .map(|(symbol, kind)| {
            let (version, is_default) = facts.symbol_version(bytes, symbol).unwrap_or_default();
            let is_address = !matches!(symbol.kind, SymbolKind::Tls | SymbolKind::Abs);
            let bias = u64::try_from(bias).unwrap_or(0);
            SymbolRow {
                name: text(facts.symbol_name(bytes, symbol)),
                version: text(version),
                is_default,
                address: if is_address {
                    symbol.value.wrapping_add(bias)
                } else {
                    symbol.value
                },
                size: symbol.size,
                kind,
            }
        })
        .collect();
    rows.sort_by_key(|row| row.address);
    rows
}

/// The exported symbols of an index without its file, loaded at `bias`, by address.
pub(crate) fn rows_of_index(index: IndexView<'_>, bias: usize) -> Vec<SymbolRow> {
    let mut rows: Vec<SymbolRow> = index
        .symbols()
        .map(|symbol| SymbolRow {
            name: String::from_utf8_lossy(symbol.name).into_owned(),
            version: String::new(),
            is_default: false,
            address: symbol.svma.wrapping_add(u64::try_from(bias).unwrap_or(0)),
            size: symbol.size,
            kind: match symbol.kind {
                Kind::Func | Kind::Notype => 'T',
                Kind::Object => 'D',
                Kind::Ifunc => 'i',
            },
        })
        .collect();
    rows.sort_by_key(|row| row.address);
    rows
}
