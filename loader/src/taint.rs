//! Sticky facts about a loaded plugin that whoever looks at a fault should know first.

#![forbid(unsafe_code)]

use std::fmt;

/// One sticky fact. Letters are those of the kernel's modules where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Taint {
    /// `E`: signatures are asked for, and it has none by a trusted key.
    Unsigned,
    /// `F`: it does not fit the host, and was forced in.
    Forced,
}

impl Taint {
    const ALL: [Self; 2] = [Self::Unsigned, Self::Forced];

    /// Its letter.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Unsigned => 'E',
            Self::Forced => 'F',
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// All sticky facts about one plugin. Written as their letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Taints(u16);

impl Taints {
    /// Adds one.
    pub(crate) fn add(&mut self, taint: Taint) {
        self.0 |= taint.bit();
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, taint: Taint) -> bool {
        self.0 & taint.bit() != 0
    }
}

impl fmt::Display for Taints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Taint::ALL.into_iter().filter(|taint| self.has(*taint));
        all.try_for_each(|taint| write!(f, "{}", taint.letter()))
    }
}
