//! What a file exports, read by a reader of its own, through the section headers; the loader
//! never looks at those, so that a fault in one does not hide in the other.

use std::fs;
use std::path::Path;

/// One exported symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Link-time address.
    pub svma: u64,
    /// Size in bytes.
    pub size: u64,
    /// Name as in the file.
    pub name: Vec<u8>,
}

/// The exports of one file.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// By address.
    pub symbols: Vec<Exported>,
    /// What an address may be named after: the exports, and all of `.symtab` where there is one.
    named: Vec<Exported>,
    /// Sum of [`hash`] over the names.
    names: u64,
    /// Sum of [`hash`] times address over the symbols.
    addresses: u64,
}

/// A name in a number: FNV-1a.
#[must_use]
pub fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One symbol's share of a checksum over names and run-time addresses; shares are added up.
///
/// Async-signal-safe.
#[must_use]
pub fn share(name: &[u8], address: u64) -> u64 {
    let hash = hash(name);
    hash.wrapping_mul(address).wrapping_add(hash)
}

impl Oracle {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("a plugin's file is readable");
        let by_address = |a: &Exported, b: &Exported| (a.svma, &a.name).cmp(&(b.svma, &b.name));
        let mut symbols = table(&bytes, SHT_DYNSYM);
        symbols.sort_by(by_address);
        let mut named = table(&bytes, SHT_SYMTAB);
        named.extend(symbols.iter().cloned());
        named.sort_by(by_address);
        assert!(!symbols.is_empty(), "{path:?} exports something");
        let sum = |term: &dyn Fn(&Exported) -> u64| {
            symbols
                .iter()
                .fold(0_u64, |sum, s| sum.wrapping_add(term(s)))
        };
        Self {
            names: sum(&|s| hash(&s.name)),
            addresses: sum(&|s| hash(&s.name).wrapping_mul(s.svma)),
            symbols,
            named,
        }
    }

    /// The checksum over all names and addresses when the file is loaded at `bias`.
    ///
    /// Async-signal-safe.
    #[must_use]
    pub fn checksum(&self, bias: u64) -> u64 {
        self.addresses
            .wrapping_add(self.names.wrapping_mul(bias))
            .wrapping_add(self.names)
    }

    /// Whether a symbol `name` starts at the link-time address `svma`; one of which `name` is the
    /// beginning, where the answer says that it was cut.
    ///
    /// Async-signal-safe.
    #[must_use]
    pub fn has(&self, svma: u64, name: &[u8], is_cut: bool) -> bool {
        let first = self.named.partition_point(|s| s.svma < svma);
        self.named
            .iter()
            .skip(first)
            .take_while(|s| s.svma == svma)
            .any(|s| s.name == name || (is_cut && s.name.starts_with(name)))
    }
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len]
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn index(bytes: &[u8], at: usize, len: usize) -> usize {
    usize::try_from(number(bytes, at, len)).expect("64 bits")
}

/// Section types.
const SHT_SYMTAB: u64 = 2;
const SHT_DYNSYM: u64 = 11;

/// The named, defined symbols that have an address: of `.symtab` all, of `.dynsym` the visible.
fn table(bytes: &[u8], wanted: u64) -> Vec<Exported> {
    assert_eq!(&bytes[..5], b"\x7fELF\x02", "a 64-bit file");
    let (table, size, count) = (
        index(bytes, 0x28, 8),
        index(bytes, 0x3a, 2),
        index(bytes, 0x3c, 2),
    );
    let header = |n: usize| table + n * size;
    let span = |at: usize| (index(bytes, at + 0x18, 8), index(bytes, at + 0x20, 8));
    let section = (0..count)
        .map(header)
        .find(|at| number(bytes, at + 4, 4) == wanted);
    let Some(section) = section else {
        return Vec::new();
    };
    let strings = span(header(index(bytes, section + 0x28, 4))).0;
    let (start, len) = span(section);
    (start..start + len)
        .step_by(24)
        .filter_map(|at| {
            let (info, other) = (bytes[at + 4], bytes[at + 5]);
            let section = number(bytes, at + 6, 2);
            // Not local; no type, data, code or IFUNC; default or protected; defined somewhere.
            let visible = info >> 4 != 0 && matches!(other & 3, 0 | 3);
            let seen = (visible || wanted == SHT_SYMTAB)
                && matches!(info & 15, 0 | 1 | 2 | 10)
                && section != 0
                && section < 0xff00;
            let name = strings + index(bytes, at, 4);
            let end = name + bytes[name..].iter().position(|byte| *byte == 0)?;
            (seen && end > name).then(|| Exported {
                svma: number(bytes, at + 8, 8),
                size: number(bytes, at + 16, 8),
                name: bytes[name..end].to_vec(),
            })
        })
        .collect()
}
