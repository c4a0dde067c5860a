//! Files of directives: TOML to values, each with its place.
//!
//! Takes any bytes: whatever is wrong with a file is an error that names file, line, key, what was
//! expected and what was found.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{DirectiveFile, Directives, EVERY, Named, Place, Placed};
use crate::authority::exposure;
use crate::error::{Error, ErrorKind};
use crate::image::{canonical_name, is_name};
use crate::policy::{Action, Matter};
use crate::settings::nearest;

/// Bytes of the largest file that is read.
const LARGEST: u64 = 1 << 20;

/// What may stand at the top of a file.
const KEYS: &[&str] = &["search", "alias", "deny", "options", "policy", "preload"];

/// What may stand under `deny`.
const DENY: &[&str] = &["names", "digests"];

/// A key and its value.
type Entry<'t, 'i> = (&'t Spanned<DeString<'i>>, &'t Spanned<DeValue<'i>>);

impl Directives {
    /// Reads all `*.toml` of these folders.
    ///
    /// A file replaces those of the same name in folders before its own. Files are then read in the
    /// order of their names, whichever folder they are in: of two values for one thing the later one
    /// counts, and lists become longer. One that leads to `/dev/null` says nothing.
    ///
    /// Whoever can write there decides what this process runs, so folders and files must belong to
    /// root or to this user and be writable by nobody else.
    ///
    /// # Errors
    /// [`ErrorKind::Directives`]: the first thing that is wrong, with file, line, key, what was
    /// expected and what was found.
    pub fn read<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        let mut by_name = BTreeMap::<OsString, Vec<Arc<Path>>>::new();
        for folder in folders {
            for path in files_of(folder.as_ref())? {
                let name = path.file_name().unwrap_or_default().to_owned();
                by_name.entry(name).or_default().push(path.into());
            }
        }
        let mut all = Self::default();
        for paths in by_name.into_values() {
            let Some((last, before)) = paths.split_last() else {
                continue;
            };
            let before = before.iter().map(|path| DirectiveFile {
                path: Arc::clone(path),
                replaced_by: Some(Arc::clone(last)),
            });
            all.files.extend(before);
            all.files.push(DirectiveFile {
                path: Arc::clone(last),
                replaced_by: None,
            });
            all.add(last, &text_of(last)?)?;
        }
        all.must_lead_somewhere()?;
        Ok(all)
    }

    /// Reads one file's `bytes`; messages call it `name`.
    ///
    /// # Errors
    /// As [`Directives::read`].
    pub fn parse(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Self, Error> {
        let path: Arc<Path> = name.as_ref().into();
        let mut all = Self::default();
        all.files.push(DirectiveFile {
            path: Arc::clone(&path),
            replaced_by: None,
        });
        all.add(&path, bytes)?;
        all.must_lead_somewhere()?;
        Ok(all)
    }

    /// Adds what a file says to what those before it said.
    fn add(&mut self, path: &Arc<Path>, bytes: &[u8]) -> Result<(), Error> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let line = line_of(bytes, error.valid_up_to());
            bad(format!(
                "{}:{line}: expected UTF-8, found a byte that is none",
                path.display()
            ))
        })?;
        let file = File { path, text };
        let table = DeTable::parse(text).map_err(|error| {
            let place = file.place(error.span().unwrap_or_default());
            bad(format!("{place}: {}", error.message().replace('\n', ", ")))
        })?;
        for (key, value) in file.entries(table.get_ref()) {
            match key.get_ref().as_ref() {
                "search" => {
                    for folder in file.texts("search", value)? {
                        let path = PathBuf::from(&folder.value);
                        if !path.is_absolute() {
                            let found = format!("{:?}", folder.value);
                            return Err(folder.place.wrong("search", "an absolute path", &found));
                        }
                        self.search.push(folder.with(path));
                    }
                }
                "preload" => {
                    for plugin in file.names("preload", value)? {
                        let is_new = |other: &Placed<String>| {
                            canonical_name(&other.value) != canonical_name(&plugin.value)
                        };
                        if self.preload.iter().all(is_new) {
                            self.preload.push(plugin);
                        }
                    }
                }
                "deny" => self.add_denied(&file, value)?,
                "alias" => {
                    for (name, value) in file.table("alias", value)? {
                        let name = file.name("alias", name)?;
                        let key = format!("alias.{}", name.value);
                        let to = file.text(&key, value)?;
                        let is_path = Path::new(&to.value).is_absolute();
                        if !is_path && !is_name(&to.value) {
                            let found = format!("{:?}", to.value);
                            let expected = "a plugin's name or an absolute path";
                            return Err(to.place.wrong(&key, expected, &found));
                        }
                        let name = name.value;
                        let of = canonical_name(&name);
                        self.aliases.insert(of, Named { name, value: to });
                    }
                }
                "options" => {
                    for (name, value) in file.table("options", value)? {
                        let name = file.name("options", name)?.value;
                        let under = format!("options.{name}");
                        let options = file.table(&under, value)?;
                        let of = self.options.entry(canonical_name(&name));
                        let all = of.or_insert_with(|| Named {
                            name,
                            value: BTreeMap::new(),
                        });
                        for (key, value) in options {
                            let key = key.get_ref().to_string();
                            let option = file.option(&format!("{under}.{key}"), value)?;
                            // Parameters' names are compared as plugins' are.
                            let same =
                                |other: &String| canonical_name(other) == canonical_name(&key);
                            all.value.retain(|other, _| !same(other));
                            all.value.insert(key, option);
                        }
                    }
                }
                "policy" => self.add_policies(&file, value)?,
                _ => return Err(file.unknown("", key, KEYS)),
            }
        }
        Ok(())
    }

    fn add_denied(&mut self, file: &File<'_>, value: &Spanned<DeValue<'_>>) -> Result<(), Error> {
        for (key, value) in file.table("deny", value)? {
            match key.get_ref().as_ref() {
                "names" => {
                    for Placed { value, place } in file.names("deny.names", value)? {
                        let of = canonical_name(&value);
                        let denied = Named {
                            name: value,
                            value: place,
                        };
                        self.denied_names.entry(of).or_insert(denied);
                    }
                }
                "digests" => {
                    for text in file.texts("deny.digests", value)? {
                        let Ok(digest) = text.value.parse() else {
                            let expected = "64 hexadecimal digits of a SHA-256 digest";
                            let found = format!("{:?}", text.value);
                            return Err(text.place.wrong("deny.digests", expected, &found));
                        };
                        self.denied_digests.entry(digest).or_insert(text.place);
                    }
                }
                _ => return Err(file.unknown("deny.", key, DENY)),
            }
        }
        Ok(())
    }

    fn add_policies(&mut self, file: &File<'_>, value: &Spanned<DeValue<'_>>) -> Result<(), Error> {
        for (name, value) in file.table("policy", value)? {
            let name = match name.get_ref().as_ref() {
                EVERY => EVERY.to_owned(),
                _ => file.name("policy", name)?.value,
            };
            let under = format!("policy.{name}");
            let rules = file.table(&under, value)?;
            let of = self.policies.entry(canonical_name(&name));
            let all = of.or_insert_with(|| Named {
                name,
                value: BTreeMap::new(),
            });
            for (key, value) in rules {
                let mut matters = Matter::ALL.into_iter();
                let Some(matter) = matters.find(|matter| matter.name() == key.get_ref().as_ref())
                else {
                    let names = Matter::ALL.map(Matter::name);
                    return Err(file.unknown(&format!("{under}."), key, &names));
                };
                let key = format!("{under}.{}", matter.name());
                let text = file.text(&key, value)?;
                let mut actions = Action::ALL.into_iter();
                let Some(action) = actions.find(|action| action.name() == text.value) else {
                    let names = Action::ALL.map(Action::name);
                    let found = format!("{:?}", text.value);
                    let hint = hint(&names, &text.value);
                    let expected = format!("one of {}", names.join(", "));
                    return Err(text.place.wrong(&key, &expected, &(found + &hint)));
                };
                all.value.insert(matter, text.with(action));
            }
        }
        Ok(())
    }

    /// Refuses aliases that lead to themselves.
    fn must_lead_somewhere(&self) -> Result<(), Error> {
        for Named { name, value } in self.aliases.values() {
            let (mut seen, mut at) = (BTreeSet::from([canonical_name(name)]), &value.value);
            while let Some(next) = self.aliases.get(&canonical_name(at)) {
                if !seen.insert(canonical_name(at)) {
                    let expected = "a name that leads to a plugin";
                    let found = format!("{:?}, which leads in a circle", value.value);
                    return Err(value
                        .place
                        .wrong(&format!("alias.{name}"), expected, &found));
                }
                at = &next.value.value;
            }
        }
        Ok(())
    }
}

