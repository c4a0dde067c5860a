//! File bytes become facts: a sealed private copy, what it says, and the edits of the copy.
//!
//! Thread context, and no code of a plugin runs. The steps are separate so that the loader can
//! time each and undo any: [`Opened`] → [`Staged`] → [`Facts`] → [`Info`] → [`plan`] → edits →
//! seal → [`StageLink`]. [`Image::prepare`] walks them up to the seal.

#![forbid(unsafe_code)]

mod damage;
mod elf;
mod dynamic;
mod hash;
mod versions;
mod relocations;
mod facts;

pub use damage::Damage;
pub use elf::{Extent, Segment};
pub use facts::{Binding, ElfSymbol, Facts, SymbolKind, Visibility};
