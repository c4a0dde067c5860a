//! Sticky facts about plugins, each with a letter, as the kernel marks modules and itself.
//!
//! The marks of a plugin stay with its load; those of the process stay for good. Both may be read
//! in a signal handler.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use plug_readside::state::MAX_PLUGINS;

/// One sticky fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Taint {
    /// `E`: signatures are asked for, and it has none by a trusted key.
    Unsigned,
    /// `F`: it does not fit the host, and was forced in.
    Forced,
    /// `I`: ld.so is asked to treat it before others.
    LinkOrder,
    /// `L`: a library that it needs was not found before the load.
    MissingLibrary,
    /// `P`: the file is marked never to be unmapped.
    Pinned,
    /// `S`: a symbol that it needs was not found before the load.
    UndefinedSymbol,
    /// `T`: its thread-locals take room that every thread has from its start.
    StaticTls,
    /// `U`: it has symbols of which the process has one each.
    GnuUnique,
    /// `W`: somebody else could have replaced the file.
    Path,
    /// `X`: memory of it, or the stacks, are writable and executable.
    WritableCode,
}

impl Taint {
    /// All, by letter.
    pub const ALL: [Self; 10] = [
        Self::Unsigned,
        Self::Forced,
        Self::LinkOrder,
        Self::MissingLibrary,
        Self::Pinned,
        Self::UndefinedSymbol,
        Self::StaticTls,
        Self::GnuUnique,
        Self::Path,
        Self::WritableCode,
    ];

    /// Its letter. Async-signal-safe.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Unsigned => 'E',
            Self::Forced => 'F',
            Self::LinkOrder => 'I',
            Self::MissingLibrary => 'L',
            Self::Pinned => 'P',
            Self::UndefinedSymbol => 'S',
            Self::StaticTls => 'T',
            Self::GnuUnique => 'U',
            Self::Path => 'W',
            Self::WritableCode => 'X',
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of sticky facts. Shown as their letters, in the order of the alphabet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Taints(u32);

impl Taints {
    /// Adds one.
    pub fn add(&mut self, taint: Taint) {
        self.0 |= taint.bit();
    }

    /// Adds all of `others`.
    pub(crate) fn join(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, taint: Taint) -> bool {
        self.0 & taint.bit() != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their letters. Async-signal-safe.
    pub fn letters(self) -> impl Iterator<Item = char> {
        let marked = Taint::ALL.into_iter().filter(move |taint| self.has(*taint));
        marked.map(Taint::letter)
    }
}

impl fmt::Display for Taints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letters().try_for_each(|letter| write!(f, "{letter}"))
    }
}

/// What the process was marked with. Written by loads, read by anybody, handlers included; a word
/// of its own with which nothing is published, so relaxed.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The marks of the plugin in each slot, for handlers, which cannot reach records. Written by the
/// load that owns the slot before it publishes the plugin's row; read by who found the row, which
/// is what orders the two, so relaxed.
static SLOTS: [AtomicU32; MAX_PLUGINS] = [const { AtomicU32::new(0) }; MAX_PLUGINS];

/// Marks the plugin in `slot`, and the process for good.
pub(crate) fn mark(slot: u32, taints: Taints) {
    PROCESS.fetch_or(taints.0, Ordering::Relaxed);
    let slot = usize::try_from(slot).ok().and_then(|slot| SLOTS.get(slot));
    if let Some(slot) = slot {
        slot.store(taints.0, Ordering::Relaxed);
    }
}

/// The marks of the plugin in `slot`. Async-signal-safe.
pub(crate) fn of_slot(slot: u32) -> Taints {
    let slot = usize::try_from(slot).ok().and_then(|slot| SLOTS.get(slot));
    Taints(slot.map_or(0, |slot| slot.load(Ordering::Relaxed)))
}

/// All marks that any plugin brought, gone ones included. Async-signal-safe.
pub(crate) fn of_process() -> Taints {
    Taints(PROCESS.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_told_apart_and_come_in_the_order_of_the_alphabet() {
        let mut taints = Taints::default();
        assert!(taints.is_empty());
        for taint in Taint::ALL {
            taints.add(taint);
            assert!(taints.has(taint));
        }
        let letters: Vec<char> = taints.letters().collect();
        assert!(letters.is_sorted() && letters.len() == Taint::ALL.len());
        assert_eq!(taints.to_string(), "EFILPSTUWX");
    }
}
