//! A plugin and the libraries that it alone brings: found, copied and read as it was.
//!
//! Thread context; no code of theirs runs. What the plugin's own paths lead to, and neither ld.so
//! has nor everybody would find, is private to it: two plugins, and two versions of one, may bring
//! different libraries of the same name.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::admission::{objection, traits};
use super::error::ImageError;
use super::facts::Facts;
use super::folder::next_nonce;
use super::info::foreign_name;
use super::needed::{FoundBy, Requester, find, is_system};
use super::origin::exposure;
use super::rewrite::{alias, can_rename};
use super::stage::{FileKey, Opened, Staged};
use super::validate::{Finding, validate};
use crate::policy::Policy;
use crate::sys::link_map;

/// A library that a plugin needs, by itself or through another one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dependency {
    /// The name by which it is needed.
    pub name: String,
    /// The file; none where finding it is left to ld.so.
    pub path: Option<PathBuf>,
    /// By which rule it was found.
    pub found_by: FoundBy,
    /// Whether the plugin has a copy of its own, which comes and goes with it.
    pub is_private: bool,
}

/// Number of the plugin among the objects of its bundle.
pub(crate) const PLUGIN: usize = 0;

/// A plugin and its private dependencies.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The plugin, then its private dependencies in the order in which ld.so would look for
    /// symbols in them.
    pub(crate) objects: Vec<Object>,
    /// In the same order, what ld.so finds by itself among them.
    pub(crate) scope: Vec<InScope>,
    /// Everything that is needed, each name once.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One place in the order in which symbols are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InScope {
    /// An object of the bundle.
    Own(usize),
    /// A library that is left to ld.so, by its name.
    Shared(String),
}

/// One object of a bundle.
#[derive(Debug)]
pub(crate) struct Object {
    requester: Requester,
    /// Who was the first to need it.
    parent: Option<usize>,
    /// The original.
    pub(crate) key: FileKey,
    soname: Option<String>,
    /// Objects of the bundle that it needs: by which name, which one, and the alias that its copy
    /// asks for instead.
    pub(crate) needs: Vec<Need>,
    /// What there is of a private dependency; none of the plugin, which its load has.
    pub(crate) member: Option<Member>,
}

/// One need for another object of the bundle.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) name: String,
    pub(crate) object: usize,
    /// Never used before or after, and as long as the name.
    pub(crate) alias: String,
}

/// A private dependency.
#[derive(Debug)]
pub(crate) struct Member {
    /// The name by which it was needed first.
    name: String,
    pub(crate) path: PathBuf,
    /// Where it lies, without symbolic links, if anywhere.
    pub(crate) location: Option<PathBuf>,
    pub(crate) facts: Facts,
    pub(crate) staged: Staged,
}

impl Member {
    /// It in words, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("dependency {} ({})", self.name, self.path.display())
    }

    /// What a host with this policy is told of it, by the rules for where it lies.
    ///
    /// What is missing or undefined is not asked here: the libraries of the plugin are those of its
    /// dependencies as well, and these may use symbols of the plugin.
    pub(crate) fn findings(&self, policy: &Policy) -> Vec<Finding> {
        let location = self.location.as_deref();
        let rules = policy.rules(location.unwrap_or(Path::new("")));
        let judged = traits(&self.facts, self.staged.bytes(), rules, None).into_iter();
        let judged = judged.chain(location.and_then(|path| exposure(path, rules)));
        let findings = objection(&self.facts).into_iter();
        let findings = findings.chain(judged.map(|(_, finding)| finding));
        let of_it = findings.map(|mut finding| {
            finding.structure = format!("{}: {}", self.describe(), finding.structure);
            finding
        });
        of_it.collect()
    }
}

