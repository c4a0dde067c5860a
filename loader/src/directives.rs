//! What an operator says about plugins by their names: where they are looked for, what else they are
//! called, their parameters, which are refused, which are loaded at start, and by which policy.
//!
//! Read from folders of files by `directives/reader`; the loader only asks. Thread context. Nothing
//! here runs anything: there are no commands in it.

#![forbid(unsafe_code)]

#[cfg(feature = "directives")]
mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::image::{canonical_name, foreign_name, is_name};
use crate::params::Params;
use crate::policy::{Action, Matter, Policy};
use crate::settings::nearest;

/// The name by which a policy means every plugin.
const EVERY: &str = "*";

/// Where a value was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from one.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

#[derive(Clone, Debug)]
struct Placed<T> {
    value: T,
    place: Place,
}

/// A name as it was written, and what stands there.
#[derive(Clone, Debug)]
struct Named<T> {
    name: String,
    value: T,
}

/// By the form in which names are compared.
type ByName<T> = BTreeMap<String, Named<T>>;

/// What an operator says about plugins. The default says nothing.
///
/// Names are compared as plugins' are: `-` equals `_`. See `docs/configuration.md` for the files and
/// for what comes before what.
#[derive(Clone, Debug, Default)]
pub struct Directives {
    files: Vec<DirectiveFile>,
    search: Vec<Placed<PathBuf>>,
    aliases: ByName<Placed<String>>,
    denied_names: ByName<Place>,
    denied_digests: BTreeMap<Digest, Place>,
    options: ByName<BTreeMap<String, Placed<String>>>,
    policies: ByName<BTreeMap<Matter, Placed<Action>>>,
    preload: Vec<Placed<String>>,
}

/// A file of a folder that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectiveFile {
    /// Where it lies.
    pub path: Arc<Path>,
    /// The file of the same name in a later folder, which counts instead of it.
    pub replaced_by: Option<Arc<Path>>,
}

/// What a directive is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DirectiveKind {
    /// A folder where plugins are looked for.
    Search,
    /// Another name for a plugin or a file.
    Alias,
    /// A plugin that is refused.
    DenyName,
    /// A file that is refused.
    DenyDigest,
    /// A parameter of a plugin.
    Option,
    /// What is done about a trait of a plugin.
    Policy,
    /// A plugin that is loaded at start.
    Preload,
}

impl DirectiveKind {
    /// The kind in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Alias => "alias",
            Self::DenyName => "deny-name",
            Self::DenyDigest => "deny-digest",
            Self::Option => "option",
            Self::Policy => "policy",
            Self::Preload => "preload",
        }
    }
}

/// One value that is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directive {
    /// What it is about.
    pub kind: DirectiveKind,
    /// The plugin that has the option or the policy, or the alias; else empty.
    pub name: String,
    /// The parameter or the trait; else empty.
    pub key: String,
    /// What is said.
    pub value: String,
    /// Where.
    pub place: Place,
}

impl Directives {
    /// The folders that are read where none are named, those that are there: of what is installed,
    /// of what was made since the system's start, and of who administers it.
    #[must_use]
    pub fn default_folders() -> Vec<PathBuf> {
        let all = ["/usr/lib/plug.d", "/run/plug.d", "/etc/plug.d"];
        let all = all.into_iter().map(PathBuf::from);
        all.filter(|folder| folder.is_dir()).collect()
    }

    /// The files that were found, in the order in which they are read; those that are replaced stand
    /// before what replaces them.
    #[must_use]
    pub fn files(&self) -> &[DirectiveFile] {
        &self.files
    }

    /// All that is in effect, by kind: lists in their order, the others by name.
    #[must_use]
    pub fn all(&self) -> Vec<Directive> {
        let mut all = Vec::new();
        let mut add = |kind, name: &str, key: &str, value: String, place: &Place| {
            all.push(Directive {
                kind,
                name: name.to_owned(),
                key: key.to_owned(),
                value,
                place: place.clone(),
            });
        };
        for folder in &self.search {
            let shown = folder.value.display().to_string();
            add(DirectiveKind::Search, "", "", shown, &folder.place);
        }
        for Named { name, value } in self.aliases.values() {
            let to = value.value.clone();
            add(DirectiveKind::Alias, name, "", to, &value.place);
        }
        for Named { name, value } in self.denied_names.values() {
            add(DirectiveKind::DenyName, "", "", name.clone(), value);
        }
        for (digest, place) in &self.denied_digests {
            add(DirectiveKind::DenyDigest, "", "", digest.to_string(), place);
        }
        for Named { name, value } in self.options.values() {
            for (key, option) in value {
                let value = option.value.clone();
                add(DirectiveKind::Option, name, key, value, &option.place);
            }
        }
        for Named { name, value } in self.policies.values() {
            for (matter, action) in value {
                let (key, value) = (matter.name(), action.value.name().to_owned());
                add(DirectiveKind::Policy, name, key, value, &action.place);
            }
        }
        for plugin in &self.preload {
            let name = plugin.value.clone();
            add(DirectiveKind::Preload, "", "", name, &plugin.place);
        }
        all
    }

