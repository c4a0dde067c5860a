//! Builds plugins the way a stranger would: in an empty folder, with nothing of this workspace
//! but plug-api by its path, or the header and a compiler.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every header must pass.
pub const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// An empty folder that is gone when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// A folder whose name begins with `name`.
    pub fn new(name: &str) -> Scratch {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        // Relaxed: only the number matters, nothing is published with it.
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("plug-{name}-{}-{n}", process::id()));
        fs::create_dir_all(&dir).unwrap();
        Scratch { dir }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes `text` to the file `name` there, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The root of this repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The folder of `plugin_api.h`.
pub fn include() -> PathBuf {
    repository().join("plugin-api/include")
}

/// Builds the Rust plugin `source` in `scratch` with its own target directory and no registry;
/// returns the library.
pub fn rust_plugin(scratch: &Scratch, name: &str, source: &str) -> PathBuf {
    rust_plugin_with(scratch, name, source, &[])
}

/// As [`rust_plugin`], with `flags` for the compiler. A second build of the same name takes the place
/// of the first.
pub fn rust_plugin_with(scratch: &Scratch, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let api = repository().join("plugin-api");
    scratch.write(
        &format!("{name}/Cargo.toml"),
        &format!(
            "[package]\nname = {name:?}\nversion = \"1.0.0\"\nedition = \"2024\"\n\n\
             [lib]\ncrate-type = [\"cdylib\"]\n\n\
             [dependencies]\nplug-api = {{ path = {api:?} }}\n\n\
             [workspace]\n"
        ),
    );
    scratch.write(&format!("{name}/src/lib.rs"), source);
    let folder = scratch.path().join(name);
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--offline", "--quiet", "--target-dir", "target"]);
    cargo.arg("--").args(flags);
    cargo.current_dir(&folder);
    // The environment of a test run is not the stranger's.
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    run(&mut cargo);
    folder
        .join("target/debug")
        .join(format!("lib{}.so", name.replace('-', "_")))
}

/// Builds the C plugin `source` in `scratch` by gcc; returns the library.
pub fn c_plugin(scratch: &Scratch, name: &str, source: &str) -> PathBuf {
    let source = scratch.write(&format!("{name}.c"), source);
    native(scratch, "gcc", "-std=c11", name, &source, &include())
}

/// Builds the C++ plugin `source` in `scratch` by g++; returns the library.
pub fn cpp_plugin(scratch: &Scratch, name: &str, source: &str) -> PathBuf {
    let source = scratch.write(&format!("{name}.cpp"), source);
    native(scratch, "g++", "-std=c++17", name, &source, &include())
}

/// Compiles `source` to `lib<name>.so` in `scratch`, with all of [`STRICT`].
pub fn native(
    scratch: &Scratch,
    compiler: &str,
    standard: &str,
    name: &str,
    source: &Path,
    include: &Path,
) -> PathBuf {
    let output = scratch.path().join(format!("lib{name}.so"));
    let mut command = Command::new(compiler);
    command
        .args([standard, "-shared", "-fPIC", "-O2"])
        .args(STRICT);
    command
        .arg("-I")
        .arg(include)
        .arg(source)
        .arg("-o")
        .arg(&output);
    run(&mut command);
    output
}

/// Compiles `source` to the library `name`, which may stand in a folder, with these flags.
pub fn library(scratch: &Scratch, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let source = scratch.write(&format!("{name}.c"), source);
    let output = scratch.path().join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O2"]).args(STRICT);
    gcc.arg(&source).arg("-o").arg(&output).args(flags);
    run(&mut gcc);
    output
}

/// A library in the folder `name` that finds one of its own beside it, which is made with these
/// flags and whose constructor does this; the library, and that one.
pub fn bringing(
    scratch: &Scratch,
    name: &str,
    constructor: &str,
    flags: &[&str],
) -> (PathBuf, PathBuf) {
    let source = format!(
        "#include <stdlib.h>\nint core(void);\n\
         __attribute__((constructor)) static void build(void) {{ {constructor} }}\n\
         int core(void) {{ return 41; }}\n"
    );
    let flags = [&["-Wl,-soname,libcore.so.1"], flags].concat();
    let core = library(scratch, &format!("{name}/libcore.so.1"), &source, &flags);
    let source = "int core(void);\nint answer(void);\nint answer(void) { return core() + 1; }\n";
    let of = core.to_string_lossy();
    let name = format!("{name}/lib{name}.so");
    let whole = library(scratch, &name, source, &[&of, "-Wl,-rpath,$ORIGIN"]);
    (whole, core)
}

/// Whether `program` can be run here.
pub fn present(program: impl AsRef<OsStr>) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Runs `command`, which must succeed, and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{errors}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
