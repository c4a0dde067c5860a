//! File bytes become facts: a sealed private copy, what it says, and the edits of the copy.
//!
//! Thread context, and no code of a plugin runs. The steps are separate so that the loader can
//! time each and undo any: [`Opened`] → [`Staged`] → [`Facts`] → [`Info`] → [`plan`] → edits →
//! seal → [`StageLink`]. [`Image::prepare`] walks them up to the seal.

#![forbid(unsafe_code)]

pub(crate) mod admission;
mod bundle;
mod bytes;
mod check;
mod claims;
pub(crate) mod contract;
pub(crate) mod counted;
mod damage;
mod dynamic;
mod dynsym;
mod elf;
mod error;
mod facts;
mod folder;
mod hash;
mod imports;
mod info;
mod inspection;
mod letter;
pub(crate) mod libraries;
pub(crate) mod needed;
pub(crate) mod origin;
mod param;
pub(crate) mod plugin_import;
pub(crate) mod prototype;
mod relocations;
mod rewrite;
mod root;
mod sealed;
pub(crate) mod search;
mod segment;
mod stage;
pub(crate) mod symbols;
pub(crate) mod tables;
mod tag;
pub(crate) mod validate;
mod versions;

pub use bundle::Dependency;
pub(crate) use bundle::{Bundle, InScope, Member, PLUGIN};
pub(crate) use bytes::Bytes;
pub use check::{Check, Verdict};
pub use claims::claims;
pub use damage::Damage;
pub use dynsym::{Binding, ElfSymbol, SymbolKind, Visibility};
pub use error::ImageError;
pub use facts::Facts;
pub(crate) use folder::hold_stage_folders;
pub use folder::{next_nonce, remove_stage_folder};
pub use imports::{Import, ImportSlot};
pub use info::{Export, Info, Malformed, Offer, canonical_name, foreign_name, is_name};
pub use inspection::{InspectedSymbol, Inspection};
pub use needed::FoundBy;
pub use param::{Param, ParamKind, Range};
pub use plugin_import::PluginImport;
pub use rewrite::{Edit, Owner, REMOVED_TAG, RewritePolicy, Rule, plan};
pub(crate) use rewrite::{undo, unique_names};
pub(crate) use root::root;
pub(crate) use sealed::sealed;
pub use segment::{Extent, Segment};
pub use stage::{Backing, DEFAULT_MAX_SIZE, FileKey, Opened, StageLink, Staged};
pub(crate) use stage::{Original, stage_made};
pub use symbols::SymbolRow;
pub use validate::{Code, Finding, Severity, damages, validate};

/// A file that is ready for ld.so: copied, understood, edited and sealed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Image {
    /// The sealed copy; [`Staged::link`] gives it the path to load it by.
    pub staged: Staged,
    /// The facts of the original; addresses hold for the copy as well.
    pub facts: Facts,
    /// The author's metadata.
    pub info: Info,
    /// The edits that the copy got.
    pub edits: Vec<Edit>,
    /// The plugin's name: the requested one, else the author's, else one made of the file's.
    pub name: String,
}

impl Image {
    /// Takes a file through all steps up to the seal.
    ///
    /// # Errors
    /// The first step's that fails; nothing is left behind then.
    pub fn prepare(
        opened: &Opened,
        policy: &RewritePolicy,
        requested_name: Option<&str>,
    ) -> Result<Self, ImageError> {
        if let Some(name) = requested_name
            && !is_name(name)
        {
            return Err(ImageError::Name {
                name: name.to_owned(),
            });
        }
        let file_name = foreign_name(opened.path());
        let mut staged = opened.stage(requested_name.unwrap_or(&file_name))?;
        let facts = Facts::read(staged.bytes())?;
        validate(&facts, staged.bytes())?;
        let info = Info::read(&facts, staged.bytes())?;
        let edits = plan(&facts, staged.bytes(), policy);
        staged.edit(&edits)?;
        staged.seal()?;
        let name = requested_name
            .or(info.name())
            .unwrap_or(&file_name)
            .to_owned();
        Ok(Self {
            staged,
            facts,
            info,
            edits,
            name,
        })
    }
}
