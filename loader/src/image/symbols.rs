//! The symbols of a file, copied and sorted for readers.

#![forbid(unsafe_code)]

use plug_readside::snapshot::{Symbol, SymbolKind as Kind};

use super::dynsym::{Binding, ElfSymbol, SymbolKind, Visibility};
use super::facts::Facts;
use crate::snapshot::OwnedIndex;

/// The index of what other files may use: functions and data, under `name` and `version`.
///
/// Costs a sort; copies each name once.
pub(crate) fn index(facts: &Facts, bytes: &[u8], name: &str, version: &str) -> OwnedIndex {
    let mut chosen: Vec<(&ElfSymbol, Kind)> = facts
        .symbols
        .iter()
        .filter(|symbol| is_seen(symbol))
        .filter_map(|symbol| Some((symbol, kind(symbol.kind)?)))
        .collect();
    // Of several at one address the preferred one comes last, where the search looks first.
    chosen.sort_by_key(|(symbol, kind)| {
        (
            symbol.value,
            rank(*kind),
            symbol.binding != Binding::Weak,
            symbol.size,
        )
    });
    let mut strings = Vec::with_capacity(chosen.iter().map(|(s, _)| s.name_len as usize).sum());
    let symbols = chosen
        .into_iter()
        .map(|(symbol, kind)| {
            let start = u32::try_from(strings.len()).unwrap_or(u32::MAX);
            strings.extend_from_slice(facts.symbol_name(bytes, symbol));
            Symbol {
                svma: symbol.value,
                size: symbol.size,
                name: start,
                name_len: symbol.name_len,
                kind,
            }
        })
        .collect();
    let build_id = facts.build_id.as_deref().unwrap_or_default();
    OwnedIndex::new(symbols, strings, name, version, build_id)
}

fn is_seen(symbol: &ElfSymbol) -> bool {
    symbol.binding != Binding::Local
        && matches!(
            symbol.visibility,
            Visibility::Default | Visibility::Protected
        )
}

fn kind(kind: SymbolKind) -> Option<Kind> {
    match kind {
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
