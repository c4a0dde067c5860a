//! Where ld.so would find the libraries that a file needs, if it opened the original and not the
//! staged copy.
//!
//! Thread context; looks at folders and at the first bytes of files. The copy lies elsewhere, so
//! that `$ORIGIN` would mean the wrong folder. What is found here is only what `DT_RPATH`,
//! `LD_LIBRARY_PATH` and `DT_RUNPATH` lead to, in ld.so's order; the cache and the default folders
//! are left to ld.so, for which they are the same whoever asks.
//!
//! # Source
//! `_dl_map_object`, `fillin_rpath` and `_dl_dst_substitute` in elf/dl-load.c of glibc.

#![forbid(unsafe_code)]

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::elf::is_of_this_machine;
use super::facts::Facts;
use crate::sys::arguments;
use crate::sys::link_map;

/// By which rule a library was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundBy {
    /// Its name has a slash, and so is its path.
    Path,
    /// `DT_RPATH` of the file that needs it, or of one that needs that.
    Rpath,
    /// `LD_LIBRARY_PATH`, as it was when the process started.
    LibraryPath,
    /// `DT_RUNPATH` of the file that needs it.
    Runpath,
    /// ld.so had it already.
    Loaded,
    /// ld.so's own search, which is everybody's: what it has, its cache, its default folders.
    Default,
}

impl FoundBy {
    /// The rule in the words of `ld.so(8)`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Rpath => "RPATH",
            Self::LibraryPath => "LD_LIBRARY_PATH",
            Self::Runpath => "RUNPATH",
            Self::Loaded => "loaded before",
            Self::Default => "ld.so",
        }
    }
}

/// What the search knows of a file that needs others.
#[derive(Clone, Debug)]
pub(crate) struct Requester {
    /// The folder of the original, which `$ORIGIN` stands for; none where nobody knows it.
    folder: Option<PathBuf>,
    rpath: Option<String>,
    runpath: Option<String>,
}

impl Requester {
    /// The file with these facts, whose original lies in `folder`.
    pub(crate) fn new(facts: &Facts, folder: Option<PathBuf>) -> Self {
        let runpath = facts.runpath.clone();
        Self {
            folder,
            // Ignored where there is a RUNPATH.
            rpath: facts.rpath.clone().filter(|_| runpath.is_none()),
            runpath,
        }
    }

    /// Whether any search of its own differs from everybody's.
    pub(crate) fn has_paths(&self) -> bool {
        self.rpath.is_some() || self.runpath.is_some()
    }
}

/// Finds the library `name` for the first of `chain`, which the second one needs, and so on.
///
/// None for what is left to ld.so: a name that only its cache or its default folders know.
///
/// Cost: a few system calls for each folder looked at.
pub(crate) fn find(name: &str, chain: &[&Requester]) -> Option<(PathBuf, FoundBy)> {
    let requester = chain.first()?;
    let origin = requester.folder.as_deref();
    if name.contains('/') {
        return expand(name, origin).map(|path| (path, FoundBy::Path));
    }
    if requester.runpath.is_none() {
        for of in chain {
            let rpath = of.rpath.as_deref().unwrap_or_default();
            if let Some(path) = look(name, folders(rpath, of.folder.as_deref(), ":")) {
                return Some((path, FoundBy::Rpath));
            }
        }
    }
    if let Some(path) = look(name, library_path().iter().cloned()) {
        return Some((path, FoundBy::LibraryPath));
    }
    let runpath = requester.runpath.as_deref().unwrap_or_default();
    look(name, folders(runpath, origin, ":")).map(|path| (path, FoundBy::Runpath))
}

/// Whether ld.so finds the very file at `path` by `name` in one of its default folders.
pub(crate) fn is_system(name: &str, path: &Path) -> bool {
    const FOLDERS: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];
    let Ok(real) = path.canonicalize() else {
        return false;
    };
    let multiarch = format!("{ARCH}-linux-gnu");
    FOLDERS.iter().any(|folder| {
        let folder = Path::new(folder);
        [folder.join(name), folder.join(&multiarch).join(name)]
            .iter()
            .any(|there| there.canonicalize().is_ok_and(|there| there == real))
    })
}

/// The folders of a list in which an empty entry stands for the working folder.
fn folders(list: &str, origin: Option<&Path>, separators: &str) -> Vec<PathBuf> {
    if list.is_empty() {
        return Vec::new();
    }
    let entries = list.split(|c| separators.contains(c));
    let expanded = entries.filter_map(|entry| match entry {
        "" => Some(PathBuf::from(".")),
        entry => expand(entry, origin),
    });
    expanded.collect()
}

