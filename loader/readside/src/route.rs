//! Routes: where a call goes whose handle belongs to a version that was replaced.
//!
//! A handle is a triple of slot, state word and address, and its call looks at nothing else while
//! the version is Live. Only a call that the gate refused asks the handle's route, which tells the
//! version in force and, while one replaces it, the version that comes after it. The one moment of
//! a switch is the closing of the old gate: a route tells the successor before that, and nobody
//! enters a successor before the gate of its predecessor has refused. See `docs/ORDERING.md`,
//! section "Routes".

use crate::sync::{AtomicU64, Ordering, fence};

/// Two copies of some words, of which readers see one that is whole.
///
/// A reader never waits for the writer, wherever that was stopped: the copy in force is left alone
/// until the other one is in force, so that a handler may interrupt the writer and read.
#[derive(Debug)]
pub struct Route<const WORDS: usize> {
    /// Counts changes; the lowest bit says which copy is in force. Stored by the one writer
    /// (Release), loaded by readers before a copy (Acquire) and after it (Relaxed, after a fence).
    sequence: AtomicU64,
    /// Stored by the writer where they are not in force (Relaxed, after a Release fence), loaded by
    /// readers (Relaxed, before an Acquire fence).
    copies: [[AtomicU64; WORDS]; 2],
}

impl<const WORDS: usize> Route<WORDS> {
    /// A route that tells `words`.
    #[must_use]
    pub fn new(words: [u64; WORDS]) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            copies: [words, words].map(|copy| copy.map(AtomicU64::new)),
        }
    }

    /// Tells `words` from here on. One writer at a time: the loader's lock.
    pub fn set(&self, words: [u64; WORDS]) {
        // Relaxed: single writer, reads back its own stores.
        let next = self.sequence.load(Ordering::Relaxed).wrapping_add(1);
        // Release: whoever sees a store below sees also that the copy went out of force before.
        fence(Ordering::Release);
        for (cell, word) in self.copy(next).iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        // Release: publishes the copy; pairs with the Acquire load in read().
        self.sequence.store(next, Ordering::Release);
    }

    /// Calls `enter` with what the route tells, and again for as long as it tells something else
    /// afterwards. None once `enter` has refused all that it told.
    ///
    /// To be asked after a gate has refused, and not before: what is told then is at least what was
    /// told when that gate was closed.
    pub fn follow<R>(&self, mut enter: impl FnMut([u64; WORDS]) -> Option<R>) -> Option<R> {
        // Acquire: the gate that refused was looked at with a Relaxed load; whoever closed it had
        // told the successor before.
        fence(Ordering::Acquire);
        let (mut at, mut words) = self.read();
        loop {
            if let Some(entered) = enter(words) {
                return Some(entered);
            }
            fence(Ordering::Acquire);
            let (now, told) = self.read();
            if now == at {
                return None;
            }
            (at, words) = (now, told);
        }
    }

    /// A whole copy, and the number of the change that put it in force.
    fn read(&self) -> (u64, [u64; WORDS]) {
        loop {
            // Acquire: the copy is seen as it was put in force; pairs with the Release in set().
            let at = self.sequence.load(Ordering::Acquire);
            // Relaxed: proved whole below.
            let words = core::array::from_fn(|n| {
                let cell = self.copy(at).get(n);
                cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
            });
            // Acquire: had a word been of a later change, its number would be seen below.
            fence(Ordering::Acquire);
            // Relaxed: after the fence.
            if self.sequence.load(Ordering::Relaxed) == at {
                return (at, words);
            }
        }
    }

    fn copy(&self, at: u64) -> &[AtomicU64; WORDS] {
        let [even, odd] = &self.copies;
        if at.is_multiple_of(2) { even } else { odd }
    }
}