/// The files of a folder that count.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    must_be_private(folder)?;
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    Ok(files)
}

/// What stands in a file.
fn text_of(path: &Path) -> Result<Vec<u8>, Error> {
    if fs::canonicalize(path).is_ok_and(|target| target == Path::new("/dev/null")) {
        return Ok(Vec::new());
    }
    must_be_private(path)?;
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    if !metadata.is_file() {
        let what = "expected a regular file, found something else";
        return Err(bad(format!("{}: {what}", path.display())));
    }
    if metadata.len() > LARGEST {
        let found = metadata.len();
        let what = format!("expected at most {LARGEST} bytes, found {found}");
        return Err(bad(format!("{}: {what}", path.display())));
    }
    fs::read(path).map_err(|error| unreadable(path, error))
}

fn must_be_private(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    match exposure(&metadata) {
        Some(what) => Err(bad(format!("{}: {what}", path.display()))),
        None => Ok(()),
    }
}

/// A file that is being read.
#[derive(Clone, Copy)]
struct File<'a> {
    path: &'a Arc<Path>,
    text: &'a str,
}

impl File<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place {
            file: Arc::clone(self.path),
            line: line_of(self.text.as_bytes(), span.start),
        }
    }

    /// What a table holds, in the order of the file.
    fn entries<'t, 'i>(&self, table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    fn table<'t, 'i>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Result<Vec<Entry<'t, 'i>>, Error> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(self.entries(table)),
            _ => Err(self.unfit(key, "a table", value)),
        }
    }

    /// A name as a key.
    fn name(&self, under: &str, key: &Spanned<DeString<'_>>) -> Result<Placed<String>, Error> {
        let (value, place) = (key.get_ref().to_string(), self.place(key.span()));
        match is_name(&value) {
            true => Ok(Placed { value, place }),
            false => Err(place.wrong(under, "a plugin's name", &format!("{value:?}"))),
        }
    }

    /// An array of names.
    fn names(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<Placed<String>>, Error> {
        let names = self.texts(key, value)?;
        match names.iter().find(|name| !is_name(&name.value)) {
            Some(bad) => {
                let found = format!("{:?}", bad.value);
                Err(bad.place.wrong(key, "a plugin's name", &found))
            }
            None => Ok(names),
        }
    }

    /// An array of strings.
    fn texts(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<Placed<String>>, Error> {
        let DeValue::Array(array) = value.get_ref() else {
            return Err(self.unfit(key, "an array of strings", value));
        };
        array.iter().map(|value| self.text(key, value)).collect()
    }

    fn text(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Placed<String>, Error> {
        match value.get_ref() {
            DeValue::String(text) if !text.contains('\0') => Ok(Placed {
                value: text.to_string(),
                place: self.place(value.span()),
            }),
            DeValue::String(_) => Err(self.unfit(key, "a string without NUL", value)),
            _ => Err(self.unfit(key, "a string", value)),
        }
    }

    /// The value of a parameter, as text.
    fn option(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Placed<String>, Error> {
        let text = match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| self.unfit(key, "an integer of 128 bits", value))?
                .to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(is) => is.to_string(),
            DeValue::String(_) => return self.text(key, value),
            _ => {
                let expected = "a string, an integer, a float or a boolean";
                return Err(self.unfit(key, expected, value));
            }
        };
        Ok(Placed {
            value: text,
            place: self.place(value.span()),
        })
    }

    /// A value of another type than what is expected.
    fn unfit(&self, key: &str, expected: &str, value: &Spanned<DeValue<'_>>) -> Error {
        let shown = self.text.get(value.span()).unwrap_or_default();
        let shown = shown.lines().next().unwrap_or_default();
        let kind = value.get_ref().type_str();
        let article = match kind.starts_with(['a', 'i']) {
            true => "an",
            false => "a",
        };
        let found = match shown.chars().count() {
            0 => format!("{article} {kind}"),
            1..=40 => format!("{article} {kind}, {shown}"),
            _ => format!(
                "{article} {kind}, {}…",
                shown.chars().take(40).collect::<String>()
            ),
        };
        self.place(value.span()).wrong(key, expected, &found)
    }

    /// A key that nobody knows.
    fn unknown(&self, under: &str, key: &Spanned<DeString<'_>>, known: &[&str]) -> Error {
        let name = key.get_ref();
        let expected = format!("one of {}", known.join(", "));
        let found = format!("no such key{}", hint(known, name));
        let key_of = format!("{under}{name}");
        self.place(key.span()).wrong(&key_of, &expected, &found)
    }
}

impl Place {
    fn wrong(&self, key: &str, expected: &str, found: &str) -> Error {
        bad(format!("{self}: {key}: expected {expected}, found {found}"))
    }
}

impl<T> Placed<T> {
    /// Something else at the same place.
    fn with<U>(&self, value: U) -> Placed<U> {
        Placed {
            value,
            place: self.place.clone(),
        }
    }
}

fn hint(known: &[&str], name: &str) -> String {
    match nearest(known.iter().copied(), name) {
        Some(meant) => format!("; did you mean {meant}?"),
        None => String::new(),
    }
}

/// The line that the byte `at` stands in.
fn line_of(text: &[u8], at: usize) -> usize {
    let before = text.iter().take(at);
    before.filter(|byte| **byte == b'\n').count() + 1
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    bad(format!("{}: {error}", path.display())).because(error)
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::Directives, message)
}
