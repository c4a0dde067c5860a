//! What readers must see, by generation: written down at load, compared by the profiler.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use plug_loader::PluginView;

/// A checksum of a plugin's name, range, and the names and addresses of its symbols, in which
/// the order of the symbols does not matter. Making one neither allocates nor locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print(u64);

impl Print {
    pub fn new(name: &[u8], start: usize, end: usize) -> Self {
        Self(hash(name, start).wrapping_mul(3) ^ hash(b"end", end))
    }

    pub fn symbol(&mut self, name: &[u8], address: usize) {
        self.0 = self.0.wrapping_add(hash(name, address));
    }

    /// What a reader sees, and how many symbols that are.
    pub fn of(view: &PluginView<'_>) -> (Self, u64) {
        let (start, end) = view.range();
        let mut print = Self::new(view.name(), start, end);
        let mut symbols = 0;
        for symbol in view.symbols() {
            print.symbol(symbol.name, symbol.address);
            symbols += 1;
        }
        (print, symbols)
    }
}

fn hash(name: &[u8], address: usize) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let basis = 0xcbf2_9ce4_8422_2325 ^ (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = name.iter().fold(basis, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    });
    (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The prints of all generations loaded so far.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<HashMap<u64, Print>>);

impl Ledger {
    pub fn expect(&self, generation: u64, print: Print) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(generation, print);
    }

    /// The print of `generation`; none while its load has not returned.
    pub fn print(&self, generation: u64) -> Option<Print> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&generation)
            .copied()
    }
}
