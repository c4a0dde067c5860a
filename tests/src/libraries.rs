//! The system's own libraries, for whoever tries something on all of them.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The shared objects of this machine's kind under the system's folders, each once, by path.
pub fn all() -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/lib64", "/usr/local/lib", "/opt"]
        .map(PathBuf::from)
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(".so")
                && let Ok(real) = path.canonicalize()
                && real.is_file()
                && is_shared_object(&real)
            {
                found.insert(real);
            }
        }
    }
    found.into_iter().collect()
}

/// Whether the environment asks for all libraries and not for a part (`PLUG_SWEEP=all`).
pub fn are_all_wanted() -> bool {
    env::var("PLUG_SWEEP").is_ok_and(|sweep| sweep == "all")
}

fn is_shared_object(path: &Path) -> bool {
    let mut head = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // ELF, 64-bit, ET_DYN, x86-64.
    read.is_ok() && head[..5] == *b"\x7fELF\x02" && head[16] == 3 && head[18] == 62
}
