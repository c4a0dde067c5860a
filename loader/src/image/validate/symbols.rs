//! The dynamic symbols: known kinds, functions in code, one import a name.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::elf::{self, SYM_SIZE};
use crate::image::segment::{Segment, slice, u16_at};
use crate::image::tag;

const NOTYPE: u8 = 0;
const FUNC: u8 = 2;
const TLS: u8 = 6;
const IFUNC: u8 = 10;
const LOCAL: u8 = 0;

pub(super) fn check(view: &View<'_>) -> Result<(), Damage> {
    const WHERE: &str = "DT_SYMTAB";
    let start = view.facts.symbols_at;
    let damage = |index: u64, expected: &'static str, found: String| {
        let at = start.saturating_add(index.saturating_mul(SYM_SIZE));
        Err(Damage::new(WHERE, at, expected, found))
    };
    if slice(view.symbols, 0, SYM_SIZE).is_some_and(|null| null.iter().any(|byte| *byte != 0)) {
        return damage(0, "a zeroed symbol first", "another".into());
    }
    let versions = versions(view);
    let mut imports = Vec::new();
    for index in 1..view.facts.n_symbols {
        let Some(symbol) = elf::symbol(view.symbols, index) else {
            break;
        };
        if !matches!(symbol.kind, 0..=6 | IFUNC) {
            return damage(index, "a known type", symbol.kind.to_string());
        }
        if !matches!(symbol.binding, 0..=2 | 10) {
            return damage(index, "a known binding", symbol.binding.to_string());
        }
        if !symbol.is_defined() {
            if symbol.binding != LOCAL {
                let version = versions.and_then(|table| u16_at(table, index.saturating_mul(2)));
                imports.push((symbol.name, version.unwrap_or(0), index));
            }
            continue;
        }
        if matches!(symbol.kind, FUNC | IFUNC)
            && !symbol.is_absolute()
            && view.facts.is_hashed
            && !view
                .elf
                .segment_of(symbol.value, 1)
                .is_some_and(Segment::is_executable)
        {
            return damage(index, "a function in code", format!("{:#x}", symbol.value));
        }
    }
    // A linker asks for a name once; a second one is a name that became another's.
    imports.sort_unstable();
    for pair in imports.windows(2) {
        if let [(name, version, _), (other, others, index)] = pair
            && (name, version) == (other, others)
        {
            let found = format!("{:?} again", String::from_utf8_lossy(view.string(*other)));
            return damage(*index, "each import once", found);
        }
    }
    Ok(())
}

/// `DT_VERSYM`, an entry for each symbol.
pub(super) fn versions<'a>(view: &View<'a>) -> Option<&'a [u8]> {
    let at = view.dynamic.get(tag::VERSYM)?.value;
    let size = view.facts.n_symbols.saturating_mul(2);
    view.elf.bytes_at(at, size)
}

/// Whether a relocation may ask for the place of this symbol in the thread's block.
pub(super) fn can_be_thread_local(symbol: &elf::RawSymbol) -> bool {
    symbol.kind == TLS || symbol.kind == NOTYPE && !symbol.is_defined()
}
