//! What the loader would make of a file, without loading it.
//!
//! Thread context; no code of the file runs and nothing is left behind.

#![forbid(unsafe_code)]

use std::path::Path;

use super::bundle::{Bundle, Dependency};
use super::dynsym::{Binding, SymbolKind};
use super::error::ImageError;
use super::facts::Facts;
use super::folder::next_nonce;
use super::info::{Info, foreign_name};
use super::letter;
use super::rewrite::{Edit, RewritePolicy, plan};
use super::stage::Opened;
use super::validate::validate;
use crate::digest::Digest;

/// Facts, metadata, exported symbols and planned edits of one file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The author's name for it, else one made of the file's.
    pub name: String,
    /// What the file says about itself.
    pub facts: Facts,
    /// What the author says about it.
    pub info: Info,
    /// The defined symbols, in the file's order.
    pub symbols: Vec<InspectedSymbol>,
    /// What would be changed in the copy under the default policy.
    pub edits: Vec<Edit>,
    /// The SHA-256 of the file.
    pub digest: Digest,
    /// What it needs, by itself or through what it brings.
    pub dependencies: Vec<Dependency>,
    /// Why that cannot be told in full, if it cannot: a library that it brings is damaged.
    pub incomplete: Option<String>,
}

/// One defined symbol, with its name as text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedSymbol {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Its version; empty where it has none.
    pub version: String,
    /// Whether its version is the one that its name alone means.
    pub is_default: bool,
    /// Link-time address.
    pub value: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it names.
    pub kind: SymbolKind,
    /// How it binds.
    pub binding: Binding,
    /// The letter that nm prints for it.
    pub letter: char,
}

impl Inspection {
    /// Inspects the file at `path`, through a private copy like a load.
    ///
    /// # Errors
    /// What a load would say of the file.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let opened = Opened::open(path)?;
        let staged = opened.stage(&foreign_name(path))?;
        let bytes = staged.bytes();
        let facts = Facts::read(bytes)?;
        validate(&facts, bytes)?;
        let info = Info::read(&facts, bytes)?;
        let symbols = facts.symbols(bytes);
        let letters = letter::letters(&facts, &symbols);
        let symbols = symbols
            .iter()
            .zip(letters)
            .map(|(symbol, letter)| {
                let (version, is_default) = facts.symbol_version(bytes, symbol).unwrap_or_default();
                InspectedSymbol {
                    name: text(facts.symbol_name(bytes, symbol)),
                    version: text(version),
                    is_default,
                    value: symbol.value,
                    size: symbol.size,
                    kind: symbol.kind,
                    binding: symbol.binding,
                    letter,
                }
            })
            .collect();
        let (dependencies, aliases, incomplete) = match Bundle::find(&opened, &facts, bytes) {
            Ok(bundle) => {
                let needs = bundle.objects.first().map_or(&[][..], |own| &own.needs);
                let aliases = needs.iter().map(|n| (n.name.clone(), n.alias.clone()));
                (bundle.dependencies, aliases.collect(), None)
            }
            Err(error) => (Vec::new(), Vec::new(), Some(error.to_string())),
        };
        let mut policy = RewritePolicy::new(next_nonce());
        policy.aliases = aliases;
        let edits = plan(&facts, bytes, &policy);
        let name = info
            .name()
            .map_or_else(|| foreign_name(path), str::to_owned);
        Ok(Self {
            name,
            facts,
            info,
            symbols,
            edits,
            digest: Digest::of(bytes),
            dependencies,
            incomplete,
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
