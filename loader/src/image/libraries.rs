//! The libraries that a file needs: where ld.so would find them, and what they define.
//!
//! Thread context; reads files and maps nothing. ld.so itself has the last word: it knows what is
//! loaded already, and may be told of other folders meanwhile.
//!
//! # Source
//! elf/dl-load.c and elf/cache.c of glibc.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::dynsym::ElfSymbol;
use super::elf;
use super::facts::Facts;
use super::needed::{self, Requester};
use super::segment::{slice, u32_at};

/// Larger ones are not read: no library that a plugin needs comes near.
const MAX_SIZE: u64 = 1 << 30;
/// Most libraries of one file, theirs included.
const MAX_LIBRARIES: usize = 512;

/// The libraries of one file, theirs included.
#[derive(Debug, Default)]
pub(crate) struct Libraries {
    /// What is not there, and why.
    pub(crate) missing: Vec<String>,
    /// What the others define.
    defined: HashSet<Vec<u8>>,
}

impl Libraries {
    /// Finds the libraries that the file with these facts needs, whose original lies in `folder`.
    ///
    /// Reads each of them: milliseconds for the C library.
    pub(crate) fn of(facts: &Facts, folder: Option<PathBuf>) -> Self {
        let mut all = Self::default();
        let cache = Cache::read();
        let mut seen = BTreeSet::new();
        let own = Rc::new(Asking {
            requester: Requester::new(facts, folder),
            asked_by: None,
        });
        let mut wanted: Vec<(String, Rc<Asking>)> = needed(facts, &own).collect();
        while let Some((name, asking)) = wanted.pop() {
            if seen.len() >= MAX_LIBRARIES || !seen.insert(name.clone()) {
                continue;
            }
            let Some((path, facts, bytes)) = find(&name, &asking, &cache) else {
                all.missing.push(format!("no {name}"));
                continue;
            };
            let symbols = facts.symbols(&bytes);
            let names = symbols
                .iter()
                .map(|symbol| facts.symbol_name(&bytes, symbol).to_vec());
            all.defined.extend(names);
            let asking = Rc::new(Asking {
                requester: Requester::new(&facts, path.parent().map(Path::to_owned)),
                asked_by: Some(asking),
            });
            wanted.extend(needed(&facts, &asking));
        }
        all.missing.sort();
        all
    }

    /// Names of symbols that the file must have of others and that none of its libraries defines.
    pub(super) fn undefined(&self, facts: &Facts, bytes: &[u8]) -> Vec<String> {
        const WEAK: u8 = 2;
        let size = facts.n_symbols.saturating_mul(elf::SYM_SIZE);
        let table = slice(bytes, facts.symbols_at, size).unwrap_or_default();
        let own: HashSet<&[u8]> = facts
            .symbols(bytes)
            .iter()
            .map(|symbol: &ElfSymbol| facts.symbol_name(bytes, symbol))
            .collect();
        let symbols = (1..facts.n_symbols).filter_map(|index| elf::symbol(table, index));
        let imported = symbols.filter(|symbol| !symbol.is_defined() && symbol.binding != WEAK);
        let names = imported.filter_map(|symbol| {
            let start = facts.strings.0.checked_add(u64::from(symbol.name))?;
            let rest = bytes.get(usize::try_from(start).ok()?..)?;
            rest.split(|byte| *byte == 0).next()
        });
        names
            .filter(|name| !name.is_empty() && !own.contains(name) && !self.defined.contains(*name))
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    }
}

/// A file that needs others, and who needs it.
#[derive(Debug)]
struct Asking {
    requester: Requester,
    asked_by: Option<Rc<Asking>>,
}

/// Names of what a file needs, each with who asks for it.
fn needed<'a>(
    facts: &'a Facts,
    asking: &'a Rc<Asking>,
) -> impl Iterator<Item = (String, Rc<Asking>)> + 'a {
    let names = facts.needed.iter();
    names.map(|name| (name.clone(), Rc::clone(asking)))
}

/// The first file of this name that is a library for this machine, where the one that asks has it
/// looked for, and then where everybody's are.
fn find(name: &str, asking: &Asking, cache: &Cache) -> Option<(PathBuf, Facts, Vec<u8>)> {
    const SYSTEM: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    let mut chain = vec![&asking.requester];
    let mut next = asking.asked_by.as_deref();
    while let Some(asking) = next {
        chain.push(&asking.requester);
        next = asking.asked_by.as_deref();
    }
    let own = needed::find(name, &chain).map(|(path, _)| path);
    if own.is_some() || name.contains('/') {
        return read(&own?);
    }
    let cached = cache.find(name).into_iter();
    let system = SYSTEM.iter().map(|folder| Path::new(folder).join(name));
    cached.chain(system).find_map(|path| read(&path))
}

fn read(path: &Path) -> Option<(PathBuf, Facts, Vec<u8>)> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_SIZE {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let facts = Facts::read(&bytes).ok()?;
    Some((path.to_owned(), facts, bytes))
}

/// What `ldconfig` wrote down.
#[derive(Debug, Default)]
struct Cache(Vec<u8>);

impl Cache {
    fn read() -> Self {
        Self(fs::read("/etc/ld.so.cache").unwrap_or_default())
    }

    /// Paths of the libraries of this name.
    fn find(&self, name: &str) -> Vec<PathBuf> {
        const HEADER: u64 = 48;
        const ENTRY: u64 = 24;
        let bytes = &self.0;
        // An old cache may stand before; such ones are as old as 2.32 and not looked for.
        if !bytes.starts_with(b"glibc-ld.so.cache1.1") {
            return Vec::new();
        }
        let text = |at: u64| {
            let at = usize::try_from(u32_at(bytes, at)?).ok()?;
            bytes.get(at..)?.split(|byte| *byte == 0).next()
        };
        let count = u64::from(u32_at(bytes, 20).unwrap_or(0));
        let entry = |index: u64| HEADER.saturating_add(index.saturating_mul(ENTRY));
        (0..count)
            .map(entry)
            .filter(|at| text(at.saturating_add(4)) == Some(name.as_bytes()))
            .filter_map(|at| String::from_utf8(text(at.saturating_add(8))?.to_vec()).ok())
            .map(PathBuf::from)
            .collect()
    }
}
