//! The elements that readers look at: whole views of the product's own kind, checked byte by byte,
//! overwritten when they are freed, and followed by their age.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use plug_readside::elf::RawSymbol;
use plug_readside::index::{Bytes, Index, SearchCell, Table};
use plug_readside::snapshot::{Finder, Row, View};
use plug_readside::{PluginView, SymbolReader};

use crate::tally::{self, Fault};

/// Plugins in a view, symbols in a plugin, bytes in a name.
pub const ROWS: usize = 6;
pub const SYMBOLS: usize = 8;
const NAME: usize = 8;
/// Elements that take turns: more than are published until the oldest has its full age.
pub const ELEMENTS: usize = 64;
/// First address of the first row; nothing is mapped there, since nothing is called.
const BASE: usize = 0x10_0000_0000;
const STEP: usize = 0x1_0000;

const READER: SymbolReader = SymbolReader::new();

/// `sequence << 8 | age` of the elements by place; the age counts grace periods, with one more for
/// the replacement. Written by the writer, read inside sections.
static AGES: [AtomicU64; ELEMENTS] = [const { AtomicU64::new(0) }; ELEMENTS];

/// The place of the element number `sequence`.
pub fn place(sequence: u64) -> usize {
    usize::try_from(sequence).unwrap_or(0) % ELEMENTS
}

/// Notes that the element number `sequence` has this age.
pub fn set_age(sequence: u64, age: u64) {
    AGES[place(sequence)].store(sequence << 8 | age, Ordering::SeqCst);
}

/// The age of an element that a reader sees; one whose place was taken since is as old as can be.
///
/// Async-signal-safe.
pub fn age_of(sequence: u64) -> u64 {
    let word = AGES[place(sequence)].load(Ordering::SeqCst);
    if word >> 8 == sequence {
        word & 0xff
    } else {
        u64::from(u8::MAX)
    }
}

/// A zero byte, then names with a zero byte each.
const STRINGS: usize = 1 + (NAME + 1) * (SYMBOLS + 1);

/// Where name `n` starts.
fn place_of(n: usize) -> usize {
    1 + n * (NAME + 1)
}

/// One view with all that it points at.
#[repr(C)]
#[derive(Debug)]
pub struct Package {
    pub view: View,
    rows: [Row; ROWS],
    indexes: [Index; ROWS],
    symbols: [[RawSymbol; SYMBOLS]; ROWS],
    strings: [[u8; STRINGS]; ROWS],
}

/// The name of symbol `n` of a load; of the load itself for `SYMBOLS`.
fn name_of(generation: u64, n: usize) -> [u8; NAME] {
    let mixed = (generation + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n as u64) << 32;
    // No zero bytes: they end names.
    (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) | 0x0101_0101_0101_0101).to_ne_bytes()
}

fn start_of(row: usize) -> usize {
    BASE + row * STEP
}

fn size_of_symbol(generation: u64) -> u64 {
    0x80 + generation % 0x40
}

/// Writes the view number `sequence` into `package`.
///
/// # Safety
/// - Nobody reads the package.
pub unsafe fn build(package: *mut Package, sequence: u64) {
    let small = |n: usize| u32::try_from(n).expect("a few bytes");
    for row in 0..ROWS {
        let generation = sequence * ROWS as u64 + row as u64;
        let symbols = std::array::from_fn(|n| RawSymbol {
            name: small(place_of(n)),
            info: 0x12,
            other: 0,
            section: 1,
            svma: n as u64 * 0x100,
            size: size_of_symbol(generation),
        });
        let mut strings = [0; STRINGS];
        for n in 0..=SYMBOLS {
            strings[place_of(n)..][..NAME].copy_from_slice(&name_of(generation, n));
        }
        // SAFETY: by the contract, nobody else has the package; all indices are in range.
        let package = unsafe { &mut *package };
        package.symbols[row] = symbols;
        package.strings[row] = strings;
        package.indexes[row] = Index {
            name: Bytes {
                start: package.strings[row][place_of(SYMBOLS)..].as_ptr(),
                len: NAME,
            },
            version: Bytes::EMPTY,
            build_id: [0; 32],
            build_id_len: 0,
            dynamic: Table {
                symbols: Bytes {
                    start: package.symbols[row].as_ptr().cast(),
                    len: size_of_val(&package.symbols[row]),
                },
                strings: Bytes {
                    start: package.strings[row].as_ptr(),
                    len: STRINGS,
                },
            },
            all: Table::EMPTY,
            gnu_hash: Bytes::EMPTY,
            sysv_hash: Bytes::EMPTY,
            versions: Bytes::EMPTY,
            frames: Bytes::EMPTY,
            frames_svma: 0,
            text: (0, 0),
            search: SearchCell::new(),
        };
        package.rows[row] = Row {
            start: start_of(row),
            end: start_of(row) + STEP / 2,
            bias: start_of(row),
            id: 0,
            generation,
            index: &raw const package.indexes[row],
        };
    }
    // SAFETY: as above.
    let package = unsafe { &mut *package };
    package.view = View {
        rows: package.rows.as_ptr(),
        n_rows: ROWS,
        finder: Finder::NONE,
        sequence,
    };
}

