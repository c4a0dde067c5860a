//! Libraries of the size and make of plugins: mostly local functions, some exported, a pointer to
//! each in a table, an unwind entry for each.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Part of each file's name; raised when what is generated changes.
const EDITION: u32 = 2;

/// Functions of a plugin of 100 KB.
pub const SMALL: usize = 230;
/// Functions of a plugin of 5 MB.
pub const LARGE: usize = 12_500;

/// One library.
pub struct Sample {
    pub path: PathBuf,
    pub functions: usize,
}

impl Sample {
    /// The library of so many functions, made unless an earlier run left it.
    pub fn of(functions: usize) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("admission-{EDITION}-{functions}.so"));
        if !path.exists() {
            make(&path, functions);
        }
        Self { path, functions }
    }
}

/// Compiles a plugin in C into `dir`; the reason where that cannot be done.
pub fn compile(dir: &Path, name: &str, source: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let (file, path) = (
        dir.join(format!("{name}.c")),
        dir.join(format!("lib{name}.so")),
    );
    fs::write(&file, source).map_err(|error| error.to_string())?;
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-api/include");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-I", include])
        .args(flags)
        .arg("-o")
        .args([&path, &file])
        .status();
    match status {
        Ok(status) if status.success() => Ok(path),
        other => Err(format!("cc: {other:?}")),
    }
}

fn make(path: &Path, functions: usize) {
    // Three hundred bytes of code each, which is what plugins in Rust have on average; every
    // thirtieth is exported, as many names as a plugin with a wide interface has.
    let mut source = String::from("#include <string.h>\n#include <stdlib.h>\n#include <stdio.h>\n");
    for n in 0..functions {
        let storage = if n % 30 == 0 { "" } else { "static " };
        writeln!(
            source,
            "{storage}__attribute__((noinline)) long function_number_{n}(long x) {{ \
             __asm__ volatile(\".skip 280, 0x90\"); return x + {n}; }}"
        )
        .expect("text");
    }
    source.push_str("long (*const table[])(long) = {\n");
    for n in 0..functions {
        writeln!(source, "function_number_{n},").expect("text");
    }
    source.push_str(
        "};\nchar *text(int n) { char *p = malloc(9); sprintf(p, \"%d\", n); return p; }\n",
    );
    let input = path.with_extension("c");
    fs::write(&input, source).expect("a source");
    let made = path.with_extension("made");
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-s", "-o"])
        .args([&made, &input])
        // Which every plugin in Rust needs, and most in C++.
        .args(["-Wl,--no-as-needed", "-lgcc_s"])
        .status();
    assert!(built.expect("gcc").success());
    fs::rename(made, path).expect("in place");
}