    /// The plugins that are loaded at start, in their order.
    pub fn preload(&self) -> impl Iterator<Item = &str> {
        self.preload.iter().map(|plugin| plugin.value.as_str())
    }

    /// The parameters of the plugin `name`.
    #[must_use]
    pub fn options(&self, name: &str) -> Params {
        let options = self.options.get(&canonical_name(name));
        let options = options.into_iter().flat_map(|options| &options.value);
        options.fold(Params::new(), |all, (key, option)| {
            all.with(key.clone(), option.value.clone())
        })
    }

    /// The file that the plugin `name` is loaded from: what its alias leads to, or else the first one
    /// in the folders that are searched, in their order, whose name without `lib` in front and `.so`
    /// behind is the plugin's.
    ///
    /// Lists the folders. What it says holds for a moment only.
    ///
    /// # Errors
    /// [`ErrorKind::NoFile`] with what was searched; [`ErrorKind::Denied`] where the name, or one
    /// that it leads to, is refused.
    pub fn find(&self, name: &str) -> Result<PathBuf, Error> {
        let mut wanted = name;
        self.may_be(&[wanted])?;
        // Aliases in a circle were refused when they were read.
        while let Some(alias) = self.aliases.get(&canonical_name(wanted)) {
            wanted = &alias.value.value;
            if wanted.contains('/') {
                return Ok(PathBuf::from(wanted));
            }
            self.may_be(&[wanted])?;
        }
        let found = is_name(wanted)
            .then(|| {
                let mut folders = self.search.iter();
                folders.find_map(|folder| find_in(&folder.value, wanted))
            })
            .flatten();
        found.ok_or_else(|| self.not_found(name, wanted))
    }

    fn not_found(&self, name: &str, wanted: &str) -> Error {
        let led = match wanted == name {
            true => String::new(),
            false => format!(", which is an alias of {wanted}"),
        };
        let folders = self.search.iter().map(|folder| folder.value.display());
        let folders: Vec<String> = folders.map(|folder| folder.to_string()).collect();
        let searched = match folders.is_empty() {
            true => "no folders to search are configured; name the file by its path".to_owned(),
            false => format!("expected lib{wanted}.so in {}", folders.join(", ")),
        };
        let aliases = self.aliases.values().map(|alias| alias.name.as_str());
        let hint = nearest(aliases, name).map_or_else(String::new, |alias| {
            format!("; did you mean the alias {alias}?")
        });
        let message = format!("no plugin {name:?}{led}: {searched}{hint}");
        Error::new(ErrorKind::NoFile, message).plugin(name)
    }

    /// Whether a plugin with these names may be.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], and where that is said.
    pub(crate) fn may_be(&self, names: &[&str]) -> Result<(), Error> {
        for name in names {
            if let Some(denied) = self.denied_names.get(&canonical_name(name)) {
                let place = &denied.value;
                let message = format!("plugin {name} is on the deny list at {place}");
                return Err(Error::new(ErrorKind::Denied, message));
            }
        }
        Ok(())
    }

    /// Whether this file may be.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], and where that is said.
    pub(crate) fn may_be_file(&self, digest: &Digest) -> Result<(), Error> {
        match self.denied_digests.get(digest) {
            Some(place) => {
                let message = format!("sha256 {digest} is on the deny list at {place}");
                Err(Error::new(ErrorKind::Denied, message))
            }
            None => Ok(()),
        }
    }

    /// Whether any file is refused by its digest.
    pub(crate) fn needs_digest(&self) -> bool {
        !self.denied_digests.is_empty()
    }

    /// `policy` with what is said for every plugin, and with what is said for the plugin that `name`
    /// tells, which counts more. None where nothing is said.
    pub(crate) fn policy(&self, policy: &Policy, name: impl FnOnce() -> String) -> Option<Policy> {
        if self.policies.is_empty() {
            return None;
        }
        let for_one = self.policies.get(&canonical_name(&name()));
        let said = [self.policies.get(EVERY), for_one];
        let said = said.into_iter().flatten().flat_map(|named| &named.value);
        Some(said.fold(policy.clone(), |policy, (matter, action)| {
            policy.everywhere_with(*matter, action.value)
        }))
    }
}

/// The file of the plugin `name` in `folder`; where several would do, the one that is written alike,
/// and else the first by name.
fn find_in(folder: &Path, name: &str) -> Option<PathBuf> {
    let canonical = canonical_name(name);
    let files = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let path = entry.path();
        let is_library = path.extension().is_some_and(|extension| extension == "so");
        let found = foreign_name(&path);
        (is_library && canonical_name(&found) == canonical && path.is_file())
            .then_some((found != name, path))
    });
    files.min().map(|(_, path)| path)
}