/// Overwrites what a reader would notice, and no pointer, so that a broken writer is found by
/// the check and not by a crash.
///
/// # Safety
/// - The package is allocated; in a broken mode readers may be looking at it, which is the point.
pub unsafe fn poison(package: *mut Package) {
    for row in 0..ROWS {
        // SAFETY: a place inside the package.
        let generation = unsafe { &raw mut (*package).rows[row].generation };
        // SAFETY: as above.
        unsafe { generation.write_volatile(u64::MAX - 1) };
        // SAFETY: a place inside the package.
        let strings = unsafe { &raw mut (*package).strings[row] };
        // SAFETY: as above.
        unsafe { strings.write_volatile([0xde; STRINGS]) };
    }
}

/// Memory for all elements, which lives as long as the process.
pub fn allocate() -> Vec<*mut Package> {
    (0..ELEMENTS)
        .map(|_| Box::into_raw(Box::new(mem::MaybeUninit::<Package>::zeroed())).cast())
        .collect()
}

fn mismatch(evidence: u64) {
    tally::fault(Fault::Freed, evidence);
}

/// Whether what a walk shows of a plugin is one generation and nothing else.
fn is_whole(plugin: &PluginView<'_>, row: usize) -> bool {
    let generation = plugin.generation();
    let named = plugin.name() == name_of(generation, SYMBOLS);
    let mut seen = 0;
    let mut fits = true;
    for (n, symbol) in plugin.symbols().enumerate() {
        fits &= symbol.name == name_of(generation, n)
            && symbol.address == start_of(row) + n * 0x100
            && symbol.size == size_of_symbol(generation);
        seen += 1;
    }
    compiler_fence(Ordering::SeqCst);
    // Once more at the end, so that a poisoning in between does not go unseen.
    named && fits && seen == SYMBOLS && plugin.name() == name_of(plugin.generation(), SYMBOLS)
}

/// Walks the view, with a lookup inside the walk, and checks all of it; returns its number.
///
/// Async-signal-safe.
pub fn check_walk() -> u64 {
    let mut row = 0;
    let mut first = None;
    let sequence = READER.walk(|plugin| {
        if !is_whole(&plugin, row) {
            mismatch(plugin.generation());
            return false;
        }
        let number = plugin.generation() / ROWS as u64;
        if *first.get_or_insert(number) != number {
            mismatch(number);
        }
        if row == 2 {
            check_lookup(3, 5);
        }
        row += 1;
        true
    });
    if first.is_some_and(|first| first != sequence) {
        mismatch(sequence);
    }
    sequence
}

/// A walk that stays in its section for microseconds.
pub fn check_walk_slowly() {
    let mut row = 0;
    READER.walk(|plugin| {
        for _ in 0..8 {
            // Or the compiler reads once and compares again and again.
            compiler_fence(Ordering::SeqCst);
            if !is_whole(&plugin, row) {
                mismatch(plugin.generation());
                return false;
            }
        }
        row += 1;
        row < 2
    });
}

/// Looks one address up and checks the answer. Async-signal-safe.
pub fn check_lookup(row: usize, symbol: usize) {
    let address = start_of(row) + symbol * 0x100 + 0x10;
    let Some(found) = READER.resolve(address) else {
        mismatch(address as u64);
        return;
    };
    let generation = found.generation;
    let fits = generation % ROWS as u64 == row as u64
        && found.plugin.as_bytes() == name_of(generation, SYMBOLS)
        && found.symbol.as_bytes() == name_of(generation, symbol)
        && found.symbol_start == start_of(row) + symbol * 0x100
        && found.offset == 0x10;
    if !fits {
        mismatch(generation);
    }
}