/// `LD_LIBRARY_PATH` as ld.so read it; there `$ORIGIN` is the program's folder.
fn library_path() -> &'static [PathBuf] {
    static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let list = arguments::library_path().unwrap_or_default();
        let program = std::env::current_exe().ok();
        let origin = program.as_deref().and_then(Path::parent);
        folders(&String::from_utf8_lossy(list), origin, ":;")
    })
}

/// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`, with or without braces; none where one of them is
/// not known.
fn expand(text: &str, origin: Option<&Path>) -> Option<PathBuf> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.extend_from_slice(before.as_bytes());
        let token = |name: &str| {
            let braced = after.strip_prefix('{').and_then(|rest| {
                let rest = rest.strip_prefix(name)?;
                rest.strip_prefix('}')
            });
            braced.or_else(|| after.strip_prefix(name))
        };
        rest = if let Some(rest) = token("ORIGIN") {
            out.extend_from_slice(origin?.as_os_str().as_bytes());
            rest
        } else if let Some(rest) = token("LIB") {
            out.extend_from_slice(lib_folder().as_bytes());
            rest
        } else if let Some(rest) = token("PLATFORM") {
            // What the kernel says in AT_PLATFORM.
            out.extend_from_slice(ARCH.as_bytes());
            rest
        } else {
            out.push(b'$');
            after
        };
    }
    out.extend_from_slice(rest.as_bytes());
    Some(PathBuf::from(OsStr::from_bytes(&out)))
}

/// What `$LIB` stands for: the default folder that the C library itself lies in, since both were
/// configured with the same.
fn lib_folder() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let objects = link_map::loaded();
        let libc = objects.iter().find_map(|object| {
            let path = Path::new(OsStr::from_bytes(object.name.to_bytes()));
            path.ends_with("libc.so.6").then(|| path.parent())?
        });
        let folder = libc.and_then(Path::to_str).unwrap_or("/lib");
        let folder = folder.trim_start_matches("/usr").trim_matches('/');
        folder.to_owned()
    })
}

/// The first file `name` in `folders` that is for this machine, those made for this very processor
/// first.
fn look(name: &str, folders: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.into_iter().find_map(|folder| {
        let better = levels().iter().map(|level| {
            let folder = folder.join("glibc-hwcaps").join(level);
            folder.join(name)
        });
        better
            .chain([folder.join(name)])
            .find(|path| is_candidate(path))
    })
}

/// Names of the levels of x86-64 that this processor has, the highest first.
///
/// # Source
/// `dl_hwcaps_subdirs_active` in sysdeps/x86_64/dl-hwcaps-subdirs.c of glibc.
#[cfg(target_arch = "x86_64")]
fn levels() -> &'static [&'static str] {
    use std::arch::is_x86_feature_detected as has;
    let two = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let three = two
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let four = three
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    const ALL: &[&str] = &["x86-64-v4", "x86-64-v3", "x86-64-v2"];
    let below = match (two, three, four) {
        (_, _, true) => 0,
        (_, true, _) => 1,
        (true, ..) => 2,
        _ => 3,
    };
    ALL.get(below..).unwrap_or_default()
}

#[cfg(not(target_arch = "x86_64"))]
fn levels() -> &'static [&'static str] {
    &[]
}

/// Whether it is a library for this machine: ld.so passes over others, too, and fails at what is
/// no ELF file at all.
fn is_candidate(path: &Path) -> bool {
    // A pipe is not to hold the caller.
    if !path.is_file() {
        return false;
    }
    let mut head = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && is_of_this_machine(&head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expand_knows_the_tokens_with_and_without_braces() {
        let origin = Some(Path::new("/a/b"));
        let text = |text: &str| expand(text, origin).map(|path| path.display().to_string());
        assert_eq!(text("$ORIGIN/../lib").as_deref(), Some("/a/b/../lib"));
        assert_eq!(text("${ORIGIN}").as_deref(), Some("/a/b"));
        assert_eq!(text("/x/$HOME").as_deref(), Some("/x/$HOME"));
        assert_eq!(text("/p/$PLATFORM"), Some(format!("/p/{ARCH}")));
        assert!(text("/r/$LIB").is_some_and(|path| path.starts_with("/r/lib")));
        assert_eq!(expand("$ORIGIN", None), None);
        assert_eq!(expand("/plain", None), Some(PathBuf::from("/plain")));
    }

    #[test]
    fn folders_take_an_empty_entry_for_the_working_folder() {
        let all = |list: &str| folders(list, None, ":");
        assert_eq!(all(""), Vec::<PathBuf>::new());
        let here = PathBuf::from(".");
        assert_eq!(all("/a::/b"), [PathBuf::from("/a"), here, "/b".into()]);
        assert_eq!(all("$ORIGIN:/b"), [PathBuf::from("/b")]);
    }
}
