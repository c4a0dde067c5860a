//! The libraries that are loaded in a storm: small, as most plugins are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Part of each file's name; raised when what is generated changes.
const EDITION: u32 = 2;

/// A library that loads, and one that ld.so refuses after it has mapped and relocated most of it,
/// because of a symbol that nobody defines.
const SOURCES: [(&str, &str); 2] = [
    (
        "good",
        "static long calls; long bump(long by) { return calls += by; }\n\
         long twice(long n) { return n + n; }\n",
    ),
    (
        "undefined",
        "long nobody_defines_this(long); static long calls;\n\
         long bump(long by) { return calls += nobody_defines_this(by); }\n",
    ),
];

/// One library, and as many copies of it as ld.so needs to load it more than once at a time.
pub struct Files {
    pub path: PathBuf,
    copies: Vec<PathBuf>,
}

impl Files {
    pub fn good(copies: usize) -> Self {
        Self::of(SOURCES[0], copies)
    }

    pub fn undefined() -> Self {
        Self::of(SOURCES[1], 0)
    }

    fn of((name, source): (&str, &str), copies: usize) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("storm-{EDITION}"));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{name}.so"));
        if !path.exists() {
            compile(&path, source);
        }
        let copies = (0..copies)
            .map(|number| {
                let copy = folder.join(format!("{name}-{number}.so"));
                if !copy.exists() {
                    fs::copy(&path, &copy).expect("a copy");
                }
                copy
            })
            .collect();
        Self { path, copies }
    }

    /// The copy with this number, from the first again after the last.
    pub fn copy(&self, number: usize) -> &Path {
        match self.copies.len() {
            0 => &self.path,
            n => &self.copies[number % n],
        }
    }
}

fn compile(path: &Path, source: &str) {
    let c = path.with_extension("c");
    let unfinished = path.with_extension("unfinished");
    fs::write(&c, source).expect("source");
    let status = Command::new("gcc")
        .args(["-O2", "-fPIC", "-shared", "-s", "-Wl,--build-id"])
        .arg("-o")
        .args([&unfinished, &c])
        .status()
        .expect("gcc");
    assert!(status.success(), "gcc: {status}");
    fs::rename(unfinished, path).expect("library");
}
