//! What a host admits: for each trait of a file that is not damage, whether it is loaded, loaded
//! and marked, or refused.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::taint::Taint;

/// A trait of a file, or of the path to it, that a host may have a say in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Matter {
    /// It wants executable stacks, or does not say that it does not. Default: refused, since every
    /// stack of the process would become executable.
    ExecutableStack,
    /// A segment is writable and executable. Default: refused.
    WritableCode,
    /// Relocations write into code, which is writable meanwhile. Default: refused.
    TextRelocations,
    /// Its author forbids unmapping (`DF_1_NODELETE`). Default: loaded and marked; it never leaves.
    NoDelete,
    /// It has GNU unique symbols. Default: loaded; the copy's are made ordinary, so that they do not
    /// pin it.
    GnuUnique,
    /// Its thread-locals must lie in the static block, of which little is left in a running
    /// process. Default: loaded; ld.so refuses it when none is left.
    StaticTls,
    /// A library it needs is not found, as far as can be told without loading it. Default: left to
    /// ld.so, which refuses it.
    MissingLibrary,
    /// A symbol it needs is defined by none of the libraries it needs. Default: left to ld.so, since
    /// the host may define it.
    UndefinedSymbol,
    /// It asks to be initialised or searched before others, or names filters or auditors. Default:
    /// loaded and marked.
    LinkOrder,
    /// Others than this user and root could replace the file: it, or a folder on the way to it,
    /// belongs to somebody else, or may be written by everybody or by a group that is not the
    /// process's own. Sticky folders such as `/tmp` are no such folder. Default: loaded and marked.
    Path,
}

/// What a host does about a trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Action {
    /// Loads it.
    Allow,
    /// Loads it, and marks the plugin and the process.
    Taint,
    /// Does not load it.
    Refuse,
}

impl Action {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Taint, Self::Refuse];

    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Taint => "taint",
            Self::Refuse => "refuse",
        }
    }
}

impl Matter {
    /// All, in their order.
    pub const ALL: [Self; 10] = [
        Self::ExecutableStack,
        Self::WritableCode,
        Self::TextRelocations,
        Self::NoDelete,
        Self::GnuUnique,
        Self::StaticTls,
        Self::MissingLibrary,
        Self::UndefinedSymbol,
        Self::LinkOrder,
        Self::Path,
    ];

    /// Its name, in lower case with dashes: that of the finding about it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExecutableStack => "executable-stack",
            Self::WritableCode => "writable-code",
            Self::TextRelocations => "text-relocations",
            Self::NoDelete => "nodelete",
            Self::GnuUnique => "gnu-unique",
            Self::StaticTls => "static-tls",
            Self::MissingLibrary => "missing-library",
            Self::UndefinedSymbol => "undefined-symbol",
            Self::LinkOrder => "link-order",
            Self::Path => "path",
        }
    }

    const fn default(self) -> Action {
        match self {
            Self::ExecutableStack | Self::WritableCode | Self::TextRelocations => Action::Refuse,
            Self::NoDelete | Self::LinkOrder | Self::Path => Action::Taint,
            Self::GnuUnique | Self::StaticTls | Self::MissingLibrary | Self::UndefinedSymbol => {
                Action::Allow
            }
        }
    }

    /// The mark of what was loaded in spite of it.
    #[must_use]
    pub const fn taint(self) -> Taint {
        match self {
            Self::ExecutableStack | Self::WritableCode | Self::TextRelocations => {
                Taint::WritableCode
            }
            Self::NoDelete => Taint::Pinned,
            Self::GnuUnique => Taint::GnuUnique,
            Self::StaticTls => Taint::StaticTls,
            Self::MissingLibrary => Taint::MissingLibrary,
            Self::UndefinedSymbol => Taint::UndefinedSymbol,
            Self::LinkOrder => Taint::LinkOrder,
            Self::Path => Taint::Path,
        }
    }
}

/// An action for each matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules([Action; Matter::ALL.len()]);

impl Default for Rules {
    fn default() -> Self {
        Self(Matter::ALL.map(Matter::default))
    }
}

impl Rules {
    /// These rules with another action for one matter.
    #[must_use]
    pub fn with(mut self, matter: Matter, action: Action) -> Self {
        if let Some(place) = self.0.get_mut(matter as usize) {
            *place = action;
        }
        self
    }

