//! A profiler thread: walks the whole snapshot a hundred times a second and checks all of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::SymbolReader;

use crate::ledger::{Ledger, Print};

const PERIOD: Duration = Duration::from_millis(10);

/// Plugins looked at in one walk; more are reported as not checked.
const ROOM: usize = 256;

/// What was seen.
#[derive(Debug, Default)]
pub struct Profile {
    pub walks: u64,
    pub plugins: u64,
    pub symbols: u64,
    pub mismatches: u64,
    /// Generations seen before their load returned, checked when it had.
    pub early: u64,
    /// Generations seen whose load never returned; each is a mismatch.
    pub unknown: u64,
    /// Sightings of generations whose print was not known yet.
    pending: HashMap<u64, Print>,
}

impl Profile {
    /// Walks until `stop` says so; call [`Profile::settle`] when all loads have returned.
    pub fn record(&mut self, ledger: &Ledger, stop: &AtomicBool) {
        let mut next = Instant::now();
        let mut seen = Vec::with_capacity(ROOM);
        // Relaxed: nothing is read because of it but the flag.
        while !stop.load(Ordering::Relaxed) {
            self.walk(&mut seen);
            for (generation, print) in seen.drain(..) {
                self.check(ledger, generation, print);
            }
            next = (next + PERIOD).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn walk(&mut self, seen: &mut Vec<(u64, Print)>) {
        self.walks += 1;
        let _sequence = SymbolReader::new().walk(|view| {
            let (print, symbols) = Print::of(&view);
            self.plugins += 1;
            self.symbols += symbols;
            // The section must stay free of malloc, so there is no growing here.
            match seen.len() < ROOM {
                true => seen.push((view.generation(), print)),
                false => self.mismatches += 1,
            }
            true
        });
    }

    fn check(&mut self, ledger: &Ledger, generation: u64, print: Print) {
        match ledger.print(generation) {
            Some(expected) => self.mismatches += u64::from(print != expected),
            // A plugin is visible before its load returns: kept until the print is there.
            None => match self.pending.insert(generation, print) {
                None => self.early += 1,
                Some(before) => self.mismatches += u64::from(print != before),
            },
        }
    }

    /// Checks what was seen early, given that no load is in progress.
    pub fn settle(&mut self, ledger: &Ledger) {
        for (generation, print) in self.pending.drain() {
            match ledger.print(generation) {
                Some(expected) => self.mismatches += u64::from(print != expected),
                None => {
                    self.unknown += 1;
                    self.mismatches += 1;
                }
            }
        }
    }
}