impl Bundle {
    /// Finds what the plugin with these facts brings, whose original is `opened`.
    ///
    /// Costs nothing where no file has search paths of its own.
    ///
    /// # Errors
    /// [`ImageError::Dependency`], which names the library.
    pub(crate) fn find(opened: &Opened, facts: &Facts, bytes: &[u8]) -> Result<Self, ImageError> {
        let mut search = Search {
            loaded: None,
            is_strange: facts.strange.is_some(),
            bundle: Self {
                objects: vec![Object {
                    requester: Requester::new(facts, opened.folder()),
                    parent: None,
                    key: opened.key(),
                    soname: facts.soname.clone(),
                    needs: Vec::new(),
                    member: None,
                }],
                scope: vec![InScope::Own(PLUGIN)],
                dependencies: Vec::new(),
            },
        };
        let mut waiting = VecDeque::from([PLUGIN]);
        while let Some(object) = waiting.pop_front() {
            let member = search.bundle.member(object);
            let needed = &member.map_or(facts, |member| &member.facts).needed;
            for name in needed.clone() {
                if let Some(found) = search.need(object, &name)? {
                    waiting.push_back(found);
                }
            }
        }
        let bundle = search.bundle;
        for object in &bundle.objects {
            let (facts, bytes) = match &object.member {
                Some(member) => (&member.facts, member.staged.bytes()),
                None => (facts, bytes),
            };
            for need in &object.needs {
                if need.alias.is_empty() || !can_rename(facts, bytes, &need.name) {
                    let why =
                        "its name in the file is too short to be replaced, or part of another";
                    return Err(ImageError::dependency(
                        &need.name,
                        None,
                        ImageError::Edit { what: why.into() },
                    ));
                }
            }
        }
        Ok(bundle)
    }

    /// Whether the plugin brings nothing.
    pub(crate) fn is_alone(&self) -> bool {
        self.objects.len() == 1
    }

    /// The private dependencies.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.objects
            .iter()
            .filter_map(|object| object.member.as_ref())
    }

    /// The private dependency with this number.
    pub(crate) fn member(&self, object: usize) -> Option<&Member> {
        self.objects.get(object)?.member.as_ref()
    }

    /// An object's own name, and those by which it is needed.
    pub(crate) fn names(&self, object: usize) -> Vec<String> {
        let own = self.objects.get(object).and_then(|own| own.soname.clone());
        let needs = self.objects.iter().flat_map(|asking| &asking.needs);
        let needed = needs.filter(|need| need.object == object);
        own.into_iter()
            .chain(needed.map(|need| need.name.clone()))
            .collect()
    }

    /// How an object has libraries looked for, and those for which it was brought.
    pub(crate) fn chain(&self, object: usize) -> Vec<&Requester> {
        let mut chain = Vec::new();
        let mut next = Some(object);
        while let Some(of) = next.and_then(|object| self.objects.get(object)) {
            chain.push(&of.requester);
            next = of.parent;
        }
        chain
    }

    /// The objects in the order in which they are to be constructed: what is needed first, and of
    /// several the one that is needed last, as ld.so has it.
    pub(crate) fn by_need(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let mut seen = vec![false; self.objects.len()];
        // An object, and how many of its needs have not been looked at.
        let mut path: Vec<(usize, usize)> = Vec::new();
        let needs = |object: usize| self.objects.get(object).map_or(&[][..], |o| &o.needs);
        let mut next = Some(PLUGIN);
        loop {
            if let Some(object) = next.take()
                && let Some(seen) = seen.get_mut(object)
                && !*seen
            {
                *seen = true;
                path.push((object, needs(object).len()));
            }
            let Some((object, left)) = path.last_mut() else {
                return order;
            };
            match left.checked_sub(1) {
                Some(at) => {
                    *left = at;
                    next = needs(*object).get(at).map(|need| need.object);
                }
                None => {
                    order.push(*object);
                    path.pop();
                }
            }
        }
    }
}

/// A search for what a bundle consists of.
struct Search {
    bundle: Bundle,
    /// Whether the plugin's copy is not edited.
    is_strange: bool,
    /// What ld.so has, and which files those are; looked at once it matters.
    loaded: Option<Vec<(link_map::Object, Option<FileKey>)>>,
}

