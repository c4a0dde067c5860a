//! Plugin states and the word that carries one together with its generation.

use crate::sync::AtomicU64;
#[cfg(not(plug_loom))]
use crate::sync::Ordering;

/// How many plugins can be in the process at a time, zombies and pinned ones included.
///
/// Twice as many cost 64 KiB more of untouched zero pages; half as many would forbid what a
/// process can map (about five mappings a plugin, 65,530 by default).
pub const MAX_PLUGINS: usize = 8192;

/// Where a plugin is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Nobody: the slot is free.
    Empty = 0,
    /// The name is reserved; no reader sees the plugin.
    Unformed = 1,
    /// Mapped and visible to readers; its constructors or `init` run; nobody may call it.
    Coming = 2,
    /// Usable.
    Live = 3,
    /// Being unloaded: visible to readers, calls and pins refuse.
    Going = 4,
    /// Closed, but still mapped.
    Zombie = 5,
}

impl State {
    /// The state that `byte` stands for; unknown values are [`State::Empty`].
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Unformed,
            2 => Self::Coming,
            3 => Self::Live,
            4 => Self::Going,
            5 => Self::Zombie,
            _ => Self::Empty,
        }
    }

    /// The state's name as users see it. Async-signal-safe.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Unformed => "Unformed",
            Self::Coming => "Coming",
            Self::Live => "Live",
            Self::Going => "Going",
            Self::Zombie => "Zombie",
        }
    }
}

/// `generation << 8 | state` in one word, so that a gate compares both at once.
///
/// A handle of an earlier generation therefore never enters a successor in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateWord(pub u64);

impl StateWord {
    /// The word of `generation` in `state`.
    #[must_use]
    pub const fn new(generation: u64, state: State) -> Self {
        Self(generation << 8 | state as u64)
    }

    /// The process-wide number of the load, never reused.
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> 8
    }

    /// The state.
    #[must_use]
    pub const fn state(self) -> State {
        State::from_byte((self.0 & 0xff) as u8)
    }
}

/// One state word.
///
/// Written by the loader only (SeqCst). Read by gates (Relaxed to refuse; then Acquire, which pairs with
/// the membarrier or fence between the loader's store and its scan of the counters, or SeqCst where
/// counters are shared, see `gate`) and by readers
/// (Relaxed: a state is a fact of one moment and guards no memory).
pub type StateCell = AtomicU64;

/// The state words of all slots; memory that never goes away, so that a stale handle reads a
/// wrong word at worst and never an unmapped one.
#[cfg(not(plug_loom))]
static STATES: [StateCell; MAX_PLUGINS] = [const { AtomicU64::new(0) }; MAX_PLUGINS];

/// The state word of slot `id`; an id past the end answers with a word nobody ever sets.
///
/// Async-signal-safe.
#[cfg(not(plug_loom))]
#[inline]
#[must_use]
pub fn cell(id: u32) -> &'static StateCell {
    static NOBODY: StateCell = AtomicU64::new(0);
    STATES.get(id as usize).unwrap_or(&NOBODY)
}

/// The present word of slot `id`. Async-signal-safe.
#[cfg(not(plug_loom))]
#[inline]
#[must_use]
pub fn word(id: u32) -> StateWord {
    // Relaxed: the word is reported, nothing is reached through it.
    StateWord(cell(id).load(Ordering::Relaxed))
}