    /// These rules in a form to be sent to another process: a letter for each matter.
    pub(crate) fn letters(&self) -> String {
        let letters = self.0.iter().map(|action| match action {
            Action::Allow => 'a',
            Action::Taint => 't',
            Action::Refuse => 'r',
        });
        letters.collect()
    }

    /// None for what [`Rules::letters`] does not make.
    pub(crate) fn from_letters(letters: &str) -> Option<Self> {
        let mut actions = letters.chars().map(|letter| match letter {
            'a' => Some(Action::Allow),
            't' => Some(Action::Taint),
            'r' => Some(Action::Refuse),
            _ => None,
        });
        let mut rules = Self::default();
        for place in &mut rules.0 {
            *place = actions.next()??;
        }
        actions.next().is_none().then_some(rules)
    }

    /// The action for one matter.
    #[must_use]
    pub fn of(&self, matter: Matter) -> Action {
        let action = self.0.get(matter as usize);
        action.copied().unwrap_or(Action::Refuse)
    }
}

/// Which files are admitted: rules for all, and others for files below some folders.
///
/// The default admits every file that is not damaged, fits the host and cannot make its memory
/// writable and executable at once; see [`Matter`] for each default.
///
/// ```
/// use plug_loader::{Action, Matter, Policy, Rules};
///
/// let strict = Rules::default().with(Matter::NoDelete, Action::Refuse);
/// let policy = Policy::default()
///     .with(Matter::Path, Action::Refuse)
///     .in_folder("/opt/untried", strict);
/// assert_eq!(policy.rules("/usr/lib/x.so").of(Matter::Path), Action::Refuse);
/// assert_eq!(policy.rules("/opt/untried/x.so").of(Matter::NoDelete), Action::Refuse);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Policy {
    rules: Rules,
    folders: Vec<(PathBuf, Rules)>,
}

impl Policy {
    /// This policy with another action for one matter, in all folders that have no rules of their
    /// own.
    #[must_use]
    pub fn with(mut self, matter: Matter, action: Action) -> Self {
        self.rules = self.rules.with(matter, action);
        self
    }

    /// This policy with rules of their own for the files below `folder`, an absolute path without
    /// symbolic links; the innermost folder's count.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>, rules: Rules) -> Self {
        self.folders.push((folder.into(), rules));
        self
    }

    /// This policy with another action for one matter, in all folders.
    pub(crate) fn everywhere_with(mut self, matter: Matter, action: Action) -> Self {
        self.rules = self.rules.with(matter, action);
        let folders = self.folders.into_iter();
        self.folders = folders
            .map(|(folder, rules)| (folder, rules.with(matter, action)))
            .collect();
        self
    }

    /// The rules for all folders that have none of their own.
    pub(crate) fn everywhere(&self) -> &Rules {
        &self.rules
    }

    /// The folders that have rules of their own, in the order in which they were named.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&Path, &Rules)> {
        self.folders
            .iter()
            .map(|(folder, rules)| (&**folder, rules))
    }

    /// These rules for all folders that have none of their own.
    pub(crate) fn of_rules(rules: Rules) -> Self {
        Self {
            rules,
            folders: Vec::new(),
        }
    }

    /// The rules for a file: where it lies, not how it was named.
    #[must_use]
    pub fn rules(&self, file: impl AsRef<Path>) -> &Rules {
        let file = file.as_ref();
        let holding = self
            .folders
            .iter()
            .filter(|(folder, _)| file.starts_with(folder));
        let innermost = holding.max_by_key(|(folder, _)| folder.components().count());
        innermost.map_or(&self.rules, |(_, rules)| rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_folder_counts_and_names_are_whole() {
        let rules = |action| Rules::default().with(Matter::StaticTls, action);
        let policy = Policy::default()
            .in_folder("/opt", rules(Action::Taint))
            .in_folder("/opt/deep/er", rules(Action::Refuse));
        for (file, action) in [
            ("/opt/x.so", Action::Taint),
            ("/opt/deep/er/x.so", Action::Refuse),
            ("/opt/deep/erx.so", Action::Taint),
            ("/optional/x.so", Action::Allow),
            ("x.so", Action::Allow),
        ] {
            assert_eq!(policy.rules(file).of(Matter::StaticTls), action, "{file}");
        }
    }

    #[test]
    fn matters_stand_at_their_numbers() {
        for (n, matter) in Matter::ALL.into_iter().enumerate() {
            assert_eq!(matter as usize, n);
            assert_eq!(Rules::default().of(matter), matter.default());
        }
    }
}