impl Search {
    /// Settles that `object` needs `name`; the number of the library if it is a new one.
    fn need(&mut self, object: usize, name: &str) -> Result<Option<usize>, ImageError> {
        // ld.so's first look is at what was asked for or calls itself by this name.
        if let Some(known) = self.known(name).filter(|_| !self.is_strange(object)) {
            self.add_need(object, name, known);
            return Ok(None);
        }
        let shared = InScope::Shared(name.to_owned());
        if self.bundle.scope.contains(&shared) {
            return Ok(None);
        }
        let chain = self.bundle.chain(object);
        // Where nobody has paths of its own, all that could be found is what ld.so finds as well.
        let is_anybodys = !name.contains('/') && !chain.iter().any(|of| of.has_paths());
        // One whose copy is not edited cannot ask for another name.
        let is_anybodys = is_anybodys || self.is_strange(object);
        let found = (!is_anybodys).then(|| find(name, &chain)).flatten();
        let (path, found_by) = match found {
            Some((path, by @ (FoundBy::Path | FoundBy::Rpath | FoundBy::Runpath))) => (path, by),
            left => {
                let (path, by) =
                    left.map_or((None, FoundBy::Default), |(path, by)| (Some(path), by));
                self.share(name, path, by);
                return Ok(None);
            }
        };
        let key = FileKey::of(&path);
        if let Some(key) = key
            && let Some(same) = self.bundle.objects.iter().position(|o| o.key == key)
        {
            self.add_need(object, name, same);
            return Ok(None);
        }
        if self.is_loaded(name, &path, key) {
            self.share(name, Some(path), FoundBy::Loaded);
            return Ok(None);
        }
        // Of a path that leads nowhere ld.so says so in its own words.
        if key.is_none() || found_by != FoundBy::Path && is_system(name, &path) {
            self.share(name, Some(path), FoundBy::Default);
            return Ok(None);
        }
        self.bring(object, name, path, found_by).map(Some)
    }

    /// Copies and reads a private dependency that `object` is the first to need.
    fn bring(
        &mut self,
        object: usize,
        name: &str,
        path: PathBuf,
        found_by: FoundBy,
    ) -> Result<usize, ImageError> {
        let failed = |error: ImageError| ImageError::dependency(name, Some(&path), error);
        let opened = Opened::open(&path).map_err(failed)?;
        let staged = opened.stage(&foreign_name(&path)).map_err(failed)?;
        let facts = Facts::read(staged.bytes()).map_err(|damage| failed(damage.into()))?;
        validate(&facts, staged.bytes()).map_err(|damage| failed(damage.into()))?;
        let number = self.bundle.objects.len();
        self.bundle.objects.push(Object {
            requester: Requester::new(&facts, opened.folder()),
            parent: Some(object),
            key: opened.key(),
            soname: facts.soname.clone(),
            needs: Vec::new(),
            member: Some(Member {
                name: name.to_owned(),
                path: path.clone(),
                location: opened.location(),
                facts,
                staged,
            }),
        });
        self.bundle.scope.push(InScope::Own(number));
        self.add_need(object, name, number);
        self.bundle.dependencies.push(Dependency {
            name: name.to_owned(),
            path: Some(path),
            found_by,
            is_private: true,
        });
        Ok(number)
    }

    fn is_strange(&self, object: usize) -> bool {
        let member = self.bundle.member(object);
        member.map_or(self.is_strange, |member| member.facts.strange.is_some())
    }

    fn add_need(&mut self, object: usize, name: &str, of: usize) {
        if let Some(asking) = self.bundle.objects.get_mut(object) {
            let alias = alias(next_nonce(), name.len()).unwrap_or_default();
            asking.needs.push(Need {
                name: name.to_owned(),
                object: of,
                alias,
            });
        }
    }

    fn share(&mut self, name: &str, path: Option<PathBuf>, found_by: FoundBy) {
        self.bundle.scope.push(InScope::Shared(name.to_owned()));
        self.bundle.dependencies.push(Dependency {
            name: name.to_owned(),
            path,
            found_by,
            is_private: false,
        });
    }

    /// The object of the bundle that was needed by this name before, or has it for its own.
    fn known(&self, name: &str) -> Option<usize> {
        let mut objects = self.bundle.objects.iter();
        let named = objects.position(|o| o.soname.as_deref() == Some(name));
        let needs = || self.bundle.objects.iter().flat_map(|o| &o.needs);
        named.or_else(|| needs().find(|need| need.name == name).map(|n| n.object))
    }

    /// Whether ld.so has the library already, by this name or by the very file.
    fn is_loaded(&mut self, name: &str, path: &Path, key: Option<FileKey>) -> bool {
        let loaded = self.loaded.get_or_insert_with(|| {
            let objects = link_map::loaded().into_iter();
            let with_key = objects.map(|object| {
                let key = FileKey::of(Path::new(OsStr::from_bytes(object.name.to_bytes())));
                (object, key)
            });
            with_key.collect()
        });
        let is = |text: &CStr, wanted: &[u8]| text.to_bytes() == wanted;
        loaded.iter().any(|(object, of)| {
            is(&object.name, path.as_os_str().as_bytes())
                || object
                    .soname
                    .as_ref()
                    .is_some_and(|own| is(own, name.as_bytes()))
                || key.is_some() && key == *of
        })
    }
}
